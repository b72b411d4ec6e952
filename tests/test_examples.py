"""The examples as a person runs them: processes on small settings, then what the store tells about them."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

import ailab
from ailab import queries, views

ROOT = Path(__file__).resolve().parents[1]
TRAIN_MODEL = ROOT / "examples" / "train_model"
CURVES = ["train_loss", "val_loss", "train_accuracy", "val_accuracy"]
OPTIONS = {"dataset": "wine", "model_name": "linear_svm", "n_epochs": 4, "learning_rate": 0.05, "seed": 3}
TEXTS = {"experiment_name": "a first try", "task_name": "vintages", "project": "cellar"}


def environment(folder):
    """Ours without its settings; a store in the folder, the packages of the checkout, and every warning an error."""
    ours = ("AILAB_", "MODELLAB_", "PROJECT_NAME")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    paths = [str(ROOT), str(ROOT / "api"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return kept | {
        "AILAB_DIR": str(folder / "store"),
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONWARNINGS": "error",
        "COLUMNS": "100",
    }


STARTED = []


@pytest.fixture(scope="module", autouse=True)
def no_process_is_left():
    yield
    for process in STARTED:
        if process.poll() is None:
            process.kill()
            process.communicate()


def start(folder, script, *args):
    command = [sys.executable, str(script), *(str(arg) for arg in args)]
    pipes = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    STARTED.append(subprocess.Popen(command, cwd=folder, env=environment(folder), **pipes))
    return STARTED[-1]


def end(process, code=0):
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, f"exit {process.returncode}, not {code}\n{out}\n{err}"
    return SimpleNamespace(out=out, err=err)


def options(given):
    return [part for name, value in given.items() for part in (f"--{name}", value)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three processes of run.py at once: twice the same, then another seed; (folder, their outputs, their runs)."""
    folder = tmp_path_factory.mktemp("trained")
    seeds = (3, 3, 4)
    processes = [
        start(folder, TRAIN_MODEL / "run.py", "--checkpoints", "kept", *options(OPTIONS | TEXTS | {"seed": seed}))
        for seed in seeds
    ]
    outputs = [end(process) for process in processes]
    ids = [re.search(r"^run (\w+)$", output.out, re.MULTILINE)[1] for output in outputs]
    store = folder / "store"
    return SimpleNamespace(folder=folder, store=store, outputs=outputs, runs=[ailab.get_run(run_id, dir=store) for run_id in ids])


@pytest.fixture(scope="module")
def trainer():
    """The module of run.py."""
    sys.path.insert(0, str(TRAIN_MODEL))
    try:
        import run

        yield run
    finally:
        sys.path.remove(str(TRAIN_MODEL))
        sys.modules.pop("run", None)


# -- run.py ------------------------------------------------------------------------------------------------------------


def test_a_run_is_recorded_with_its_parameters_and_its_end(trained):
    for run, seed in zip(trained.runs, (3, 3, 4), strict=True):
        assert run.params == {**OPTIONS, "experiment_name": "a first try", "task_name": "vintages", "seed": seed}
        assert (run.status, run.project, run.dataset_id, run.seed) == ("completed", "cellar", "wine", seed)
        assert run.name == f"wine linear_svm lr=0.05 seed={seed}"
    assert len(ailab.list_runs(dir=trained.store)) == 3


def test_a_run_prints_its_table_and_nothing_goes_wrong(trained):
    """Warnings are errors in these processes, and what ailab could not record it would say."""
    for output in trained.outputs:
        assert output.err == ""
        assert re.findall(r"^ +(\d+) +\S+ +\S+ +\S+ +\S+$", output.out, re.MULTILINE) == ["1", "2", "3", "4"]


def test_the_four_curves_have_a_point_per_epoch_and_the_csv_has_the_same_numbers(trained):
    for run in trained.runs:
        points = {(p["key"], p["step"]): p["value"] for p in run.history().rows()}
        assert sorted(points) == sorted((key, step) for key in CURVES for step in range(1, 5))
        path = next(path for path in run.artifacts if path.endswith(".csv"))
        with (trained.folder / path).open(newline="") as file:
            table = csv.DictReader(file)
            assert table.fieldnames == ["epoch", *CURVES]
            assert {(key, int(row["epoch"])): float(row[key]) for row in table for key in CURVES} == points


def test_final_metrics_are_those_of_the_last_epoch_and_of_the_kept_model(trained, trainer):
    """The kept pipeline predicts from raw features what the run says that it predicts."""
    import joblib
    from sklearn.metrics import f1_score

    for run in trained.runs:
        last = {p["key"]: p["value"] for p in run.history().rows() if p["step"] == 4}
        final = dict(run.final_metrics)
        assert final.pop("runtime_seconds") > 0
        assert {key: final[key] for key in CURVES} == last
        assert final["accuracy"] == last["val_accuracy"]
        model = joblib.load(trained.folder / next(path for path in run.artifacts if path.endswith(".joblib")))
        split = trainer.load_split("wine", run.seed)
        raw = split.scaler.inverse_transform(split.x_val)
        assert model.score(raw, split.y_val) == final["accuracy"]
        assert f1_score(split.y_val, model.predict(raw), average="macro") == final["f1_macro"]
        assert set(final) == {*CURVES, "accuracy", "f1_macro", "precision_macro", "recall_macro"}


def test_artifacts_are_stored_by_their_hash_and_outlive_their_files(trained, tmp_path):
    """Model and CSV carry names with a timestamp that no two processes share; their bytes are in the store."""
    store = tmp_path / "copy"
    shutil.copytree(trained.store, store)
    lab = views.open_lab(store)
    try:
        for run in trained.runs:
            assert [re.sub(r"\d{8}T\d{6}\.\d{6}Z-\d+", "TIME", path) for path in run.artifacts] == [
                "kept/linear_svm_model_TIME.joblib",
                "kept/linear_svm_metrics_TIME.csv",
            ]
            for path, kind in zip(run.artifacts, ("model", "metrics"), strict=True):
                file, opened = queries.open_artifact(lab, run.run_id, path)
                with opened:
                    content = opened.read()
                assert content == (trained.folder / path).read_bytes()
                assert (file.kind, file.size, file.sha256) == (kind, len(content), hashlib.sha256(content).hexdigest())
    finally:
        lab.close()
    assert len({path for run in trained.runs for path in run.artifacts}) == 6
    assert sorted(os.listdir(trained.folder / "kept")) == sorted(path[5:] for run in trained.runs for path in run.artifacts)


def test_a_seed_makes_a_run_repeatable(trained):
    first, again, other = ([(r["key"], r["step"], r["value"]) for r in run.history().rows()] for run in trained.runs)
    assert first == again
    assert first != other
    same = [{k: v for k, v in run.final_metrics.items() if k != "runtime_seconds"} for run in trained.runs]
    assert same[0] == same[1] != same[2]


def test_a_model_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    output = end(start(tmp_path, TRAIN_MODEL / "run.py", "--model_name", "forest"), code=2)
    assert output.out == ""
    assert "argument --model_name: invalid choice: 'forest'" in output.err
    assert all(name in output.err for name in ("logistic_regression", "linear_svm", "perceptron"))
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--dataset", "mnist"], "invalid choice: 'mnist'"),
        (["--n_epochs", "0"], "'0' is not allowed: a whole number above 0"),
        (["--n_epochs", "2.5"], "'2.5' is not allowed: a whole number above 0"),
        (["--learning_rate", "nan"], "'nan' is not allowed: a number above 0"),
        (["--learning_rate", "-1"], "'-1' is not allowed: a number above 0"),
        (["--seed", "-1"], "'-1' is not allowed: a whole number from 0 to 4294967295"),
        (["--seed", "4294967296"], "'4294967296' is not allowed: a whole number from 0 to 4294967295"),
        (["--learn", "1"], "unrecognized arguments: --learn 1"),
    ],
)
def test_values_that_cannot_be_trained_with_are_refused(trainer, capsys, given, says):
    with pytest.raises(SystemExit) as stopped:
        trainer.parse(given)
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err


def classifier(trainer, model_name, rate):
    from sklearn.linear_model import SGDClassifier

    return SGDClassifier(loss=trainer.MODELS[model_name], learning_rate="constant", eta0=rate, shuffle=False, random_state=0)


@pytest.mark.parametrize("dataset", ["iris", "wine", "breast_cancer", "digits"])
@pytest.mark.parametrize("model_name", ["logistic_regression", "linear_svm", "perceptron"])
def test_every_model_learns_every_data_set(trainer, dataset, model_name):
    """With the default settings, far above the share of the most frequent class (1/3, 2/5, 2/3 and 1/10)."""
    default = trainer.parse([])
    model = classifier(trainer, model_name, default.learning_rate)
    *_, last = trainer.epochs(model, trainer.load_split(dataset, 0), default.n_epochs, 0)
    assert last["val_accuracy"] > {"iris": 0.75, "wine": 0.9, "breast_cancer": 0.9, "digits": 0.9}[dataset]


@pytest.mark.parametrize("dataset", ["iris", "breast_cancer", "digits"])
@pytest.mark.parametrize("model_name", ["logistic_regression", "linear_svm", "perceptron"])
def test_losses_and_accuracies_are_those_of_scikit_learn(trainer, dataset, model_name):
    """Two classes and more; a small rate, since scikit-learn cuts probabilities off at 2e-16 and we do not."""
    from sklearn.metrics import accuracy_score, hinge_loss, log_loss

    split = trainer.load_split(dataset, 0)
    model = classifier(trainer, model_name, 0.001)
    (row,) = trainer.epochs(model, split, 1, 0)
    for part, x, y in (("train", split.x_train, split.y_train), ("val", split.x_val, split.y_val)):
        assert row[f"{part}_accuracy"] == accuracy_score(y, model.predict(x))
        if model_name == "logistic_regression":
            assert row[f"{part}_loss"] == pytest.approx(log_loss(y, model.predict_proba(x)), rel=1e-9)
            continue
        scores = model.decision_function(x)  # scikit-learn's hinge loss of many classes is another one: ask it class by class
        problems = [(y == 1, scores)] if scores.ndim == 1 else [(y == c, scores[:, c]) for c in model.classes_]
        margin = 1 if model_name == "linear_svm" else 1e-12  # max(0, m - s) is m max(0, 1 - s/m); of the perceptron, m is 0
        expected = sum(margin * hinge_loss(is_class, score / margin) for is_class, score in problems) / len(problems)
        assert row[f"{part}_loss"] == pytest.approx(expected, rel=1e-6, abs=1e-11)


def test_the_validation_part_has_no_say_in_the_scaling(trainer):
    split = trainer.load_split("breast_cancer", 1)
    assert abs(split.x_train.mean(axis=0)).max() < 1e-9
    assert abs(split.x_val.mean(axis=0)).max() > 0.01
    assert split.y_val.mean() == pytest.approx(split.y_train.mean(), abs=0.01)  # class by class


def test_a_model_that_diverged_has_an_infinite_loss_and_no_warning(trainer):
    from sklearn.linear_model import SGDClassifier

    split = trainer.load_split("iris", 0)
    model = SGDClassifier(loss="hinge").fit(split.x_train, split.y_train)
    model.coef_[:] = 1e308
    loss, accuracy = trainer.measure(model, split.x_val, split.y_val)
    assert not loss < 1e308
    assert 0 <= accuracy <= 1


# -- sweep.py ----------------------------------------------------------------------------------------------------------


def in_store(folder, question):
    with ailab.connect(folder / "store") as con:
        return con.execute(question).fetchall()


def test_a_sweep_runs_every_combination_in_one_group(tmp_path):
    """Six runs on two processes, each with both files; then the leaderboard, and a mean over seeds per model and data set."""
    args = ["--datasets", "iris", "--seeds", "0", "1", "--n_epochs", "3", "--n_jobs", "2", "--checkpoints", "kept"]
    output = end(start(tmp_path, TRAIN_MODEL / "sweep.py", *args, "--experiment_name", "six", "--project", "garden"))
    assert in_store(
        tmp_path, "SELECT model_name, dataset, seed, n_epochs, experiment_name, status, project FROM wide ORDER BY ALL"
    ) == [
        (model, "iris", seed, 3, "six", "completed", "garden")
        for model in ("linear_svm", "logistic_regression", "perceptron")
        for seed in (0, 1)
    ]
    ((group, runs),) = in_store(tmp_path, 'SELECT "group", count(*) FROM runs GROUP BY ALL')
    assert re.fullmatch(r"sweep-\d{8}T\d{6}\.\d{6}Z", group)
    assert runs == 6
    assert "6/6" in output.err
    assert f"project garden, group {group}" in output.err
    assert {p for (p,) in in_store(tmp_path, "SELECT path FROM artifacts")} == {
        f"kept/{p}" for p in os.listdir(tmp_path / "kept")
    }
    assert len(os.listdir(tmp_path / "kept")) == 12
    (commands,) = in_store(tmp_path, "SELECT list(DISTINCT command) FROM manifests")[0]
    assert all("sweep.py" in command for command in commands)
    best = ailab.leaderboard("accuracy", dir=tmp_path / "store")
    assert re.findall(r"^ *(\d+)  ([\d.]+) +(.+?) +(\w{26}) *$", output.out, re.MULTILINE) == [
        (str(row.rank), f"{row.value:.4f}", row.name, row.run_id) for row in best
    ]
    means = in_store(tmp_path, "SELECT model_name, avg(accuracy), stddev_samp(accuracy) FROM wide GROUP BY ALL ORDER BY 1")
    shown = re.findall(r"^(linear_svm|logistic_regression|perceptron) +([\d.]+) ± ([\d.]+)", output.out, re.MULTILINE)
    assert sorted(shown) == [(model, f"{mean:.3f}", f"{deviation:.3f}") for model, mean, deviation in means]


def test_runs_that_fail_are_named_and_the_others_go_on(tmp_path):
    """A learning rate at the end of all doubles overflows; the exit code says that something failed."""
    args = ["--models", "linear_svm", "--datasets", "iris", "--seeds", "0", "1", "--learning_rates", "1e308", "0.1"]
    output = end(
        start(tmp_path, TRAIN_MODEL / "sweep.py", *args, "--n_epochs", "2", "--n_jobs", "1", "--checkpoints", "kept"), code=1
    )
    found = in_store(tmp_path, "SELECT learning_rate, seed, status FROM wide ORDER BY ALL")
    assert found == [(0.1, 0, "completed"), (0.1, 1, "completed"), (1e308, 0, "failed"), (1e308, 1, "failed")]
    assert "2 of 4 runs failed:" in output.err
    named = re.findall(r"^  (iris linear_svm lr=\S+ seed=\d): ValueError: Floating-point", output.err, re.MULTILINE)
    assert named == ["iris linear_svm lr=1e+308 seed=0", "iris linear_svm lr=1e+308 seed=1"]
    errors = [
        ailab.get_run(row.run_id, dir=tmp_path / "store").error
        for row in ailab.list_runs(dir=tmp_path / "store", status="failed")
    ]
    assert all("ValueError: Floating-point" in error for error in errors)


def test_a_sweep_goes_on_when_one_of_its_processes_is_killed(tmp_path):
    """Those under way are named, the rest is trained by new processes; every run either completed or is named."""
    args = ["--models", "linear_svm", "--datasets", "digits", "--seeds", *range(4), "--n_epochs", "20", "--n_jobs", "2"]
    sweep = start(tmp_path, TRAIN_MODEL / "sweep.py", *args, "--checkpoints", "kept")
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("kept/*.csv")):  # a run has begun
        assert time.monotonic() < deadline
        assert sweep.poll() is None
        time.sleep(0.02)
    trainers = [child for child in psutil.Process(sweep.pid).children() if "LokyProcess" in " ".join(child.cmdline())]
    trainers[0].kill()
    output = end(sweep, code=1)
    named = re.findall(r"^  (digits linear_svm \S+ \S+): its process was killed, or one beside it$", output.err, re.MULTILINE)
    completed = [name for (name,) in in_store(tmp_path, "SELECT name FROM runs WHERE status = 'completed'")]
    assert 1 <= len(named) < 4
    assert {*named, *completed} == {f"digits linear_svm lr=0.1 seed={seed}" for seed in range(4)}
    assert f"{len(named)} of 4 runs failed:" in output.err


# -- quickstart.py -----------------------------------------------------------------------------------------------------


def test_the_quickstart_is_the_first_block_of_the_readme_and_runs_in_an_empty_folder(tmp_path):
    source = (ROOT / "examples" / "quickstart.py").read_text()
    assert re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1] == source
    assert len(source.splitlines()) <= 10
    output = end(start(tmp_path, ROOT / "examples" / "quickstart.py"))
    assert (output.out, output.err) == ("", "")
    (run,) = ailab.list_runs(dir=tmp_path / "store")
    assert (run.name, run.status) == ("quickstart", "completed")
    assert [p["step"] for p in ailab.get_run(run.run_id, dir=tmp_path / "store").history(["loss"]).rows()] == list(range(1, 11))
