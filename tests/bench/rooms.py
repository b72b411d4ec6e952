"""Where measured processes run: the environments of the systems, and rooms with a clean environment and a folder of their own.

Nothing of the person who runs it reaches a measured process: of the environment's variables only PATH, LANG, LC_*, TZ and
SSL_CERT_FILE, and instead of the home an empty folder. The driver stays small and imports nothing that it measures, because
a process that it starts begins with the driver's peak of memory as its own. Helpers that a system leaves behind are waited for
and, after a while, ended: on Linux the driver takes in orphans (PR_SET_CHILD_SUBREAPER), so each of them is its descendant.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kit import Adapter

HERE = Path(__file__).resolve().parent
ENVS = HERE / ".envs"
KEPT = ("PATH", "LANG", "TZ", "SSL_CERT_FILE")
SILENCE = {
    "DO_NOT_TRACK": "1", "CI": "1", "NO_COLOR": "1", "HF_HUB_OFFLINE": "1", "AILAB_SILENT": "1",
    "HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1,localhost",
}  # fmt: skip
"""Whoever would call home is told not to, and finds a proxy that is not there."""
SUBREAPER = 36
PROGRESS, PROGRESS_S = "progress: ", 10.0
"""What begins a line in which a job says how far it is, and how often such lines are passed on."""


class FailedError(Exception):
    """A measured process failed or gave no answer in time; the text says which and how."""


def say(text: str) -> None:
    """Progress, on standard error."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


# -- environments ------------------------------------------------------------------------------------------------------


def adapter(name: str) -> type[Adapter]:
    """The class of a system."""
    found: type[Adapter] = importlib.import_module(f"adapters.{name}").A
    return found


def python_of(name: str) -> str:
    """The interpreter of a system: of its own environment, or of the project's."""
    env = adapter(name).ENV
    return str(ENVS / env / "bin" / "python") if env else sys.executable


def install(name: str) -> None:
    """Make the environment of a system if it is not there; with uv where it is, else with venv and pip.

    Raises:
        FailedError: it cannot be installed, for want of a network for instance.
    """
    system = adapter(name)
    if not system.ENV:
        return
    place = ENVS / system.ENV
    stamp, wanted = place / "installed.txt", "\n".join(system.REQUIREMENTS)
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    say(f"installing {', '.join(system.REQUIREMENTS)} into {place.relative_to(HERE.parents[1])}")
    shutil.rmtree(place, ignore_errors=True)
    interpreter = str(place / "bin" / "python")
    if shutil.which("uv"):
        commands = [
            ["uv", "venv", "-q", "--python", sys.executable, str(place)],
            ["uv", "pip", "install", "-q", "--compile-bytecode", "--python", interpreter, *system.REQUIREMENTS],
        ]
    else:
        pip = [interpreter, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        commands = [[sys.executable, "-m", "venv", str(place)], [*pip, *system.REQUIREMENTS]]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise FailedError(f"{system.ENV} cannot be installed: {_last_words(done.stderr)}")
    stamp.write_text(wanted)


def version_of(name: str) -> str:
    """The version of a system's package in its environment, or "not installed"."""
    code = f"import importlib.metadata as m; print(m.version({adapter(name).PACKAGE!r}))"
    try:
        done = subprocess.run([python_of(name), "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return "not installed"
    return done.stdout.strip() or "not installed"


# -- processes ---------------------------------------------------------------------------------------------------------


def take_in_orphans() -> None:
    """Make processes whose parent ended children of this one, where the system can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)


def descendants() -> list[int]:
    """Ids of all processes below this one; [] where /proc does not tell."""
    below: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        below.setdefault(parent, []).append(int(path.parent.name))
    found: list[int] = []
    todo = [os.getpid()]
    while todo:
        children = below.get(todo.pop(), [])
        found += children
        todo += children
    return found


def end(processes: list[int]) -> None:
    """Kill processes of ours; one that is gone already is fine."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def clear_up(grace_s: float) -> float:
    """Wait for what was left behind, end what outlives the grace; return the seconds it took. No other child may be there."""
    start = time.monotonic()
    until = start + grace_s
    while True:
        try:
            process, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return time.monotonic() - start
        if process:
            continue
        if time.monotonic() > until:
            end(descendants())
            until = time.monotonic() + 5
        time.sleep(0.01)


class Room:
    """A folder of its own for the processes of one system.

    Args:
        name: the system, as its module in `adapters` is called.
    """

    def __init__(self, name: str) -> None:
        self.name, self.system = name, adapter(name)
        self.root = Path(tempfile.mkdtemp(prefix=f"bench-{name}-"))
        self.store = self.root / "store"
        (self.root / "home").mkdir()
        (self.root / "here").mkdir()
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def empty(self) -> None:
        """Remove what the system has kept so far."""
        for part in (self.store, self.root / "aux"):
            shutil.rmtree(part, ignore_errors=True)

    def variables(self) -> dict[str, str]:
        """The environment of a process in here."""
        kept = {k: v for k, v in os.environ.items() if k in KEPT or k.startswith("LC_")}
        place = {"HOME": str(self.root / "home"), "TMPDIR": str(self.root / "here")}
        return {**kept, **SILENCE, **place, **{k: v.format(root=self.root) for k, v in self.system.VARIABLES.items()}}

    def spawn(self, job: str, **given: Any) -> Job:
        """Start a job of `jobs` or, written `module:function`, of another module, in a process of its own."""
        self._count += 1
        out, log = self.root / f"answer-{self._count}.json", self.root / f"log-{self._count}.txt"
        module, _, function = job.rpartition(":")
        if not module:
            given = {"system": self.name, "root": str(self.root), **given}
        command = [python_of(self.name), str(HERE / "worker.py"), module or "jobs", function, str(out), json.dumps(given)]
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, env=self.variables(), cwd=self.root / "here", stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
        return Job(f"{self.name} {function}", process, out, log)

    def run(self, job: str, *, timeout_s: float = 180, helpers_s: float = 5, **given: Any) -> dict[str, Any]:
        """Run a job to its end and return its answer.

        Raises:
            FailedError: it failed, or was not done within `timeout_s`; an answer that it had given in part counts.
        """
        started = self.spawn(job, **given)
        try:
            return started.answer(timeout_s)
        finally:
            clear_up(helpers_s)

    def python(self, code: str, *, cwd: Path | None = None, path: Path | None = None) -> str:
        """Run code in a fresh process and return what it printed; `path` is a folder to import from besides.

        Raises:
            FailedError: it failed.
        """
        variables = self.variables() | ({} if path is None else {"PYTHONPATH": str(path)})
        command = [python_of(self.name), "-c", code]
        place = cwd or self.root / "here"
        done = subprocess.run(command, env=variables, cwd=place, capture_output=True, text=True, check=False)
        if done.returncode:
            raise FailedError(f"{self.name}: {_last_words(done.stderr)}")
        return done.stdout

    @contextlib.contextmanager
    def server(self, command: list[str], port: int, ready: str, *, timeout_s: float = 90) -> Iterator[subprocess.Popen[bytes]]:
        """A server that answers at `ready` on loopback, ended afterwards with all that it started."""
        log = self.root / "server.txt"
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, env=self.variables(), cwd=self.root / "here", stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                start_new_session=True,
            )  # fmt: skip
        try:
            until = time.monotonic() + timeout_s
            while not _answers(port, ready):
                if process.poll() is not None or time.monotonic() > until:
                    raise FailedError(f"{self.name}: the server did not start: {_last_words(log.read_text(errors='replace'))}")
                time.sleep(0.1)
            _let_idle(process.pid)
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            clear_up(5)


class Job:
    """A job that runs; `answer` waits for what it says."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], out: Path, log: Path) -> None:
        self.name, self.process, self.out, self.log = name, process, out, log

    def answer(self, timeout_s: float) -> dict[str, Any]:
        """Its answer; an answer in part if it is ended for taking too long.

        Raises:
            FailedError: there is none.
        """
        late = not self._wait(timeout_s)
        if late:
            self.process.kill()
            self.process.wait()
        if self.out.exists() and (late or not self.process.returncode):
            found: dict[str, Any] = json.loads(self.out.read_text())
            return found
        if late:
            raise FailedError(f"{self.name}: no answer within {timeout_s:.0f} s")
        raise FailedError(f"{self.name}: {_last_words(self.log.read_text(errors='replace'))}")

    def _wait(self, timeout_s: float) -> bool:
        """Wait for the end, passing on what a long job says of its progress; whether it came in time."""
        until, told = time.monotonic() + timeout_s, ""
        while (left := until - time.monotonic()) > 0:
            try:
                self.process.wait(min(left, PROGRESS_S))
            except subprocess.TimeoutExpired:
                lines = self.log.read_text(errors="replace").splitlines()
                last = next((line for line in reversed(lines) if line.startswith(PROGRESS)), "")
                if last != told:
                    told = last
                    say(f"  {last.removeprefix(PROGRESS)}")
            else:
                return True
        return False


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        connection.getresponse().read()
    except OSError:
        return False
    finally:
        connection.close()
    return True


def _let_idle(session: int, limit_s: float = 25) -> None:
    """Wait until the server's processes idle: some go on with start-up work for seconds."""
    until = time.monotonic() + limit_s
    before = _ticks(session)
    while time.monotonic() < until:
        time.sleep(1)
        now = _ticks(session)
        if now - before < 8:
            return
        before = now


def _ticks(session: int) -> int:
    """Processor time of a session so far, in clock ticks; 0 where /proc does not tell."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            total += int(fields[11]) + int(fields[12])
    return total


def _last_words(text: str) -> str:
    """The last line of an output that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" ^~")]
    said = [line for line in lines if line.partition(":")[0].endswith(("Error", "Exception"))]
    return (said or lines or ["no word"])[-1][:200]
