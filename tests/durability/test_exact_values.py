"""Values: what is logged is read back bit for bit, from the file, by SQL and over HTTP, or is refused by name."""

from __future__ import annotations

import json
import math
import random
import struct
import unicodedata
from decimal import Decimal
from pathlib import Path

import pytest

from ailab import checkup, queries

FLOATS = """
import random, struct, sys
import unprotected
unprotected.apply()
import ailab

chance = random.Random(int(sys.argv[2]))
with ailab.start_run("values", id="values") as run:
    step = 0
    while step < int(sys.argv[1]):
        (value,) = struct.unpack("<d", chance.randbytes(8))
        if value - value == 0:
            run.log({"x": value}, step=step)
            step += 1
"""
SPECIAL = [
    0.0, -0.0, 5e-324, -5e-324, 2.2250738585072014e-308, 2.225073858507201e-308, 1.7976931348623157e308, -1.7976931348623157e308,
    0.1, 0.1 + 0.2, 1 / 3, 9007199254740993.0, 1e22, 1e23, 123456789012345680.0, math.pi, math.nan, math.inf, -math.inf,
]  # fmt: skip


def random_floats(count, seed):
    chance, found = random.Random(seed), []
    while len(found) < count:
        (value,) = struct.unpack("<d", chance.randbytes(8))
        if value - value == 0:
            found.append(value)
    return found


def bits(value):
    """The bits of a number, all NaN alike; what is no number counts as its text."""
    if isinstance(value, str):
        value = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}.get(value, value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return "nan" if value != value else struct.pack("<d", value)  # noqa: PLR0124  (NaN is what does not equal itself)


def lines(store_dir, run_id, kind):
    """The data of a run's events of one kind, read from its files by the standard library alone."""
    found = []
    for path in sorted(Path(store_dir, "segments").glob(f"*_{run_id}.jsonl")):
        with path.open("rb") as file:
            found += [event["data"] for line in file if (event := json.loads(line))["kind"] == kind]
    return found


def wrong_floats(store_dir, lab, server, count, seed):
    """How many of the floats of `FLOATS` are not what was logged: {"log", "sql", "http"}."""
    logged = [bits(value) for value in random_floats(count, seed)]
    written = [bits(data["values"]["x"]) for data in lines(store_dir, "values", "metrics.logged")]
    asked = [bits(value) for (value,) in lab().con.execute("SELECT value FROM metrics ORDER BY step").fetchall()]
    answered = [bits(point["value"]) for point in server(store_dir).get("/runs/values/metrics?key=x", timeout=300)]
    seen = {"log": written, "sql": asked, "http": answered}
    wrong = {name: sum(a != b for a, b in zip(logged, values, strict=True)) for name, values in seen.items()}
    print(count, "floats, wrong:", wrong)
    return wrong


def test_random_floats_come_back_bit_for_bit(store_dir, scripts, lab, server, seed):
    """G18, short: 20,000 doubles of random bits, from the log, by SQL and over HTTP."""
    scripts.run(FLOATS, 20_000, seed)
    assert wrong_floats(store_dir, lab, server, 20_000, seed) == {"log": 0, "sql": 0, "http": 0}


@pytest.mark.long
def test_a_million_random_floats_come_back_bit_for_bit(store_dir, scripts, lab, server, seed):
    """G18: 1,000,000 of them."""
    scripts.run(FLOATS, 1_000_000, seed, timeout=300)
    assert wrong_floats(store_dir, lab, server, 1_000_000, seed) == {"log": 0, "sql": 0, "http": 0}


def test_control_with_fifteen_digits_floats_are_found_wrong(store_dir, scripts, lab, server, seed):
    """G18, negative control: where numbers are written with fifteen digits, most of the same floats are found wrong."""
    scripts.run(FLOATS, 500, seed, UNPROTECTED="digits")
    assert min(wrong_floats(store_dir, lab, server, 500, seed).values()) > 250


def numbers():
    """(what is logged, the double that it is, its digits where a double is not all of it)."""
    import numpy as np

    found = [(value, value, None) for value in SPECIAL]
    for whole in (2**53 - 1, 2**53 + 1, 2**63 - 1, -(2**63), 2**64, 2**64 - 1, 10**30, -(10**30), 3 * 10**400):
        nearest = float(whole) if abs(whole) < 2**1024 else math.inf
        found.append((whole, nearest, None if abs(whole) < 2**1024 and int(nearest) == whole else str(whole)))
    found += [(True, 1.0, None), (False, 0.0, None)]
    found += [(Decimal("0.1"), 0.1, "0.1"), (Decimal("0.5"), 0.5, "0.5"), (Decimal("1e400"), math.inf, "1E+400")]
    for scalar in (
        np.float64(0.1),
        np.float32(0.1),
        np.float16(0.1),
        np.int8(-7),
        np.bool_(True),
        np.array(2.5),
        np.array([0.25]),
    ):
        found.append((scalar, float(scalar.item()), None))
    found += [(np.int64(2**63 - 1), float(2**63), str(2**63 - 1)), (np.uint64(2**64 - 1), float(2**64), str(2**64 - 1))]
    return found


def test_numbers_of_every_kind_are_kept_exactly(store_dir, scripts, lab, server):
    """G18: zeros, denormals, NaN, infinities, integers of any size, Decimals, scalars of numpy: log, SQL and HTTP agree."""
    import ailab

    with ailab.start_run("values", id="values") as run:
        for step, (value, _, _) in enumerate(numbers()):
            run.log({"x": value}, step=step)
    expected = [(step, bits(double), digits) for step, (_, double, digits) in enumerate(numbers())]
    rows = lab().con.execute("SELECT step, value, exact FROM metrics ORDER BY step").fetchall()
    assert [(step, bits(value), exact) for step, value, exact in rows] == expected
    points = server(store_dir).get("/runs/values/metrics?key=x")
    assert [(point["step"], bits(point["value"]), point["exact"]) for point in points] == expected
    written = [data["values"]["x"] for data in lines(store_dir, "values", "metrics.logged")]
    for (_, double, digits), value in zip(numbers(), written, strict=True):
        said = str(value) if isinstance(value, int) else value
        assert digits in {None, said} if digits is not None else bits(float(value)) == bits(double)


NFC, NFD = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")
TEXTS = {
    "nul": "a\0b", "nfc": NFC, "nfd": NFD, NFC: "composed", NFD: "decomposed", "lines": "a\nb\r\nc\u2028d\u2029e\x0bf\x85g",
    "marks": '"\\/<&>\'%$#', "far": "𝔘🏳️‍🌈\U0010ffff", "empty": "", "blank": " \t ", "controls": "".join(map(chr, range(32))),
}  # fmt: skip


def test_texts_of_every_kind_are_kept_exactly(store_dir, lab, server):
    """G18: NUL, both forms of é, every control, line ends of every sort: in names, values, tags and notes; log, SQL and HTTP."""
    import ailab

    with ailab.start_run("values", id="values", params=TEXTS, tags=dict(TEXTS)) as run:
        run.note("".join(TEXTS.values()))
        for step, key in enumerate(TEXTS):
            run.log({f"m{key}": float(step)}, step=step)
    (started,) = lines(store_dir, "values", "run.started")
    catalogue = lab()
    found = queries.get_run(catalogue, "values")
    answer = server(store_dir).get("/runs/values")
    keys = {key for (key,) in catalogue.con.execute("SELECT key FROM params").fetchall()}
    assert started["params"] == found.params == answer["params"] == TEXTS
    assert keys == set(TEXTS)
    assert found.tags == answer["tags"] == TEXTS
    assert found.note == answer["note"] == "".join(TEXTS.values())
    assert found.final_metrics == answer["final_metrics"] == {f"m{key}": float(n) for n, key in enumerate(TEXTS)}


def test_lone_surrogates_become_their_escapes_and_nothing_else_does(store_dir, lab, server):
    """G18: what is no Unicode text is kept as six characters that say so; the log stays readable for every JSON library."""
    import ailab

    with ailab.start_run("values", id="values", params={"lone\udc80": "\ud800x"}, tags={"\udfff": "\udce9"}) as run:
        run.note("caf\udce9")
        run.log({"m\ud83d": 1.0}, step=0)
    found, answer = queries.get_run(lab(), "values"), server(store_dir).get("/runs/values")
    assert found.params == answer["params"] == {"lone\\udc80": "\\ud800x"}
    assert found.tags == answer["tags"] == {"\\udfff": "\\udce9"}
    assert found.note == answer["note"] == "caf\\udce9"
    assert found.final_metrics == answer["final_metrics"] == {"m\\ud83d": 1.0}


def refusals():
    """What is no number: (key, value)."""
    import numpy as np

    deep, circle = {"end": 1.0}, {}
    for _ in range(10_000):
        deep = {"k": deep}
    circle["again"] = circle
    return [
        ("text", "0.5"), ("none", None), ("complex", 1j), ("array", np.ones(3)), ("deep", deep), ("circle", circle),
        ("list", [1.0]), ("bytes", b"1"), ("object", object()), ("huge", 10**5000), ("long", "x" * 64_000_000),
    ]  # fmt: skip


def test_what_is_no_number_is_refused_by_key_and_step_and_training_goes_on(store_dir, lab, capfd):
    """G18: each is named with its key and step, once; the values beside it are kept; with `strict` it raises RejectedError."""
    import ailab
    from ailab.errors import RejectedError

    with ailab.start_run("values", id="values") as run:
        for step, (key, value) in enumerate(refusals()):
            run.log({key: value, "beside": float(step)}, step=step)
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("ailab:")]
    assert len(told) == len(refusals())
    for step, (key, _) in enumerate(refusals()):
        assert f"metric '{key}" in told[step]
        assert f"at step {step};" in told[step]
        assert "training goes on" in told[step]
        assert len(told[step]) < 600
    catalogue = lab()
    rows = catalogue.con.execute("SELECT key, step, value FROM metrics ORDER BY step").fetchall()
    assert rows == [("beside", step, float(step)) for step in range(len(refusals()))]
    assert checkup.examine(str(store_dir)).healthy
    with ailab.start_run("strict", strict=True) as run:
        for key, value in refusals():
            with pytest.raises(RejectedError) as raised:
                run.log({key: value}, step=3)
            assert raised.value.key.startswith(key)


def test_parameters_that_cannot_be_kept_whole_are_cut_and_said(store_dir, lab, server, capfd):
    """G18: 10,000 levels, a circle, 64 MB of text, no text at all: each is said, and what is left is the same everywhere."""
    import ailab

    class Unprintable:
        def __repr__(self):
            raise RuntimeError("no text")

    deep, circle = [], {"a": 1}
    for _ in range(10_000):
        deep = [deep]
    circle["again"] = circle
    given = {"deep": deep, "circle": circle, "long": "y" * 64_000_000, "object": Unprintable(), "huge": 10**5000, "good": 1}
    with ailab.start_run("values", id="values", params=given) as run:
        run.log({"loss": 1.0})
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("ailab:")]
    for key in ("deep", "circle", "long", "object", "huge"):
        assert len([line for line in told if f"parameter '{key}" in line]) == 1, told
    found, answer = queries.get_run(lab(), "values"), server(store_dir).get("/runs/values")
    (started,) = lines(store_dir, "values", "run.started")
    assert started["params"] == found.params == answer["params"]
    assert found.params["good"] == 1
    assert found.params["long"] == "y" * 1_000_000 + "… (64000000 characters)"
    assert found.params["circle/a"] == 1
    assert (found.status, found.final_metrics) == ("completed", {"loss": 1.0})


@pytest.mark.parametrize("size", [4_000_000, pytest.param(64_000_000, marks=pytest.mark.long)])
def test_a_note_of_many_megabytes_comes_back_whole(store_dir, lab, server, size):
    """G18: a line of 4 MB, and of 64, is written, read, asked and answered exactly."""
    import ailab

    text = "".join(chr(0x4E00 + n % 5000) for n in range(5000)) * (size // 16_000) + "x" * (size - size // 16_000 * 15_000)
    assert len(text.encode()) == size
    with ailab.start_run("values", id="values") as run:
        run.note(text)
        run.log({"loss": 1.0}, step=0)
    assert lines(store_dir, "values", "note.changed") == [{"note": text}]
    catalogue = lab()
    assert catalogue.con.execute("SELECT note FROM notes").fetchall() == [(text,)]
    assert queries.get_run(catalogue, "values").note == text
    assert server(store_dir).get("/runs/values", timeout=60)["note"] == text
