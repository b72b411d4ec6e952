"""The store and the servers of these tests; `live` has the server as they see it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from live import BIG, NASTY, STORE, environment, launch

REAL = {
    "run_id": "run-a", "path": "metrics.csv", "project_id": "iris", "dataset_id": "flowers", "event": "nothing:1",
    "sha256": "0" * 64,
}  # fmt: skip
"""What stands for the parts of paths."""


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Path of a store with six runs: run-a, run-b, run-c (failed), run-x (nasty texts), run-big and run-w (for writing)."""
    folder = tmp_path_factory.mktemp("api")
    path, script = folder / "store", folder / "make_store.py"
    script.write_text(STORE)
    subprocess.run(
        [sys.executable, str(script), str(path), NASTY, str(BIG)], cwd=folder, env=environment(), check=True, timeout=60
    )
    return path


@pytest.fixture(scope="session")
def server(store):
    """A server on the store of six runs, for all tests; it must have answered every one without a word on standard error."""
    live = launch(store.parent, dir=store)
    yield live
    code, err = live.end()
    assert (code, err) == (-signal.SIGTERM, "")


@pytest.fixture
def start(tmp_path):
    """`start(dir=…, port=…, source=…, AILAB_…=…)` starts a server in an empty folder, ended with the test."""
    started = []

    def start_one(**given):
        started.append(launch(tmp_path, **given))
        return started[-1]

    yield start_one
    for live in started:
        live.end()


@pytest.fixture(scope="session")
def playground(store, tmp_path_factory):
    """A server on a copy of the store of six runs, for tests that change whatever they like."""
    copy = tmp_path_factory.mktemp("playground") / "store"
    shutil.copytree(store, copy, copy_function=os.link)  # files never change, so links will do
    live = launch(copy.parent, dir=copy)
    yield live
    code, err = live.end()
    assert (code, err) == (-signal.SIGTERM, "")


@pytest.fixture
def lab(store):
    """The catalogue of the store of six runs, in this process."""
    from ailab.views import open_lab

    opened = open_lab(store)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def routes(server, store):
    """Every route of the OpenAPI document as (method, path with real ids in it, template, operation)."""
    document = server.get("/schema/openapi.json").json()
    real = {**REAL, "segment": min((store / "segments").iterdir()).stem}
    return [
        (verb.upper(), re.sub(r"{(\w+)}", lambda part: real[part[1]], template), template, operation)
        for template, item in document["paths"].items()
        for verb, operation in item.items()
    ]
