"""The lines that a process prints while a run is open, as a terminal would show them.

`Tee` stands in for the `write` of `sys.stdout` and `sys.stderr`. Who prints: any thread; its text goes on first and unchanged,
and then costs it one append to a queue. Who reads: the thread beside the training (`pulse`) about every second, and `finish`;
they turn texts into lines (`_Screen`), redact them, and hand `console_lines.logged` events to `keep`.

What holds. Nothing is raised into whoever prints but what the stream itself raises. Memory is bounded (`QUEUE_SIZE`), and so is
what is kept: `RATE_LINES` a second after `BURST_LINES`, `RUN_CHARACTERS` a run and then only its last `LAST_LINES`, of a line
`LINE_CHARACTERS`. What is left out is counted in `dropped` of the next event, or of one without lines. A line is redacted before
it is cut. After a crash: what was printed within the last second, and a line that had not ended, are not there. What is not
promised: output of C code and of child processes, which does not pass through `write`; see docs/decisions/0019.
"""

from __future__ import annotations

import os
import sys
import time
from _thread import RLock, get_ident
from collections import Counter, deque
from functools import cache
from io import TextIOWrapper
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from .events import ConsoleLinesLogged

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable

LINE_CHARACTERS = 4096
"""What is kept of one line, with the note that it was cut."""
QUEUE_SIZE = 1 << 19
"""Characters that wait at most, with `PIECE_SIZE` for each text; the oldest go first."""
CALLS = 10
"""How often the reader is called early, because the queue is half full, ..."""
CALL_SECONDS = 10.0
"""... and after how long once more: a burst is kept whole, a flood does not cost more than its share of a core."""
PIECE_SIZE = 64
RATE_LINES = 100
"""Lines a second that are kept in the long run."""
BURST_LINES = 5000
"""Lines that are kept at once, when little was printed before."""
RUN_CHARACTERS = 10_000_000
"""Characters that are kept of a run's output in one process, and then `LAST_LINES` more."""
LAST_LINES = 100
BATCH_LINES = 100
BATCH_CHARACTERS = 1 << 16
FINAL_WAIT_SECONDS = 1.0
"""How long a signal handler that ends the process waits for lines that are being written."""
SCREENS_MAX = 256
"""Threads whose unfinished lines are told apart."""
DEPTH_MAX = 32
"""How far up a cursor moves at most, as progress bars below each other do."""

_ROW_CHARACTERS = 4 * LINE_CHARACTERS
_MARGIN = 512
"""The end of a line that was too long to be redacted whole: a secret may begin in it and be cut."""
_ESCAPE_CHARACTERS = 256


# -- what a terminal shows ---------------------------------------------------------------------------------------------


class _Row:
    """A line of a screen: its text so far, and how long it was at its longest."""

    __slots__ = ("edited", "queued", "stream", "text", "width")

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.text = ""
        self.width = 0
        self.edited = False
        self.queued = False


class _Screen:
    """The rows that one thread prints on one stream, and a cursor among them; a row that the cursor has left is queued once.

    Understood are what progress bars use: newline, carriage return, backspace, and the ANSI sequences that move the cursor within
    the last rows or erase in a line. All other sequences, colours among them, and control characters leave no trace.
    """

    __slots__ = ("at", "column", "depth", "fell", "rest", "rose", "rows", "stream")

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.rows = [_Row(stream)]
        self.at = 0
        self.column = 0
        self.depth = 0  # rows above the cursor that it came back to lately
        self.rose = self.fell = False
        self.rest = ""  # a sequence that has not ended

    def feed(self, text: str, queue: list[_Row]) -> None:
        """Show a text; rows that the cursor leaves downwards are appended to `queue`."""
        if self.rest:
            text, self.rest = self.rest + text, ""
        done = 0
        for found in _controls().finditer(text):
            self._plain(text[done : found.start()], queue)
            done = found.end()
            if found["open"] is not None and len(found[0]) <= _ESCAPE_CHARACTERS:
                self.rest = found[0]
            elif found["open"] is not None:  # nothing that a terminal would wait for
                self._plain(found[0][2:], queue)
            elif found["verb"] is not None:
                self._obey(found["verb"], found["number"] or "", queue)
            elif found[0] == "\r":
                self.column = 0
            elif found[0] == "\b":
                self.column = max(0, self.column - 1)
        self._plain(text[done:], queue)

    def _plain(self, text: str, queue: list[_Row]) -> None:
        first, *others = text.split("\n")
        self._put(first)
        for part in others:
            self._newline(queue)
            self._put(part)

    def _put(self, text: str) -> None:
        if not text:
            return
        row, column = self.rows[self.at], self.column
        self.column = end = column + len(text)
        row.width = max(row.width, end)
        if column >= _ROW_CHARACTERS:
            return
        if column == len(row.text):
            row.text = (row.text + text)[:_ROW_CHARACTERS]
        else:
            row.edited = True
            row.text = (row.text[:column].ljust(column) + text + row.text[end:])[:_ROW_CHARACTERS]

    def _newline(self, queue: list[_Row]) -> None:
        row = self.rows[self.at]
        if not row.queued:
            row.queued = True
            queue.append(row)
        self.at += 1
        self.column = 0
        self.fell = True
        if self.at == len(self.rows):
            self.rows.append(_Row(self.stream))

    def _obey(self, verb: str, parameter: str, queue: list[_Row]) -> None:
        """Do what an ANSI sequence says."""
        count = int(parameter[:4]) if parameter.isdecimal() and parameter.isascii() else 0
        if verb in "AF":
            up = min(max(1, count), self.at, DEPTH_MAX)
            self.at -= up
            self.depth, self.rose = max(self.depth, up), True
        elif verb in "BE":
            for _ in range(min(max(1, count), len(self.rows) - 1 - self.at)):
                column = self.column
                self._newline(queue)
                self.column = column
        elif verb == "C":
            self.column += min(max(1, count), LINE_CHARACTERS)
        elif verb == "D":
            self.column = max(0, self.column - max(1, count))
        elif verb == "G":
            self.column = max(0, count - 1)
        elif verb == "K":
            row = self.rows[self.at]
            row.edited = True
            kept = {0: row.text[: self.column], 1: row.text[self.column :].rjust(len(row.text))}
            row.text = kept.get(count, "")
        if verb in "EF":
            self.column = 0

    def settle(self) -> list[_Row]:
        """Let the rows go that the cursor will not come back to, and return those it may come back to."""
        if self.fell and not self.rose:
            self.depth = 0
        self.rose = self.fell = False
        first = max(0, self.at - self.depth)
        del self.rows[:first]
        self.at -= first
        return self.rows

    def is_empty(self) -> bool:
        """Whether nothing is on it and nothing is begun."""
        return len(self.rows) == 1 and not self.rows[0].text and not self.rest


@cache
def _controls() -> re.Pattern[str]:
    import re

    return re.compile(
        r"\x1b\[(?P<number>[0-9;?]*)[ -/]*(?P<verb>[@-~])"
        r"|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)"
        r"|(?P<open>\x1b(?:\[[0-9;?]*[ -/]*|[\]PX^_][^\x07\x1b\n]*\x1b?)?\Z)"
        r"|\x1b[ -/]*[0-~]?"
        r"|[\x00-\x08\x0b-\x1f\x7f]"
    )


# -- what is kept of a run ---------------------------------------------------------------------------------------------


class Roll:
    """The printed lines of one run: screens, lines that wait, and how much may still be kept."""

    def __init__(self, run: Any) -> None:
        self.run = run
        self.screens: dict[tuple[str, int], _Screen] = {}
        self.queue: list[_Row] = []
        self.left_out: dict[str, int] = {}
        self._characters = RUN_CHARACTERS
        self._tokens: dict[str, float] = {}
        self._counted_at = time.monotonic()
        self._last: deque[tuple[str, str]] = deque()
        self._in_key: set[str] = set()

    def show(self, stream: str, thread: int, text: str) -> None:
        """Take a text that a thread has printed."""
        screen = self.screens.get((stream, thread))
        if screen is None:
            thread = thread if len(self.screens) < SCREENS_MAX else 0
            screen = self.screens.get((stream, thread))
        if screen is None:
            screen = self.screens[stream, thread] = _Screen(stream)
        screen.feed(text, self.queue)

    def end_line(self, stream: str, thread: int) -> None:
        """End a line whose rest was left out."""
        screen = self.screens.get((stream, thread))
        if screen is not None and not screen.is_empty():
            screen.feed("\n", self.queue)

    def leave_out(self, stream: str, count: int = 1) -> None:
        """Count lines that are not kept."""
        if count:
            self.left_out[stream] = self.left_out.get(stream, 0) + count

    def events(self, *, end: bool = False) -> Iterable[ConsoleLinesLogged]:
        """What is to be written now; at the `end`, lines that have no newline too."""
        lines = self._chosen(self._ended(end=end), end=end)
        streams = dict.fromkeys(stream for stream, _ in lines)
        for stream in streams:
            clean = iter(self._redacted(stream, [line for of, line in lines if of == stream]))
            lines = [(of, next(clean) if of == stream else line) for of, line in lines]
        kept: list[tuple[str, str]] = []
        for stream, line in lines:
            if self._characters > 0:
                self._characters -= len(line) + 1
                kept.append((stream, line))
            else:
                self._last.append((stream, line))
                if len(self._last) > LAST_LINES:
                    self.leave_out(self._last.popleft()[0])
        if end:
            kept += self._last
        yield from self._batches(kept)
        if end:
            for stream, count in self.left_out.items():
                yield ConsoleLinesLogged(stream=stream, lines=[], dropped=count)

    def _ended(self, *, end: bool) -> list[_Row]:
        """The rows that nothing will change any more, in the order in which they were printed."""
        if end:
            ready, self.queue = self.queue, []
            for screen in self.screens.values():
                ready += [row for row in screen.rows if not row.queued and row.text]
            self.screens.clear()
            return ready
        live = {id(row) for screen in self.screens.values() for row in screen.settle()}
        ready = [row for row in self.queue if id(row) not in live]
        self.queue = [row for row in self.queue if id(row) in live]
        self.screens = {key: screen for key, screen in self.screens.items() if not screen.is_empty()}
        return ready

    def _chosen(self, rows: list[_Row], *, end: bool) -> list[tuple[str, str]]:
        """(stream, text) of as many of the last rows of each stream as the rate allows."""
        now = time.monotonic()
        more, self._counted_at = (now - self._counted_at) * RATE_LINES, now
        surplus: dict[str, int] = {}
        for stream, count in Counter(row.stream for row in rows).items():
            tokens = self._tokens.get(stream, float(BURST_LINES))
            allowed = max(int(tokens), LAST_LINES if end else 0)
            surplus[stream] = max(0, count - allowed)
            self._tokens[stream] = max(0.0, tokens - count)
        for stream, tokens in self._tokens.items():
            self._tokens[stream] = min(BURST_LINES, tokens + more)
        found = []
        for row in rows:
            if surplus[row.stream]:
                surplus[row.stream] -= 1
                self.leave_out(row.stream)
            else:
                found.append((row.stream, _bounded(row)))
        return found

    def _redacted(self, stream: str, lines: list[str]) -> list[str]:
        """As many lines, without secrets; of a private key also what was printed in an earlier second."""
        from .redaction import REDACTED, environment_secrets, redact_with, valid_text

        secrets = environment_secrets()
        before = ["-----BEGIN PRIVATE KEY-----"] if stream in self._in_key else []
        text = valid_text("\n".join([*before, *lines]))
        clean = redact_with(text, secrets=secrets, code=False).split("\n")[len(before) :]
        if len(clean) != len(lines):
            clean = [redact_with(valid_text(line), secrets=secrets, code=False) for line in lines]
        begun, ended = text.rfind("-----BEGIN "), text.rfind("-----END ")
        if begun > ended and (clean[-1].endswith(REDACTED) or "PRIVATE KEY" in lines[-1]):
            self._in_key.add(stream)
        else:
            self._in_key.discard(stream)
        return [_cut(line, len(given)) for line, given in zip(clean, lines, strict=True)]

    def _batches(self, lines: list[tuple[str, str]]) -> Iterable[ConsoleLinesLogged]:
        """Events of neighbours on one stream."""
        batch: list[str] = []
        size, of = 0, ""
        for stream, line in lines:
            if batch and (stream != of or len(batch) == BATCH_LINES or size > BATCH_CHARACTERS):
                yield ConsoleLinesLogged(stream=of, lines=batch, dropped=self.left_out.pop(of, 0))
                batch, size = [], 0
            batch.append(line)
            size, of = size + len(line), stream
        if batch:
            yield ConsoleLinesLogged(stream=of, lines=batch, dropped=self.left_out.pop(of, 0))


def _bounded(row: _Row) -> str:
    """A row's text, with a note in place of what is too long for it."""
    text = row.text.rstrip(" ") if row.edited else row.text
    return text if len(text) <= LINE_CHARACTERS else text[:_ROW_CHARACTERS] + _note(row.width)


def _note(width: int) -> str:
    return f" [cut: {width} characters in all]"


def _cut(line: str, given: int) -> str:
    """A redacted line at its length; `given` characters of it were read."""
    if given <= LINE_CHARACTERS:
        return line
    body, mark, note = line.rpartition(" [cut: ")
    if not mark:  # the note went with the secret before it
        body, note = line, ""
    note = mark + note
    return body[: max(0, min(LINE_CHARACTERS - len(note), len(body) - _MARGIN))] + note


# -- the tee -----------------------------------------------------------------------------------------------------------


class _Tap:
    """A stream whose `write` is ours, and how it was."""

    __slots__ = ("original", "own", "stream", "write")

    def __init__(self, stream: Any, original: Any, write: Any, *, own: bool) -> None:
        self.stream = stream
        self.original = original
        self.write = write
        self.own = own

    def is_installed(self) -> bool:
        return getattr(self.stream, "write", None) is self.write

    def is_bare(self) -> bool:
        """Whether the stream has its own `write`, because a fork came before ours was put there or behind its removal."""
        return bool(getattr(self.stream, "write", None) == self.original)

    def remove(self) -> None:
        if self.own:
            self.stream.write = self.original
        else:
            del self.stream.write


class Tee:
    """Takes what is printed, and gives it on as events.

    The `write` of a stream is replaced on the object, so that whoever got hold of the stream before (a logging handler, a
    progress bar) is heard too, and everything else about it stays as it is. A text is brought to its run when it is read: that of
    the context it was printed in, else the newest that is open.

    Args:
        who: the run of the context that this is called in, or None.
        keep: called with a run, an event of it, and whether a signal handler ends the process; does not raise.
        call: asks the reader to `drain` soon; at home in a signal handler.
        warn: called with a sentence about a stream that cannot be heard.
    """

    def __init__(
        self,
        who: Callable[[], Any],
        keep: Callable[[Any, ConsoleLinesLogged, bool], None],
        call: Callable[[], None],
        warn: Callable[[str], None],
    ) -> None:
        self.live = False
        """Whether anybody wants to know what is printed."""
        self._who = who
        self._keep = keep
        self._call = call
        self._warn = warn
        self._taps: list[_Tap] = []
        self._guarded = False
        self._inside: set[int] = set()
        self._pieces: deque[tuple[Any, str, int, str]] = deque()
        self.forked()

    def forked(self) -> None:
        """Begin anew, in a forked child too: what was printed before the fork is the parent's to tell."""
        self.live = False
        self._set_taps([tap for tap in self._taps if not tap.is_bare()])
        self._tapping = RLock()  # held while streams, or who hears them, change
        self._making_room = RLock()
        self._draining = RLock()
        self._rolls: dict[str, Roll] = {}
        self._inside.clear()
        self._pieces.clear()
        self._size = 0
        self._full = QUEUE_SIZE // 2
        self._calls = float(CALLS)
        self._drained_at = 0.0
        self._lost: dict[tuple[Any, str, int], tuple[int, bool]] = {}
        self._missed: dict[str, int] = {}

    def open(self, run: Any) -> None:
        """Keep lines for a run from now on."""
        if self._rolls:
            self.drain()  # what no context claims is still the other run's
        with self._tapping:
            self._rolls[run.id] = Roll(run)
            self.live = True
            self.install()

    def close(self, run: Any, *, final: bool = False) -> None:
        """Write what a run has printed, and keep no more; with the last run, the streams are what they were."""
        if self._rolls:
            self.drain(end=run, final=final)  # of a run that keeps no lines too: while it runs, they are not another one's
        with self._tapping:
            self._rolls.pop(run.id, None)
            if not self._rolls:
                self.live = False
                self._remove()

    # -- streams -----------------------------------------------------------------------------------------------------

    def install(self, *, follow: bool = False) -> None:
        """Hear the streams that stand in `sys` now; with `follow` a new one only if it writes to the same descriptor."""
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name, None)
            if stream is None or any(tap.stream is stream for tap in self._taps):
                continue
            if follow and _descriptor(stream) not in {_descriptor(tap.stream) for tap in self._taps} - {None}:
                continue
            with self._tapping:
                if self.live and all(tap.stream is not stream for tap in self._taps):  # still, and nobody else's by now
                    self._tap(name, stream)

    def _tap(self, name: str, stream: Any) -> None:
        try:
            own = "write" in getattr(stream, "__dict__", ())
            original = stream.write
            tap = _Tap(stream, original, self._writer(name, original), own=own)
            self._set_taps([*self._taps, tap])  # first: a forked child must not hear twice what it finds no tap of
            stream.write = tap.write
        except (AttributeError, TypeError) as problem:
            self._set_taps([tap for tap in self._taps if tap.stream is not stream])
            self._warn(f"what is printed on {name} is not kept: {problem}; training goes on")

    def _remove(self) -> None:
        """Give each stream its own `write` back, unless somebody put another one over ours; ours then only passes on."""
        kept = []
        for tap in self._taps:
            if tap.is_installed():
                tap.remove()
            else:
                kept.append(tap)
        self._set_taps(kept)

    def _set_taps(self, taps: list[_Tap]) -> None:
        self._taps = taps
        self._guarded = any(not isinstance(tap.stream, TextIOWrapper) for tap in taps)

    def _writer(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        """A `write` that passes on and then notes: no lock and no call of ours, since a line of four words is eight texts."""
        append, who, thread_of = self._pieces.append, self._who, get_ident

        def write(text: Any, *more: Any, **named: Any) -> Any:
            if not self.live:
                return original(text, *more, **named)
            if self._guarded:
                thread = thread_of()
                if thread in self._inside:
                    return original(text, *more, **named)
                self._inside.add(thread)
                try:
                    done = original(text, *more, **named)
                finally:
                    self._inside.discard(thread)
            else:
                done = original(text, *more, **named) if more or named else original(text)
            try:
                if isinstance(text, str):
                    size = len(text) + PIECE_SIZE
                    append((who(), name, thread_of(), text))
                    self._size += size
                    if self._size > self._full:
                        self._make_room()
            except (MemoryError, RecursionError):  # ours, and no reason for `print` to fail
                self._missed[name] = self._missed.get(name, 0) + 1
            return done

        return write

    def _make_room(self) -> None:
        """Call the reader early; where he does not come in time, leave the oldest texts out, a quarter of the room."""
        self._full = QUEUE_SIZE
        if self._size <= QUEUE_SIZE:
            if self._calls >= 1:
                self._calls -= 1
                self._call()
            return
        with self._making_room:
            while self._size > QUEUE_SIZE * 3 // 4 and self._pieces:
                run, name, thread, text = self._pieces.popleft()
                self._size -= len(text) + PIECE_SIZE
                lost = text
                if not self._pieces and len(text) > QUEUE_SIZE // 2:  # one text alone is too long: its end stays
                    lost, rest = text[: -QUEUE_SIZE // 2], text[-QUEUE_SIZE // 2 :]
                    self._pieces.appendleft((run, name, thread, rest))
                    self._size += len(rest) + PIECE_SIZE
                count, _ = self._lost.get((run, name, thread), (0, False))
                self._lost[run, name, thread] = count + lost.count("\n"), not lost.endswith("\n")

    # -- lines -------------------------------------------------------------------------------------------------------

    def drain(self, *, end: Any = None, final: bool = False) -> None:
        """Write the lines that ended since the last time, and for the run `end` all that there is.

        A signal handler that has interrupted this very function gets nothing: what is under way goes on behind it.
        """
        if self._draining._is_owned():  # type: ignore[attr-defined]
            return
        if not self._draining.acquire(timeout=FINAL_WAIT_SECONDS if final else -1):
            return
        try:
            self._sort_out()
            for roll in list(self._rolls.values()):
                for event in roll.events(end=roll.run is end):
                    self._keep(roll.run, event, final)
        finally:
            self._draining.release()

    def _roll_of(self, run: Any) -> Roll | None:
        """The roll for what was printed in the context of a run; a running one that keeps no lines has none."""
        if run is not None and run.status == "running":
            found = self._rolls.get(run.id)
            if found is not None or run._pid == os.getpid():
                return found
        return next(reversed(list(self._rolls.values())), None)

    def _sort_out(self) -> None:
        """Bring what waits onto the screens."""
        with self._making_room:
            pieces = [self._pieces.popleft() for _ in range(len(self._pieces))]
            self._size -= sum(len(piece[3]) + PIECE_SIZE for piece in pieces)
            now = time.monotonic()
            self._calls = min(CALLS, self._calls + (now - self._drained_at) / CALL_SECONDS)
            self._drained_at, self._full = now, QUEUE_SIZE // 2
            lost, self._lost = self._lost, {}
            missed, self._missed = self._missed, {}
        for roll in list(self._rolls.values()):
            for name, count in missed.items():
                roll.leave_out(name, count)
        torn = self._tell_lost(lost)
        for key, some in groupby(pieces, itemgetter(0, 1, 2)):
            run, name, thread = key
            text = "".join([piece[3] for piece in some])
            found = self._roll_of(run)
            if key in torn:
                whole = text.find("\r") + 1  # a bar is drawn anew from there
                end = text.find("\n", 0, whole or None) + 1
                text = text[end or whole or len(text) :]
                if end or whole:
                    torn.discard(key)
                if end and found is not None:
                    found.leave_out(name)
            if text and found is not None:
                found.show(name, thread, text)
        for key in torn:
            self._lost.setdefault(key, (0, True))

    def _tell_lost(self, lost: dict[tuple[Any, str, int], tuple[int, bool]]) -> set[tuple[Any, str, int]]:
        """Count lines that were left out; return who had begun one, the rest of which is to go as well."""
        for (run, name, thread), (count, _) in lost.items():
            found = self._roll_of(run)
            if found is not None:
                found.end_line(name, thread)
                found.leave_out(name, count)
        return {key for key, (_, is_torn) in lost.items() if is_torn}


def _descriptor(stream: Any) -> int | None:
    """The file descriptor that a stream writes to, where it has one."""
    try:
        found = stream.fileno()
    except (AttributeError, OSError, ValueError, TypeError):  # it is none, it is closed, or it stands for another one
        return None
    return found if isinstance(found, int) else None
