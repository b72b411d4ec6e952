"""A real server in a process of its own, on a real store, spoken to in raw bytes over a real socket.

Nothing here normalises a path, adds a header or decodes twice: what a test writes is what the server reads. The store is made
once by a script that uses the public logger; servers end with the tests that started them, and by themselves when the test
process is gone (their standard input closes).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NASTY = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;{{7*7}}"
"""Text that would run as markup wherever it is not escaped."""
SECURITY = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""Headers that every answer has."""
BIG = 48_000_000
"""Bytes of the file whose download must not show in the server's memory."""

STORE = """
import math, os, sys
from pathlib import Path
import ailab
from ailab import blobs, datasets, events
from ailab.actions import Actions
from ailab.bodies import DatasetFields

os.environ["AILAB_DIR"], nasty, big = sys.argv[1], sys.argv[2], int(sys.argv[3])
Path("metrics.csv").write_text("epoch,loss\\n0,0.9\\n1,0.5\\n")
Path("model.joblib").write_bytes(bytes(range(256)) * 8)
Path("page.html").write_text("<script>alert(1)</script>")
Path("ünï cödé; \\"x\\".txt").write_text("x")
Path("nothing.bin").touch()
Path("plot.png").write_bytes(bytes.fromhex("89504e470d0a1a0a"))
with open("big.bin", "wb") as file:
    for piece in range(big // 1_000_000):
        file.write(bytes([piece]) * 1_000_000)

params = {"model_name": "svm", "lr": 0.1, "optimizer": {"name": "sgd"}}
with ailab.start_run("first", id="run-a", project="iris", dataset_id="iris@v1", seed=1, tags=["baseline"], params=params) as run:
    for step in range(20):
        run.log({"loss": 1 / (step + 1), "accuracy": 1 - 0.5 / (step + 1)}, step=step)
    run.log_artifact("metrics.csv")
    run.log_artifact("model.joblib", name="checkpoints/model.joblib")
    run.log_artifact("page.html")
    run.log_artifact("ünï cödé; \\"x\\".txt")
    run.log_artifact("nothing.bin")
    run.log_artifact("plot.png", name="plots/plot.png")
    run.note("first try")
    print("epoch 1", "epoch 2", sep="\\n")
    print("careful", file=sys.stderr)
    for used in (5, 7, 6):
        run._write(events.SystemMetricsLogged(values={"process/memory_bytes": used * 1e8, "gpu/0/power_watts": used * 10}))
ailab.note("PUBLISH: good", "run-a")
with ailab.start_run("second", id="run-b", project="iris", dataset_id="wine@v1", params={"model_name": "tree", "lr": 0.5}) as run:
    run.log({"loss": math.nan, "accuracy": 0.7}, step=0)
    run.log({"loss": math.inf, "accuracy": 0.8}, step=1)
    run.log({"loss": 0.25}, step=2)
try:
    with ailab.start_run("third", id="run-c", project="wine", tags={"phase": "late"}) as run:
        run.log({"accuracy": 0.4})
        raise ValueError(nasty)
except ValueError:
    pass
with ailab.start_run(
    nasty, id="run-x", project=nasty, dataset_id=nasty, tags={nasty: nasty}, group=nasty, params={nasty: nasty, "lr": nasty}
) as run:
    run.log({"loss": 3.0, nasty: 1.0})
    run.log_text(nasty, nasty)
    run.note(nasty)
    hostile = ["</pre>" + nasty, "\\x1b[2J\\x1b]0;owned\\x07\\u202e"]
    run._write(events.ConsoleLinesLogged(stream="stdout", lines=hostile, dropped=1204))
    run._write(events.ConsoleLinesLogged(stream=nasty, lines=[], dropped=2))
    run._write(events.SystemMetricsLogged(values={nasty: 1.0}))
with ailab.start_run("big", id="run-big", project="files") as run:
    run.log_artifact("big.bin")
with ailab.start_run("notes", id="run-w", project="notes"):
    pass
with Actions(ailab.connect(sys.argv[1]).lab, via="sdk") as actions:
    with open("metrics.csv", "rb") as file:
        incoming = blobs.Incoming(actions.lab.store)
        incoming.write(file.read())
    contents = datasets.examine("metrics.csv", "metrics.csv")
    actions.add_dataset(incoming, contents, file="metrics.csv", fields=DatasetFields(name="flowers", project_id="iris"))
"""

SERVER = """
import os, signal, sys, threading
from ailab_api.app import serve

def end_with_the_tests():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=end_with_the_tests, daemon=True).start()
serve(port=int(sys.argv[2]) if sys.argv[2] else None, dir=sys.argv[1] or None, announce=lambda url: print(url, flush=True))
"""


@dataclass
class Answer:
    """One answer, its header names in lower case."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name):
        """Every value of a header."""
        return [value for key, value in self.headers if key == name.lower()]

    def header(self, name):
        """The value of a header that is there once."""
        (value,) = self.all(name)
        return value

    def json(self):
        """The body, which says that it is JSON."""
        assert self.header("content-type") in {"application/json", "application/problem+json"}, self
        return json.loads(self.body)

    @property
    def text(self):
        """The body as text."""
        return self.body.decode()


class Live:
    """A server that runs: where it is, its process, and a client that sends exactly what it is told."""

    def __init__(self, process, url):
        self.process, self.url = process, url
        self.host = url.removeprefix("http://")
        self.address = (self.host.rpartition(":")[0].strip("[]"), int(self.host.rpartition(":")[2]))

    def connect(self):
        """A socket to the server."""
        return socket.create_connection(self.address, timeout=20)

    def raw(self, data: bytes) -> Answer:
        """Send bytes, and read one answer."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_answer(connection, without_body=data.startswith(b"HEAD "))

    def ask(self, method, path, headers=(), body=b"", host=None) -> Answer:
        """Send one request. `headers` come after Host and Connection; a body gets its length and, by default, JSON's type."""
        given = dict(headers)
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host if host is None else host}", "Connection: close"]
        if body:
            given.setdefault("Content-Type", "application/json")
            lines.append(f"Content-Length: {len(body)}")
        lines += [f"{name}: {value}" for name, value in given.items() if value is not None]
        return self.raw("\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + body)

    def get(self, path, **headers) -> Answer:
        """GET a path; `Accept_Language` becomes Accept-Language."""
        return self.ask("GET", path, {name.replace("_", "-"): value for name, value in headers.items()})

    def send(self, method, path, content, **headers) -> Answer:
        """Send an object as JSON."""
        return self.ask(method, path, headers, json.dumps(content).encode())

    def end(self, by=signal.SIGTERM):
        """End the server by a signal; (exit code, what it wrote to standard error)."""
        if self.process.poll() is None:
            self.process.send_signal(by)
        try:
            self.process.wait(timeout=15)  # before its standard input closes, which would end it too
        except subprocess.TimeoutExpired:
            self.process.kill()
        _, err = self.process.communicate()
        return self.process.returncode, err.decode()


def read_answer(connection, *, without_body=False) -> Answer:
    """Read one answer from a socket: as many bytes as it says, or until it is closed."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        assert piece, f"closed after {data!r}"
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    length = 0 if without_body else int(dict(headers).get("content-length", 1 << 62))
    pieces, size = [body], len(body)
    while size < length and (piece := connection.recv(1 << 20)):
        pieces.append(piece)
        size += len(piece)
    return Answer(int(first.split()[1]), headers, b"".join(pieces))


def wait_for(what, seconds=10):
    """Until it is so."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


def environment(**extra):
    """The environment without anybody's settings, the checkout's packages importable."""
    theirs = ("AILAB_", "MODELLAB_", "PROJECT_NAME", "WANDB_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    paths = [str(ROOT), str(ROOT / "api"), os.environ.get("PYTHONPATH", "")]
    return {**kept, "PYTHONPATH": os.pathsep.join(p for p in paths if p), "PYTHONWARNINGS": "error", "AILAB_SILENT": "1", **extra}


def launch(folder, *, dir="", port="0", source=SERVER, own_group=False, **env) -> Live:  # noqa: A002  (the word everywhere in ailab)
    """Start a server in a process of its own, in `folder`; returns once it answers. `own_group`: as a shell does it."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source), str(dir), str(port)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder, env=environment(**env),
        start_new_session=own_group,
    )  # fmt: skip
    url = process.stdout.readline().decode().strip()
    if not url:
        process.kill()
        raise AssertionError(process.communicate()[1].decode())
    return Live(process, url)
