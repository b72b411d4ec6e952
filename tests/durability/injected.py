"""Compactions that are killed or fail at the N-th system call of a sort, by strace.

    with Zygote() as zygote:                      # a process with everything imported, so that a trial is a fork
        calls = zygote.calls(folder)              # how many of each a whole compaction of `folder` makes
        zygote.trial(folder, "rename:signal=SIGKILL:when=1")

The forked child waits until strace has been attached to it, so that only the compaction's own calls are counted.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

CALLS = (
    "write", "pwrite64", "fsync", "fdatasync", "rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat",
    "openat", "ftruncate",
)  # fmt: skip
SOURCE = """
import ctypes, os, sys
import pyarrow.dataset, pyarrow.parquet
from ailab import commits, leftovers, store
from ailab.views import compact, record, rewrite


def removed_first():
    '''A control: replaced segments go before the record that replaces them is there.'''
    put = record.put

    def wrong(place, con, batch, **how):
        for span in batch.spans:
            if os.path.exists(place.segment_path(span.segment)):
                os.unlink(place.segment_path(span.segment))
        return put(place, con, batch, **how)

    record.put = wrong


def replaced_first():
    '''A control: records that are made one go before that one is there.'''
    write = rewrite.record.put

    def wrong(place, con, batch, *, replaces=(), **how):
        for name in replaces:
            os.unlink(place.commit_path(name))
        return write(place, con, batch, replaces=replaces, **{**how, "may": lambda: None})

    rewrite.record.put = wrong


if sys.argv[1] != "none":
    {"removed_first": removed_first, "replaced_first": replaced_first}[sys.argv[1]]()
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # let any process of ours trace this one
        os.kill(os.getpid(), 19)
        code = 1
        try:
            compact.compact(store.Store(line[:-1]), grace_s=0, orphan_s=0, merge_records=2, fold=False)
            code = 0
        except (OSError, ValueError) as problem:
            os.write(2, f"{type(problem).__name__}: {problem}\\n".encode())
        finally:
            os._exit(code)
    os.waitpid(child, os.WUNTRACED)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


def missing():
    """Why nothing can be injected here, or None."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    done = subprocess.run(["strace", "-e", "trace=none", "true"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"strace cannot trace here: {done.stderr.strip()}"


class Zygote:
    """A process that forks a compaction for each line that it is given.

    Args:
        control: the name of a protection that is taken away, or "".
    """

    def __init__(self, control=""):
        self.log = Path(tempfile.mkdtemp()) / "strace"
        self.process = subprocess.Popen(
            [sys.executable, "-c", SOURCE, control or "none"], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self.process.stdout.readline() == "ready\n"

    def __enter__(self):
        return self

    def __exit__(self, *problem):
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()
        shutil.rmtree(self.log.parent)

    def trial(self, folder, *inject):
        """Compact `folder` in a child with these injections; how the child ended, as `subprocess` says it."""
        self.process.stdin.write(f"{folder}\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline())
        command = ["strace", "-f", "-qq", "-o", str(self.log), "-e", f"trace={','.join(CALLS)}"]
        tracer = subprocess.Popen([*command, *(part for one in inject for part in ("-e", f"inject={one}")), "-p", str(child)],
                                  stderr=subprocess.PIPE)  # fmt: skip
        while not is_traced(child):
            assert tracer.poll() is None, tracer.stderr.read()
        os.kill(child, signal.SIGCONT)
        status = int(self.process.stdout.readline())
        tracer.communicate(timeout=30)
        return os.waitstatus_to_exitcode(status)

    def calls(self, folder):
        """How many calls of each sort a compaction of `folder` makes."""
        assert self.trial(folder) == 0
        names = re.findall(r"^\d+ +(\w+)\(", self.log.read_text(), re.MULTILINE)
        return {call: names.count(call) for call in CALLS if call in names}


def is_traced(pid):
    """Whether somebody traces the process."""
    return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()
