"""Power loss, after ALICE (Pillai et al., OSDI 2014): record what a process asks of the disk, and rebuild what may be left of it.

`Recorder(folder)` runs in the process under test and notes every creation, write, flush, rename and removal below a folder, and
what was acknowledged; `states(trace)` runs in the test and gives, for a loss of power behind every operation, folders that POSIX
allows then. What is promised there:

- A file's bytes are safe once the file was flushed; a name, once its folder was flushed. Nothing else is, in no order.
- Bytes that are not safe may be there up to any of them; or the file has its length, but zeros where they should be.
- A name that is not safe may be gone, and with a folder's name all that is in it; a rename may not have happened.

Not modelled: sectors that are torn within, disks that lie about flushes. A hole of zeros in front of newer bytes, which no file
system in use leaves behind an append, is given apart from the others (`holes`).
"""

from __future__ import annotations

import base64
import builtins
import json
import os
import shutil
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from pathlib import Path

Operation = list[Any]
"""[what, path, further things], such as ["write", path, bytes in base 64]."""


class Recorder:
    """Note the operations of this process below `folder`; files that are written by `open` are noted as they are when flushed."""

    def __init__(self, folder: str) -> None:
        self.folder = os.path.abspath(folder)
        self.trace: list[Operation] = []
        self._paths: dict[int, str] = {}
        self._real = {name: getattr(os, name) for name in ("open", "write", "close", "fsync", "fdatasync", "mkdir", "unlink")}
        self._real |= {"rename": os.rename, "replace": os.replace, "file": builtins.open}
        os.open, os.write, os.close = self._open, self._write, self._close
        os.fsync = os.fdatasync = self._flush
        os.mkdir, os.unlink, os.rename, os.replace = self._mkdir, self._unlink, self._rename, self._rename
        builtins.open = self._file
        journal = sys.modules.get("ailab.journal")
        if journal is not None and journal._flush in {self._real["fsync"], self._real["fdatasync"]}:
            journal._flush = self._flush

    def acknowledge(self, what: Any) -> None:
        """Note that a call has returned."""
        self.trace.append(["acknowledged", what])

    def save(self, path: str) -> None:
        """Write the trace as JSON."""
        with self._real["file"](path, "w") as file:
            json.dump(self.trace, file)

    def _here(self, path: Any) -> str | None:
        full = os.path.abspath(os.fspath(path))
        return full if full == self.folder or full.startswith(self.folder + os.sep) else None

    def _open(self, path: Any, flags: int, *rest: Any, **named: Any) -> int:
        new = bool(flags & os.O_CREAT) and not os.path.lexists(path)
        fd: int = self._real["open"](path, flags, *rest, **named)
        here = self._here(path)
        if here is not None:
            self._paths[fd] = here
            if new:
                self.trace.append(["create", here])
        return fd

    def _write(self, fd: int, data: Any) -> int:
        done: int = self._real["write"](fd, data)
        if fd in self._paths:
            self.trace.append(["write", self._paths[fd], base64.b64encode(bytes(data[:done])).decode()])
        return done

    def _close(self, fd: int) -> None:
        self._paths.pop(fd, None)
        self._real["close"](fd)

    def _flush(self, fd: int) -> None:
        self._real["fsync"](fd)
        path = self._paths.get(fd) or os.readlink(f"/proc/self/fd/{fd}")
        if self._here(path) is None and path != os.path.dirname(self.folder):
            return
        if os.path.isdir(path):
            self.trace.append(["flush folder", path])
            return
        if fd not in self._paths:  # made by `open`, whose writes are not seen
            with self._real["file"](path, "rb") as file:
                self.trace.append(["write", path, base64.b64encode(file.read()).decode()])
        self.trace.append(["flush", path])

    def _file(self, file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
        here = self._here(file) if isinstance(file, str | os.PathLike) and set(mode) & set("wxa") else None
        if here is not None and not os.path.lexists(here):
            self.trace.append(["create", here])
        return self._real["file"](file, mode, *rest, **named)

    def _mkdir(self, path: Any, *rest: Any, **named: Any) -> None:
        self._real["mkdir"](path, *rest, **named)
        here = self._here(path)
        if here is not None:
            self.trace.append(["create folder", here])

    def _unlink(self, path: Any, **named: Any) -> None:
        self._real["unlink"](path, **named)
        here = self._here(path)
        if here is not None:
            self.trace.append(["remove", here])

    def _rename(self, source: Any, target: Any, **named: Any) -> None:
        self._real["replace"](source, target, **named)
        here = self._here(target)
        if here is not None:
            self.trace.append(["rename", self._here(source), here])


# -- what may be left --------------------------------------------------------------------------------------------------


@dataclass
class Inode:
    """A file or folder: its bytes so far, and how many of them are safe."""

    is_folder: bool = False
    content: bytes = b""
    safe: int = 0


@dataclass
class Disk:
    """What was asked for so far: names and bytes, and which of them are safe."""

    names: dict[str, Inode] = field(default_factory=dict)
    unsafe: list[tuple[str, str, str]] = field(default_factory=list)
    """(what, path, source) of names that were made or changed and not flushed, in order."""
    acknowledged: list[Any] = field(default_factory=list)

    def do(self, operation: Operation) -> None:
        """Take the next operation."""
        what, path, *more = operation
        if what == "acknowledged":
            self.acknowledged.append(path)
        elif what in {"create", "create folder"}:
            self.names[path] = Inode(is_folder=what == "create folder")
            self.unsafe.append((what, path, ""))
        elif what == "write":
            self.names[path].content += base64.b64decode(more[0])
        elif what == "flush":
            self.names[path].safe = len(self.names[path].content)
        elif what == "flush folder":
            self.unsafe = [change for change in self.unsafe if os.path.dirname(change[1]) != path]
        elif what == "rename":
            self.names[more[0]] = self.names.pop(path)
            self.unsafe = [change for change in self.unsafe if change[1] != path]
            self.unsafe.append(("rename", more[0], path))
        else:
            self.names.pop(path)
            self.unsafe = [change for change in self.unsafe if change[1] != path]

    def build(self, root: str, target: Path, *, gone: frozenset[str], contents: dict[str, bytes]) -> None:
        """Make the folder `target` as it is without the names in `gone`, and with other bytes in the files of `contents`."""
        shutil.rmtree(target, ignore_errors=True)
        for path, inode in sorted(self.names.items()):
            if any(path == name or path.startswith(name + os.sep) for name in gone):
                continue
            place = target / os.path.relpath(path, root)
            if inode.is_folder:
                place.mkdir(parents=True, exist_ok=True)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(contents.get(path, inode.content))
                os.utime(place, (1, 1))  # it took a while to come up again


@dataclass
class State:
    """One folder that may be left: how it came to be, what was acknowledged by then, and how to make it."""

    what: str
    disk: Disk
    gone: frozenset[str]
    contents: dict[str, bytes]


def states(trace: list[Operation], chance: random.Random, *, step: int = 1, holes: bool = False) -> Iterator[State]:
    """For a loss of power behind every `step`-th operation: folders that may be left."""
    disk = Disk()
    for number, operation in enumerate(trace):
        disk.do(operation)
        if number % step and number + 1 < len(trace):
            continue
        files = {path: inode for path, inode in disk.names.items() if not inode.is_folder and inode.safe < len(inode.content)}
        if holes:
            for path, inode in files.items():
                first = chance.randrange(inode.safe, len(inode.content))
                last = min(len(inode.content), first + chance.choice((1, 512, 4096)))
                holed = inode.content[:first] + bytes(last - first) + inode.content[last:]
                yield State(f"{number}: a hole in {path}", disk, frozenset(), {path: holed})
            continue
        nothing = {path: inode.content[: inode.safe] for path, inode in files.items()}
        cut = {path: inode.content[: chance.randint(inode.safe, len(inode.content))] for path, inode in files.items()}
        zeros = {path: bytes(each).ljust(len(disk.names[path].content), b"\0") for path, each in cut.items()}
        names = [path for _, path, _ in disk.unsafe]
        yield State(f"{number}: all there", disk, frozenset(), {})
        yield State(f"{number}: nothing but what is safe", disk, frozenset(names), nothing)
        yield State(f"{number}: bytes up to some", disk, frozenset(), cut)
        yield State(f"{number}: zeros behind some", disk, frozenset(), zeros)
        for path in names:
            yield State(f"{number}: without {path}", disk, frozenset((path,)), {})
        if names:
            some = frozenset(path for path in names if chance.random() < 0.5)
            yield State(f"{number}: without some names, bytes up to some", disk, some, cut)
