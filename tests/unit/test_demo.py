"""The demo: a small sweep from an installed package alone, whose numbers are right and always the same."""

from __future__ import annotations

import csv
import hashlib
import io
import random

import pytest

import ailab
from ailab import demo, queries
from ailab.errors import ForeignFolderError, RejectedError

CURVES = ["train_accuracy", "train_loss", "val_accuracy", "val_loss"]


def recorded(store):
    """(parameters, points) of every run in the store, in the order of training."""
    found = []
    for row in reversed(ailab.list_runs(dir=store)):
        run = ailab.get_run(row.run_id, dir=store)
        found.append((run.params, [(r["key"], r["step"], r["value"]) for r in run.history().rows()]))
    return found


def test_a_demo_records_whole_runs(tmp_path, lab, store_dir):
    """Every run has its parameters, four curves, final metrics, tags, a group, and its CSV with the same numbers."""
    ids = demo.run_demo(dir=str(store_dir), n_runs=7, progress=False)
    assert len(set(ids)) == 7
    assert not (tmp_path / "events").exists()
    runs = [ailab.get_run(run_id, dir=store_dir) for run_id in ids]
    assert [r.params for r in runs] == [
        {"model_name": model, "learning_rate": rate, "seed": seed, "n_epochs": 25}
        for seed in (0, 1)
        for rate in (0.001, 0.03)
        for model in ("softmax_regression", "linear_svm", "perceptron")
    ][:7]
    assert {(r.status, r.project, r.dataset_id) for r in runs} == {("completed", "demo", "blobs")}
    assert len({r.group for r in runs}) == 1
    assert runs[0].group
    assert runs[0].history(["val_loss"]).rows() != runs[6].history(["val_loss"]).rows()  # seeds 0 and 1
    for run in runs:
        points = {(p["key"], p["step"]): p["value"] for p in run.history().rows()}
        assert sorted(points) == [(key, step) for key in CURVES for step in range(1, 26)]
        assert run.tags == {"demo": None, "model": run.params["model_name"]}
        final = dict(run.final_metrics)
        assert final.pop("runtime_seconds") > 0
        assert final == {key: points[key, 25] for key in CURVES} | {"accuracy": points["val_accuracy", 25]}
        kept, file = queries.open_artifact(lab(), run.run_id, f"{run.params['model_name']}_metrics.csv")
        with file:
            content = file.read()
        assert (kept.kind, kept.sha256) == ("metrics", hashlib.sha256(content).hexdigest())
        table = list(csv.DictReader(io.StringIO(content.decode())))
        assert {(key, int(row["epoch"])): float(row[key]) for row in table for key in CURVES} == points


def test_the_best_run_of_a_demo_has_the_one_note(store_dir):
    ids = demo.run_demo(dir=str(store_dir), n_runs=3, progress=False)
    best = ailab.leaderboard("accuracy", dir=store_dir)[0]
    assert {run_id: ailab.get_run(run_id, dir=store_dir).note for run_id in ids} == dict.fromkeys(ids) | {
        best.run_id: f"best accuracy of the demo's 3 runs: {best.value:.3f}"
    }


def test_a_demo_has_the_same_numbers_every_time(tmp_path):
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    for store in (first, second):
        demo.run_demo(dir=store, n_runs=2, progress=False)
    assert recorded(first) == recorded(second)


def test_every_model_of_a_demo_learns(store_dir):
    """A guess is right for one point in three; each of the models for two in three at least, and its loss falls."""
    demo.run_demo(dir=str(store_dir), progress=False)
    with ailab.connect(store_dir) as con:
        rows = con.execute("SELECT count(*), min(accuracy) > 2 / 3, count(DISTINCT accuracy) > 1 FROM wide").fetchall()
        fell = con.execute(
            'SELECT "first" > "last" FROM metric_summary JOIN params USING (run_id) '
            "WHERE metric_summary.key = 'train_loss' AND params.key = 'learning_rate' AND number = 0.001"
        ).fetchall()
    assert rows == [(12, True, True)]
    assert fell == [(True,)] * 6


@pytest.mark.parametrize("model", demo.MODELS)
def test_slopes_are_the_derivatives_of_the_losses(model):
    """Moving one weight a little changes the loss of one point by the slope of its class times the point's number."""
    source = random.Random(5)
    problems = 1 if model == "softmax_regression" else 3  # the one-vs-all losses are means over three problems
    for _ in range(50):
        weights = [[source.gauss(0, 1) for _ in range(3)] for _ in range(3)]
        point = ((1.0, source.gauss(0, 1), source.gauss(0, 1)), source.randrange(3))
        slopes = demo._SLOPES[model](demo._scores(weights, point[0]), point[1])
        for class_ in range(3):
            for i in range(3):
                around = []
                for change in (-1e-6, 1e-6):
                    moved = [list(row) for row in weights]
                    moved[class_][i] += change
                    around.append(demo.measure(model, moved, [point])[0])
                assert (around[1] - around[0]) / 2e-6 * problems == pytest.approx(slopes[class_] * point[0][i], abs=1e-5)


def test_a_demo_needs_neither_numpy_nor_scikit_learn(scripts, store_dir):
    done = scripts.run(
        """
        import sys
        for name in ("numpy", "sklearn", "scipy", "pandas", "polars", "joblib"):
            sys.modules[name] = None  # an import of it raises
        from ailab.demo import run_demo
        print(len(run_demo(n_runs=2)))
        """
    )
    assert done.stdout == "2\n"
    assert "2/2" in done.stderr
    assert len(ailab.list_runs(dir=store_dir)) == 2


def test_without_progress_a_demo_says_nothing(capfd, store_dir):
    demo.run_demo(dir=str(store_dir), n_runs=1, progress=False)
    assert capfd.readouterr() == ("", "")


def test_a_demo_is_recorded_although_recording_is_switched_off(monkeypatch, store_dir):
    monkeypatch.setenv("AILAB_MODE", "disabled")
    ids = demo.run_demo(n_runs=1, progress=False)
    assert [run.run_id for run in ailab.list_runs(dir=store_dir)] == ids


def test_a_demo_of_no_runs_is_refused(store_dir):
    with pytest.raises(RejectedError, match="n_runs 0 is not allowed"):
        demo.run_demo(dir=str(store_dir), n_runs=0, progress=False)
    assert not store_dir.exists()


def test_a_demo_raises_before_it_trains_where_it_cannot_record(capfd, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("…")
    with pytest.raises(ForeignFolderError, match="is no ailab store"):
        demo.run_demo(dir=str(tmp_path / "letters"), n_runs=1, progress=False)
    assert capfd.readouterr() == ("", "")
