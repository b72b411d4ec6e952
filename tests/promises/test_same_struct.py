"""One Struct, two doors: what `ailab VERB --json` prints is what the server answers, byte for byte."""

from __future__ import annotations

import http.client
import json
import re
import select
import socket
import subprocess
import sys
import time

import pytest
from house import environment

START_S = 30


MAKER = """
import sys
import ailab
folder = sys.argv[1]
with open("model.bin", "wb") as file:
    file.write(b"weights")
for number, run_id in enumerate(["first", "second", "third"]):
    with ailab.start_run(
        run_id, id=run_id, project="iris", seed=number, params={"lr": 0.1 / (number + 1), "layers": [4, 2]},
        tags={"kind": "svm"}, note="before", dataset_id="iris@v1", dir=folder,
    ) as run:
        for step in range(3):
            run.log({"accuracy": 0.5 + number / 10 + step / 100, "loss": float("nan"), "big": 2**60 + step}, step)
        run.log_artifact("model.bin")
        print("epoch", run_id)
        run._write(ailab.events.SystemMetricsLogged(values={"process/memory_bytes": 5e8, "machine/cpu_percent": 12.5}))
ailab.note("after", "second", dir=folder)
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Path of a store with three runs that have all that an answer can hold."""
    folder = tmp_path_factory.mktemp("same")
    made = [sys.executable, "-c", MAKER, str(folder / "lab")]
    subprocess.run(made, check=True, cwd=folder, env=environment())
    return folder / "lab"


@pytest.fixture(scope="module")
def get(lab):
    """`get(method, path, body)` asks a server of the store in a process of its own: (status, body, headers)."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ailab", "serve", "--port", str(port), "--dir", str(lab)]
    server = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        _wait(server, port)

        def ask(method: str, path: str, body: object = None) -> tuple[int, bytes, dict[str, str]]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {} if body is None else {"Content-Type": "application/json"})
            answer = connection.getresponse()
            found = answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
            connection.close()
            return found

        yield ask
    finally:
        server.terminate()
        server.communicate(timeout=20)


def _wait(server: subprocess.Popen[bytes], port: int) -> None:
    """Return when the server has said where it listens."""
    assert server.stdout
    said, ends = b"", time.monotonic() + START_S
    while time.monotonic() < ends:
        if select.select([server.stdout], [], [], 0.2)[0]:
            piece = server.stdout.read1()
            assert piece, f"the server ended: {said.decode()}"
            said += piece
        if re.search(rb"http://127\.0\.0\.1:%d" % port, said):
            return
    raise AssertionError(f"no server within {START_S} s: {said.decode()}")


@pytest.fixture(scope="module")
def tell(lab):
    """`tell(*words)` runs `ailab … --json` on the store: (exit status, standard output, standard error)."""

    def run(*words: str) -> tuple[int, bytes, bytes]:
        command = [sys.executable, "-m", "ailab", *words, "--json", "--dir", str(lab)]
        done = subprocess.run(command, check=False, capture_output=True, env=environment(), timeout=60)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ("runs", "/runs"),
        (
            "runs --sort=metrics.accuracy --limit 2 --param layers=[4,2]",
            "/runs?sort=metrics.accuracy&limit=2&params.layers=%5B4,2%5D",
        ),
        ("show second", "/runs/second"),
        ("show second --metrics", "/runs/second/metrics"),
        ("show second --metrics", "/runs/second/history"),
        ("show second --artifacts", "/artifacts/second"),
        ("show second --console", "/runs/second/console"),
        ("show second --system", "/runs/second/system-metrics"),
        ("artifacts second", "/artifacts/second"),
        ("compare second first", "/runs/compare?ids=second&ids=first"),
        ("top accuracy", "/runs/leaderboard?metric_name=accuracy"),
        ("top big --of min --order asc -k 2", "/runs/leaderboard?metric_name=big&of=min&order=asc&top_k=2"),
        ("changes", "/changes"),
        ("changes second", "/runs/second/changes"),
    ],
)
def test_the_same_question_has_the_same_answer(get, tell, words, path):
    """The command's standard output is the body of the answer and a newline."""
    code, told, _ = tell(*words.split())
    status, body, headers = get("GET", path)
    assert (code, status) == (0, 200)
    assert headers["content-type"].startswith("application/json")
    assert told == body + b"\n"
    assert json.loads(body)


def test_compare_by_post_is_compare(get, tell):
    """POST /compare asks the same question with ids in its body."""
    status, body, _ = get("POST", "/compare", {"run_ids": ["third", "first"]})
    assert (status, body + b"\n") == (200, tell("compare", "third", "first")[1])
    assert [run["run_id"] for run in json.loads(body)["runs"]] == ["third", "first"]


def test_a_note_is_the_same_action_by_both_doors(get, tell):
    """Each answers with the run as the other then shows it, and the other's change is among the changes."""
    code, told, _ = tell("note", "third", "from", "the", "shell")
    assert code == 0
    assert get("GET", "/runs/third")[1] + b"\n" == told
    status, body, _ = get("PATCH", "/runs/third/note", {"note": "from the browser"})
    assert status == 200
    assert tell("show", "third")[1] == body + b"\n"
    changes = json.loads(get("GET", "/runs/third/changes")[1])
    assert [(change["new"], change["via"]) for change in changes[:2]] == [("from the browser", "http"), ("from the shell", "cli")]


@pytest.mark.parametrize(
    ("words", "path", "status"),
    [
        ("show secnd", "/runs/secnd", 404),
        ("runs --sort=colour", "/runs?sort=colour", 400),
        ("runs --from yesterday", "/runs?from_timestamp=yesterday", 400),
        ("runs --status done", "/runs?status=done", 400),
    ],
)
def test_the_same_mistake_has_the_same_problem(get, tell, words, path, status):
    """An error has the same fields and words by both doors; only `instance` says which door it was."""
    code, told, problem = tell(*words.split())
    answered, body, headers = get("GET", path)
    assert (code, told, answered) == (1, b"", status)
    assert headers["content-type"].startswith("application/problem+json")
    mine, theirs = json.loads(problem), json.loads(body)
    assert mine.pop("instance") != theirs.pop("instance")
    assert mine == theirs
