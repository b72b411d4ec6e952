"""Connections on which nothing comes: they end, and however many there are, whoever asks is answered."""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import threading
import time

import psutil
from live import SERVER, read_answer
from test_attacks import HANG_S, PROMPT_S, drip, exchange

SHORT = "import resource\nfrom ailab_api import wire\n{}\n" + SERVER


def half_open(live, sent=b"GET /health HTTP/1.1\r\nHost: x"):
    """A connection on which half a head was sent."""
    connection = socket.create_connection(live.address, timeout=HANG_S)
    connection.sendall(sent)
    return connection


def is_closed(connection):
    """Whether the server ended a connection on which nothing is to come."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_a_head_that_does_not_come_ends_its_connection(start, tmp_path):
    """No byte, half a head, one that drips, and a second one behind an answer; a body may take longer."""
    live = start(dir=tmp_path / "lab", source=SHORT.format("wire.HEAD_S = 1.0"))
    host, stop = live.host.encode(), threading.Event()
    begun = b"POST /runs HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n" % host
    with contextlib.ExitStack() as stack:
        slow, again, silent, half, dripping = (
            stack.enter_context(contextlib.closing(half_open(live, sent)))
            for sent in (begun, b"GET /health HTTP/1.1\r\nHost: %s\r\n\r\n" % host, b"", b"GET /", b"GET /")
        )
        assert read_answer(again).status == 200
        again.sendall(b"GET /")
        thread = threading.Thread(target=drip, args=(dripping, b"x" * 1000, stop))
        thread.start()
        stack.callback(thread.join)
        stack.callback(stop.set)
        assert [is_closed(one) for one in (silent, half, again, dripping)] == [True] * 4
        slow.sendall(b'{"run_id": "late"}')
        assert read_answer(slow).status == 201


def test_more_connections_than_there_may_be(start, tmp_path):
    """Seven hundred half heads where 600 descriptors may be open: the oldest go, who asks is answered, nothing under way ends."""
    live = start(dir=tmp_path / "lab", source=SHORT.format("resource.setrlimit(resource.RLIMIT_NOFILE, (600, 600))"))
    process = psutil.Process(live.process.pid)
    begun = f"POST /runs HTTP/1.1\r\nHost: {live.host}\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n"
    with contextlib.ExitStack() as stack:
        slow = stack.enter_context(contextlib.closing(half_open(live, begun.encode())))
        assert live.get("/health").status == 200  # by now that head has been read
        held = [stack.enter_context(contextlib.closing(half_open(live))) for _ in range(700)]
        for _ in range(20):
            began = time.monotonic()
            assert exchange(live, f"GET /runs HTTP/1.1\r\nHost: {live.host}\r\nConnection: close\r\n\r\n".encode()).status == 200
            assert time.monotonic() - began < PROMPT_S
        assert process.num_fds() < 300
        assert is_closed(held[0])
        slow.sendall(b'{"run_id": "late"}')
        assert read_answer(slow).status == 201
    assert live.end() == (-signal.SIGTERM, "")


def test_a_server_opens_as_many_files_as_it_may(start, tmp_path):
    """The limit that shells begin with is for programs that open few; 1,000 clients that keep their connections are served."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    live = start(dir=tmp_path / "lab", source=SHORT.format(f"resource.setrlimit(resource.RLIMIT_NOFILE, (256, {hard}))"))
    raised = psutil.Process(live.process.pid).rlimit(psutil.RLIMIT_NOFILE)
    assert raised == (hard if 0 <= hard < 20_320 else 20_320, hard)
