"""What a store stands on: room on the disk, rights, locks, git, packages, the settings that hold, servers that it is shipped to.

Who asks: the checkup. It writes nothing, and takes no lock longer than it takes to see whether locks work. Nobody is asked over
the network but the server of AILAB_API_URL, which is shown AILAB_TOKEN, for `ANSWER_S` at most at each step.
"""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from . import __version__, background, claims, outbox, remote, settings
from .errors import AilabError, SettingError
from .store import MARKER, size_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .commits import Chosen
    from .store import Store

try:
    import fcntl
except ImportError:  # Windows has no flock
    fcntl = None  # type: ignore[assignment]

FREE_LOW = 1 << 30
FREE_NONE = 50 << 20
ANSWER_S = 3.0
"""So long a server may be silent before it is taken as away."""

Level = Literal["ok", "note", "warning", "error"]


class Say(Protocol):
    """Takes a finding."""

    def __call__(self, level: Level, what: str, *, where: str = "", cost: str = "", hint: str = "") -> None:
        """Add it."""


class Machine(NamedTuple):
    """Bytes that are free, whether locks work, where git is, and versions of what answers are made with."""

    free_bytes: int
    flock: bool
    git: str | None
    versions: dict[str, str | None]


def machine(store: Store, say: Say) -> Machine:
    """Room, rights, locks, git, packages."""
    free_bytes = shutil.disk_usage(store.path).free
    if free_bytes < FREE_LOW:
        level: Level = "error" if free_bytes < FREE_NONE else "warning"
        say(
            level,
            f"{free_bytes >> 20} MiB are free on this disk",
            where=store.path,
            hint="points are dropped when it is full",
        )
    if not os.access(store.segments if os.path.isdir(store.segments) else store.path, os.W_OK):
        say(
            "warning",
            "the store cannot be written by this user",
            where=store.path,
            cost="nothing new can be logged",
            hint="reading works",
        )
    flock = _flock_works(os.path.join(store.path, MARKER))
    if flock:
        say("ok", "flock works on this file system", where=store.path)
    else:
        say(
            "note",
            "flock does not work on this file system",
            where=store.path,
            cost="nothing",
            hint="whether a writer lives is told by its process, on another host by silence",
        )
    git = shutil.which("git")
    if git:
        say("ok", "git is found", where=git)
    else:
        say("note", "git is not found", cost="runs keep their script instead of commit and diff", hint="install git")
    versions = _versions()
    for name in [name for name, version in versions.items() if version is None]:
        say("error", f"{name} is not installed", cost="nothing can be read", hint="pip install ailab")
    return Machine(free_bytes, flock, git, versions)


def settings_that_hold(say: Say) -> None:
    """Say which settings do not parse, or that they all do."""
    well = True

    def complain(level: Level, what: str, **more: str) -> None:
        nonlocal well
        well = False
        say(level, what, **more)

    dotenv = _nearest(".env")
    lines = _dotenv(dotenv, complain) if dotenv else {}
    problems: list[Exception] = []
    settings.load(problems=problems)
    for problem in problems:
        if isinstance(problem, SettingError):
            name = problem.message.split(" ", 1)[0].rstrip(":")
            where = f"{dotenv}:{lines[name]}" if name in lines and " in .env" in problem.message else ""
            complain("error", problem.message, where=where, cost="the default holds instead", hint=problem.hint)
        else:
            path = getattr(problem, "filename", None) or ""
            complain("error", f"settings cannot be read: {problem}", where=path, hint="check who may read it")
    known = {variable for field in settings.Settings.__struct_fields__ for variable in settings.variables(field)}
    for name in sorted({*os.environ, *lines}):
        if name.startswith("AILAB_") and name not in known:
            where = f"{dotenv}:{lines[name]}" if name in lines else "environment"
            complain(
                "note", f"no setting {name}", where=where, cost="it sets nothing", hint=f"allowed: {', '.join(sorted(known))}"
            )
    if well:
        say("ok", "the settings parse", where=dotenv or "")


def servers(store: Store, chosen: Chosen, say: Say) -> None:
    """Say of each server that the store is shipped to whether it answers, and how much of the store is not there.

    Args:
        store: the store.
        chosen: what tables have of segments, those that are no files any more among them.
        say: takes what is found.
    """
    setting, told = settings.load(problems=[]), outbox.outcomes(store)
    if not setting.api_url and not told:
        return
    held = _Held(store, chosen)
    configured = ""
    if setting.api_url:
        try:
            configured = outbox.plain_url(setting.api_url)
            _configured(outbox.Outbox(store, configured), setting.token, held, say)
        except SettingError as problem:
            say("error", problem.message, cost="nothing is sent to a server", hint=problem.hint)
    for outcome in told:
        box = outbox.Outbox(store, outcome.url)
        events = held.events(held.unsent(box)) if outcome.url != configured else 0
        if events:
            hint = f"`ailab sync {outcome.url}`; or remove {os.path.basename(box.path)}, if it is not meant any more"
            say("note", f"{_counted(events)} not at {outcome.url}, to which a training has shipped", where=box.path, hint=hint)


def _configured(box: outbox.Outbox, token: str | None, held: _Held, say: Say) -> None:
    """The server of AILAB_API_URL: it tells itself what it lacks; where it does not, what was noted here counts."""
    try:
        lacks = remote.ask_what_lacks(box.url, token, held.sizes, timeout_s=ANSWER_S)
    except AilabError as problem:
        events = held.events(held.unsent(box))
        cost = f"{_counted(events)} in this store alone" if events else "nothing yet: all is there as far as is known"
        say(
            "warning", problem.message, cost=cost, hint=problem.hint or "when it answers, the next run or `ailab sync` sends them"
        )
        return
    events, outcome = held.events(lacks), box.outcome()
    sender = claims.holder(held.store, background.shipping_claim(box.url))
    if not events:
        say("ok", f"{box.url} answers, and has all of this store")
    elif sender is not None:
        say("note", f"{_counted(events)} not at {box.url} yet", hint=f"process {sender.pid} sends them")
    else:
        why = outcome.said if outcome is not None and outcome.state in outbox.TROUBLE else ""
        cost = "they are in this store alone" + (f"; when it was last tried: {why}" if why else "")
        say(
            "warning",
            f"{box.url} answers, and {_counted(events)} not there",
            cost=cost,
            hint=f"`ailab sync {box.url}` sends them",
        )


class _Held:
    """What a store has: `sizes` are bytes by segment, those that are in tables alone among them."""

    def __init__(self, store: Store, chosen: Chosen) -> None:
        self.store = store
        self.sizes = {name: spans[-1][1].end for name, spans in chosen.items()}
        self._in_tables = {name: spans[-1][1].lines for name, spans in chosen.items()}
        with suppress(OSError):  # the checkup has said so of segments that cannot be listed
            self.sizes |= {name: size_of(store.segment_path(name)) for name in store.segment_names()}

    def unsent(self, box: outbox.Outbox) -> dict[str, int]:
        """What a server lacks as far as is known here: how far it has each segment that it has not wholly."""
        outcome = box.outcome()
        there = {**(outcome.sent if outcome is not None else {}), **box.noted()}
        return {name: there.get(name, 0) for name, size in self.sizes.items() if there.get(name, 0) < size}

    def events(self, lacks: Mapping[str, int]) -> int:
        """How many events lie behind these places of segments: all of one in tables alone, none of what cannot be read."""
        events = 0
        for name, there in lacks.items():
            path = self.store.segment_path(name)
            with suppress(OSError):
                events += outbox.lines_behind(path, there)[0] if os.path.exists(path) else self._in_tables.get(name, 0)
        return events


def _counted(events: int) -> str:
    return "1 event is" if events == 1 else f"{events:,} events are"


def _dotenv(path: str, say: Say) -> dict[str, int]:
    """Line number by name; lines that are no `NAME=value` are said."""
    found: dict[str, int] = {}
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError as problem:
        say(
            "warning",
            f".env cannot be read ({problem.strerror})",
            where=path,
            cost="it sets nothing",
            hint="check who may read it",
        )
        return found
    for number, line in enumerate(lines, 1):
        name, equals, _ = line.strip().removeprefix("export ").partition("=")
        if equals:
            found[name.strip()] = number
        elif line.strip() and not line.lstrip().startswith("#"):
            say("note", "a line that is no NAME=value", where=f"{path}:{number}", cost="it sets nothing")
    return found


def _flock_works(path: str) -> bool:
    """Whether the file system of `path` has locks; a shared one is taken and let go at once."""
    if fcntl is None:
        return False
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def _nearest(name: str) -> str | None:
    """The file `name` in the working folder, or in the nearest folder above it that has one."""
    folder = os.getcwd()
    while not os.path.isfile(os.path.join(folder, name)):
        parent = os.path.dirname(folder)
        if parent == folder:
            return None
        folder = parent
    return os.path.join(folder, name)


def _versions() -> dict[str, str | None]:
    """Versions of what answers are made with; None where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {"ailab": __version__, "python": sys.version.split()[0]}
    for name in ("duckdb", "pyarrow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
