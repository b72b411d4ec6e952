"""What clients of a server do, each job in a process of its own: ask without pause, log without pause, send a large file."""

from __future__ import annotations

import itertools
import os
import selectors
import socket
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "127.0.0.1"


class _Connection:
    """A connection that is kept, with one request under way: as little work as a client can have."""

    def __init__(self, port: int, paths: Iterator[str]) -> None:
        self.socket = socket.create_connection((HOST, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._port, self._paths = port, paths
        self._data = b""
        self._until = 0
        self.asked_at = 0.0

    def ask(self) -> None:
        self._data, self._until = b"", 0
        request = f"GET {next(self._paths)} HTTP/1.1\r\nHost: {HOST}:{self._port}\r\n\r\n".encode()
        self.asked_at = time.perf_counter()
        self.socket.sendall(request)

    def is_answered(self) -> bool:
        """Read what is there; whether the answer is whole.

        Raises:
            ConnectionError: it is no answer, or an error.
        """
        self._data += self.socket.recv(1 << 20)
        if not self._until:
            head, end, _ = self._data.partition(b"\r\n\r\n")
            if not end:
                return False
            if not head.startswith(b"HTTP/1.1 200 "):
                raise ConnectionError(head[:200])
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            self._until = len(head) + 4 + int(length.partition(b":")[2])
        return len(self._data) >= self._until


def ask_without_pause(*, port: int, paths: list[str], connections: int, seconds: float) -> dict[str, Any]:
    """Requests per second, and the milliseconds of each, over connections that ask again as soon as they are answered."""
    asked = itertools.cycle(paths)
    times: list[float] = []
    with selectors.DefaultSelector() as selector:
        for _ in range(connections):
            one = _Connection(port, asked)
            selector.register(one.socket, selectors.EVENT_READ, one)
            one.ask()
        began = time.perf_counter()
        warm, end = began + min(1.0, seconds / 4), began + seconds
        while (now := time.perf_counter()) < end:
            for key, _ in selector.select(timeout=1):
                one = key.data
                if one.is_answered():
                    if now > warm:
                        times.append((time.perf_counter() - one.asked_at) * 1e3)
                    one.ask()
    return {"per_s": len(times) / (end - warm), "ms": times}


def log_each_ms(*, root: str, stop: str) -> dict[str, Any]:
    """Log one event a millisecond until a file is there; how many there were, and in how many seconds."""
    import ailab

    os.environ["AILAB_DIR"] = f"{root}/store"
    with ailab.start_run("busy", project="bench") as run:
        began, step = time.perf_counter(), 0
        while not os.path.exists(stop):
            for _ in range(100):
                run.log({"loss": 1 / (step + 1)}, step=step)
                step += 1
                pause = began + step / 1e3 - time.perf_counter()
                if pause > 0:
                    time.sleep(pause)
        return {"events": step, "s": time.perf_counter() - began}


def send_file(*, port: int, path: str, file: str) -> dict[str, Any]:
    """Seconds to send a file as the body of a POST, until it is answered."""
    import http.client

    connection = http.client.HTTPConnection(HOST, port, timeout=600)
    began = time.perf_counter()
    with open(file, "rb") as body:
        connection.request(
            "POST", path, body, {"Content-Type": "application/octet-stream", "Content-Length": str(os.path.getsize(file))}
        )
        answer = connection.getresponse()
        said = answer.read()
    if answer.status != 201:
        raise ConnectionError(said[:200])
    return {"s": time.perf_counter() - began}


def write_events(*, root: str, n: int, runs: int) -> dict[str, Any]:
    """Log `n` events of three values in so many runs; the bytes of their segments."""
    import kit

    import ailab

    os.environ["AILAB_DIR"] = f"{root}/store"
    for _ in range(runs):
        with ailab.start_run("shipped", project="bench", capture="process") as run:
            for step in range(n // runs):
                run.log({"loss": 1 / (step + 1), "acc": step / n, "lr": 0.1}, step=step)
    return {"bytes": kit.tree_bytes(f"{root}/store/segments")}
