"""What a training script holds: every value kept or refused by name, every end told rightly, and training never broken."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import math
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import msgspec
import numpy as np
import pytest

import ailab
from ailab import events, journal, queries, runs, store
from ailab.errors import NotFoundError, RejectedError, SettingError, StoreError


class Tensor:
    """A scalar as array libraries have it: `item`, `shape`, and no way into JSON."""

    shape = ()

    def __init__(self, value):
        self.value = value

    def item(self):
        return self.value


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no text")


def lines_of(run):
    """Every event of a run as written, in the order of its segments; the journal must be without fault."""
    found = []
    for name in run.store.segments_of_run(run.id):
        found += journal.scan(run.store.segment_path(name), mode="strict")
    return found


def payloads(run, kind):
    return [msgspec.json.decode(line.data) for line in lines_of(run) if line.kind == kind]


def detail(lab, run):
    catalogue = lab()
    assert catalogue.problems == []
    return queries.get_run(catalogue, run.id)


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
        "lr": 0.2, "opt/name": "adam", "opt/nesterov": True, "api_key": "[redacted]", "bad": f"<{__name__}.Unprintable>",
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


# -- ends --------------------------------------------------------------------------------------------------------------


class Halt(Exception):  # noqa: N818  (a name that is nobody else's)
    pass


def ended_by(problem):
    """The run of a block that ended with `problem`, which must come out as it is."""
    run = ailab.start_run("end")

    def block():
        with run:
            run.log({"a": 1})
            raise problem

    with pytest.raises(type(problem)) as raised:
        block()
    assert raised.value is problem
    return run


def test_how_a_block_ends_is_how_the_run_ends(store_dir, lab):
    ends = [
        (KeyboardInterrupt(), "killed", "KeyboardInterrupt"),
        (SystemExit(), "completed", None),
        (SystemExit(0), "completed", None),
        (SystemExit(3), "failed", "SystemExit: 3"),
        (SystemExit("no data"), "failed", "SystemExit: no data"),
        (SystemExit([1]), "failed", "SystemExit: [1]"),
    ]
    recorded = [ended_by(problem) for problem, *_ in ends]
    catalogue = lab()
    found = [queries.get_run(catalogue, run.id) for run in recorded]
    assert [(run.status, run.error) for run in found] == [(status, error) for _, status, error in ends]
    assert [run.final_metrics for run in found] == [{"a": 1}] * len(ends)


def test_an_exception_fails_the_run_and_goes_on_up(store_dir, lab):
    """The traceback is kept, its secrets are not."""
    found = detail(lab, ended_by(Halt("cannot log in with password=hunter2222 at https://me:hunter2222@host/x")))
    assert found.status == "failed"
    assert "Halt: cannot log in" in found.error
    assert "Traceback" in found.error
    assert "hunter2222" not in found.error


def test_an_exception_of_lone_surrogates_still_fails_the_run(store_dir, lab):
    """An error's text that no JSON library writes does not leave the run without an end."""
    found = detail(lab, ended_by(Halt("file caf\udce9 is gone")))
    assert found.status == "failed"
    assert "is gone" in found.error


def test_ways_to_finish(store_dir, lab):
    ways = [
        (lambda run: run.finish(), "completed"),
        (lambda run: run.finish("failed"), "failed"),
        (lambda run: run.finish("FINISHED"), "completed"),
        (lambda run: run.finish(exit_code=0), "completed"),
        (lambda run: run.finish(exit_code=2), "failed"),
        (lambda _: ailab.end_run("killed"), "killed"),
        (lambda _: ailab.finish(), "completed"),
        (lambda _: ailab.finish(1), "failed"),
    ]
    recorded = []
    for call, _ in ways:
        recorded.append(ailab.start_run("finish"))
        call(recorded[-1])
        assert ailab.active_run() is None
    catalogue = lab()
    statuses = [status for _, status in ways]
    assert [run.status for run in recorded] == statuses
    assert [queries.get_run(catalogue, run.id).status for run in recorded] == statuses


def test_init_twice_finishes_the_first(store_dir, lab):
    first = ailab.init(project="p", config={"lr": 1})
    second = ailab.init(project="p")
    assert (first.status, second.status, ailab.active_run()) == ("completed", "running", second)
    ailab.log({"x": 1})
    second.finish()
    assert detail(lab, second).parent_run_id is None
    assert detail(lab, second).final_metrics == {"x": 1}


# -- the current run ---------------------------------------------------------------------------------------------------


def test_module_verbs_act_on_the_current_run(store_dir, lab, tmp_path):
    (tmp_path / "m.joblib").write_bytes(b"model")
    with ailab.run("verbs") as run:
        ailab.log({"a": 1}, step=1)
        ailab.log_metric("b", 2, 1)
        ailab.log_metrics({"c": 3}, step=1)
        ailab.log_param("p", 1)
        ailab.log_params({"q": 2})
        ailab.log_artifact("m.joblib", kind="model")
        ailab.log_dict({"x": 1}, "d.json")
        ailab.log_text("t", "t.txt")
        ailab.log_table({"a": [1, 2]}, "t.csv")
        ailab.set_tag("one")
        ailab.set_tags({"two": 2})
        ailab.note("noted")
        ailab.define_metric("a", goal="min")
    found = detail(lab, run)
    assert found.final_metrics == {"a": 1, "b": 2, "c": 3}
    assert found.params == {"p": 1, "q": 2}
    assert found.artifacts == ["m.joblib", "d.json", "t.txt", "t.csv"]
    assert found.tags == {"one": None, "two": "2"}
    assert found.note == "noted"


def test_a_verb_without_a_run_warns_once_and_raises_in_strict(store_dir, capsys, monkeypatch):
    ailab.log({"a": 1})
    ailab.log_param("a", 1)
    ailab.set_tag("a")
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "start_run" in err
    monkeypatch.setenv("AILAB_STRICT", "1")
    with pytest.raises(RejectedError, match="start_run"):
        ailab.log({"a": 1})
    assert not store_dir.exists()


def test_nesting_makes_children_and_gives_the_parent_back(store_dir, lab):
    with ailab.start_run("outer", group="g") as outer:
        with ailab.start_run("inner") as inner:
            assert ailab.active_run() is inner
            ailab.log({"i": 1})
        assert ailab.active_run() is outer
        with ailab.start_run("apart", nested=False) as apart:
            pass
        ailab.log({"o": 1})
    with ailab.start_run("later", parent=outer) as later, ailab.start_run("named", parent=outer.id, nested=True) as named:
        pass
    catalogue = lab()
    rows = {r.name: r for r in queries.get_runs_by_ids(catalogue, [r.id for r in (outer, inner, apart, later, named)])}
    assert {name: r.parent_run_id for name, r in rows.items()} == {
        "outer": None, "inner": outer.id, "apart": None, "later": outer.id, "named": outer.id,
    }  # fmt: skip
    assert (rows["outer"].group, rows["outer"].final_metrics, rows["inner"].final_metrics) == ("g", {"o": 1}, {"i": 1})


def test_runs_that_end_out_of_order_leave_no_ended_run_current(store_dir):
    """The outer run may be finished first; then what is logged goes to the inner one, and afterwards nowhere."""
    outer = ailab.start_run("outer")
    inner = ailab.start_run("inner")
    outer.finish()
    assert ailab.active_run() is inner
    inner.finish()
    assert ailab.active_run() is None


def test_threads_log_into_one_run_and_nothing_is_lost_or_mixed(store_dir, lab):
    """8 threads x 2,000 calls: every point once, every line whole, in each thread's order."""
    with ailab.start_run("threads") as run:

        def work(number):
            for i in range(2000):
                run.log({f"t{number}": i}, step=i)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    points = payloads(run, "metrics.logged")
    found = {f"t{n}": [(p["step"], p["values"][f"t{n}"]) for p in points if f"t{n}" in p["values"]] for n in range(8)}
    assert found == {f"t{n}": [(i, i) for i in range(2000)] for n in range(8)}
    assert lab().con.execute("SELECT count(*), count(DISTINCT (key, step)) FROM metrics").fetchone() == (16000, 16000)


def test_a_thread_without_a_run_of_its_own_uses_the_only_one(store_dir, capsys):
    """A pool's threads have no context of the run; with one open run they mean it, with two they are told."""
    with ailab.start_run("one") as run, ThreadPoolExecutor(1) as pool:
        pool.submit(ailab.log, {"a": 1}).result()
        with ailab.start_run("two"):
            pool.submit(ailab.log, {"a": 2}).result()
    assert payloads(run, "metrics.logged") == [{"values": {"a": 1}}]
    assert "without a run" in capsys.readouterr().err


def test_async_tasks_each_have_their_own_run(store_dir, lab):
    """Tasks that take turns never log into each other's run, and their runs are children of the one around them."""

    @ailab.log_run(project="async")
    async def train(number, steps=5):
        for i in range(steps):
            ailab.log({"x": number * 100 + i}, step=i)
            await asyncio.sleep(0)
        return {"final_metrics": {"n": number}}

    async def everything():
        with ailab.start_run("sweep") as sweep:
            answers = await asyncio.gather(*(train(n) for n in range(6)))
            ailab.log({"outer": 1})
        return sweep, answers

    sweep, answers = asyncio.run(everything())
    assert answers == [{"final_metrics": {"n": n}} for n in range(6)]
    catalogue = lab()
    children = catalogue.con.execute("SELECT run_id FROM runs WHERE parent_run_id = ? ", [sweep.id]).fetchall()
    assert len(children) == 6
    for (child,) in children:
        n = queries.get_run(catalogue, child).final_metrics["n"]
        values = [p.value for p in queries.metric_points(catalogue, child, keys=["x"]).rows]
        assert values == [n * 100 + i for i in range(5)]
    assert queries.get_run(catalogue, sweep.id).final_metrics == {"outer": 1}


# -- log_run -----------------------------------------------------------------------------------------------------------


def only_run(lab):
    catalogue = lab()
    assert catalogue.problems == []
    (summary,) = queries.list_runs(catalogue).rows
    return queries.get_run(catalogue, summary.run_id)


def test_log_run_takes_the_bound_arguments_defaults_included(store_dir, lab):
    @ailab.log_run
    def train(model, /, lr=0.1, *sizes, seed=4, **rest):
        """Docstring."""
        return model, lr, sizes, seed, rest

    assert train("svm", 0.2, 3, 4, extra=True) == ("svm", 0.2, (3, 4), 4, {"extra": True})
    found = only_run(lab)
    assert found.params == {"model": "svm", "lr": 0.2, "sizes": [3, 4], "seed": 4, "extra": True}
    assert (found.name, found.seed, found.status) == ("train", 4, "completed")
    assert (train.__name__, train.__doc__) == ("train", "Docstring.")


def test_log_run_with_arguments_of_start_run(store_dir, lab):
    @ailab.log_run(project="Iris", name="named", tags=["a"], params={"fixed": 1})
    def train(lr=0.1):
        ailab.log({"loss": lr})

    train()
    found = only_run(lab)
    assert (found.project, found.name, found.tags, found.params) == ("Iris", "named", {"a": None}, {"fixed": 1, "lr": 0.1})
    assert found.final_metrics == {"loss": 0.1}


def test_log_run_on_methods_leaves_out_self(store_dir, lab):
    class Trainer:
        @ailab.log_run
        def fit(self, n=1):
            return n

        @classmethod
        @ailab.log_run
        def make(cls, n=2):
            return n

        @staticmethod
        @ailab.log_run
        def still(n=3):
            return n

    assert (Trainer().fit(), Trainer.make(), Trainer.still(n=5)) == (1, 2, 5)
    rows = lab().con.execute("SELECT name, params ->> '$.n' FROM runs ORDER BY started_at").fetchall()
    assert rows == [("fit", "1"), ("make", "2"), ("still", "5")]


def test_log_run_of_a_call_that_does_not_fit_raises_pythons_own_error(store_dir, lab):
    @ailab.log_run
    def train(lr):
        return lr

    with pytest.raises(TypeError, match="missing 1 required positional argument: 'lr'"):
        train()
    with pytest.raises(TypeError, match="unexpected keyword argument 'nope'"):
        train(1, nope=2)
    assert [row.status for row in queries.list_runs(lab()).rows] == ["failed", "failed"]


def test_log_run_on_a_generator_lasts_until_it_ends(store_dir, lab):
    """A generator's run is open while it yields, takes what it logs, and ends with it."""

    @ailab.log_run
    def epochs(n=3):
        for i in range(n):
            ailab.log({"i": i}, step=i)
            yield i
        return {"final_metrics": {"done": n}}

    assert list(epochs()) == [0, 1, 2]
    found = only_run(lab)
    assert (found.status, found.final_metrics) == ("completed", {"i": 2, "done": 3})


def test_log_run_on_a_generator_that_is_left_early(store_dir, lab):
    """Whoever breaks out of the loop has not made the run fail."""

    @ailab.log_run
    def epochs():
        i = 0
        while True:
            ailab.log({"i": i})
            yield i
            i += 1

    for i in epochs():
        if i == 2:
            break
    found = only_run(lab)
    assert (found.status, found.final_metrics) == ("completed", {"i": 2})


def test_log_run_on_an_async_generator(store_dir, lab):
    @ailab.log_run
    async def epochs(n=3):
        for i in range(n):
            ailab.log({"i": i})
            yield i

    async def take():
        return [i async for i in epochs()]

    assert asyncio.run(take()) == [0, 1, 2]
    found = only_run(lab)
    assert (found.status, found.final_metrics, found.params) == ("completed", {"i": 2}, {"n": 3})


def test_log_run_on_something_without_a_name(store_dir, lab):
    """A partial or a callable object has no name of its own; its run has one."""

    class Trainer:
        def __call__(self, lr=0.1):
            return lr

    def train(model, lr=0.1):
        return model, lr

    assert ailab.log_run(functools.partial(train, "svm"))(lr=2) == ("svm", 2)
    assert ailab.log_run(Trainer())(lr=3) == 3
    assert [r.final_metrics for r in queries.list_runs(lab()).rows] == [{}, {}]


def test_log_run_on_an_exception(store_dir, lab):
    problem = Halt("stop")

    @ailab.log_run
    def train():
        ailab.log({"a": 1})
        raise problem

    with pytest.raises(Halt) as raised:
        train()
    assert raised.value is problem
    assert (only_run(lab).status, only_run(lab).final_metrics) == ("failed", {"a": 1})


class Answer(dict):
    """A result of a subclass is handed on as itself."""


ANSWERS = [
    ({"final_metrics": {"acc": 0.9, "n": np.int64(3)}}, {"acc": 0.9, "n": 3}, {}),
    ({"acc": 0.9, "loss": np.float32(0.5)}, {"acc": 0.9, "loss": 0.5}, {}),
    ({"acc": 0.9, "model": "svm"}, {}, {}),
    ({"final_metrics": {"acc": "good"}}, {}, {}),
    ({"final_metrics": 5}, {}, {}),
    ({"final_metrics": {"acc": 1}, "artifacts": 5}, {"acc": 1}, {}),
    ({"final_metrics": {"acc": 1}, "artifacts": None, "tags": 5, "note": 7}, {"acc": 1}, {"note": "7"}),
    ({"dataset_id": "iris@v1", "tags": ["x"], "note": "n"}, {}, {"dataset_id": "iris@v1", "tags": {"x": None}, "note": "n"}),
    ({"final_metrics": {"a": 1}, "artifacts": ["f.txt", Path("g.txt")]}, {"a": 1}, {"artifacts": ["f.txt", "g.txt"]}),
    ({"final_metrics": {"a": 1}, "artifacts": "f.txt"}, {"a": 1}, {"artifacts": ["f.txt"]}),
    ({"final_metrics": {"a": 1}, "artifacts": Path("f.txt")}, {"a": 1}, {"artifacts": ["f.txt"]}),
    (None, {}, {}),
    (0.9, {}, {}),
    ([1, 2], {}, {}),
    ("text", {}, {}),
    ({}, {}, {}),
    (Answer(final_metrics={"a": 1}), {"a": 1}, {}),
]
"""(return value, final metrics, other fields of the run)."""


def test_what_a_function_returns_is_recorded_and_handed_on(store_dir, lab, tmp_path):
    (tmp_path / "f.txt").write_text("f")
    (tmp_path / "g.txt").write_text("g")

    @ailab.log_run
    def train(number):
        return ANSWERS[number][0]

    for number, (answer, *_) in enumerate(ANSWERS):
        assert train(number) is answer
    catalogue = lab()
    assert catalogue.problems == []
    rows = catalogue.con.execute("SELECT run_id FROM runs ORDER BY CAST(params ->> '$.number' AS INT)").fetchall()
    for (run_id,), (_, final, rest) in zip(rows, ANSWERS, strict=True):
        found = queries.get_run(catalogue, run_id)
        assert (found.status, found.final_metrics) == ("completed", final)
        assert {name: getattr(found, name) for name in rest} == rest


# -- what a run is told -------------------------------------------------------------------------------------------------


def test_everything_given_at_the_start_is_there(store_dir, lab):
    with ailab.start_run(
        "svm", project="My Iris", seed=42, tags={"a": 1, "b": None}, config={"lr": 0.1}, params={"n": 2}, group="g",
        note="first", description="about", dataset_id="iris@v2",
    ) as run:  # fmt: skip
        assert (run.id, run.name, run.project, run.seed) == (run.id, "svm", "My Iris", 42)
        assert len(run.id) == 26
        assert run.url.endswith(f"/runs/{run.id}")
    found = detail(lab, run)
    wanted = {
        "name": "svm", "project": "My Iris", "project_id": events.project_id("My Iris"), "seed": 42,
        "tags": {"a": "1", "b": None}, "params": {"lr": 0.1, "n": 2}, "group": "g", "note": "first", "description": "about",
        "dataset_id": "iris@v2", "status": "completed", "trashed": False, "points_dropped": 0,
    }  # fmt: skip
    assert {name: getattr(found, name) for name in wanted} == wanted
    assert found.python_version.startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert "msgspec==" in found.pip_freeze.lower()
    assert found.host == os.uname().nodename
    assert found.command


def test_where_the_dataset_comes_from(store_dir, lab, monkeypatch):
    """The return value counts above the argument, the argument above the environment."""
    cases = [
        ({}, None, None, None),
        ({}, "env", None, "env"),
        ({"dataset_id": "arg"}, "env", None, "arg"),
        ({"dataset_id": "arg"}, "env", "ret", "ret"),
        ({}, None, "ret", "ret"),
    ]
    for given, environment, returned, _ in cases:
        monkeypatch.setenv("AILAB_DATASET_ID", environment or "")

        @ailab.log_run(**given)
        def train(answer):
            return {"dataset_id": answer} if answer else {"final_metrics": {}}

        train(returned)
    rows = lab().con.execute("SELECT dataset_id FROM runs ORDER BY started_at").fetchall()
    assert [row[0] for row in rows] == [expected for *_, expected in cases]


def test_a_parameter_called_dataset_id_is_the_dataset(store_dir, lab):
    @ailab.log_run
    def train(dataset_id="digits"):
        return None

    train()
    assert only_run(lab).dataset_id == "digits"


def test_where_the_seed_comes_from(store_dir, lab, monkeypatch):
    """Argument, then a parameter named seed or random_state, then AILAB_SEED."""
    cases = [
        ({"seed": 1, "config": {"seed": 2}}, "3", 1),
        ({"seed": 0, "config": {"seed": 2}}, "3", 0),
        ({"seed": np.int64(7)}, "3", 7),
        ({"config": {"seed": 2, "random_state": 4}}, "3", 2),
        ({"config": {"random_state": 4}}, "3", 4),
        ({"config": {"seed": "x"}}, "3", 3),
        ({}, "3", 3),
        ({}, "", None),
    ]
    for given, environment, expected in cases:
        monkeypatch.setenv("AILAB_SEED", environment)
        with ailab.start_run("seed", **given) as run:
            assert run.seed == expected
    rows = lab().con.execute("SELECT seed FROM runs ORDER BY started_at").fetchall()
    assert [row[0] for row in rows] == [expected for *_, expected in cases]


def test_a_note_twice_keeps_both_versions(store_dir, lab):
    with ailab.start_run("note") as run:
        run.note("first")
        run.note("second")
        run.set_tag("quality", "low")
        run.set_tag("quality", "high")
    catalogue = lab()
    changes = sorted((c.field, c.old or "", c.new) for c in queries.list_changes(catalogue, run_id=run.id).rows)
    assert changes == [
        ("note", "", "first"),
        ("note", "first", "second"),
        ("tags.quality", "", "low"),
        ("tags.quality", "low", "high"),
    ]
    assert catalogue.con.execute('SELECT note FROM notes ORDER BY "at"').fetchall() == [("first",), ("second",)]
    assert queries.get_run(catalogue, run.id).note == "second"


def test_a_command_lines_secrets_are_redacted_before_the_first_byte(store_dir, scripts):
    """No byte of a secret given as an option, in a URL or in the environment reaches the store."""
    scripts.run(
        """
        import ailab
        with ailab.start_run("secret", config={"hub_token": "swordfish-1"}):
            pass
        """,
        "--api-key", "swordfish-2", "--url=https://me:swordfish-3@host/x", "--token=swordfish-4", "--lr", "0.1",
        MY_SERVICE_PASSWORD="swordfish-5", code=0,
    )  # fmt: skip
    content = b"".join(path.read_bytes() for path in store_dir.rglob("*") if path.is_file())
    assert b"swordfish" not in content
    assert b"--lr 0.1" in content


# -- resume ------------------------------------------------------------------------------------------------------------


def test_a_run_that_is_there_is_taken_up_again(store_dir, lab):
    """Its points, parameters and edits go on; it counts once and its last end holds."""
    wishes = ("allow", "must", None, True, "auto")
    first = {}
    for number in range(len(wishes)):
        with ailab.start_run("first", id=f"exp-{number}", config={"lr": 1, "n": 1}, project="p", note="old") as run:
            for i in range(20):
                run.log({"a": i}, step=i)
    catalogue = lab()
    first = {row.run_id: row.timestamp for row in queries.list_runs(catalogue).rows}
    for number, resume in enumerate(wishes):
        with ailab.start_run("second", id=f"exp-{number}", resume=resume, config={"lr": 2}) as again:
            again.log({"a": 100}, step=20)
            again.note("new")
            catalogue.refresh()
            assert queries.get_run(catalogue, again.id).status == "running"
            again.finish("failed")
    catalogue.refresh()
    assert queries.list_runs(catalogue).total == len(wishes)
    for run_id, started in first.items():
        found = queries.get_run(catalogue, run_id)
        assert found.params == {"lr": 2, "n": 1}
        assert (found.status, found.note, found.started_at, found.project) == ("failed", "new", started, "p")
        assert found.final_metrics == {"a": 100}
        assert [p.value for p in queries.metric_points(catalogue, run_id).rows] == [*range(20), 100]
    assert [row["value"] for row in again.history().rows()] == [*range(20), 100]
    assert (
        lab().con.execute("SELECT * FROM runs ORDER BY run_id").fetchall()
        == catalogue.con.execute("SELECT * FROM runs ORDER BY run_id").fetchall()
    )


def test_tags_given_when_a_run_is_taken_up_again_are_set(store_dir, lab):
    with ailab.start_run("first", id="exp", tags=["old"]):
        pass
    with ailab.start_run("second", id="exp", resume="must", tags={"new": 1}, dataset_id="d2", group="g2"):
        pass
    found = queries.get_run(lab(), "exp")
    assert (found.tags, found.dataset_id, found.group) == ({"new": "1", "old": None}, "d2", "g2")


def test_must_wants_the_run_and_never_wants_none(store_dir, lab, capsys):
    """A wish that cannot be met gives a new run and a warning, or an error in strict; nothing is mixed."""
    with ailab.start_run("x", id="there"):
        pass
    with (
        ailab.start_run("must", id="missing", resume="must") as a,
        ailab.start_run("never", id="there", resume="never", nested=False) as b,
    ):
        a.log({"a": 1})
    assert len({a.id, b.id, "there", "missing"}) == 4
    err = capsys.readouterr().err
    assert "there is no run 'missing'" in err
    assert "run 'there' is there" in err
    with pytest.raises(RejectedError, match="missing"):
        ailab.start_run("must", id="missing", resume="must", strict=True)
    with pytest.raises(RejectedError, match="there"):
        ailab.start_run("never", id="there", resume="never", strict=True)
    assert queries.list_runs(lab()).total == 3


def test_a_resumed_clock_goes_on(store_dir, lab):
    """What is written after a resume counts after everything before it, whoever wrote that."""
    with ailab.start_run("x", id="r") as run:
        for _ in range(50):
            run.log({"a": 1})
        run.note("old")
    with ailab.start_run("x", id="r") as run:
        run.log({"a": 2})
        run.note("new")
    found = queries.get_run(lab(), "r")
    assert (found.note, found.final_metrics) == ("new", {"a": 2})


# -- disabled ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["environment", "argument", "environment and a bad setting", "bad id"])
def test_disabled_touches_no_file(store_dir, tmp_path, monkeypatch, how):
    """Everything can be called, and not a single file appears or changes."""
    (tmp_path / "f.txt").write_text("f")
    given = {}
    if how == "argument":
        given["mode"] = "disabled"
    else:
        monkeypatch.setenv("AILAB_MODE", "disabled")
    if how == "environment and a bad setting":
        monkeypatch.setenv("AILAB_SEED", "many")
    if how == "bad id":
        given["id"] = "not/allowed"
    before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
    with ailab.start_run("off", config={"lr": 1}, tags=["a"], note="n", **given) as run:
        run.log({"a": 1}, step=1)
        run.log({"a": np.float32(1)})
        run.log_params({"b": 2})
        run.log_artifact("f.txt")
        run.log_text("t", "t.txt")
        run.note("n")
        run.summary["x"] = 1
        assert (run.mode, run.config["lr"], run.summary["x"]) == ("disabled", 1, 1)
    assert sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")) == before


# -- several stores, one process ---------------------------------------------------------------------------------------


def test_every_store_of_a_process_is_whole(tmp_path):
    """Environment and code that an earlier run of the process captured are in each store that refers to them."""
    from ailab import views

    for name in ("one", "two"):
        with ailab.start_run("x", dir=tmp_path / name) as run:
            pass
        lab = views.open_lab(tmp_path / name)
        found = queries.get_run(lab, run.id)
        assert lab.problems == []
        assert found.python_version is not None
        assert "msgspec" in found.pip_freeze
        lab.close()


def test_a_second_run_of_a_process_refers_to_what_the_first_captured(store_dir, lab):
    ids = []
    for _ in range(2):
        with ailab.start_run("x") as run:
            pass
        ids.append(detail(lab, run).environment_id)
    assert ids[0] == ids[1]
    assert len(lab().con.execute("SELECT * FROM environments").fetchall()) == 1


# -- odds and ends ------------------------------------------------------------------------------------------------------


def test_run_ids_sort_by_time_and_never_meet():
    ids = [runs.new_run_id(now=1.7e9 + i) for i in range(100)]
    assert ids == sorted(ids)
    assert len({runs.new_run_id() for _ in range(10_000)}) == 10_000
    assert all(runs.check_run_id(i) == i for i in ids)


@pytest.mark.parametrize(
    "run_id", ["", "a/b", "..", "-x", ".x", "a b", "a\n", "é", "x" * 129, "compare", "leaderboard", "latest", "a\0"]
)
def test_ids_that_are_not_allowed(run_id):
    with pytest.raises(RejectedError, match="not allowed"):
        runs.check_run_id(run_id)


@pytest.mark.parametrize("run_id", ["a", "Exp_1.2-3", "0", "x" * 128])
def test_ids_that_are_allowed(run_id):
    assert runs.check_run_id(run_id) == run_id


def test_configure_counts_as_an_argument(store_dir, lab, monkeypatch):
    monkeypatch.setenv("AILAB_PROJECT", "env")
    ailab.configure(project="configured")
    with ailab.start_run("a") as a, ailab.start_run("b", project="argument") as b:
        pass
    assert (a.project, b.project) == ("configured", "argument")
    with pytest.raises(SettingError, match="no setting 'projct'"):
        ailab.configure(projct="x")


def test_a_store_that_cannot_be_there_gives_a_run_that_records_nothing(tmp_path, capsys):
    """A file or a foreign folder in the store's place: one warning, training goes on, nothing is adopted; strict raises."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    for place in ("file", "folder"):
        with ailab.start_run("x", dir=tmp_path / place, id="no good id" if place == "file" else None) as run:
            run.log({"a": 1})
            run.log_params({"a": 1})
            run.log_artifact("missing")
        with pytest.raises(StoreError, match=place):
            ailab.start_run("x", dir=tmp_path / place, strict=True)
    assert "this run is not recorded" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["file", "thesis.txt"]


def test_a_note_from_the_recorder_is_kept_whole(store_dir, lab):
    with ailab.start_run("x") as run:
        run.note("line\nbreak \0 ✓ caf\udce9")
    assert detail(lab, run).note == "line\nbreak \0 ✓ caf\\udce9"


def test_a_heartbeat_changes_nothing_but_the_last_sign_of_life(store_dir, lab):
    with ailab.start_run("x") as run:
        run.log({"a": 1})
        run._writer.beat()
    found = detail(lab, run)
    assert (found.status, found.final_metrics) == ("completed", {"a": 1})
    assert [line.kind for line in lines_of(run) if line.kind == "heartbeat.sent"] == ["heartbeat.sent"]


def test_a_stores_folder_is_named_by_its_path(store_dir):
    with ailab.start_run("x") as run:
        pass
    assert run.store.path == str(store_dir)
    assert store.is_store(str(store_dir))
