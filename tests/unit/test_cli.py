"""What the command line promises: one Struct for `--json` and the query, plain text off a terminal, and never a traceback.

The store is real: made by the public logger in a process of its own, in a repository with a change that is not committed.
"""

from __future__ import annotations

import importlib
import io
import json
import math
import os
import pty
import re
import select
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
import urllib.request
from datetime import datetime, timezone
from fcntl import ioctl
from pathlib import Path

import click
import msgspec
import psutil
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import ailab
from ailab import calling, checkup, cli, errors, queries, recorder, terminal, views
from ailab.capture import user_name
from ailab.problems import Problem

ROOT = Path(ailab.__file__).parents[1]
VERBS = [
    "demo",
    "serve",
    "runs",
    "show",
    "compare",
    "top",
    "note",
    "flag",
    "tag",
    "changes",
    "sql",
    "doctor",
    "verify",
    "compact",
    "merge",
    "export",
    "gc",
    "redact",
    "projects",
    "datasets",
    "artifacts",
    "trash",
    "restore",
    "protect",
    "rename",
    "undo",
    "sync",
    "token",
]
ESCAPE = "\x1b"

TRAIN = """
import csv, math, os, signal
import ailab

for i, (model, rate) in enumerate([("svm", 0.1), ("svm", 0.01), ("tree", 0.1)]):
    with ailab.start_run(
        id=["run-alpha", "run-beta", None][i], name=f"{model} {rate}", project="Iris Lab" if i < 2 else "wine",
        config={"model": model, "lr": rate, "epochs": 20}, dataset_id="iris" if i < 2 else "wine", seed=7,
        tags={"baseline": None, "data": f"v{i}"},
    ) as run:
        rows = []
        for step in range(20):
            loss, accuracy = math.exp(-step / 5) + i / 10, 0.9 - i / 10 - math.exp(-step / 5) / 2
            run.log({"loss": loss, "accuracy": accuracy}, step=step)
            rows.append((step, loss, accuracy, "warm" if step < 3 else "run"))
        if i < 2:
            with open("train_metrics.csv", "w", newline="") as file:
                csv.writer(file).writerows([("epoch", "loss", "accuracy", "phase"), *rows])
            run.log_artifact("train_metrics.csv")
            run.log_text("weights", "model.joblib")
        run.note(["first try", "lower rate", "other data"][i])
try:
    with ailab.start_run(id="run-failed", name="failed", project="wine") as run:
        run.log({"loss": float("nan")})
        raise ValueError("exploded")
except ValueError:
    pass
if os.fork() == 0:
    run = ailab.start_run(id="run-killed", name="killed")
    run.log({"other": 1.0}, step=0)
    os.kill(os.getpid(), signal.SIGKILL)
os.wait()
"""


# -- the frame ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Five runs: three whole ones (one with a generated id), one failed, one killed with -9."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "train.py").write_text("old = 1\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AILAB_", "GIT_"))}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    environment |= {"AILAB_DIR": str(folder / "events"), "PYTHONPATH": str(ROOT), "LOGNAME": "someone"}
    person = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    for arguments in (["init", "-q", "-b", "main"], ["add", "train.py"], [*person, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *arguments], cwd=folder, env=environment, check=True)
    (folder / "train.py").write_text(TRAIN)
    subprocess.run([sys.executable, "train.py"], cwd=folder, env=environment, check=True)
    return folder


@pytest.fixture
def events(made):
    """The store, only to be read."""
    return str(made / "events")


@pytest.fixture
def copy(made, tmp_path):
    """A copy of the store, to be changed."""
    return str(shutil.copytree(made / "events", tmp_path / "copy"))


@pytest.fixture
def ask(events):
    """`ask(question)`: what a question on the store answers."""
    lab = views.open_lab(events)
    yield lambda question: question(lab)
    lab.close()


@pytest.fixture
def third(ask):
    """The generated id of the third run."""
    return next(r.run_id for r in ask(queries.list_runs).rows if r.name == "tree 0.1")


def call(*args: str, store: str | None = None, code: int | None = 0, stdin: str | bytes | None = None):
    """Run a command line in this process; it must end with `code`."""
    result = CliRunner().invoke(cli.main, [*(["--dir", store] if store else []), *args], input=stdin)
    assert code is None or result.exit_code == code, f"exit {result.exit_code}\n{result.stdout}\n{result.stderr}"
    assert "Traceback" not in result.stderr
    return result


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "api")]), **extra}


def process(*args: str, store: str, timeout: float = 60, **options):
    """Run `python -m ailab` to its end."""
    command = [sys.executable, "-m", "ailab", "--dir", store, *args]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=timeout, check=False, **options)


def on_terminal(*args: str, store: str, columns: int = 80, **env: str) -> str:
    """What `python -m ailab` sends to a terminal of that width."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    variables = {k: v for k, v in environment(TERM="xterm-256color", **env).items() if k not in {"COLUMNS", "LINES"}}
    command = [sys.executable, "-m", "ailab", "--dir", store, *args]
    with subprocess.Popen(command, env=variables, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE) as child:
        os.close(theirs)
        said = b""
        while child.poll() is None or select.select([ours], [], [], 0)[0]:
            if select.select([ours], [], [], 0.05)[0]:
                try:
                    said += os.read(ours, 65536)
                except OSError:  # the other end is closed
                    break
        problem = child.stderr.read().decode()
    os.close(ours)
    assert child.returncode == 0, problem
    return said.decode().replace("\r\n", "\n")


def on_screen(*args: str, store: str, columns: int = 80) -> str:
    """What a terminal of that width would show, without its colours; in this process."""
    said = CliRunner().invoke(cli.main, ["--dir", store, *args], env={"FORCE_COLOR": "1", "COLUMNS": str(columns)}).stdout
    assert said
    return bare(said)


def bare(text: str) -> str:
    """Text of a terminal without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


# -- help --------------------------------------------------------------------------------------------------------------


def test_the_verbs_are_those_of_the_design():
    assert list(cli.main.commands) == VERBS
    listed = re.findall(r"^  (\w+)  +\S.*[^.]\.$", call("--help").stdout.partition("Commands:")[2], re.MULTILINE)
    assert listed == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_documented(verb):
    """Help says what is done, shows examples that parse, names an existing query or action, and offers --json and --dir."""
    command = cli.main.commands[verb]
    said = call(verb, "-h").stdout
    assert said == call(verb, "--help").stdout
    assert command.help.splitlines()[0].endswith(".")
    assert "  --json " in said
    assert "  --dir STORE " in said
    examples = said.partition("Examples:\n")[2].partition("\n\n")[0].splitlines()
    assert examples
    for example in examples:
        words = re.sub(r"^.*\| | < .*$| > .*$", "", example.strip()).replace("~", "x")
        _, name, *args = shlex.split(words)
        assert name == verb
        command.make_context(verb, args, parent=click.Context(cli.main, obj=cli.Call()))
    for called in re.findall(r"\b(?:ailab_api\.)?[a-z]+\.[A-Za-z_.]+", said.rpartition("calls: ")[2]):
        module, *rest = called.removeprefix("ailab_api.").split(".")
        found = importlib.import_module(f"ailab_api.{module}" if called.startswith("ailab_api") else f"ailab.{module}")
        for name in rest:
            found = getattr(found, name, None) or importlib.import_module(f"{found.__name__}.{name}")
        assert callable(found)


def test_the_version_is_that_of_the_package():
    assert call("--version").stdout == f"ailab {ailab.__version__}\n"


def test_help_loads_nothing_heavy(scripts):
    """`ailab --help` and a wrong command line import neither DuckDB nor rich nor a server."""
    out = scripts.run(
        """
        import sys
        from ailab.cli import main
        for args in (["--help"], ["runs", "--help"], ["nothing"]):
            try:
                main(args)
            except SystemExit:
                pass
        print(sorted({"duckdb", "pyarrow", "rich", "litestar", "uvicorn", "ailab.queries"} & set(sys.modules)))
        """
    ).stdout
    assert out.splitlines()[-1] == "[]"


# -- JSON --------------------------------------------------------------------------------------------------------------

QUESTIONS = {
    "runs": (["runs"], lambda lab: queries.list_runs(lab).rows),
    "runs with filters": (
        ["runs", "--project", "Iris Lab", "--metric-name", "loss", "--metric-max", "0.1", "--sort", "name", "--limit", "1"],
        lambda lab: (
            queries.list_runs(
                lab, queries.RunFilter(project_id="iris-lab", metric_name="loss", metric_max=0.1, sort="name", limit=1)
            ).rows
        ),
    ),
    "runs that nobody has": (["runs", "--tag", "nothing"], lambda _: []),
    "runs --latest": (
        ["runs", "--latest", "2"],
        lambda lab: queries.get_runs_by_ids(lab, [row.run_id for row in queries.list_runs(lab).rows[:2]]),
    ),
    "show": (["show", "alpha"], lambda lab: queries.get_run(lab, "run-alpha")),
    "show --diff": (["show", "alpha", "--diff", "--packages"], lambda lab: queries.get_run(lab, "run-alpha")),
    "show --metrics": (["show", "run-alpha", "--metrics"], lambda lab: queries.metric_points(lab, "run-alpha").rows),
    "show --metrics KEY": (
        ["show", "run-alpha", "--metrics", "loss"],
        lambda lab: queries.metric_points(lab, "run-alpha", keys=["loss"]).rows,
    ),
    "show --artifacts": (["show", "run-alpha", "--artifacts"], lambda lab: queries.list_artifacts(lab, "run-alpha")),
    "compare": (["compare", "beta", "alpha"], lambda lab: queries.compare_runs(lab, ["run-beta", "run-alpha"])),
    "top": (["top", "accuracy"], lambda lab: queries.leaderboard(lab, "accuracy")),
    "top with filters": (
        [
            "top",
            "loss",
            "-k",
            "1",
            "--dataset",
            "iris",
            "--project",
            "Iris Lab",
            "--of",
            "max",
            "--order",
            "desc",
            "--has-artifacts",
        ],
        lambda lab: queries.leaderboard(
            lab, "loss", top_k=1, dataset_id="iris", project_id="iris-lab", of="max", order="desc", has_artifacts=True
        ),
    ),
    "changes": (["changes"], lambda lab: queries.list_changes(lab).rows),
    "changes RUN": (
        ["changes", "run-beta", "--limit", "1"],
        lambda lab: queries.list_changes(lab, run_id="run-beta", limit=1).rows,
    ),
    "sql": (
        ["sql", "select model, max(accuracy), 'NaN'::double as n from wide group by 1 order by 1"],
        lambda lab: queries.run_sql(lab, "select model, max(accuracy), 'NaN'::double as n from wide group by 1 order by 1"),
    ),
    "sql without a question": (["sql"], queries.describe_views),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_json_is_the_struct_of_the_query(question, events, ask):
    """`--json` is byte for byte what msgspec makes of the query's answer."""
    args, query = QUESTIONS[question]
    assert call(*args, "--json", store=events).stdout_bytes == msgspec.json.encode(ask(query)) + b"\n"


@pytest.mark.parametrize(
    ("args", "field", "value"),
    [
        (["note", "run-beta", "two", "words"], "note", "two words"),
        (["flag", "run-beta", "bad", "run"], "note", "BAD RUN: lower rate"),
        (["tag", "run-beta", "x", "data=v9", "--remove", "baseline"], "tags", {"data": "v9", "x": None}),
    ],
    ids=["note", "flag", "tag"],
)
def test_json_of_an_action_is_the_run_afterwards(copy, args, field, value):
    said = call(*args, "--json", store=copy).stdout_bytes
    lab = views.open_lab(copy)
    try:
        after = queries.get_run(lab, "run-beta")
    finally:
        lab.close()
    assert said == msgspec.json.encode(after) + b"\n"
    assert getattr(after, field) == value


def test_json_of_the_doctor_is_the_checkup(events):
    said = msgspec.json.decode(call("doctor", "--json", store=events).stdout, type=checkup.Checkup)
    now = checkup.examine(events)
    said.free_bytes = now.free_bytes
    assert said == now


def test_json_of_the_demo_is_its_leaderboard(tmp_path):
    """The demo trains for real and prints the ranking of its project."""
    store = str(tmp_path / "demo")
    said = call("demo", "--runs", "2", "--no-serve", "--json", store=store)
    lab = views.open_lab(store)
    try:
        assert said.stdout_bytes == msgspec.json.encode(queries.leaderboard(lab, "accuracy")) + b"\n"
        assert len(queries.list_runs(lab).rows) == 2
    finally:
        lab.close()


def test_a_server_says_where_it_is_and_answers_the_same(copy):
    """`serve --json` prints one object once it answers; GET /runs has the bytes of `runs --json`; Ctrl-C ends it in order."""
    command = [sys.executable, "-m", "ailab", "serve", "--json", "--dir", copy]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        try:
            url = json.loads(server.stdout.readline())["url"]
            for route, args in (("/runs", ["runs"]), ("/runs/run-alpha", ["show", "run-alpha"])):
                with urllib.request.urlopen(url + route, timeout=20) as answer:
                    assert answer.read() + b"\n" == call(*args, "--json", store=copy).stdout_bytes
            server.send_signal(signal.SIGINT)
            assert server.wait(20) == 0
        finally:
            server.kill()


# -- tables ------------------------------------------------------------------------------------------------------------


def test_runs_are_a_table_that_grep_can_read(events, third):
    """Off a terminal: no escape, no cut cell, one line per run, the parameters that differ and the main metrics."""
    lines = call("runs", "--sort", "name", store=events).stdout.splitlines()
    assert lines[0].split() == [
        "run",
        "name",
        "status",
        "loss",
        "accuracy",
        "other",
        "lr",
        "model",
        "project",
        "dataset",
        "tags",
        "age",
        "note",
    ]
    assert len(lines) == 6
    row = next(line for line in lines if "tree" in line)
    cells = [third[-8:], "tree 0.1", "completed", "0.2224", "0.6888", "0.1", "tree", "wine", "wine", "baseline, data=v2", "AGE"]
    assert re.split(r"  +", re.sub(r"\d+ (s|min)  ", "AGE  ", row)) == [*cells, "other data"]
    assert ESCAPE not in "".join(lines)


def test_columns_without_anything_in_them_are_left_out(events):
    lines = call("runs", "--status", "crashed", store=events).stdout.splitlines()
    assert [line.split()[:4] for line in lines] == [["run", "name", "status", "other"], ["run-killed", "killed", "crashed", "1"]]
    assert lines[0].split()[4:] == ["age"]


def test_latest_shows_parameters_metrics_and_artifacts(events):
    """What check_latest_runs did: the newest runs, each with what went in and what came out."""
    said = call("runs", "--latest", store=events).stdout
    assert [line.split("  ")[0] for line in said.splitlines() if line[:1].strip()] == [
        "killed",
        "failed",
        "tree 0.1",
        "svm 0.01",
        "svm 0.1",
    ]
    block = re.sub(r"\d{3} B", "N B", said[said.index("svm 0.01") :].partition("\n\n")[0]).splitlines()
    assert [line.split(None, 1) for line in block[1:]] == [
        ["project", "Iris Lab"],
        ["dataset", "iris"],
        ["params", "epochs=20, lr=0.01, model=svm"],
        ["metrics", "accuracy=0.7888, loss=0.1224"],
        ["artifacts", "model.joblib (model, 7 B), train_metrics.csv (metrics, N B)"],
        ["note", "lower rate"],
    ]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--project", "iris lab"], {"svm 0.1", "svm 0.01"}),
        (["--status", "crashed"], {"killed"}),
        (["--tag", "data=v1"], {"svm 0.01"}),
        (["--param", "model=svm", "--param", "lr=0.1"], {"svm 0.1"}),
        (["--metric-name", "accuracy", "--metric-min", "0.75"], {"svm 0.1", "svm 0.01"}),
        (["--metric-name", "accuracy", "--metric-max", "0.75"], {"tree 0.1"}),
        (["--from", "2000-01-01", "--to", "2001-01-01"], set()),
        (["--from", "2000-01-01", "--status", "failed"], {"failed"}),
        (["--has-artifacts"], {"svm 0.1", "svm 0.01"}),
        (["--no-artifacts"], {"tree 0.1", "failed", "killed"}),
        (["--dataset", "wine"], {"tree 0.1"}),
        (["--command", "train.py", "--note", "TRY"], {"svm 0.1"}),
        (["--q", "lower"], {"svm 0.01"}),
        (["--sort", "metrics.loss", "--limit", "1"], {"svm 0.1"}),
    ],
)
def test_filters_keep_what_they_say(events, options, names):
    said = call("runs", *options, "--json", store=events)
    assert {row["name"] for row in json.loads(said.stdout)} == names
    assert ("no runs that the filters keep" in said.stderr) == (not names)


def test_what_is_not_shown_is_said(events):
    assert call("runs", "--limit", "2", store=events).stderr == "2 of 5 runs; --limit shows more\n"
    assert call("changes", "--limit", "1", store=events).stderr == "1 of 3 changes; --limit shows more\n"
    assert call("sql", "select * from range(9)", "--limit", "4", store=events).stderr == "the first 4 rows; --limit shows more\n"


def test_a_run_is_shown_whole(events, made):
    said = call("show", "alpha", store=events).stdout
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=made, capture_output=True, text=True, check=True).stdout.strip()
    for expected in (
        r"^svm 0\.1  completed  run-alpha  \d+ \w+ ago$", r"^  project  +Iris Lab$", r"^  dataset  +iris$", r"^  seed  +7$",
        r"^  tags  +baseline, data=v0$", r"^  note  +first try$", r"^  by  +someone@\S+$", rf"^  git  +{commit} \(main\)$",
        r"^  diff  +\d+ lines differ from the commit: show --diff$", r"^  python  +3\.\d+\.\S+, \d+ packages$", r"^  lr  +0\.1$",
        r"^  loss  +0\.02237  +0\.02237  +1  █+▇.*▁$", r"^  train_metrics\.csv  +metrics  +\d+ B  v1  +[0-9a-f]{64}$",
    ):  # fmt: skip
        assert re.search(expected, said, re.MULTILINE), expected
    failed = call("show", "run-failed", store=events).stdout
    assert re.search(r"^  error  +ValueError: exploded$", failed, re.MULTILINE)
    assert failed.endswith("\nValueError: exploded\n")


def test_the_diff_is_printed_as_it_is(events, made, tmp_path):
    """`show --diff` into a file gives what `git apply` takes; `--packages` is a list of requirements."""
    patch = call("show", "alpha", "--diff", store=events).stdout
    subprocess.run(["git", "clone", "-q", str(made), str(tmp_path / "clone")], check=True)
    subprocess.run(["git", "apply", "-"], cwd=tmp_path / "clone", input=patch, text=True, check=True)
    assert (tmp_path / "clone" / "train.py").read_text() == TRAIN
    packages = call("show", "alpha", "--packages", store=events).stdout.splitlines()
    assert f"click=={importlib.metadata.version('click')}" in packages


def test_points_and_metrics_files_are_shown(events):
    """What inspect_metrics_artifacts did: per metric its points, per CSV file its rows, and a curve for each."""
    said = call("show", "alpha", "--metrics", store=events).stdout
    loss = said[said.index("\nloss\n") :].split("\n\n")[0].strip().splitlines()
    assert loss[1] == "20 points, first 1, last 0.02237, min 0.02237 at step 19, max 1 at step 0"
    assert (len(loss[2]), loss[2][0], loss[2][-1]) == (80, "█", "▁")
    assert loss[3].split()[:4] == ["0", "1.0000", "1", "0.8187"]
    assert loss[4] == "…"
    assert loss[5].split()[-2:] == ["19", "0.0224"]
    sheet = said[said.index("\ntrain_metrics.csv\n") :].strip().splitlines()
    assert sheet[1] == "20 rows, 4 columns"
    assert [line.split() for line in sheet[2:4]] == [["epoch", "loss", "accuracy", "phase"], ["0", "1.0000", "0.4000", "warm"]]
    assert sheet[9].split() == ["…"] * 4
    assert [line.split()[0] for line in sheet[-3:]] == ["epoch", "loss", "accuracy"]
    assert "train_metrics.csv" not in call("show", "alpha", "--metrics", "loss", store=events).stdout


def test_what_a_run_printed_and_used_is_shown(store_dir):
    """Line by line, with what was left out in its place; each figure with its last, smallest and greatest value."""
    with ailab.start_run() as run:
        print("one")
        print("<b>two</b>", file=sys.stderr)
        run._write(ailab.events.SystemMetricsLogged(values={"network/sent_bytes_per_s": 6e7}))
        for used in (1e9, 3e9, 2e9):
            run._write(ailab.events.SystemMetricsLogged(values={"process/memory_bytes": used, "process/count": 1}))
        recorder._pulse._tee.drain()
        run._write(ailab.events.ConsoleLinesLogged(stream="stdout", lines=["three"], dropped=1204))
        run._write(ailab.events.ConsoleLinesLogged(stream="stdout", lines=[], dropped=1))
    said = call("show", "latest", "--console", store=store_dir).stdout
    assert said == "one\n<b>two</b>\n… 1,204 lines left out\nthree\n… 1 line left out\n"
    table = call("show", "latest", "--system", store=store_dir).stdout.splitlines()
    assert [re.sub("[▁-█]", "", line).split() for line in table[2:]] == [
        ["network/sent_bytes_per_s", "60", "MB/s", "60", "MB/s", "60", "MB/s"],
        ["process/count", "1", "1", "1"], ["process/memory_bytes", "2.0", "GB", "1.0", "GB", "3.0", "GB"],
    ]  # fmt: skip
    assert table[1].split() == ["figure", "last", "min", "max", "curve"]
    with ailab.start_run():
        pass
    assert call("show", "latest", "--console", store=store_dir).stderr == "no lines were kept\n"
    assert call("show", "latest", "--system", store=store_dir).stderr == "the use of the machine was not recorded\n"
    assert call("show", "latest", "--system", "--console", "--json", store=store_dir, code=2).stdout == ""


def test_a_metric_without_a_number_is_shown(events):
    said = call("show", "run-failed", "--metrics", store=events).stdout
    assert "1 point, first nan, last nan\n" in said


def test_many_points_are_thinned_out(events, monkeypatch):
    """Above the bound: the count, minimum and maximum of all points, and no point that only looks like the first or last."""
    monkeypatch.setattr(cli, "POINTS_MAX", 10)
    monkeypatch.setattr(cli, "THINNED", 4)
    said = call("show", "alpha", "--metrics", "loss", store=events).stdout.strip().splitlines()
    assert said[-2] == "20 points, min 0.02237 at step 19, max 1 at step 0"
    assert len(said[-1]) == 80


def test_metrics_that_are_not_there_are_named(events):
    problem = call("show", "alpha", "--metrics", "lose", store=events, code=1).stderr
    assert problem == "error: no metric 'lose'\nhint: nearest: loss\n"


def test_comparison_puts_differences_first(events, third):
    said = call("compare", "alpha", "beta", third, store=events).stdout
    table, _, curves = said.partition("\naccuracy  ")
    rows = [re.split(r"  +", line.strip()) for line in table.splitlines() if line.strip()]
    assert rows == [
        ["run-alpha", "run-beta", third[-8:]],
        ["name", "svm 0.1", "svm 0.01", "tree 0.1"],
        ["status", "completed", "completed", "completed"],
        ["project", "Iris Lab", "Iris Lab", "wine"],
        ["dataset_id", "iris", "iris", "wine"],
        ["parameters that differ"],
        ["lr", "0.1", "0.01", "0.1"],
        ["model", "svm", "svm", "tree"],
        ["metrics"],
        ["accuracy", "0.8888*", "0.7888", "-0.1000", "0.6888", "-0.2000"],
        ["loss", "0.0224*", "0.1224", "+0.1000", "0.2224", "+0.2000"],
        ["1 equal parameters are not shown: --all"],
    ]
    assert [line.split()[0] for line in curves.splitlines()[1:4]] == ["run-alpha", "run-beta", third[-8:]]
    assert re.search(
        r"^equal parameters\n  epochs  +20  +20", call("compare", "alpha", "beta", "--all", store=events).stdout, re.MULTILINE
    )


def test_comparison_of_many_runs_repeats_the_first(events, third):
    """Where runs do not fit side by side there are several tables, each with the first run to compare with."""
    said = on_screen("compare", "alpha", "beta", third, "run-failed", store=events, columns=60).partition("\naccuracy")[0]
    heads = [line.split() for line in said.splitlines() if line.strip().startswith("run-alpha")]
    assert heads == [["run-alpha", other] for other in ("run-beta", third[-8:], "run-failed")]


def test_the_leaderboard_ranks_with_bars(events, third):
    said = call("top", "accuracy", store=events).stdout.splitlines()
    assert said[0].split()[:6] == ["run", "name", "accuracy", "0.689", "to", "0.889"]
    assert [line.split()[:2] for line in said[1:]] == [["1", "run-alpha"], ["2", "run-beta"], ["3", third[-8:]]]
    assert [line.count("█") for line in said[1:]] == [30, 15, 0]


def test_an_unknown_metric_is_answered_with_the_nearest(events):
    assert call("top", "acurracy", store=events, code=1).stderr == "error: no metric 'acurracy'\nhint: nearest: accuracy\n"
    nothing = call("top", "accuracy", "--dataset", "none", store=events)
    assert (nothing.stdout, nothing.stderr) == ("", "no runs that the filters keep have this metric\n")


def test_actions_are_signed_and_every_version_stays(copy):
    """A note changed twice, one of them from standard input: both are among the changes, by whom and through which door."""
    call("note", "run-alpha", "second", store=copy)
    call("note", "run-alpha", "-", store=copy, stdin=b"third\nwith two lines \xff\n")
    call("flag", "run-alpha", "best", store=copy)
    made = json.loads(call("changes", "run-alpha", "--json", store=copy).stdout)
    third = "third\nwith two lines \\xff"
    assert [(c["field"], c["old"], c["new"]) for c in made if c["field"] == "note"] == [
        ("note", third, f"BEST: {third}"), ("note", "second", third), ("note", "first try", "second"),
        ("note", None, "first try"),
    ]  # fmt: skip
    assert {(c["by"], c["via"]) for c in made[:-1]} == {(user_name(), "cli")}
    shown = call("changes", "run-alpha", store=copy).stdout.splitlines()
    assert shown[0].split() == ["when", "(UTC)", "who", "via", "run", "field", "old", "new", "event"]
    assert "third with two lines" in shown[1] + shown[2]


def test_sql_prints_tables_and_csv(events):
    query = "select 1 as n, 'a,b' as t, null as x, [1, 2] as l, true as b union all select 2, 'c', 'y', [], false order by 1"
    assert call("sql", query, store=events).stdout.splitlines() == [
        "n  t    x     l      b",
        "1  a,b  NULL  [1,2]  true",
        "2  c    y     []     false",
    ]
    assert call("sql", "-", "--csv", store=events, stdin=query).stdout == 'n,t,x,l,b\n1,"a,b",,"[1,2]",true\n2,c,y,[],false\n'


def test_csv_is_not_cut(events):
    """Without --limit all rows are printed: more than a table shows."""
    said = call("sql", "select range from range(2500)", "--csv", store=events)
    assert (len(said.stdout.splitlines()), said.stderr) == (2501, "")


def test_the_views_explain_themselves(events, ask):
    """Every view but the inner ones is listed with its comment, and so is every column of it."""
    described = ask(queries.describe_views)
    assert [view.name for view in described] == [
        "artifacts", "changes", "console", "dataset_uses", "datasets", "environments", "events", "manifests", "metric_summary",
        "metrics", "notes", "params", "projects", "runs", "system_metrics", "tags", "wide",
    ]  # fmt: skip
    uncommented = {(view.name, column.name) for view in described for column in view.columns if not column.comment}
    assert uncommented == {("wide", key) for key in ("accuracy", "epochs", "loss", "lr", "model", "other")}
    said = call("sql", store=events).stdout
    assert "\nruns  one row per run" in said
    assert re.search(r"^  seed  +HUGEINT  +the random seed, if one was given$", said, re.MULTILINE)


def test_the_doctor_says_how_it_is(events, copy):
    said = call("doctor", store=events).stdout
    assert re.search(r"^runs +3 completed, 1 crashed, 1 failed$", said, re.MULTILINE)
    assert "cost: nothing that was logged\n" in said
    path = next(p for p in Path(copy, "segments").iterdir() if p.stem.endswith("_run-alpha"))
    path.write_bytes(path.read_bytes().replace(b"svm", b"svn"))
    sick = call("doctor", store=copy, code=1).stdout
    assert re.search(r"^error  +bad-checksum: ", sick, re.MULTILINE)
    assert re.search(rf"^ +segments/{path.name}:2:\d+$", sick, re.MULTILINE)
    assert re.search(
        r"^note: \d places? in this store could not be read; `ailab doctor` says where$",
        call("runs", store=copy).stderr,
        re.MULTILINE,
    )


# -- terminals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [40, 80, 140])
def test_tables_fit_the_screen(events, third, columns):
    """No line of any verb is longer than the screen is wide."""
    for args in (
        ["runs"], ["runs", "--latest"], ["show", "alpha"], ["show", "alpha", "--metrics"], ["show", "alpha", "--artifacts"],
        ["compare", "alpha", third], ["top", "loss"], ["changes"], ["sql", "select * from wide"], ["sql"], ["doctor"],
    ):  # fmt: skip
        assert max(map(len, on_screen(*args, store=events, columns=columns).splitlines())) <= columns, args


def test_a_terminal_gets_its_width_and_colours(events):
    """On a real terminal: as wide as it is, in colour, and what does not fit is left out or cut."""
    said = on_terminal("runs", store=events, columns=50)
    assert ESCAPE in said
    lines = bare(said).splitlines()
    assert max(map(len, lines)) <= 50
    assert lines[0].split()[:3] == ["run", "name", "status"]
    assert "note" not in lines[0]
    assert not [line for line in lines if line.endswith(" ")]


def test_no_color_takes_every_escape_away(events):
    assert ESCAPE not in on_terminal("runs", store=events, NO_COLOR="1")


def test_text_of_others_cannot_steer_a_terminal(tmp_path, scripts):
    """Names, notes, keys and values that hold escapes are shown as escapes, on tables, curves, diffs and messages."""
    store = str(tmp_path / "evil")
    evil = "\x1b]0;owned\x07\x1b[2J\u202e\x9b31m"
    scripts.run(
        """
        import sys
        import ailab
        evil = sys.argv[2].encode("ascii").decode("unicode_escape")
        said = dict(name=evil, project=evil, tags={evil: evil}, note=evil)
        for i in range(2):
            with ailab.start_run(dir=sys.argv[1], config={evil: evil, "p": i}, **said) as run:
                run.log({evil: 1.0, "m": 1.0}, step=0)
                run.log({evil: 2.0, "m": 2.0}, step=1)
                run.log_text("a,b\\n" + evil + ",1\\n", evil.replace("/", "") + "metrics.csv")
        """,
        store, evil.encode("unicode_escape").decode(),
    )  # fmt: skip
    lab = views.open_lab(store)
    first, second = (row.run_id for row in queries.list_runs(lab).rows)
    lab.close()
    for args in (
        ["runs"], ["runs", "--latest"], ["show", first], ["show", first, "--metrics"], ["show", first, "--artifacts"],
        ["compare", first, second, "--all"], ["top", "m"], ["top", evil], ["changes"], ["sql", "select * from wide"],
    ):  # fmt: skip
        said = on_screen(*args, store=store)
        assert not [c for c in said if not c.isprintable() and c != "\n"], args
    assert "\x1b" not in call("show", first, "--metrics", evil + "x", store=store, code=1).stderr


def test_a_terminal_without_blocks_gets_letters(events):
    done = subprocess.run(
        [sys.executable, "-m", "ailab", "--dir", events, "top", "accuracy"],
        env=environment(PYTHONIOENCODING="ascii"), capture_output=True, check=True,
    )  # fmt: skip
    assert b"#" * 30 in done.stdout
    assert done.stdout.isascii()


# -- what people do wrong ----------------------------------------------------------------------------------------------

WRONG = [
    (["show", "nothing"], 1, "error: no run 'nothing'\nhint: nearest: "),
    (["show", "run-"], 1, "error: no run 'run-'\nhint: several runs fit: run-alpha, run-beta, run-failed, run-killed\n"),
    (["compare", "alpha", "nothing"], 1, "error: no run 'nothing'"),
    (["compare", "alpha"], 2, "compare takes two different runs or more"),
    (["runs", "--status", "done"], 1, "error: status: no status 'done'\nhint: allowed: pending, "),
    (["runs", "--from", "yesterday"], 1, "error: from_timestamp: 'yesterday' is no time\nhint: "),
    (["runs", "--sort", "beauty"], 1, "error: sort: no column 'beauty'\nhint: "),
    (["runs", "--metric-min", "1"], 2, "--metric-min and --metric-max need --metric-name"),
    (["runs", "--metric-name", "x", "--metric-min", "much"], 2, "'much' is not a valid float"),
    (["runs", "--param", "lr"], 2, "--param 'lr': KEY=VALUE is wanted"),
    (["runs", "--param", "a=1", "--param", "a=2"], 2, "given twice"),
    (["runs", "--latest", "--limit", "3"], 2, "--latest takes neither --limit nor --sort"),
    (["runs", "--limit", "0"], 2, "0 is not in the range"),
    (["show", "alpha", "loss"], 2, "names of metrics need --metrics"),
    (["show"], 2, "Missing argument 'RUN'"),
    (["flag", "alpha", "great"], 1, "error: flag 'great' is not allowed\nhint: allowed: PUBLISH, BEST, BAD RUN\n"),
    (["tag", "alpha"], 2, "no tag is given"),
    (["tag", "alpha", "=x"], 1, "error: tag '' is not allowed"),
    (["note", "alpha"], 2, "Missing argument 'TEXT...'"),
    (["note", "nothing", "x"], 1, "error: no run 'nothing'"),
    (["changes", "nothing"], 1, "error: no run 'nothing'"),
    (["sql", "select nothing\nfrom wide"], 1, "LINE 1: select nothing\n               ^"),
    (["sql", "delete from runs"], 1, "error: one SELECT is allowed, not DELETE\nhint: "),
    (["sql", "select 1; select 2"], 1, "error: one SELECT is allowed"),
    (["sql", ""], 1, "error: one SELECT is allowed, not nothing"),
    (["sql", "select 1", "--csv", "--json"], 2, None),
    (["serve", "--host", "0.0.0.0"], 1, "error: 0.0.0.0 is not loopback"),
    (["nothing"], 2, "No such command 'nothing'"),
    (["runs", "--nothing"], 2, "No such option '--nothing'"),
]


@pytest.mark.parametrize(("args", "code", "said"), WRONG, ids=[" ".join(args) for args, _, _ in WRONG])
def test_wrong_input_is_answered_in_words_and_in_json(events, args, code, said):
    """An error ends with 1, a wrong command line with 2; `--json` makes it one problem object on standard error."""
    plain = call(*args, store=events, code=code)
    assert plain.stdout == ""
    assert said is None or said in plain.stderr
    as_json = call(*args, *([] if "--json" in args else ["--json"]), store=events, code=code)
    assert as_json.stdout == ""
    problem = msgspec.json.decode(as_json.stderr, type=Problem)
    assert problem.instance == f"urn:ailab:cli:{args[0] if args[0] in VERBS else ''}"
    assert problem.detail
    assert said is None or problem.detail.splitlines()[0][:20] in said.removeprefix("error: ") or said in problem.detail


@pytest.mark.parametrize("args", [["runs"], ["doctor"], ["note", "latest", "x"], ["sql"], ["top", "loss"]], ids=" ".join)
def test_a_folder_that_is_no_store_is_refused(tmp_path, args):
    """Nothing is there, a file is there, or somebody else's folder: said with a hint, and nothing is made or touched."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis").write_text("x")
    for name in ("nothing", "file", "folder"):
        problem = call(*args, store=str(tmp_path / name), code=1).stderr
        assert re.match(rf"error: .*: {tmp_path / name}\nhint: .*\n$", problem), problem
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder", "thesis"]


def test_problems_have_the_shape_of_the_server():
    """One error shape: every error of ailab has the same object at the command line and over HTTP."""
    served = pytest.importorskip("ailab_api.errors")
    for error in (
        errors.NotFoundError("run", "x", nearest=["y"]),
        errors.FilterError("limit: no", where="limit", hint="allowed: 1"),
        errors.RejectedError("metric", key="loss"),
        errors.SettingError("AILAB_SEED"),
        errors.RefusedError("no"),
        errors.ForeignFolderError("no store", path="events"),
        errors.DamageError("gap", path="x", line=2, offset=3),
        errors.MissingExtraError("report", extra="eval"),
        RuntimeError("inside"),
    ):
        here, there = calling.problem_of(error, verb="show"), served.problem_of(error, instance="urn:ailab:cli:show")
        if isinstance(error, errors.AilabError):
            assert here == there
        assert (here.type, here.title, here.status) == (there.type, there.title, there.status)


def test_the_store_may_be_named_before_or_after_the_verb(events, tmp_path, monkeypatch):
    """--dir after the verb wins over the one before it, both over AILAB_DIR; without any, the nearest `events/` counts."""
    monkeypatch.setenv("AILAB_DIR", str(tmp_path / "nothing"))
    wanted = call("runs", "--json", store=events).stdout
    assert call("runs", "--json", "--dir", events).stdout == wanted
    assert call("--dir", "elsewhere", "runs", f"--dir={events}", "--json").stdout == wanted
    monkeypatch.setenv("AILAB_DIR", events)
    assert call("runs", "--json").stdout == wanted
    monkeypatch.delenv("AILAB_DIR")
    (tmp_path / "deep").mkdir()
    shutil.copytree(events, tmp_path / "events")
    monkeypatch.chdir(tmp_path / "deep")
    assert call("runs", "--json").stdout == wanted


def test_a_run_is_named_by_id_start_end_or_latest(events, third):
    for name in (third, third[:12], third[-6:], third.upper()[-8:]):
        assert json.loads(call("show", name, "--json", store=events).stdout)["run_id"] == third
    assert json.loads(call("show", "latest", "--json", store=events).stdout)["run_id"] == "run-killed"


def test_upper_case_ids_are_found_by_their_end(tmp_path):
    with ailab.start_run(id="Exp-Final", dir=tmp_path / "s"):
        pass
    assert json.loads(call("show", "Final", "--json", store=str(tmp_path / "s")).stdout)["run_id"] == "Exp-Final"


def test_bytes_that_are_no_text_are_no_traceback(events):
    done = subprocess.run(
        [sys.executable, "-m", "ailab", "--dir", events, "show", b"\xff\xfe-run"],
        env=environment(),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, rb"error: no run '\\udcff\\udcfe-run'")


def test_a_closed_pipe_is_silent(events):
    """`ailab … | head -1`: the reader goes away in the middle of megabytes."""
    command = [
        sys.executable,
        "-m",
        "ailab",
        "--dir",
        events,
        "sql",
        "select range, repeat('x', 100) from range(200000)",
        "--csv",
    ]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writer:
        try:
            writer.stdout.readline()
            writer.stdout.close()
            assert (writer.wait(60), writer.stderr.read()) == (141, b"")
        finally:
            writer.kill()


def test_ctrl_c_ends_with_130(events):
    """While Python waits for standard input, and while a process of its own computes, which ends with it."""
    slow = "select count(*) from range(100000000) a, range(100000) b where a.range * b.range % 7 = 3"
    for args in (["note", "alpha", "-"], ["sql", slow]):
        command = [sys.executable, "-m", "ailab", "--dir", events, *args]
        with subprocess.Popen(
            command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as child:
            try:
                deadline = time.monotonic() + 20
                while args[0] == "sql" and time.monotonic() < deadline and _seconds_used(child.pid) < 0.6:
                    time.sleep(0.05)
                time.sleep(0.5)
                others = psutil.Process(child.pid).children()
                child.send_signal(signal.SIGINT)
                assert child.wait(20) == 130
                assert psutil.wait_procs(others, timeout=5)[1] == []
                assert b"Traceback" not in child.stderr.read()
            finally:
                child.kill()


def _seconds_used(pid: int) -> float:
    """Processor time that a process and its children have used."""
    times = psutil.Process(pid).cpu_times()
    children = [child.cpu_times() for child in psutil.Process(pid).children()]
    return sum(one.user + one.system for one in (times, *children))


# -- figures -----------------------------------------------------------------------------------------------------------

finite = st.floats(allow_nan=False, allow_infinity=False, width=64)


@given(st.lists(st.floats(), max_size=200), st.integers(1, 120))
def test_a_curve_is_as_wide_as_it_is_told(values, width):
    """Whatever is drawn: exactly that many characters, or none where there is nothing to draw; NaN is a hole."""
    line = terminal.sparkline(values, width)
    drawn = any(v - v == 0 for v in values)
    assert len(line) == (width if drawn else 0)
    assert set(line) <= set("▁▂▃▄▅▆▇█ ")


def test_a_curve_shows_its_shape():
    assert terminal.sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert terminal.sparkline([1, 0], 6) == "███▁▁▁"
    assert terminal.sparkline([2.0, 2.0], 4) == "▁▁▁▁"
    assert terminal.sparkline([0, math.nan, 1], 3) == "▁ █"
    assert terminal.sparkline([0, math.inf, -math.inf, 1], 4) == "▁█▁█"
    assert terminal.sparkline([1, 2], 2, low=0, high=4) == "▃▅"
    assert terminal.sparkline([], 5) == terminal.sparkline([math.nan], 5) == ""


@given(finite, finite, finite, st.integers(1, 60))
def test_a_bar_stays_in_its_place(value, low, high, width):
    low, high = min(low, high), max(low, high)
    assert 1 <= len(terminal.bar(value, low, high, width)) <= width


def test_bars_show_eighths():
    assert terminal.bar(1, 0, 1, 4) == "████"
    assert terminal.bar(0.5, 0, 1, 4) == "██"
    assert terminal.bar(0.4, 0, 1, 4) == "█▋"
    assert terminal.bar(0, 0, 1, 4) == "▏"
    assert terminal.bar(0, 0, 1, 4, plain_text=True) == "#"
    assert terminal.bar(math.nan, 0, 1, 4) == ""


@given(st.text())
def test_no_text_steers_a_terminal(text):
    assert terminal.plain(text).isprintable()
    assert all(c.isprintable() or c in "\n\t" for c in terminal.plain(text, lines=True))
    assert "\n" not in terminal.one_line(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.93333, "0.9333"),
        (12345.678, "12345.7"),
        (1e-7, "1e-07"),
        (3, "3"),
        (10**12, "1e+12"),
        ("NaN", "NaN"),
        (10**400, "inf"),
        (True, "True"),
    ],
)
def test_numbers_are_short(value, text):
    assert terminal.number(value) == text


def test_numbers_of_a_column_line_up():
    assert terminal.numbers([0.5, 0.93333, None, "NaN"]) == ["0.5000", "0.9333", "", "NaN"]
    assert terminal.numbers([1, 2, 30]) == ["1", "2", "30"]
    assert terminal.numbers([0.00001, 0.5]) == ["1e-05", "0.5"]


def test_sizes_times_and_ages_are_readable():
    assert [terminal.size(n) for n in (0, 999, 1500, 25_000, 10**7, 5 * 10**12)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "25 kB",
        "10 MB",
        "5.0 TB",
    ]
    assert [terminal.duration(s) for s in (0.0021, 75.26, 600, 7300)] == ["2 ms", "75.3 s", "10 min 0 s", "2 h 1 min"]
    now = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
    started = [
        "2026-03-01T12:00:09Z",
        "2026-03-01T11:59:30Z",
        "2026-03-01T10:30:00Z",
        "2026-02-27T13:00:00Z",
        "2026-02-01T00:00:00Z",
        "2025-01-01T00:00:00Z",
    ]
    assert [terminal.age(t, now) for t in started] == ["0 s", "30 s", "1 h", "47 h", "28 d", "2025-01-01"]


# -- files of others ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "columns", "rows"),
    [
        (b"a,b\n1,2\n3,4\n", ["a", "b"], [["1", "2"], ["3", "4"]]),
        (b"\xef\xbb\xbfa;b\r\n1;2,5\r\n", ["a", "b"], [["1", "2,5"]]),
        (b"a\tb\n1\n1\t2\t3\n\n", ["a", "b"], [["1", ""], ["1", "2"]]),
        (b'a,b\n"x\ny",2', ["a", "b"], [["x\ny", "2"]]),
        (b"", [], []),
        (b"a,b\n\xff,\x00\n", ["a", "b"], [["\ufffd", "\x00"]]),
    ],
    ids=["plain", "semicolons and BOM", "ragged", "quoted", "empty", "no text"],
)
def test_csv_of_any_dialect_is_read(content, columns, rows):
    assert terminal.read_sheet(io.BytesIO(content)) == terminal.Sheet(columns=columns, rows=rows, more=False)


def test_csv_is_read_within_bounds(monkeypatch):
    monkeypatch.setattr(terminal, "CSV_ROWS", 3)
    monkeypatch.setattr(terminal, "CSV_COLUMNS", 2)
    monkeypatch.setattr(terminal, "CSV_BYTES", 40)
    long = terminal.read_sheet(io.BytesIO(b"a\n" + b"1\n" * 9))
    wide = terminal.read_sheet(io.BytesIO(b"a,b,c\n1,2,3\n"))
    big = terminal.read_sheet(io.BytesIO(b"a\n1\n" + b"2" * 100))
    huge = terminal.read_sheet(io.BytesIO(b"x" * 100))
    assert (long.rows, long.more) == ([["1"]] * 3, True)
    assert (wide.columns, wide.rows, wide.more) == (["a", "b"], [["1", "2"]], True)
    assert (big.rows, big.more) == ([["1"]], True)
    assert (huge.columns, huge.more) == ([], True)


@given(st.binary(max_size=2000))
def test_no_bytes_break_the_reading_of_csv(content):
    found = terminal.read_sheet(io.BytesIO(content))
    assert all(len(row) == len(found.columns) for row in found.rows)


def test_a_cell_beyond_every_limit_ends_the_reading():
    found = terminal.read_sheet(io.BytesIO(b"a,b\n1,2\n" + b'"' + b"x" * 200_000))
    assert (found.rows, found.more) == ([["1", "2"]], True)
