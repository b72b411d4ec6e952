"""A run's life: how it starts, what it is told, whose it is, how it ends, and how it is taken up again."""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from recorded import detail, lines_of, payloads

import ailab
from ailab import events, queries, runs, store
from ailab.errors import RejectedError, SettingError, StoreError

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


def test_a_thread_with_a_copied_context_logs_into_that_contexts_run(store_dir):
    """With several runs open, a context says which one is meant, in whatever thread it is run."""
    with ailab.start_run("outer") as outer:
        there = contextvars.copy_context()
        with ailab.start_run("inner") as inner, ThreadPoolExecutor(2) as pool:
            here = contextvars.copy_context()
            pool.submit(there.run, ailab.log, {"o": 1}).result()
            pool.submit(here.run, ailab.log, {"i": 1}).result()
    assert payloads(outer, "metrics.logged") == [{"values": {"o": 1}}]
    assert payloads(inner, "metrics.logged") == [{"values": {"i": 1}}]


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


# -- beside W&B ---------------------------------------------------------------------------------------------------------


class OtherRun:
    """A run of W&B, as far as we use one; its service may be down."""

    url = "https://wandb.example/me/p/runs/1"

    def __init__(self, *, broken=False):
        self.logged, self.finished, self.broken = [], False, broken

    def log(self, values, step=None):
        if self.broken:
            raise ConnectionError("no network")
        self.logged.append((values, step))

    def finish(self):
        self.finished = True
        if self.broken:
            raise ConnectionError("no network")


def other_tracker(monkeypatch, *, active=None, started=None):
    """Put a module called wandb in place, with an active run or one that `init` starts."""
    calls = []

    def init(**given):
        calls.append(given)
        if started is None:
            raise ConnectionError("no network")
        return started

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(run=active, init=init))
    return calls


def test_an_active_run_of_another_tracker_gives_its_address_and_nothing_else(store_dir, lab, monkeypatch):
    active = OtherRun()
    other_tracker(monkeypatch, active=active)
    with ailab.start_run("x") as run:
        run.log({"a": 1})
    assert (active.logged, active.finished) == ([], False)
    assert detail(lab, run).wandb_url == OtherRun.url


def test_a_run_can_be_mirrored(store_dir, lab, monkeypatch):
    """Points go to both; the other run gets its project and parameters, and ends with ours if we started it."""
    started = OtherRun()
    calls = other_tracker(monkeypatch, started=started)
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    with ailab.start_run("x", project="ours", config={"lr": 0.1}, wandb=True) as run:
        run.log({"a": np.float32(0.5), "bad": "x"}, step=3)
        run.log_metric("b", 1)
    assert calls == [{"project": "theirs", "name": "x", "config": {"lr": 0.1}}]
    assert (started.logged, started.finished) == ([({"a": 0.5}, 3), ({"b": 1}, None)], True)
    found = detail(lab, run)
    assert (found.wandb_url, found.final_metrics) == (OtherRun.url, {"a": 0.5, "b": 1})


@pytest.mark.parametrize("how", ["init fails", "log fails"])
def test_another_tracker_that_fails_takes_nothing_with_it(store_dir, lab, monkeypatch, capsys, how):
    """Our run has everything, the failure is said once."""
    other_tracker(monkeypatch, started=None if how == "init fails" else OtherRun(broken=True))
    with ailab.start_run("x", wandb=True) as run:
        for i in range(5):
            run.log({"a": i}, step=i)
    assert capsys.readouterr().err.count("no network") == 1
    found = detail(lab, run)
    assert (found.status, found.final_metrics) == ("completed", {"a": 4})


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


def test_a_run_that_lies_in_tables_alone_is_taken_up_again(store_dir, lab):
    """Compaction changes nothing for who goes on with a run: it is found, its clock goes on, its first words are kept."""
    from ailab.views.compact import compact

    place = store.open_store(str(store_dir), create=True)
    with ailab.start_run("first", id="again", config={"lr": 0.1}) as run:
        for i in range(50):
            run.log({"loss": 1 / (i + 1)}, step=i)
        run.note("before")
    assert compact(place, grace_s=0).removed >= 1
    assert place.segments_of_run("again") == []
    with pytest.raises(RejectedError, match="never"):
        ailab.start_run(id="again", resume="never", strict=True)
    with ailab.start_run(id="again", resume="must", strict=True, config={"lr": 0.2}) as run:
        run.log({"loss": 0.001}, step=50)
        run.note("after")
    assert run.id == "again"
    found = detail(lab, run)
    assert (found.name, found.note, found.params, found.final_metrics) == ("first", "after", {"lr": 0.2}, {"loss": 0.001})
    assert [note[0] for note in lab().con.execute('SELECT note FROM notes ORDER BY "at"').fetchall()] == ["before", "after"]
