"""The server: one process, one event loop, one catalogue; a guard in front of every route.

`create_app` makes it and touches no file; the store is opened at startup and let go of at shutdown, after the answers under
way. `app` is the same for any ASGI server. `serve` listens on loopback, or elsewhere where there is a token. Handlers are plain
functions on the event loop: a question costs milliseconds, and nothing is shared between threads. At SIGTERM or Ctrl-C no new
connection is taken, streams end, and answers under way have `GRACE_S`; what is not done by then is answered 503 and leaves
nothing, as everything does at once at a second Ctrl-C; then the server's own segment is sealed. A killed server loses nothing:
what it wrote lies in the store, and all else is made anew at the next start.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import uvicorn
from litestar import Litestar, Router
from litestar.openapi import OpenAPIConfig
from uvicorn.supervisors import ChangeReload

import ailab
from ailab import settings
from ailab.actions import token_digest
from ailab.errors import RefusedError, SettingError
from ailab.inventory import list_tokens
from ailab.store import find_store, open_store
from ailab.views import Lab

from . import contract, errors, markup
from .access import Tokens, is_loopback
from .catalogue import Catalogue
from .guard import Guard, Rules, refuse, retry_after
from .meters import Meters
from .routes import HANDLERS
from .wire import ACCEPTED_MAX, Protocol, raise_limit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from litestar.types import LifeSpanReceive, LifeSpanScope, LifeSpanSend, Message, Receive, Scope, Send


PORT = 8000
PORTS_TRIED = 100
"""From the default port on, so many are tried; an explicit one is taken or refused."""
WAITING_MAX = 2048
"""Connections that the kernel keeps until they are accepted."""
TOKEN_LEAST = 20
"""Characters of a token in a file: fewer may be guessed."""
_log = logging.getLogger("ailab_api")
_ADMIN = "AILAB_ADMIN_TOKEN_SHA256"
REST_S = 5.0
"""Seconds between two looks for received segments that fell silent."""
GRACE_S = 5
"""Seconds that answers under way have at shutdown: less than the 10 s after which Docker kills."""
FORCED_S = 2.0
"""Seconds that they have to clean up when they are ended."""
LOOK_S = 0.1
"""Seconds between two looks for a second interrupt."""
_DESCRIPTION = (
    "Runs, metrics, files and notes of an ailab store. Lists are bare JSON arrays with their full count in X-Total-Count; times "
    "are RFC 3339 in UTC; NaN and infinities are strings; errors are application/problem+json. "
    "Whatever is asked, 421 is the answer to a Host that the server does not go by, and 429 to too many tokens that do not count."
)


class Server(Litestar):
    """A Litestar application behind our guard: nothing reaches a route, or the answer that there is none, but through it.

    Attributes:
        meters: what is counted of requests.
        stopping: that requests under way may be ended.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.guard = Guard(self._inside, Rules(), styles=(markup.STYLE_HASH,))
        self.meters = Meters()
        self.stopping = False
        self._methods = {route.path_format: route.methods for route in self.routes}

    async def __call__(self, scope: Scope | LifeSpanScope, receive: Receive | LifeSpanReceive, send: Send | LifeSpanSend) -> None:
        """Handle one request, or the server's start and end."""
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
        else:
            await self.meters.pass_on(self.guard, scope, receive, send)  # type: ignore[arg-type]  # no lifespan here

    async def _inside(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer HEAD as GET without its body, which Litestar has no routes for, and 503 what is ended at shutdown."""
        begun = False
        is_head = scope["type"] == "http" and scope["method"] == "HEAD"
        if is_head:
            scope = {**scope, "method": "GET", "ailab_head": True}
        ends: list[Callable[[], Awaitable[object]]] = []
        scope["ailab_ends"] = ends

        async def answer(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [(n, self._allow(scope, v) if n.lower() == b"allow" else v) for n, v in message["headers"]]
            elif is_head and message["type"] == "http.response.body":
                message["body"] = b""
            await send(message)

        try:
            await super().__call__(scope, receive, answer)
        except asyncio.CancelledError:
            if not self.stopping:
                raise
            if not begun:
                hint = "send it again in a moment"
                stopping = errors.problem(503, "the server stops", instance=errors.instance_of(scope), hint=hint)
                await refuse(answer, stopping, retry_after(GRACE_S))
        finally:
            for end in ends:
                await end()

    def _allow(self, scope: Any, said: bytes) -> bytes:
        """All methods of a path, of which Litestar's OPTIONS knows those of one handler, and HEAD with GET."""
        methods = {method.strip().decode() for method in said.split(b",")} | self._methods.get(scope.get("path_template"), set())
        return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set()))).encode()


class _Unlisted(Router):
    """Where Litestar's own documentation routes go, which load scripts from elsewhere: nowhere. Ours are among HANDLERS."""

    def register(self, value: Any) -> list[Any]:  # noqa: ARG002  (nothing is taken)
        return []


def create_app(dir: str | os.PathLike[str] | None = None, *, admin_token: str | None = None) -> Server:  # noqa: A002  (the word everywhere in ailab)
    """Make the server's application; nothing is opened before its startup.

    Args:
        dir: the store; by default as for `start_run`, and made where there is none.
        admin_token: SHA-256 of a token that may all, besides those of the store.
    """

    @asynccontextmanager
    async def open_catalogue(app: Litestar) -> AsyncIterator[None]:
        setting = settings.load(dir=None if dir is None else os.fspath(dir))
        assert isinstance(app, Server)  # noqa: S101  (made below)
        app.guard.rules = Rules.load(setting)
        app.state.catalogue = Catalogue(setting)
        app.guard.tokens = Tokens(app.state.catalogue.lab, admin_token, app.state.catalogue.marks_of_tokens)
        resting = asyncio.create_task(_rest(app.state.catalogue))
        try:
            yield
        finally:
            resting.cancel()
            app.state.catalogue.close()

    return Server(
        route_handlers=HANDLERS,
        lifespan=[open_catalogue],
        guards=[contract.check_query],
        exception_handlers={Exception: errors.answer},
        openapi_config=OpenAPIConfig(
            title="ailab",
            version=ailab.__version__,
            description=_DESCRIPTION,
            openapi_router=_Unlisted("/schema", route_handlers=[]),
        ),
        request_max_body_size=contract.BODY_MAX,
        logging_config=None,
        debug=False,
        pdb_on_exception=False,
    )


async def _rest(catalogue: Catalogue) -> None:
    """Let go of received segments that fell silent, now and then: whoever wrote them is taken as gone until more comes."""
    while True:
        await asyncio.sleep(REST_S)
        await asyncio.to_thread(catalogue.receiver.rest)


def serve(
    host: str = "127.0.0.1",
    port: int | None = None,
    dir: str | os.PathLike[str] | None = None,  # noqa: A002
    *,
    reload: bool = False,
    token_file: str | os.PathLike[str] | None = None,
    announce: Callable[[str], object] = print,
    waiting: Callable[[str], object] = lambda _words: None,
) -> str:
    """Serve a store until interrupted or terminated; return the URL that was served.

    Args:
        host: an address of this machine, or localhost. Off loopback everybody needs a token, so there must be one.
        port: taken as it is, or refused; by default 8000, or the next free one.
        dir: the store; by default as for `start_run`, and made where there is none.
        reload: start anew whenever the source of ailab changes.
        token_file: a file that holds one admin token, for a server whose store has none yet.
        announce: called with the URL once requests are answered; it works on this machine. `told_elsewhere` has those for others.
        waiting: called with a sentence when the server was told to stop and does not end at once: what it waits for, how long at
            most, and how to end that.

    Raises:
        RefusedError: the host is not loopback, and there is no token.
        StoreError: the store cannot be opened or made.
        SettingError: the host, the port or the token file cannot be had, or a setting is not allowed.
    """
    address = _address(host)
    admin = None if token_file is None else _token_in(os.fspath(token_file))
    setting = settings.load(dir=None if dir is None else os.fspath(dir))
    rules = Rules.load(setting)
    place = setting.dir or find_store()
    if not is_loopback(address) and admin is None and not _has_token(place):
        raise RefusedError(
            f"{host} is not loopback, where everybody needs a token, and the store has none",
            hint="ailab token create --role admin, or --token-file FILE; or reach a loopback server through ssh -L",
        )
    store = open_store(place, create=True)
    raise_limit()
    listener = _listen(address, port)
    url = _url(_REACHED.get(address, address), listener.getsockname()[1])
    if reload:
        _serve_reloading(listener, store.path, url, admin, rules=rules, announce=announce)
    else:
        _Announcing(create_app(store.path, admin_token=admin), rules, lambda: announce(url), waiting).run(sockets=[listener])
    return url


_REACHED = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  (where all addresses are listened on, by one of them)


def _url(host: str, port: int | None) -> str:
    shown = f"[{host}]" if ":" in host.strip("[]") else host
    return f"http://{shown}" if port is None else f"http://{shown}:{port}"


def told_elsewhere(host: str, url: str, setting: settings.Settings) -> list[str]:
    """Lines that say by what other machines reach a server: its addresses, and the names that it is told; none on loopback.

    Args:
        host: what it was told to listen on.
        url: where it answers on this machine.
        setting: has the names that it goes by.
    """
    import psutil

    address, port = _address(host), int(url.rpartition(":")[2])
    if is_loopback(address):
        return []
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    found = [one.address for some in psutil.net_if_addrs().values() for one in some if one.family == family]
    mine = [one for one in found if address in _REACHED and not (is_loopback(one) or "%" in one)]
    names = [_url(name.host.strip("[]"), name.port or port) for name in Rules.load(setting).hosts]
    others = [*(_url(one, port) for one in sorted(mine)), *names]
    hint = "hint: other names that it is to answer to stand in AILAB_ALLOWED_HOSTS, such as lab.example"
    return [*([f"from other machines, with a token: {', '.join(others)}"] if others else []), hint]


def _has_token(place: str) -> bool:
    """Whether some token of the store counts; where there is no store, there is none."""
    if not os.path.isdir(place):
        return False
    lab = Lab(open_store(place, create=False))
    try:
        lab.refresh()
        return any(token.revoked_at is None for token in list_tokens(lab))
    finally:
        lab.close()


def _token_in(path: str) -> str:
    """The SHA-256 of the token that a file holds.

    Raises:
        SettingError: it cannot be read, or holds no token of at least 20 characters.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(4096).strip()
    except (OSError, UnicodeDecodeError) as problem:
        raise SettingError(f"the token file {path} cannot be read: {getattr(problem, 'strerror', None) or problem}") from None
    if len(text) < TOKEN_LEAST or any(c.isspace() for c in text):
        raise SettingError(
            f"the token file {path} holds no token", hint=f"one line of {TOKEN_LEAST} characters or more, without blanks"
        )
    return token_digest(text)


def _config(app: Any, rules: Rules, **more: Any) -> uvicorn.Config:
    """One worker, a parser whose limits and refusals we know, forwarding headers of trusted proxies, a log of what goes wrong."""
    return uvicorn.Config(
        app, http=Protocol, ws="none", access_log=False, log_level="error", server_header=False,
        proxy_headers=bool(rules.proxies), forwarded_allow_ips=rules.forwarders, backlog=ACCEPTED_MAX, **more,
    )  # fmt: skip


class _Announcing(uvicorn.Server):
    """Says when requests are answered, and ends in order: streams, requests, connections, store; an interrupt is no error."""

    def __init__(self, app: Server, rules: Rules, announce: Callable[[], object], waiting: Callable[[str], object]) -> None:
        super().__init__(_config(app, rules))
        self._app = app
        self._announce = announce
        self._waiting = waiting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        for listener in sockets or ():
            listener.listen(WAITING_MAX)  # for asyncio that number is also how many it accepts in one turn
        if self.started:
            self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.stopping = True
        self._app.state.catalogue.news.end()  # nobody waits for a stream that would go on
        now = asyncio.get_running_loop().time
        ending, until = asyncio.create_task(super().shutdown(sockets=sockets)), now() + GRACE_S
        await asyncio.wait([ending], timeout=LOOK_S)
        under_way = len(self.server_state.tasks)
        if not self.force_exit and (under_way or self.server_state.connections):
            held = f"{_requests(under_way)} under way" if under_way else "connections that clients keep open"
            self._waiting(f"stopping: {held} may take {GRACE_S:g} s more; Ctrl-C again stops at once")
        while not (ending.done() or self.force_exit) and now() < until:
            await asyncio.wait([ending], timeout=LOOK_S)
        if tasks := list(self.server_state.tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=FORCED_S)
            _log.warning("%s under way %s ended", _requests(len(tasks)), "was" if len(tasks) == 1 else "were")
        if not ending.done():  # uvicorn waits for connections too, whose clients may stay
            ending.cancel()
            await asyncio.wait([ending])
        await self.lifespan.shutdown()
        if not ending.cancelled():
            ending.result()

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            super().run(sockets=sockets)
        except KeyboardInterrupt:  # uvicorn raises the signal again after its own shutdown
            return


def _requests(number: int) -> str:
    return "1 request" if number == 1 else f"{number} requests"


def _serve_reloading(
    listener: socket.socket, store: str, url: str, admin: str | None, *, rules: Rules, announce: Callable[[str], object]
) -> None:
    """Let uvicorn watch the sources and start a fresh process at every change, which learns what to serve by its environment."""
    os.environ["AILAB_DIR"] = store
    if admin is not None:
        os.environ[_ADMIN] = admin
    sources = [os.path.dirname(module) for module in (ailab.__file__, __file__)]
    config = _config("ailab_api.app:app", rules, reload=True, reload_dirs=sources, timeout_graceful_shutdown=GRACE_S)
    announce(url)
    ChangeReload(config, target=uvicorn.Server(config).run, sockets=[listener]).run()


def _address(host: str) -> str:
    """The address that a host is written as.

    Raises:
        SettingError: it is neither an address nor localhost.
    """
    if host.lower() == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        raise SettingError(
            f"host {host[:100]!r} is no address", hint="such as 127.0.0.1, or 0.0.0.0 for all addresses of this machine"
        ) from None


def _listen(address: str, port: int | None) -> socket.socket:
    """A listening socket on `port`, or on the first free one from the default on.

    Raises:
        SettingError: none is free, or the one asked for is taken or cannot be had.
    """
    tried = range(PORT, PORT + PORTS_TRIED) if port is None else (port,)
    for number in tried:
        # asyncio turns Nagle's algorithm off only where the protocol is named; with it every answer waits 40 ms for an ACK
        listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, number))
            listener.listen(WAITING_MAX)
        except OSError as problem:
            listener.close()
            if problem.errno != errno.EADDRINUSE:
                raise SettingError(
                    f"port {number} cannot be had on {address}: {problem.strerror}", hint="allowed: 1024 to 65535"
                ) from problem
        except OverflowError:
            listener.close()
            raise SettingError(f"port {number} is none", hint="allowed: 1024 to 65535") from None
        else:
            return listener
    if port is not None:
        raise SettingError(
            f"port {port} is taken on {address}", hint="leave --port out, and the next free one from 8000 on is used"
        )
    raise SettingError(f"ports {PORT} to {PORT + PORTS_TRIED - 1} are taken on {address}", hint="name a free one with --port")


app = create_app(admin_token=os.environ.get(_ADMIN))
