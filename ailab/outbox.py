"""What is known here of how far servers have a store, and of how the last shipping to each of them went.

Who writes: whoever ships (`remote`), two files in the cache for each server. `shipped-KEY` names the segments that are wholly
there with the files that they name, a line `NAME BYTES` for each, added when that is so. `shipping-KEY.json` is an `Outcome`,
put in its place whole by renaming. Who reads: a run that begins, goes on or ends, which so can tell what it does not wait
for; `ailab doctor`; the next shipping, which asks the server whether it is still so. Both may be deleted: then all counts as
unsent until the server is asked. What is not promised: that an outcome is of now; its time says when it was.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import msgspec

from .errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .store import Store

State = Literal["sending", "there", "away", "refused", "partly", "failed"]
"""It goes on; all is there; nobody answers; who answers refuses us; some things are not taken; the process broke."""
TROUBLE = frozenset({"away", "refused", "partly", "failed"})
AWAY_S = 60.0
"""A training that goes on says that a server is away when it has been so long."""
FILES_MAX, BYTES_MAX = 1000, 32 << 20
"""So many files and bytes are read to count what is unsent, where somebody waits for it."""
_PIECE = 1 << 20


class Outcome(msgspec.Struct, kw_only=True):
    """How shipping to a server went when it was last tried.

    `said` is a sentence that names the server, `at` and `since` are seconds since 1970 (of this, and when the state began),
    `sent` the bytes that the server has of segments which have not ended.
    """

    url: str
    state: State
    said: str = ""
    hint: str = ""
    at: float = 0.0
    since: float = 0.0
    sent: dict[str, int] = {}


class Unsent(msgspec.Struct):
    """How much of a store a server lacks; `at_least`, where not all was counted."""

    events: int = 0
    bytes: int = 0
    at_least: bool = False

    def __str__(self) -> str:
        words = f"{self.events:,} event" + ("" if self.events == 1 else "s")
        return f"at least {words}" if self.at_least else words


def plain_url(url: str) -> str:
    """The server's address: a URL that ends in /api/modellab means the server before it.

    Raises:
        SettingError: it is no http or https URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise SettingError(f"api_url {url[:100]!r} is not allowed", hint="allowed: http://lab:8000, https://lab.example")
    return url.rstrip("/").removesuffix("/api/modellab").rstrip("/")


class Outbox:
    """What is known of a store and one server.

    Args:
        store: the store.
        url: the server, as `plain_url` gives it.
    """

    def __init__(self, store: Store, url: str) -> None:
        from hashlib import sha256

        key = sha256(url.encode("utf-8", "backslashreplace")).hexdigest()[:16]
        self.store = store
        self.url = url
        self.path = os.path.join(store.cache, f"shipping-{key}.json")
        self._list = os.path.join(store.cache, f"shipped-{key}")

    # -- what is wholly there ----------------------------------------------------------------------------------------

    def noted(self) -> dict[str, int]:
        """Segments that were wholly there when they were noted, with their bytes."""
        try:
            with open(self._list, encoding="ascii", errors="replace") as file:
                lines = [line.split() for line in file if line.endswith("\n")]
        except OSError:
            return {}
        return {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdigit()}  # noqa: PLR2004

    def note(self, ended: Mapping[str, int]) -> None:
        """Add segments that are wholly there."""
        with suppress(OSError):  # it spares a question, and nothing else
            os.makedirs(self.store.cache, exist_ok=True)
            with open(self._list, "a", encoding="ascii") as file:
                file.write(_lines_of(ended))

    def forget(self, names: Iterable[str]) -> None:
        """Take out segments that are there no more; what others note meanwhile may be lost, and is asked for again."""
        lost = set(names)
        self._put(self._list, _lines_of({name: size for name, size in self.noted().items() if name not in lost}).encode())

    # -- how it went -------------------------------------------------------------------------------------------------

    def outcome(self) -> Outcome | None:
        """How the last shipping went; None where none was tried."""
        return _outcome(self.path)

    def tell(self, state: State, said: str = "", hint: str = "", *, sent: Mapping[str, int]) -> None:
        """Keep how it goes, unless that is what was told last."""
        before, now = self.outcome(), time.time()
        since = before.since if before is not None and before.state == state else now
        told = Outcome(url=self.url, state=state, said=said, hint=hint, at=now, since=since, sent=dict(sent))
        self._put(self.path, msgspec.json.encode(told))

    def _put(self, path: str, content: bytes) -> None:
        with suppress(OSError):  # the old one stays, and is asked about again
            self.store.write_cache(path, content)

    def unsent(self, *, files_most: int = FILES_MAX, bytes_most: int = BYTES_MAX) -> Unsent:
        """How much of the store's segments is not there as far as is known here; counted until so much was read."""
        there, outcome = self.noted(), self.outcome()
        ahead = outcome.sent if outcome is not None else {}
        found = Unsent()
        for name in self.store.segment_names():
            if name in there:
                continue
            if files_most <= 0 or bytes_most <= found.bytes:
                found.at_least = True
                break
            files_most -= 1
            events, size = lines_behind(self.store.segment_path(name), ahead.get(name, 0))
            found.events += events
            found.bytes += size
        return found


def trouble(store: Store, url: str, *, after: float, early: bool) -> str | None:
    """What a run says of a server that does not take what is shipped, in a sentence and a hint; None where that is not known.

    Args:
        store: the store.
        url: the server, as it was set.
        after: seconds since 1970; what was known before is not said.
        early: the run goes on, so a server that was away for a moment may come back.

    Raises:
        OSError: the store cannot be read.
    """
    try:
        box = Outbox(store, plain_url(url))
    except SettingError:  # it was said when the run began
        return None
    outcome = box.outcome()
    if outcome is None or outcome.state not in TROUBLE or outcome.at < after:
        return None
    if early and outcome.state == "away" and outcome.at - outcome.since < AWAY_S:
        return None
    unsent = box.unsent()
    if not unsent.events:
        return None
    hint = f"{outcome.hint}; then " if outcome.hint else ""
    are = "is" if unsent.events == 1 and not unsent.at_least else "are"
    return f"{outcome.said}; {unsent} {are} in this store alone\nhint: {hint}`ailab sync {box.url}` sends what is not there"


def outcomes(store: Store) -> list[Outcome]:
    """How shipping went to every server that something was shipped to while it was written."""
    try:
        with os.scandir(store.cache) as entries:
            paths = sorted(e.path for e in entries if e.name.startswith("shipping-") and e.name.endswith(".json"))
    except OSError:
        return []
    found = (_outcome(path) for path in paths)
    return [outcome for outcome in found if outcome is not None]


def lines_behind(path: str, offset: int) -> tuple[int, int]:
    """(lines that end, bytes) of a file behind its first `offset` bytes; nothing of one that is not there."""
    lines = size = 0
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            while piece := file.read(_PIECE):
                lines += piece.count(b"\n")
                size += len(piece)
    except FileNotFoundError:  # in tables since it was listed
        return 0, 0
    return lines, size


def _outcome(path: str) -> Outcome | None:
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=Outcome)
    except (OSError, msgspec.DecodeError):  # none, or another version's
        return None


def _lines_of(ended: Mapping[str, int]) -> str:
    return "".join(f"{name} {size}\n" for name, size in ended.items())
