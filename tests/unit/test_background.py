"""Runs that end have the store compacted in time, in a process that nobody waits for and that harms no training."""

from __future__ import annotations

import os
import time

import pytest

import ailab
from ailab import background, claims, commits, store


@pytest.fixture
def started(monkeypatch):
    """Processes that would have been started: their command and environment."""
    found = []

    def spawn(path, command, environment, *, file_actions):
        found.append((path, command, environment, file_actions))
        return 2**22 + 1

    monkeypatch.setattr(os, "posix_spawn", spawn)
    monkeypatch.setattr(background, "_started_at", -background.PAUSE_SECONDS)
    monkeypatch.setattr(background, "_children", set())
    monkeypatch.delenv("AILAB_AUTO_COMPACT")
    return found


def train(store_dir, count):
    for _ in range(count):
        with ailab.start_run("x", dir=store_dir) as run:
            run.log({"a": 1.0})


def test_the_sixty_fifth_run_starts_one(store_dir, started):
    """With this interpreter, for this store, and not a second one within a minute."""
    train(store_dir, 64)
    assert started == []
    train(store_dir, 3)
    ((path, command, environment, _),) = started
    assert command[1:] == ["-P", "-m", "ailab", "compact", "--background", "--dir", str(store_dir)]
    assert os.path.samefile(path, command[0])
    assert os.path.exists(os.path.join(environment["PYTHONPATH"].split(os.pathsep)[-1], "ailab", "__main__.py"))


def test_a_compaction_begins_the_count_anew(store_dir, started):
    """Also one that was called by hand."""
    from ailab.views.compact import compact

    train(store_dir, 60)
    compact(store.Store(str(store_dir)), fold=False)
    train(store_dir, 60)
    assert started == []
    train(store_dir, 5)
    assert len(started) == 1


def test_none_is_started_while_somebody_compacts(store_dir, started):
    """The claim tells; a stale one does not count."""
    place = store.open_store(str(store_dir), create=True)
    with claims.take(place, background.CLAIM):
        train(store_dir, 66)
        assert started == []
    train(store_dir, 1)
    assert len(started) == 1


def test_it_can_be_turned_off(store_dir, started, monkeypatch):
    """By AILAB_AUTO_COMPACT=0; then nothing is counted either."""
    monkeypatch.setenv("AILAB_AUTO_COMPACT", "0")
    train(store_dir, 66)
    assert started == []
    assert not os.path.exists(store_dir / "cache")


def test_where_it_cannot_be_started_training_goes_on(store_dir, started, monkeypatch, capsys):
    """It is said once."""

    def refuse(*_args, **_kwargs):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(os, "posix_spawn", refuse)
    monkeypatch.setattr(background, "PAUSE_SECONDS", 0.0)
    train(store_dir, 67)
    assert capsys.readouterr().err.count("Cannot allocate memory") == 1


def test_counting_costs_little(tmp_path, figure):
    """Far below 0.2 ms, however many segments there are."""
    place = store.open_store(str(tmp_path / "store"), create=True)
    background._count(place)
    took = []
    for _ in range(300):
        began = time.perf_counter()
        background._count(place)
        took.append(time.perf_counter() - began)
    figure(f"{sorted(took)[150] * 1e6:.0f} µs for a run that ends")
    assert sorted(took)[150] < 0.0002


def test_a_real_one_compacts_the_store(store_dir, scripts):
    """A script of seventy runs does not wait for it; the segments of the first sixty-five or more are in tables soon after."""
    source = """
        import ailab
        for i in range(70):
            with ailab.start_run("x") as run:
                run.log({"a": 1.0})
    """
    done = scripts.run(source, AILAB_AUTO_COMPACT="1")
    assert done.stderr == ""
    place = store.Store(str(store_dir))
    until = time.monotonic() + 60
    while time.monotonic() < until and not os.path.exists(os.path.join(place.cache, "compaction.json")):
        time.sleep(0.1)
    records, problems = commits.load(place)
    assert problems == []
    assert sum(len(commit.spans) for commit in records.values()) >= 65
