"""The fold: the same run, in whatever order its events arrive."""

from __future__ import annotations

import os
import random
import shutil

from hypothesis import given, settings
from hypothesis import strategies as st

import ailab
from ailab import actions, store, views

VIEWS = {
    "run_now": "run_id, name, status, started_at, ended_at, project, note, CAST(params AS VARCHAR), "
    "CAST(final_metrics AS VARCHAR), CAST(tags AS VARCHAR), CAST(notes AS VARCHAR), CAST(artifacts AS VARCHAR), "
    "CAST(changes AS VARCHAR)",
    "projects": "*",
    "point_now": "*",
    "events": "event, kind, run_id",
}


def rows(lab):
    """Everything a reader can see, as text, since NaN is equal to nothing."""
    lab.prepare()
    return {view: sorted(map(repr, lab.con.execute(f"SELECT {what} FROM {view}").fetchall())) for view, what in VIEWS.items()}


def make_store(path):
    """Three runs, one resumed, one edited twice from outside: nine segments."""
    os.environ["AILAB_DIR"] = str(path)
    for name in ("one", "two", "three"):
        with ailab.start_run(name, id=f"run-{name}", project="P", config={"lr": 0.1}, tags=["a"]) as run:
            for step in range(5):
                run.log({"loss": 1 / (step + 1), "nan": float("nan")}, step=step)
            run.log({"unstepped": 1}), run.log({"unstepped": 2})
            run.note(f"note of {name}")
            run.log_text(name, "a.txt")
    with ailab.start_run(id="run-one", resume="must", config={"lr": 0.2}) as run:
        run.log({"loss": 0.01}, step=9)
        run.log_text("newer", "a.txt")
    for word in ("best", "publish"):
        lab = views.open_lab(path)
        with actions.Actions(lab, via="cli", by="ada") as desk:
            desk.flag("run-two", word)
            desk.tag("run-one", {"k": word}, remove=["a"])
        lab.close()


def test_any_order_of_arrival_gives_the_same_rows(store_dir, tmp_path_factory):
    """Segments come late, in parts, one after the other or all at once: after the last, everything equals a full replay."""
    make_store(store_dir)
    whole = views.open_lab(store_dir)
    wanted = rows(whole)
    whole.close()
    names = sorted(os.listdir(store_dir / "segments"))
    assert len(names) >= 6
    assert all(wanted.values())

    @settings(max_examples=25, deadline=None)
    @given(seed=st.integers(0, 2**32 - 1))
    def check(seed):
        dice = random.Random(seed)
        folder = tmp_path_factory.mktemp("order") / "store"
        there = store.open_store(str(folder), create=True)
        shutil.copytree(store_dir / "blobs", folder / "blobs")
        lab = views.Lab(there)
        rest = {name: (store_dir / "segments" / name).read_bytes() for name in dice.sample(names, len(names))}
        while rest:
            name = dice.choice(list(rest))
            part = dice.choice([len(rest[name]), dice.randrange(1, len(rest[name]) + 1)])
            with open(folder / "segments" / name, "ab") as file:
                file.write(rest[name][:part])
            rest[name] = rest[name][part:]
            if not rest[name]:
                del rest[name]
            if dice.random() < 0.6:
                lab.refresh()
        lab.refresh()
        assert rows(lab) == wanted
        lab.close()
        shutil.rmtree(folder.parent)

    check()


def test_the_harness_finds_a_difference(store_dir, tmp_path):
    """The comparison above can fail: a store that lacks one segment has other rows."""
    make_store(store_dir)
    shutil.copytree(store_dir, tmp_path / "less")
    os.unlink(max((tmp_path / "less" / "segments").iterdir()))
    whole, less = views.open_lab(store_dir), views.open_lab(tmp_path / "less")
    assert rows(whole) != rows(less)
    whole.close()
    less.close()
