"""Work on what strangers sent, in a process of its own that is killed at its deadline or when it takes too much memory.

    python -m ailab.confined JOB        reads one JSON object from standard input, writes one to standard output

Whoever calls waits for the answer; nothing that such a process does reaches a store, and it dies with its caller. The limits of
libraries do not hold (a vector operation looks at no clock, a decompression at no limit), so the kernel's and the caller's do.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec

from .errors import AilabError, RejectedError

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 600.0
MEMORY = 2 << 30
"""Bytes that a job may have in memory."""
LOOK_S = 0.02
APART: dict[str, Any] = {
    "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True,
}  # fmt: skip
"""How such a process is started: nothing is shared with a terminal, whose Ctrl-C is for the caller, who ends it in order."""


class _Answer(msgspec.Struct):
    """What a job comes to: a result, or a refusal."""

    result: msgspec.Raw = msgspec.Raw(b"null")
    message: str | None = None
    hint: str = ""
    key: str = ""


def call(
    job: str, given: dict[str, Any], *, seconds: float = SECONDS, memory: int = MEMORY, given_up: threading.Event | None = None
) -> bytes:
    """Do a job in a process of its own; return its result as JSON.

    Args:
        job: one of `JOBS`.
        given: what it needs, as JSON.
        seconds: when it is killed.
        memory: at how many bytes it is killed.
        given_up: set by another thread once nobody waits for it any more; it is killed then.

    Raises:
        RejectedError: the job refuses what it was given, took too long or too much memory, or died.
    """
    process = subprocess.Popen([sys.executable, "-P", "-m", __name__, job], **APART, env=environment())
    with Watch(process.pid, seconds=seconds, memory=memory, kill=process.kill, given_up=given_up) as watch:
        out, err = process.communicate(msgspec.json.encode(given))
    if watch.verdict:
        raise RejectedError(f"it {watch.verdict}", key="file", hint="nothing of it was kept")
    try:
        answer = msgspec.json.decode(out, type=_Answer)
    except msgspec.DecodeError:
        words = err.decode("utf-8", "replace").strip().splitlines()
        said = words[-1][:200] if words else f"ended with {process.returncode}"
        raise RejectedError(f"it could not be read: {said}", key="file", hint="nothing of it was kept") from None
    if answer.message is not None:
        raise RejectedError(answer.message, key=answer.key, hint=answer.hint)
    return bytes(answer.result)


def environment() -> dict[str, str]:
    """What a confined process sees of ours: where Python finds modules, and no secret."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "COVERAGE_PROCESS_START")
    return {name: os.environ[name] for name in kept if name in os.environ} | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path))
    }


class Watch:
    """Looks at a process until it ends, and kills it at its deadline, its memory limit, or when nobody waits for it any more.

    `verdict` says why, or is empty.

    Args:
        pid: the process.
        seconds: from now on.
        memory: bytes that it may have in memory.
        kill: ends it.
        given_up: set once nobody waits for it any more.
    """

    def __init__(
        self, pid: int, *, seconds: float, memory: int, kill: Callable[[], object], given_up: threading.Event | None = None
    ) -> None:
        self.verdict = ""
        self._pid = pid
        self._until = time.monotonic() + seconds
        self._seconds, self._memory, self._kill = seconds, memory, kill
        self._given_up = given_up
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, name="ailab-watch", daemon=True)

    def __enter__(self) -> Watch:  # noqa: PYI034
        self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(LOOK_S):
            if self._given_up is not None and self._given_up.is_set():
                self.verdict = "was given up"
            elif time.monotonic() > self._until:
                self.verdict = f"took longer than {self._seconds:g} s"
            elif (used := memory_of(self._pid)) is not None and used > self._memory:
                self.verdict = f"took more than {self._memory >> 20} MB of memory"
            else:
                continue
            self._kill()
            return


def memory_of(pid: int) -> int | None:
    """Bytes that a process has in memory, by itself; None where it is gone, or that cannot be known."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            fields = file.read().split()
        return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        pass
    import psutil

    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return None


def die_with_parent() -> None:
    """Let this process end when the one that started it does, where the kernel can see to that."""
    if sys.platform == "linux":
        import ctypes
        import signal

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _examine(given: dict[str, Any]) -> Any:
    from . import datasets

    return datasets.examine(given["path"], given["name"], format=given.get("format"), encoding=given.get("encoding"))


def _preview(given: dict[str, Any]) -> Any:
    from . import datasets

    return datasets.preview(given["path"], given["format"], given["schema"], given["limit"])


JOBS: dict[str, Callable[[dict[str, Any]], Any]] = {"examine": _examine, "preview": _preview}


def main(job: str) -> None:
    """Do one job."""
    die_with_parent()
    given = msgspec.json.decode(sys.stdin.buffer.read())
    try:
        answer = _Answer(result=msgspec.Raw(msgspec.json.encode(JOBS[job](given))))
    except AilabError as problem:
        answer = _Answer(message=problem.message, hint=problem.hint, key=getattr(problem, "key", ""))
    sys.stdout.buffer.write(msgspec.json.encode(answer))


if __name__ == "__main__":
    main(sys.argv[1])
