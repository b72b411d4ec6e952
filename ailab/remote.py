"""The same journal shipped to a server: whole lines of segments as they are written, and the files that they name.

    python -m ailab.remote STORE URL      ships until everything is there and no run is written any more

Training writes its own segments in its own store, whatever becomes of the network; a process of its own reads them and sends byte
ranges, each with its digest, and the server answers with how far the segment has come and the SHA-256 of all of it, which must be
that of our own bytes. Nothing here is remembered that the server does not know better: after any end, of either side, the next
shipping asks how far each segment has come, and goes on there; also of what was noted as wholly there (`outbox`), all of it in a
question or two.

What it ships: all that lies in the store's segments, of earlier runs too. How long: while a run of the store is written it goes
on, also without an answer; behind the last one it ends as soon as all is there, and `BEHIND_S` after the server's last answer at
the latest. A server that refuses ends it at once. How it went stands in the outbox, where training and `ailab doctor` find it.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import msgspec

from . import background, blobs, claims
from .errors import AilabError, RefusedError, StoreError
from .outbox import Outbox, plain_url
from .receiving import RANGE_MAX, Lacking, Received
from .segments import Segment, writer_alive
from .store import Store, open_store, run_of_segment, size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from .outbox import State

TIMEOUT_S = 30.0
LOOK_S = 0.5
"""Time between two looks for new lines."""
QUIET_S = 5.0
"""So long after the last line, and after the last run has ended, the process ends: the next run of a loop begins within it."""
WAITS_S = (0.5, 1, 2, 5, 10, 30)
"""Pauses while the server is away; the last one again and again."""
BEHIND_S = 60.0
"""So long without an answer, and without a run that is written, the process ends; the next run or `ailab sync` goes on."""
TOLD_S = 10.0
"""How often it is told how far things have come, while nothing else changes."""
MANY = 5000
"""So many names are asked for at once."""
_DIGITS = bytes(ord("x") if chr(byte) in "0123456789abcdef" else ord(" ") for byte in range(256))
_DIGEST = b"x" * 64


class Shipped(msgspec.Struct, kw_only=True):
    """What was sent: `segments` and `files` that are wholly there now, `bytes` that went, `seconds` that it took."""

    url: str
    segments: int = 0
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    waiting: int = 0
    """Segments without an end, of which more may come."""
    refused: list[str] = []
    """What the server did not take, with the reason."""


class Away(Exception):  # noqa: N818  (it says what is, and never leaves this module)
    """The server takes nothing now; the words are what it does, as in `does not answer (…)`."""

    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class _Answer(msgspec.Struct):
    """A problem, as far as it is asked here."""

    detail: str = ""
    hint: str | None = None


_JSON = {"Content-Type": "application/json"}
_TOKEN_HINT = "`ailab token create --role writer` at the server makes a token, AILAB_TOKEN (or token=) shows it"  # noqa: S105


class Client:
    """A connection to a server, made anew when it breaks.

    Args:
        url: the server's address.
        token: an access token, where one is needed.
        timeout_s: how long it may be silent.

    Raises:
        SettingError: the URL is none.
    """

    def __init__(self, url: str, token: str | None, timeout_s: float = TIMEOUT_S) -> None:
        self.url = plain_url(url)
        self._timeout_s = timeout_s
        self._parts = urlsplit(self.url)
        self._token = token
        self._connection: http.client.HTTPConnection | None = None

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        """(status, body, headers) of an answer.

        Raises:
            Away: the server does not answer, or says that it cannot now.
            RefusedError: it refuses, and would again.
        """
        sent = {"Accept": "application/json", **(headers or {})}
        if self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        try:
            connection = self._connected()
            connection.request(method, (self._parts.path or "") + path, body=body, headers=sent)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as problem:
            self.close()
            raise Away(f"does not answer ({str(problem) or type(problem).__name__})") from problem
        told = {name.lower(): value for name, value in answer.getheaders()}
        if answer.will_close:
            self.close()
        if answer.status in {429, 500, 502, 503, 504}:
            wait = told.get("retry-after", "")
            raise Away(f"answers {answer.status} {_said(content) or answer.reason}", float(wait) if wait.isdigit() else None)
        if answer.status in {401, 403, 421}:
            raise self._refusal(answer.status, content)
        if "json" not in told.get("content-type", ""):
            said = f"{answer.status} {answer.reason} to {method} {path.partition('?')[0]}"
            hint = f"it points to {told['location'][:200]}" if "location" in told else "check the address, and proxies before it"
            raise RefusedError(f"{self.url} does not answer as an ailab server does: {said}", hint=hint)
        return answer.status, content, told

    def _refusal(self, status: int, content: bytes) -> RefusedError:
        """Why nothing of ours is taken, and what to do: a token that is wrong is replaced by a right one."""
        about = _about(content)
        hint = about.hint or ""
        if status == 401:  # noqa: PLR2004
            hint = (
                f"AILAB_TOKEN has a token that was revoked, or is of another server; {_TOKEN_HINT}"
                if self._token
                else _TOKEN_HINT
            )
        elif "it needs" in hint:  # another role, or no project
            hint = f"{hint}; {_TOKEN_HINT}"
        return RefusedError(f"{self.url} refuses: {about.detail or status}", hint=hint)

    def _connected(self) -> http.client.HTTPConnection:
        if self._connection is None:
            kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
            self._connection = kind(str(self._parts.hostname), self._parts.port, timeout=self._timeout_s)
            self._connection.connect()
            sock = self._connection.sock
            if sock is not None:
                import socket

                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._connection

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _about(content: bytes) -> _Answer:
    with suppress(msgspec.DecodeError):
        return msgspec.json.decode(content, type=_Answer)
    return _Answer()


def _said(content: bytes) -> str:
    return _about(content).detail


def lacking(client: Client, known: Mapping[str, int]) -> dict[str, int]:
    """Which of these segments a server has fewer bytes of than these, and how many it has.

    Raises:
        Away: the server does not answer now.
        RefusedError: it refuses.
    """
    found: dict[str, int] = {}
    names = list(known)
    for start in range(0, len(names), MANY):
        some = {name: known[name] for name in names[start : start + MANY]}
        status, content, _ = client.ask("POST", "/journal/missing", msgspec.json.encode({"segments": some}), _JSON)
        if status != 200:  # noqa: PLR2004  (an older server; each of them is asked for singly)
            return dict.fromkeys(known, 0)
        found.update(msgspec.json.decode(content, type=Lacking).missing)
    return found


def ask_what_lacks(url: str, token: str | None, known: Mapping[str, int], *, timeout_s: float) -> dict[str, int]:
    """The same of a server that may be away, for somebody who waits.

    Raises:
        StoreError: it does not answer in time.
        RefusedError: it refuses.
        SettingError: the URL is none.
    """
    client = Client(url, token, timeout_s)
    try:
        return lacking(client, known)
    except Away as problem:
        raise StoreError(f"the server {problem}", path=client.url) from problem
    finally:
        client.close()


class _Going:
    """A segment under way: how far it went, the SHA-256 so far, and files that it named and that the server may lack."""

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.path = path
        self.sent = 0
        self.sha = hashlib.sha256()
        self.asked = False


class Shipper:
    """Ships one store to one server.

    Args:
        store: the store.
        client: the server.
        progress: called with the bytes that went.
    """

    def __init__(self, store: Store, client: Client, progress: Callable[[int], None] | None = None) -> None:
        self.store = store
        self.client = client
        self.shipped = Shipped(url=client.url)
        self._progress = progress or (lambda _done: None)
        self._going: dict[str, _Going] = {}
        self._refused: dict[str, str] = {}
        self._wanted: set[str] = set()
        self._there: set[str] = set()
        self._done: set[str] = set()
        self._ended: dict[str, int] = {}
        self._over: dict[str, int] = {}
        self._recalled = False
        self._box = Outbox(store, client.url)
        self._told: tuple[object, ...] = ()
        self._told_at = 0.0

    # -- one look ----------------------------------------------------------------------------------------------------

    def ship(self) -> bool:
        """Send all that is new; return whether there was anything.

        Raises:
            Away: the server does not answer now; what went is kept, and the next call goes on.
            RefusedError: the server refuses.
        """
        before = self.shipped.bytes
        self.recall()
        for name in self.store.segment_names():
            self.segment(name, self.store.segment_path(name))
        self._files()
        self._note_ended()
        self.shipped.waiting = len(self._going)
        self.shipped.refused = sorted(f"{name}: {why}" for name, why in self._refused.items())
        return self.shipped.bytes > before

    def recall(self) -> None:
        """Ask, once, whether what was noted as wholly there still is; what is not is shipped again."""
        if self._recalled:
            return
        noted = self._box.noted()
        lost = lacking(self.client, noted)
        if lost:
            self._box.forget(lost)
        self._done = noted.keys() - lost.keys()
        self._recalled = True

    def tell(self, state: State, said: str = "", hint: str = "") -> None:
        """Keep how it goes where others find it, at once or, where only bytes went, after a while."""
        sent = {**{one.name: one.sent for one in self._going.values() if one.sent}, **self._ended}
        now, news = time.monotonic(), (state, said)
        if news != self._told or now - self._told_at > TOLD_S:
            self._told, self._told_at = news, now
            self._box.tell(state, said, hint, sent=sent)

    def tell_shipped(self, state: State) -> None:
        """The same of what went well, unless something was not taken."""
        if self.shipped.refused:
            first, *more = self.shipped.refused
            said = f"{self.client.url} does not take {first}" + (f", and {len(more)} more" if more else "")
            self.tell("partly", said, "`ailab sync` lists what is not taken")
        else:
            self.tell(state)

    def living(self) -> bool:
        """Whether a run of the store is being written; writers without a run, such as a server here, are not waited for."""
        for name in self.store.segment_names():
            if run_of_segment(name) is None or name in self._done:
                continue
            path = self.store.segment_path(name)
            size = size_of(path)
            if self._over.get(name) == size:
                continue
            if self._is_written(name, path):
                return True
            self._over[name] = size
        return False

    @staticmethod
    def _is_written(name: str, path: str) -> bool:
        segment = Segment(name, path)
        with suppress(OSError), open(path, "rb") as file:
            segment.feed(file.read(65536).rpartition(b"\n")[0] + b"\n")
            return writer_alive(segment)
        return False

    def segment(self, name: str, path: str) -> None:
        """Send what is new of a segment whose bytes are in a file."""
        if name in self._done or name in self._refused:
            return
        one = self._going.get(name)
        if one is None:
            one = self._going[name] = _Going(name, path)
        try:
            with open(one.path, "rb") as file:
                if not one.asked and not self._find_place(one, file):
                    return
                file.seek(one.sent)
                while body := _whole_lines(file):
                    if not self._send(one, body):
                        return
                self._end(one)
        except FileNotFoundError:  # in tables meanwhile; it was whole before, so all of it went or `ailab sync` ships it
            self._going.pop(name, None)

    def _find_place(self, one: _Going, file: Any) -> bool:
        """Learn how far the server has it, and make sure that these are our bytes; return whether to go on."""
        status, content, _ = self.client.ask("GET", f"/journal/{quote(one.name)}")
        if status == 404:  # noqa: PLR2004
            one.asked = True
            return True
        if status != 200:  # noqa: PLR2004
            self._refuse(one, f"{status} {_said(content)}")
            return False
        there = msgspec.json.decode(content, type=Received)
        left, end = there.bytes, b""
        while left and (piece := file.read(min(1 << 20, left))):
            one.sha.update(piece)
            self._wanted.update(_digests_in(end + piece))
            left, end = left - len(piece), piece[-len(_DIGEST) :]
        if left or one.sha.hexdigest() != there.sha256:
            self._refuse(one, "the server has other bytes")
            return False
        one.sent, one.asked = there.bytes, True
        return True

    def _send(self, one: _Going, body: bytes) -> bool:
        """Send a range; return whether it is there now, next to the bytes before it."""
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        status, content, told = self.client.ask(
            "PUT", f"/journal/{quote(one.name)}?offset={one.sent}", body,
            {"Content-Type": "application/octet-stream", "Content-Digest": f"sha-256=:{digest}:"},
        )  # fmt: skip
        if status == 409 and int(told.get("x-bytes", one.sent)) < one.sent:  # noqa: PLR2004
            self._going.pop(one.name, None)
            self._recalled = False
            raise Away("has less than it had", 0.0)
        if status != 200:  # noqa: PLR2004
            self._refuse(one, f"{status} {_said(content)}")
            return False
        there = msgspec.json.decode(content, type=Received)
        one.sha.update(body)
        one.sent += len(body)
        self.shipped.bytes += len(body)
        self._wanted.update(_digests_in(body))
        if (there.bytes, there.sha256) != (one.sent, one.sha.hexdigest()):
            self._refuse(one, "the server has other bytes")
            return False
        self._progress(self.shipped.bytes)
        return True

    def _refuse(self, one: _Going, why: str) -> None:
        self._refused[one.name] = why
        self._going.pop(one.name, None)

    def _end(self, one: _Going) -> None:
        """A segment that ended and is wholly there."""
        if is_ended(one.path):
            self._going.pop(one.name, None)
            self._done.add(one.name)
            self._ended[one.name] = one.sent
            self.shipped.segments += 1

    def _note_ended(self) -> None:
        """Note what ended, now that the files that it names are there too; where one was not taken, all of it is tried again."""
        if self._ended and not any(name.startswith("file ") for name in self._refused):
            self._box.note(self._ended)
            self._ended.clear()

    # -- files -------------------------------------------------------------------------------------------------------

    def _files(self) -> None:
        """Send the files that shipped lines name, as far as they are here and not there."""
        wanted = [digest for digest in sorted(self._wanted - self._there) if os.path.exists(self.store.blob_path(digest))]
        for start in range(0, len(wanted), 5000):
            some = wanted[start : start + 5000]
            body = msgspec.json.encode({"sha256": some})
            status, content, _ = self.client.ask("POST", "/blobs/missing", body, _JSON)
            if status != 200:  # noqa: PLR2004
                raise Away(f"answers {status} {_said(content)}")
            missing = set(msgspec.json.decode(content)["missing"])
            self._there.update(set(some) - missing)
            for digest in sorted(missing):
                self._file(digest)
        self._wanted -= self._there

    def _file(self, digest: str) -> None:
        with blobs.open_blob(self.store, digest) as file:
            size = os.fstat(file.fileno()).st_size
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
            status, content, _ = self.client.ask("PUT", f"/blobs/{digest}", file, headers)
        if status == 200:  # noqa: PLR2004
            self._there.add(digest)
            self.shipped.files += 1
            self.shipped.bytes += size
        else:
            self._refused[f"file {digest}"] = f"{status} {_said(content)}"
            self._wanted.discard(digest)


def _digests_in(data: bytes) -> Iterator[str]:
    """Every run of exactly 64 hexadecimal digits, at the speed of memory: a regular expression tries at every byte."""
    marks = data.translate(_DIGITS)
    at = marks.find(_DIGEST)
    while at >= 0:
        end = marks.find(b" ", at)
        end = len(marks) if end < 0 else end
        if end - at == len(_DIGEST):
            yield data[at:end].decode()
        at = marks.find(_DIGEST, end)


def _whole_lines(file: Any) -> bytes:
    """The next lines of a file that end, as many as go into a range; the file stands behind them then."""
    at = file.tell()
    data: bytes = file.read(RANGE_MAX // 2)
    cut = data.rfind(b"\n") + 1
    if not cut and len(data) == RANGE_MAX // 2:
        data += file.read(RANGE_MAX - len(data))
        cut = data.rfind(b"\n") + 1
    file.seek(at + cut)
    return data[:cut]


def is_ended(path: str) -> bool:
    """Whether a segment has its footer, so that nothing more comes."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - 4096))
        last = file.read().rstrip(b"\n").rpartition(b"\n")[2]
    return b'"kind":"segment.sealed"' in last


# -- all of it ---------------------------------------------------------------------------------------------------------


def sync(
    store: Store,
    url: str,
    token: str | None,
    *,
    others: Iterable[tuple[str, str]] = (),
    progress: Callable[[int], None] | None = None,
) -> Shipped:
    """Send all that a store has and a server lacks, once.

    Args:
        store: the store.
        url: the server.
        token: an access token, where one is needed.
        others: (name, file) of segments that are no files of the store any more.
        progress: called with the bytes that went.

    Raises:
        RefusedError: the server refuses.
        StoreError: it does not answer.
    """
    began = time.monotonic()
    client = Client(url, token)
    shipper = Shipper(store, client, progress)
    try:
        for wait in (*WAITS_S[:3], None):
            try:
                shipper.recall()
                for name, path in others:
                    shipper.segment(name, path)
                shipper.ship()
                break
            except Away as problem:
                if wait is None:
                    raise StoreError(f"the server {problem}", path=client.url, hint=_away_hint(client.url, problem)) from problem
                time.sleep(wait if problem.wait_s is None else min(problem.wait_s, WAITS_S[-1]))
    finally:
        client.close()
    if Outbox(store, client.url).outcome() is not None:  # of servers that trainings ship to
        shipper.tell_shipped("there")
    shipper.shipped.seconds = round(time.monotonic() - began, 3)
    return shipper.shipped


def _away_hint(url: str, problem: Away) -> str:
    if "SSL" in str(problem) and url.startswith("https:"):
        return "what answers there speaks no TLS, or its certificate is not trusted: is the address http://…?"
    return "is `ailab serve` running there, at this port? What was sent stays, and the next `ailab sync` goes on from it"


def follow(store: Store, url: str, token: str | None, beat: Callable[[], bool] = lambda: True) -> None:
    """Send what is written, as it is written, until everything is there and no run is written any more, or somebody else does it.

    Behind the last run it goes on for as long as the server takes something, and ends `BEHIND_S` after its last answer.

    Raises:
        RefusedError: the server refuses.
    """
    shipper = Shipper(store, Client(url, token))
    failures, again_at = 0, 0.0
    answered_at = lived_at = busy_at = time.monotonic()
    while beat():
        lives = shipper.living()  # before the look, so that what a run wrote last is sent when it is found to have ended
        now = time.monotonic()
        lived_at = now if lives else lived_at
        try:
            if now >= again_at:
                is_new = shipper.ship()
                failures, answered_at = 0, time.monotonic()
                busy_at = answered_at if is_new or lives else busy_at
                shipper.tell_shipped("sending")
        except Away as problem:
            usual = WAITS_S[min(failures, len(WAITS_S) - 1)]
            failures += 1
            again_at = time.monotonic() + (usual if problem.wait_s is None else max(LOOK_S, min(problem.wait_s, 900.0)))
            shipper.tell("away", f"{shipper.client.url} {problem}")
        now = time.monotonic()
        if failures and now - max(lived_at, answered_at) > BEHIND_S:
            return
        if not failures and now - busy_at > QUIET_S:
            shipper.tell_shipped("there")
            return
        time.sleep(LOOK_S)


def main(path: str, url: str) -> None:
    """Follow a store; what ends that is kept in the outbox, since nobody reads what this process prints."""
    store = open_store(path, create=False)
    background.step_back()
    claim = claims.take(store, background.shipping_claim(url))
    if claim is None:
        return
    with claim:
        try:
            follow(store, url, os.environ.get("AILAB_TOKEN"), claim.beat)
        except (AilabError, OSError, msgspec.MsgspecError) as problem:
            state: State = "refused" if isinstance(problem, RefusedError) else "failed"
            said = problem.message if isinstance(problem, RefusedError) else f"shipping to {url} failed: {problem}"
            box = Outbox(store, url)
            before = box.outcome()
            hint = problem.hint if isinstance(problem, AilabError) else ""
            box.tell(state, said, hint, sent=before.sent if before is not None else {})


if __name__ == "__main__":
    main(*sys.argv[1:3])
