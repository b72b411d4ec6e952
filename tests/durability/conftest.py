"""What the tests of this folder share: their harness importable in child processes, and a server in a process of its own."""

from __future__ import annotations

import json
import os
import random
import urllib.request
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent

SERVER = """
import os, signal, sys, threading
import unprotected
unprotected.apply()
from ailab_api.app import serve

def end_with_the_tests():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=end_with_the_tests, daemon=True).start()
serve(port=None, dir=sys.argv[1], announce=lambda url: print(url, flush=True))
"""


@pytest.fixture(autouse=True)
def harness(clean_world, monkeypatch):
    """Scripts of these tests can import the modules beside this file."""
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", str(HERE) if not before else f"{HERE}{os.pathsep}{before}")
    monkeypatch.delenv("UNPROTECTED", raising=False)


@pytest.fixture
def seed():
    """What chance begins with; printed, and taken from DURABILITY_SEED where a failure is to be seen again."""
    found = int(os.environ.get("DURABILITY_SEED") or random.randrange(2**31))
    print("seed", found)
    return found


class Server:
    """A server that runs; `get` asks it and gives the JSON that it answers."""

    def __init__(self, process) -> None:
        self.process = process
        self.url = process.stdout.readline().strip()
        if not self.url.startswith("http"):
            process.kill()
            raise AssertionError(f"no server came up: {self.url}\n{process.communicate()[1]}")

    def get(self, path, timeout=30):
        """The answer's JSON; every status but 200 raises."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=timeout) as answer:
            return json.load(answer)

    def stop(self):
        """End it; its standard error."""
        return self.process.communicate(timeout=30)[1]


@pytest.fixture
def server(scripts):
    """`server(folder)` starts a server of the store in `folder`; it ends with the test."""
    return lambda folder, **env: Server(scripts.start(SERVER, folder, **env))
