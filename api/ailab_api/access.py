"""Who asks, what they may, and how much of it.

On loopback nobody needs a token: a request is anonymous, and may do all, if its peer is a loopback address that is no proxy of
AILAB_TRUSTED_PROXIES, the Host that it names is local, and no proxy says that it passed it on. Every other request shows a
token, as `Authorization: Bearer TOKEN` or, for browsers, as the password of Basic; its SHA-256 is looked up, so comparing takes
no longer for a better guess. Roles: a reader may ask, a writer may change things, an admin may all. A token of one project
reaches nothing outside it; one that is revoked counts no more within a second. What a peer may do off loopback is counted for
each token and address in windows of a quarter of an hour; counts live in memory, and begin anew with the server. Tokens that are
none count once each: who shows too many waits before another one is looked at, while those that its address showed before are
answered as ever, so that a program with a stale token shuts nobody out.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from ailab import inventory
from ailab.actions import token_digest
from ailab.errors import NotFoundError
from ailab.inventory import TokenView  # noqa: TC001  (msgspec reads the annotations of Structs at run time)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from ipaddress import IPv4Address, IPv6Address

    from ailab.views import Lab

WINDOW_S = 900.0
KNOWN_S = 0.7
"""So long a token that counted, or did not, is so without a question."""
LOOK_UP_S = 60.0
"""So long it is not looked up again while no segment that may tell of tokens grows: who ships shows it with each range, and to
look it up takes in all that came meanwhile, which is slower than the shipping."""
KNOWN_MAX = 10_000
SHOWN_MAX = 100_000
ROLES = {"none": 0, "reader": 1, "writer": 2, "admin": 3}
LIMITS = {"writes": 100, "uploads": 20, "journal": 4 << 30, "failures": 30}
"""In a window, for a writer: changes, uploads, bytes of journals; and different tokens that are none, for an address."""
ADMIN_FACTOR = 10
_FORWARDING = frozenset({
    "forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "x-original-host", "true-client-ip",
    "cf-connecting-ip", "cf-ray", "fastly-client-ip",
})  # fmt: skip
"""What proxies add, besides X-Forwarded-…, of which any counts."""


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """Who sent a request: a token by name and id, or nobody known, from an address; `project` is the only one it reaches."""

    role: str
    by: str | None = None
    token: str | None = None
    project: str | None = None
    address: str = ""

    @property
    def anonymous(self) -> bool:
        """Whether no token was shown."""
        return self.token is None

    def may(self, role: str) -> bool:
        """Whether it has this role, or a greater one."""
        return ROLES[self.role] >= ROLES[role]

    def check_project(self, what: str, name: str, project: str | None) -> None:
        """Let nothing outside of its project be there for it.

        Raises:
            NotFoundError: the thing belongs to another project.
        """
        if self.project is not None and project != self.project:
            raise NotFoundError(what, name)

    def project_for(self, given: str | None) -> str | None:
        """The project that something is to belong to: the one given, or the only one that the token reaches.

        Raises:
            NotFoundError: the one given is another one than the token reaches.
        """
        if self.project is not None and given is not None:
            self.check_project("project", given, given)
        return given if self.project is None else self.project


class _Known(msgspec.Struct):
    """A token as it was when it was looked up, None if it did not count, at `found_at`; last asked whether that holds then."""

    token: TokenView | None
    marks: object
    found_at: float
    asked_at: float


class Tokens:
    """Looks tokens up: those of the store, and the one of `--token-file`.

    Args:
        lab: gives the catalogue, fresh enough.
        admin: SHA-256 of the admin token of this server, if it has one.
        marks: what is another thing as soon as tokens were made or revoked, told without reading events.
    """

    def __init__(self, lab: Callable[[], Lab], admin: str | None, marks: Callable[[], object]) -> None:
        self._lab = lab
        self._admin = admin
        self._marks = marks
        self._known: dict[str, _Known] = {}
        self._shown: set[tuple[str, str]] = set()

    def is_guess(self, text: str, address: str) -> bool:
        """Whether an address never showed this token before; nobody learns anything by showing one again."""
        return (token_digest(text), address) not in self._shown

    def find(self, text: str, address: str) -> Actor | None:
        """Who shows this token; None where it is none that counts."""
        digest = token_digest(text)
        if len(self._shown) >= SHOWN_MAX:
            self._shown.clear()
        self._shown.add((digest, address))
        if digest == self._admin:
            return Actor(role="admin", by="token-file", token="token-file", address=address)  # noqa: S106  (its id)
        found = self._look_up(digest)
        if found is None:
            return None
        return Actor(role=found.role, by=found.name, token=found.token, project=found.project_id, address=address)

    def _look_up(self, digest: str) -> TokenView | None:
        """The token of this digest, as it was within `KNOWN_S`; None of one that does not count."""
        now, known = time.monotonic(), self._known.get(digest)
        if known is not None and now - known.asked_at < KNOWN_S:
            return known.token
        marks = self._marks()  # before the look, so that what comes between the two is seen at the next one
        if known is not None and known.marks == marks and now - known.found_at < LOOK_UP_S:
            known.asked_at = now
            return known.token
        found = inventory.token_of(self._lab(), digest)
        if len(self._known) >= KNOWN_MAX:
            self._known = {key: one for key, one in self._known.items() if one.token is not None}
        self._known[digest] = _Known(found, marks, now, now)
        return found

    def any(self) -> bool:
        """Whether some token counts."""
        return self._admin is not None or any(token.revoked_at is None for token in inventory.list_tokens(self._lab()))


def token_in(headers: list[str]) -> str | None:
    """The token that Authorization headers show; None without one, the empty text for one that cannot be read."""
    if not headers:
        return None
    scheme, _, rest = headers[0].partition(" ")
    if len(headers) > 1:
        return ""
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest.strip(), validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def is_local(scope: Any, headers: Mapping[str, list[str]], *, host_is_local: bool) -> bool:
    """Whether a request comes from this machine, to this machine, and through no proxy."""
    return host_is_local and is_loopback(address_of(scope)) and not any(map(_is_forwarding, headers))


def _is_forwarding(name: str) -> bool:
    return name in _FORWARDING or name.startswith("x-forwarded-")


def address_of(scope: Any) -> str:
    """The address of the peer, or the one that a trusted proxy names; empty where that is none, such as a socket of a file."""
    client = scope.get("client")
    found = parse_address(str(client[0])) if client else None
    return "" if found is None else str(found)


@lru_cache(maxsize=4096)
def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Read an address; an IPv4 address that is written as an IPv6 one is what it means. None where it is neither."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def is_loopback(address: str) -> bool:
    """Whether an address is one of this machine's loopback."""
    found = parse_address(address)
    return found is not None and found.is_loopback


class Limits:
    """Counts what peers do, in windows that begin with the first of it.

    Args:
        limits: how much of each is allowed in a window.
        clock: seconds that only grow.
    """

    KEYS_MAX = 100_000

    def __init__(self, limits: Mapping[str, int] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = {**LIMITS, **(limits or {})}
        self._clock = clock
        self._counts: dict[tuple[str, str, str], tuple[float, int]] = {}

    def most(self, actor: Actor, what: str) -> int:
        """How much of something somebody may do in a window."""
        return self._limits[what] * (ADMIN_FACTOR if actor.role == "admin" else 1)

    def take(self, actor: Actor, what: str, amount: int = 1) -> float | None:
        """Count something; return the seconds to wait where it is too much, and then it is not counted."""
        now, key = self._clock(), (what, actor.token or "", actor.address)
        began, used = self._counts.get(key, (now, 0))
        if now - began >= WINDOW_S:
            began, used = now, 0
        if used + amount > self.most(actor, what) and used:
            return began + WINDOW_S - now
        if len(self._counts) >= self.KEYS_MAX:
            self._counts = {k: v for k, v in self._counts.items() if now - v[0] < WINDOW_S}
        self._counts[key] = (began, used + amount)
        return None

    def is_spent(self, actor: Actor, what: str) -> float | None:
        """Seconds to wait where nothing more is allowed now; counts nothing."""
        now = self._clock()
        began, used = self._counts.get((what, actor.token or "", actor.address), (now, 0))
        return began + WINDOW_S - now if now - began < WINDOW_S and used >= self._limits[what] else None
