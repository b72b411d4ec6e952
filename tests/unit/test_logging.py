"""What may be logged, from the call to the answer: every value kept or refused by name, and training never broken."""

from __future__ import annotations

import dataclasses
import math
import random
import struct
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from recorded import Unprintable, detail, payloads

import ailab
from ailab import events, queries
from ailab.errors import NotFoundError, RejectedError


class Tensor:
    """A scalar as array libraries have it: `item`, `shape`, and no way into JSON."""

    shape = ()

    def __init__(self, value):
        self.value = value

    def item(self):
        return self.value


# -- values ------------------------------------------------------------------------------------------------------------

KEPT = {
    "int": (7, 7, 7.0, None),
    "zero": (0, 0, 0.0, None),
    "minus zero": (-0.0, -0.0, -0.0, None),
    "denormal": (5e-324, 5e-324, 5e-324, None),
    "greatest": (1.7976931348623157e308, 1.7976931348623157e308, 1.7976931348623157e308, None),
    "third": (1 / 3, 1 / 3, 1 / 3, None),
    "true": (True, 1, 1.0, None),
    "nan": (math.nan, "NaN", math.nan, None),
    "inf": (math.inf, "Infinity", math.inf, None),
    "-inf": (-math.inf, "-Infinity", -math.inf, None),
    "2**53+1": (2**53 + 1, 2**53 + 1, float(2**53), "9007199254740993"),
    "2**60": (2**60, 2**60, float(2**60), None),
    "2**63": (2**63, 2**63, float(2**63), None),
    "2**63+1": (2**63 + 1, 2**63 + 1, float(2**63), str(2**63 + 1)),
    "2**64": (2**64, 2**64, float(2**64), None),
    "-2**63-1": (-(2**63) - 1, -(2**63) - 1, -float(2**63), str(-(2**63) - 1)),
    "10**30": (10**30, 10**30, 1e30, str(10**30)),
    "10**38": (10**38, 10**38, 1e38, str(10**38)),
    "10**300": (10**300, 10**300, 1e300, str(10**300)),
    "10**400": (10**400, 10**400, math.inf, str(10**400)),
    "-10**400": (-(10**400), -(10**400), -math.inf, str(-(10**400))),
    "float64": (np.float64(0.1), 0.1, 0.1, None),
    "float64 nan": (np.float64("nan"), "NaN", math.nan, None),
    "float32": (np.float32(0.1), 0.10000000149011612, 0.10000000149011612, None),
    "int64": (np.int64(2**53 + 1), 2**53 + 1, float(2**53), "9007199254740993"),
    "bool_": (np.bool_(1), 1, 1.0, None),
    "0-d": (np.array(0.25), 0.25, 0.25, None),
    "tensor": (Tensor(0.5), 0.5, 0.5, None),
    "decimal": (Decimal("0.1"), "0.1", 0.1, "0.1"),
    "decimal 1E+3": (Decimal("1E+3"), "1E+3", 1000.0, "1E+3"),
    "long decimal": (Decimal("0.1234567890123456789012345"), "0.1234567890123456789012345", 0.12345678901234568,
                     "0.1234567890123456789012345"),
    "decimal 1E+400": (Decimal("1E+400"), "1E+400", math.inf, "1E+400"),
    "decimal nan": (Decimal("NaN"), "NaN", math.nan, None),
    "": (1.5, 1.5, 1.5, None),
    "nul\0name": (2.5, 2.5, 2.5, None),
    'quote"and\'name': (3.5, 3.5, 3.5, None),
    "slash/and space": (4.5, 4.5, 4.5, None),
    "ünïcode ✓": (5.5, 5.5, 5.5, None),
}  # fmt: skip
"""Name: (value logged, JSON value in journal and final metrics, double in the view, exact)."""


def same(left, right):
    """Equal bit for bit, NaN equal to NaN."""
    if isinstance(left, float) and isinstance(right, float):
        return (math.isnan(left) and math.isnan(right)) or (left == right and math.copysign(1, left) == math.copysign(1, right))
    return left == right and isinstance(left, str) == isinstance(right, str)


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "in one call"])
def test_a_value_is_the_same_in_journal_views_answers_and_history(store_dir, lab, together):
    """Whatever number goes in, the journal, `metrics`, final_metrics and history() give that number back."""
    with ailab.start_run("values") as run:
        if together:
            run.log({name: value for name, (value, *_) in KEPT.items()})
        else:
            for name, (value, *_) in KEPT.items():
                run.log({name: value})
    logged = {k: v for point in payloads(run, "metrics.logged") for k, v in point["values"].items()}
    catalogue = lab()
    assert catalogue.problems == []
    rows = catalogue.con.execute("SELECT key, value, exact FROM metrics").fetchall()
    seen = {key: (value, exact) for key, value, exact in rows}
    final = queries.get_run(catalogue, run.id).final_metrics
    past = {row["key"]: (row["value"], row["exact"]) for row in run.history().rows()}
    wrong = {}
    for name, (_, written, double, exact) in KEPT.items():
        found = (logged.get(name), final.get(name), seen.get(name), past.get(name))
        wanted = (written, written, (double, exact), (double, exact))
        if not (
            same(found[0], wanted[0])
            and same(found[1], wanted[1])
            and all(f is not None and same(f[0], w[0]) and f[1] == w[1] for f, w in zip(found[2:], wanted[2:], strict=True))
        ):
            wrong[name] = (found, wanted)
    assert wrong == {}


def bits(value):
    return struct.pack("<d", value)


def test_random_doubles_and_integers_come_back_bit_for_bit(store_dir, lab):
    """G18, short: 6,000 doubles of random bits and 1,000 integers of up to 300 bits, the same in view, history and answer."""
    dice = random.Random(20261121)
    doubles = [struct.unpack("<d", dice.randbytes(8))[0] for _ in range(6000)]
    doubles = [0.0 if math.isnan(value) else value for value in doubles]
    whole = [dice.randrange(-(2**n), 2**n) for n in (dice.randrange(1, 300) for _ in range(1000))]
    with ailab.start_run("random") as run:
        for start in range(0, len(doubles), 50):
            run.log({f"d{n}": doubles[start + n] for n in range(50)}, step=start)
        for start in range(0, len(whole), 50):
            run.log({f"i{n}": whole[start + n] for n in range(50)}, step=start)
    catalogue = lab()
    for rows in (
        catalogue.con.execute("SELECT key, step, value, exact FROM metrics").fetchall(),
        [(row["key"], row["step"], row["value"], row["exact"]) for row in run.history().rows()],
    ):
        seen = {(key[0], step + int(key[1:])): (value, exact) for key, step, value, exact in rows}
        assert [n for n, value in enumerate(doubles) if bits(seen["d", n][0]) != bits(value)] == []
        assert {seen["d", n][1] for n in range(len(doubles))} == {None}
        wrong = [
            value
            for n, value in enumerate(whole)
            if seen["i", n] != (float(value), None if int(float(value)) == value else str(value))
        ]
        assert wrong == []
    final = queries.get_run(catalogue, run.id).final_metrics
    assert [final[f"i{n}"] for n in range(50)] == whole[-50:]


REFUSED = {
    "text": "0.5",
    "none": None,
    "complex": 1j,
    "list": [1.0],
    "array": np.zeros(2),
    "object": object(),
    "no repr": Unprintable(),
    "bytes": b"5",
    "huge": 10**5000,
    "signal": Decimal("sNaN"),
}


def test_a_value_that_is_no_number_is_left_out_with_one_warning(store_dir, lab, capsys):
    """One warning names key, value and reason; the other metrics of the call and the next calls are there."""
    recorded = {}
    for name, value in REFUSED.items():
        with ailab.start_run(name) as recorded[name]:
            for step in range(3):
                recorded[name].log({"good": step / 2, f"bad/{name}": value}, step=step)
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert f"'bad/{name}'" in said[0]
        assert "training goes on" in said[0]
    catalogue = lab()
    for run in recorded.values():
        assert queries.get_run(catalogue, run.id).final_metrics == {"good": 1.0}
        assert [p["values"] for p in payloads(run, "metrics.logged")] == [{"good": 0}, {"good": 0.5}, {"good": 1.0}]


@pytest.mark.parametrize("name", REFUSED)
def test_strict_raises_where_a_value_is_no_number(store_dir, name):
    """With strict=True the refusal is an exception that names the key, and the run goes on afterwards."""
    run = ailab.start_run("strict", strict=True)
    with pytest.raises(RejectedError, match="bad"):
        run.log({"bad": REFUSED[name]})
    run.log({"good": 1})
    run.finish()
    assert payloads(run, "metrics.logged")[-1] == {"values": {"good": 1}}


def test_metrics_that_are_no_dictionary_are_refused(store_dir, capsys):
    with ailab.start_run("x") as run:
        for wrong in (None, 5, "loss", [1, 2], object()):
            run.log(wrong)
    assert payloads(run, "metrics.logged") == []
    assert "metrics are a dictionary" in capsys.readouterr().err


def test_steps_come_in_any_order_and_every_point_is_kept(store_dir, lab):
    """Backwards, twice, negative, of numpy: each step is there as given; without one the views count."""
    given = [5, 3, 3, -2, np.int64(9), 4.0, True, 2**62]
    with ailab.start_run("steps") as run:
        for i, step in enumerate(given):
            run.log({"a": float(i)}, step=step)
        for i in range(3):
            run.log({"b": i})
    catalogue = lab()
    rows = catalogue.con.execute("SELECT step, value FROM metrics WHERE key = 'a' ORDER BY value").fetchall()
    assert rows == [(int(step), float(i)) for i, step in enumerate(given)]
    assert catalogue.con.execute("SELECT step, value FROM metrics WHERE key = 'b' ORDER BY seq").fetchall() == [
        (0, 0),
        (1, 1),
        (2, 2),
    ]


def test_a_step_that_is_no_whole_number_costs_the_step_not_the_point(store_dir, capsys):
    """The point is kept without its step, with one warning."""
    for step in ("5", 2.5, math.nan, object(), [1], np.uint64(2**64 - 1)):
        with ailab.start_run("steps") as run:
            run.log({"a": 1.5}, step=step, time=86400)
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert "step" in said[0]
        assert payloads(run, "metrics.logged") == [{"values": {"a": 1.5}, "time": 86400.0}]


def test_the_callers_own_time_is_kept(store_dir, lab):
    """`time` in seconds since 1970 is the point's time."""
    with ailab.start_run("time") as run:
        run.log({"a": 1}, time=86400.25)
        run.log({"a": 2}, time=-1.5)
    rows = lab().con.execute('SELECT CAST("time" AS VARCHAR) FROM metrics ORDER BY seq').fetchall()
    assert rows == [("1970-01-02 00:00:00.25",), ("1969-12-31 23:59:58.5",)]


def test_a_time_that_is_no_time_hides_nothing(store_dir, lab, capsys):
    """The point counts at the moment of logging and keeps its step, and the store stays readable."""
    times = (1e300, -1e300, math.nan, math.inf, "noon", "5", 2**70, 1e16, object())
    with ailab.start_run("time") as run:
        for step, time in enumerate(times):
            run.log({"a": 1}, step=step, time=time)
        # what another program may have written
        run._writer.append(events.MetricsLogged({"a": 1}, len(times), 1e300))
    query = """SELECT step, "time" > '2020-01-01' AND "time" < '2100-01-01' FROM metrics ORDER BY seq"""
    assert lab().con.execute(query).fetchall() == [(step, True) for step in range(len(times) + 1)]
    assert capsys.readouterr().err == "ailab: time 1e+300 is no time at step 0; the points are kept without it\n"


def test_parameters_are_kept_and_bad_ones_named(store_dir, lab, capsys):
    """Nested names joined, secrets redacted, odd objects as text, a circle ended; one warning for each bad one."""
    circle: dict[str, object] = {"x": 1}
    circle["again"] = circle["more"] = circle
    config = {"lr": 0.1, "opt": {"name": "sgd", "nesterov": True}, "api_key": "sk-proj-abcdef123456", "bad": Unprintable(),
              "big": 10**30, "path": Path("/x"), "nan": math.nan, "none": None, "bytes\ud800": "a\udc00"}  # fmt: skip
    with ailab.start_run("params", config=config) as run:
        run.log_params({"circle": circle})
        run.log_param("lr", 0.2)
        run.config["late"] = [1, 2]
        run.config.update({"opt/name": "adam"})
    found = detail(lab, run).params
    assert found.pop("circle/x") == 1
    assert {k: v for k, v in found.items() if not k.startswith("circle")} == {
        "lr": 0.2, "opt/name": "adam", "opt/nesterov": True, "api_key": "[redacted]",
        "bad": f"<{Unprintable.__module__}.Unprintable>",
        "big": 10**30, "path": "/x", "nan": "NaN", "none": None, "bytes\\ud800": "a\\udc00", "late": [1, 2],
    }  # fmt: skip
    said = capsys.readouterr().err.splitlines()
    assert len([line for line in said if "'bad'" in line]) == 1
    assert "left out" not in "".join(said)
    assert "sk-proj" not in Path(run.store.segment_path(run.store.segments_of_run(run.id)[0])).read_text()


def test_a_secret_in_a_nested_dataclass_or_list_is_redacted(store_dir):
    """A secret's name counts wherever it stands."""

    @dataclasses.dataclass
    class Config:
        token: str = "hf_aaaaaaaaaaaaaaaaaaaaaaaa"
        lr: float = 0.1

    with ailab.start_run("secret", config={"c": Config(), "l": [{"password": "hunter22"}]}) as run:
        pass
    assert payloads(run, "run.started")[0]["params"] == {
        "c": {"token": "[redacted]", "lr": 0.1},
        "l": [{"password": "[redacted]"}],
    }


def test_summary_counts_above_the_last_point_and_the_end_above_summary(store_dir, lab):
    with ailab.start_run("final") as run:
        run.log({"a": 1, "b": 1, "c": 1})
        run.summary["b"] = 2
        run.summary.update({"c": np.float32(2), "word": "fine"})
        run.finish(final_metrics={"c": 3})
    assert detail(lab, run).final_metrics == {"a": 1, "b": 2, "c": 3}
    assert run.summary["word"] == "fine"


# -- nothing that a caller hands over breaks training -----------------------------------------------------------------

NONSENSE = {
    "log": lambda run: run.log(5),
    "log text": lambda run: run.log({"a": "x"}, step="y", time="z"),
    "log_metric": lambda run: run.log_metric(None, None),
    "log_params": lambda run: run.log_params(5),
    "log_params None": lambda run: run.log_params(None),
    "log_artifact none": lambda run: run.log_artifact(None),
    "log_artifact missing": lambda run: run.log_artifact("no/such/file"),
    "log_artifact empty": lambda run: run.log_artifact(""),
    "log_artifact nul": lambda run: run.log_artifact("a\0b"),
    "log_artifacts None": lambda run: run.log_artifacts(None),
    "log_artifacts number": lambda run: run.log_artifacts(5),
    "log_artifacts mixed": lambda run: run.log_artifacts([None, 5, "missing"]),
    "log_text number": lambda run: run.log_text(5, "x.txt"),
    "log_text no path": lambda run: run.log_text("x", None),
    "log_text empty path": lambda run: run.log_text("x", ""),
    "log_dict": lambda run: run.log_dict({1: {2, 3}}, 5),
    "log_figure": lambda run: run.log_figure("no figure"),
    "log_image": lambda run: run.log_image(object()),
    "log_table": lambda run: run.log_table(5),
    "log_table lengths": lambda run: run.log_table({"a": [1], "b": [1, 2]}),
    "log_table rows": lambda run: run.log_table([{"a": 1}, 5]),
    "set_tags": lambda run: run.set_tags(5),
    "set_tag": lambda run: run.set_tag(None, Unprintable()),
    "note": lambda run: run.note(Unprintable()),
    "define_metric goal": lambda run: run.define_metric("a", goal="up"),
    "define_metric key": lambda run: run.define_metric(object()),
    "config": lambda run: run.config.update(5, lr=1),
    "summary": lambda run: run.summary.update(5),
    "summary item": lambda run: run.summary.__setitem__("x", Unprintable()),
    "finish status": lambda run: run.finish("sideways"),
    "finish status number": lambda run: run.finish(5),
    "finish metrics": lambda run: run.finish(final_metrics=5),
}


def test_nonsense_in_a_verb_never_reaches_training(store_dir, lab, capsys):
    """Each verb says what is wrong and goes on; every run is there, completed, and the store has no fault."""
    recorded, silent = {}, []
    for what, call in NONSENSE.items():
        with ailab.start_run(what) as recorded[what]:
            recorded[what].log({"before": 1})
            call(recorded[what])
            if recorded[what].status == "running":
                recorded[what].log({"after": 1})
        if not capsys.readouterr().err:
            silent.append(what)
    catalogue = lab()
    problems = [problem for problem in catalogue.problems if "metric.described" not in problem]  # its key was no text
    assert (problems, silent) == ([], [])
    found = {what: queries.get_run(catalogue, run.id) for what, run in recorded.items()}
    assert {what: run.status for what, run in found.items()} == dict.fromkeys(NONSENSE, "completed")
    assert all(run.final_metrics["before"] == 1 for run in found.values())


STARTS = {
    "config list": {"config": [1, 2]},
    "config number": {"config": 5},
    "config unprintable": {"config": {"a": Unprintable()}},
    "params text": {"params": "lr=1"},
    "tags number": {"tags": 5},
    "parent number": {"parent": 5},
    "seed text": {"seed": "abc"},
    "seed half": {"seed": 1.5},
    "seed object": {"seed": object()},
    "seed huge": {"seed": 10**60},
    "capture": {"capture": "sometimes"},
    "name number": {"name": 5},
    "name surrogate": {"name": "caf\udce9"},
    "group surrogate": {"group": "caf\udce9"},
    "project surrogate": {"project": "caf\udce9"},
    "dataset surrogate": {"dataset_id": "caf\udce9"},
    "note surrogate": {"note": "caf\udce9"},
    "note unprintable": {"note": Unprintable()},
    "description object": {"description": object()},
    "description number": {"description": 5},
    "group object": {"group": object()},
    "mode": {"mode": "sideways"},
    "resume": {"resume": "perhaps"},
    "id": {"id": "no/good id"},
    "id route": {"id": "compare"},
    "id number": {"id": 5},
    "strict": {"strict": "perhaps"},
    "durable": {"durable": "perhaps"},
    "wandb": {"wandb": True},
}


def test_a_bad_argument_of_start_run_costs_itself_not_the_run(store_dir, lab, capsys):
    """Whatever is wrong with one argument, the run is recorded with all the rest."""
    recorded = {}
    for what, given in STARTS.items():
        with ailab.start_run(**{"project": "Iris", "group": "g", "seed": 3, **given}, nested=False) as recorded[what]:
            recorded[what].log({"a": 1}, step=1)
            recorded[what].log_params({"late": 2})
    catalogue = lab()
    assert catalogue.problems == []
    wrong = {}
    for what, run in recorded.items():
        try:
            found = queries.get_run(catalogue, run.id)
        except NotFoundError as problem:
            wrong[what] = str(problem)
            continue
        seen = (found.status, found.final_metrics, found.params["late"], found.project is None, found.group is None)
        if seen != ("completed", {"a": 1}, 2, False, False):
            wrong[what] = seen
    assert wrong == {}


def test_training_goes_on_when_standard_error_is_closed(store_dir, scripts, lab):
    """A warning that can be told to nobody is no reason to stop."""
    scripts.run("""
        import ailab, sys
        with ailab.start_run("quiet") as run:
            sys.stderr.close()
            run.log({"a": "x"})
            run.log({"a": 1})
        with ailab.start_run("none") as run:
            sys.stderr = None
            run.log({"b": "x"})
            run.log({"b": 1})
    """)
    catalogue = lab()
    assert [r.final_metrics for r in queries.list_runs(catalogue, queries.RunFilter(sort="name")).rows] == [{"b": 1}, {"a": 1}]


def test_logging_after_the_end_is_said_once_and_changes_nothing(store_dir, lab, capsys):
    run = ailab.start_run("late")
    run.log({"a": 1})
    run.finish()
    for _ in range(3):
        run.log({"a": 2})
    run.note("late")
    run.finish("failed")
    assert len(capsys.readouterr().err.splitlines()) == 1
    found = detail(lab, run)
    assert (found.status, found.final_metrics, found.note) == ("completed", {"a": 1}, None)


def test_silent_says_nothing(store_dir, capsys):
    with ailab.start_run("silent", silent=True) as run:
        run.log({"a": "x"})
        run.log_artifact("missing")
    assert capsys.readouterr().err == ""
