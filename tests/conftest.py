"""What every test gets: a clean environment, a folder of its own to stand in, and scripts run as processes of their own.

No test sees the AILAB_* variables of the person who runs it, none writes into the checkout by accident, and no run or
setting of one test is there in the next. Processes started through these fixtures are ended with the test.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_OURS = ("AILAB_", "MODELLAB_")
_OTHERS = frozenset(("PROJECT_NAME", "DB_PATH", "OPENAI_API_KEY", "OPENAI_BASE_URL", "WANDB_PROJECT", "WANDB_API_KEY"))


def pytest_configure():
    """What ends a script ends it however the tests were started: nohup and `&` leave signals ignored, which children inherit."""
    for name, usual in (("SIGHUP", signal.SIG_DFL), ("SIGINT", signal.default_int_handler)):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


@pytest.fixture(autouse=True)
def clean_world(monkeypatch, tmp_path):
    """No setting from outside or from another test, no run left open, and an empty folder as the working folder."""
    for name in list(os.environ):
        if name.startswith(_OURS) or name in _OTHERS:
            monkeypatch.delenv(name)
    monkeypatch.setenv("AILAB_AUTO_COMPACT", "0")
    monkeypatch.chdir(tmp_path)
    yield
    recorder = sys.modules.get("ailab.recorder")
    if recorder is None:
        return
    from ailab import runs, settings

    for run in list(runs.open_runs.values()):
        run.finish()
    runs.current.set(None)
    runs._said.clear()
    settings._configured.clear()


@pytest.fixture
def store_dir(tmp_path, monkeypatch):
    """Path of a store that is not there yet; AILAB_DIR points to it, here and in scripts."""
    path = tmp_path / "store"
    monkeypatch.setenv("AILAB_DIR", str(path))
    return path


class Scripts:
    """Run Python source in processes of their own, with the checkout importable whether or not it is installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []

    def environment(self, **extra: str) -> dict[str, str]:
        """The environment as the test has it now, the checkout's packages on the path, and `extra`."""
        paths = [str(ROOT), str(ROOT / "api"), os.environ.get("PYTHONPATH", "")]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p), "PYTHONWARNINGS": "error", **extra}

    def command(self, source: str, *args: object) -> list[str]:
        """The command that runs `source` as a script file."""
        path = self.folder / f"script_{len(list(self.folder.glob('script_*.py')))}.py"
        path.write_text(textwrap.dedent(source))
        return [sys.executable, str(path), *(str(arg) for arg in args)]

    def start(self, source: str, *args: object, cwd: Path | None = None, **env: str) -> subprocess.Popen[str]:
        """Start `source`; its standard streams are pipes of text."""
        process = subprocess.Popen(
            self.command(source, *args),
            env=self.environment(**env),
            cwd=cwd,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, source: str, *args: object, cwd: Path | None = None, timeout: float = 60, code: int | None = 0, **env: str):
        """Run `source` to its end; (stdout, stderr, returncode), which must be `code` unless that is None."""
        process = self.start(source, *args, cwd=cwd, **env)
        out, err = process.communicate(timeout=timeout)
        assert code is None or process.returncode == code, f"exit {process.returncode}, not {code}\n{out}\n{err}"
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def end(self) -> None:
        """Kill the process groups that are still there."""
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture
def scripts(tmp_path_factory):
    """`scripts.run(source, …)` and `scripts.start(source, …)`: Python source in a process of its own."""
    found = Scripts(tmp_path_factory.mktemp("scripts"))
    yield found
    found.end()


@pytest.fixture
def lab(store_dir):
    """`lab()` opens the catalogue of `store_dir`, up to date; closed with the test."""
    opened = []

    def open_now():
        from ailab import views

        opened.append(views.open_lab(store_dir))
        opened[-1].prepare()
        return opened[-1]

    yield open_now
    for each in opened:
        each.close()


@pytest.fixture
def figure(record_property):
    """`figure(text)` prints what a test has measured or tried in the summary, also where it passes and on any worker."""
    return lambda text: record_property("figure", text)


def pytest_terminal_summary(terminalreporter):
    """Say what `figure` was given."""
    reports = [report for found in terminalreporter.stats.values() for report in found if hasattr(report, "user_properties")]
    said = [f"{report.nodeid}: {text}" for report in reports for name, text in report.user_properties if name == "figure"]
    if said:
        terminalreporter.section("figures")
        for line in dict.fromkeys(said):
            terminalreporter.write_line(line)
