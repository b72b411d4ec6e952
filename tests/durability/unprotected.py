"""The build with one protection off: whatever a test of this folder promises, it must find broken here.

A negative control runs the same trials with `UNPROTECTED=name` in the environment of the processes that it starts, or calls
`apply(name, monkeypatch.setattr)` in its own; then it asserts that the harness finds the failure. Nothing of the product knows of
this module: each switch replaces one function or constant of it, and says which promise hangs on that.

What a switch replaces is replaced where it stands, before a run is started: the fast path of `log` keeps what it found then.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Patch = Callable[[Any, str, Any], None]

BUFFER_BYTES = 8192
ONE_FILE = "T_h_1_x"
"""Where every writer writes that makes no name of its own."""


def apply(names: str | None = None, patch: Patch = setattr) -> None:
    """Switch off the protections named, by default those in UNPROTECTED; without any nothing is touched."""
    for name in (os.environ.get("UNPROTECTED", "") if names is None else names).split():
        SWITCHES[name](patch)


def is_segment(fd: int) -> bool:
    """Whether a descriptor is a segment's."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}").endswith(".jsonl")
    except OSError:
        return False


# -- reading -----------------------------------------------------------------------------------------------------------


def checksum(patch: Patch) -> None:
    """Lines prove nothing: the checksum that a line states is taken as right."""
    from ailab import journal, segments

    def stated(line: bytes) -> int | None:
        found = re.search(rb'"crc":(\d+)\}$', line)
        return int(found[1]) if found else None

    patch(segments, "stated_crc", stated)
    patch(journal, "stated_crc", stated)


def chain(patch: Patch) -> None:
    """`prev` is not compared: a line may follow any other."""
    from ailab import segments

    class Whatever(int):
        __hash__ = int.__hash__

        def __eq__(self, other: object) -> bool:
            return True

        def __ne__(self, other: object) -> bool:
            return False

    class Decoder:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def decode(self, line: bytes) -> Any:
            envelope = self.inner.decode(line)
            envelope.prev = Whatever(envelope.prev)
            return envelope

    patch(segments, "_decoder", Decoder(segments._decoder))


def footer(patch: Patch) -> None:
    """What a footer states of the bytes before it is not compared with them."""
    from ailab import segments

    patch(segments.Segment, "_check_footer", lambda *_: None)


def births(patch: Patch) -> None:
    """A segment's name at birth is not looked at: every file is a segment of its own."""
    from ailab import checkup, segments

    patch(segments.Segment, "birth", property(lambda self: self.name))
    patch(checkup._Look, "_is_copy", lambda *_: False)


def each_alone(patch: Patch) -> None:
    """An error in reading one segment ends the reading of all."""
    from ailab import segments

    real = segments.Tail._read

    def read(self: Any, segment: Any) -> Any:
        try:
            yield from real(self, segment)
        except OSError as problem:
            raise RuntimeError(str(problem)) from problem

    patch(segments.Tail, "_read", read)


def bad_json(patch: Patch) -> None:
    """What is no JSON, or has other types than a line, is not expected."""
    import msgspec

    from ailab import segments

    class Decoder:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def decode(self, line: bytes) -> Any:
            try:
                return self.inner.decode(line)
            except msgspec.DecodeError as problem:
                raise ArithmeticError(str(problem)) from problem

    patch(segments, "_decoder", Decoder(segments._decoder))


def format_number(patch: Patch) -> None:
    """Every format is taken as known."""
    from ailab import events

    patch(events, "FORMAT", 10**9)


def same_host(patch: Patch) -> None:
    """A reader does not see that a writer was on its own machine, and waits for silence."""
    from ailab import capture

    patch(capture, "boot_id", lambda: "another boot")


def process_start(patch: Patch) -> None:
    """A reader cannot ask for a process; only locks tell who lives."""
    from ailab import capture

    patch(capture, "process_start", lambda _: None)


# -- writing -----------------------------------------------------------------------------------------------------------


def resync(patch: Patch) -> None:
    """A torn line is not ended before the next one."""
    from ailab import journal

    patch(journal, "_TORN_END", b"")


def dirty(patch: Patch) -> None:
    """After an interrupt the writer trusts its memory, not its file."""
    from ailab import journal

    patch(journal.Writer, "_recover", lambda _: None)


def fork(patch: Patch) -> None:
    """A forked child goes on in its parent's segment, with its parent's seq."""
    from ailab import journal

    patch(journal.Writer, "forked", lambda _: None)


def half_imported(patch: Patch) -> None:
    """What a thread of its parent was importing is no concern of a forked child's."""
    from ailab import forks

    patch(forks, "_forget_half_imported", lambda: None)


def short_wait(patch: Patch) -> None:
    """A fork waits until everything that must not be cut in two is done, however long that takes."""
    from ailab import forks

    patch(forks, "WAIT_SECONDS", 1e6)


def undivided(patch: Patch) -> None:
    """A fork waits for nothing."""
    from ailab import forks

    patch(forks, "hold", lambda: None)


def owed(patch: Patch) -> None:
    """What a thread of its parent had begun for a run is left out by a forked child that ends the run."""
    from ailab import runs

    patch(runs.Run, "_wait_for_capture", lambda *_: None)


def own_buffer(patch: Patch) -> None:
    """A forked child encodes into the bytes that its parent may have been writing from."""
    from ailab import journal

    real = journal.Writer._build

    def build(self: Any) -> None:
        real(self)
        renew = self._renew
        buffer = dict(zip(renew.__code__.co_freevars, renew.__closure__, strict=True))["buffer"]

        def keep() -> None:
            kept = buffer.cell_contents
            renew()
            buffer.cell_contents = kept

        self._renew = keep

    patch(journal.Writer, "_build", build)


def exclusive(patch: Patch) -> None:
    """Segments are opened whoever made them, and all writers of a run use one name."""
    from ailab import journal

    real = os.open

    def open_(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        return real(path, flags & ~os.O_EXCL if str(path).endswith(".jsonl") else flags, *rest, **named)

    patch(os, "open", open_)
    patch(journal, "segment_name", lambda run, **_: f"{ONE_FILE}_{run}")


def unbuffered(patch: Patch) -> None:
    """Lines rest in the process's memory until there are enough of them, as with a file object of the standard library."""
    real, held = os.write, {}

    def write(fd: int, data: Any) -> int:
        if not is_segment(fd):
            return real(fd, data)
        buffer = held.setdefault(fd, bytearray())
        buffer += data
        if len(buffer) >= BUFFER_BYTES:
            real(fd, buffer)
            buffer.clear()
        return len(data)

    patch(os, "write", write)


def flush(patch: Patch) -> None:
    """Nothing is flushed to the disk."""
    from ailab import journal

    patch(journal, "_flush", lambda _: None)


def folder_flush(patch: Patch) -> None:
    """The bytes of a file are flushed, its name is not."""
    from ailab import journal

    patch(journal, "_flush_names", lambda _: None)


def edge(patch: Patch) -> None:
    """What goes wrong inside a logging call goes up into the training."""
    from ailab import journal, runs

    def drop(self: Any, late: Any, problem: OSError) -> None:
        raise problem

    patch(journal.Writer, "_drop", drop)
    patch(runs.Edge, "__exit__", lambda *_: False)


def counted(patch: Patch) -> None:
    """What could not be written is forgotten."""
    from ailab import journal

    patch(journal.Writer, "_drop", lambda *_: None)


def observed(patch: Patch) -> None:
    """A writer that takes up a run does not look at the clocks of those before it."""
    from ailab import journal

    patch(journal.Writer, "observe", lambda *_: None)


def digits(patch: Patch) -> None:
    """Numbers are written with fifteen digits, as many a tool does."""
    from ailab import journal

    real = journal._encoder

    class Encoder:
        encode = real.encode

        @staticmethod
        def encode_into(value: Any, into: bytearray, *place: int) -> None:
            real.encode_into(value, into, *place)
            if not place:
                into[:] = re.sub(rb"(?<=\":)-?\d+\.\d+(e-?\d+)?", lambda m: b"%.15g" % float(m[0]), bytes(into))

    patch(journal, "_encoder", Encoder())


def own_lock(patch: Patch) -> None:
    """All writers of a process share one lock."""
    from ailab import journal

    one = journal.RLock()
    patch(journal, "RLock", lambda: one)


SWITCHES: dict[str, Callable[[Patch], None]] = {
    each.__name__: each
    for each in (
        checksum, chain, footer, births, each_alone, bad_json, format_number, same_host, process_start, resync, dirty, fork,
        half_imported, short_wait, undivided, owed, own_buffer, exclusive, unbuffered, flush, folder_flush, edge, counted,
        observed, digits, own_lock,
    )
}  # fmt: skip
