"""Whatever happens to a store, its catalogue equals a full replay of its events."""

from __future__ import annotations

import os
import time

import pytest
import views_machine
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from ailab import commits
from ailab.views import batch, build, snapshot
from ailab.views.fold import RunFold

COMMON = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "print_blob": True,
    "database": None,
}
SHORT = settings(max_examples=8, stateful_step_count=30, derandomize=True, **COMMON)
LONG = settings(max_examples=200, stateful_step_count=50, **COMMON)
CONTROL = settings(
    max_examples=60, stateful_step_count=30, derandomize=True, phases=[Phase.generate], report_multiple_bugs=False, **COMMON
)
NIGHTLY = settings(max_examples=2000, stateful_step_count=50, **COMMON)


@pytest.fixture(autouse=True)
def few_points(monkeypatch):
    """Points get columns from three lines of a shape on."""
    monkeypatch.setattr(batch, "COLUMN_LINES", 3)


def play(how, chance=None):
    """Let the machine run; say how long it took."""
    began = time.monotonic()
    machine = views_machine.Machine if chance is None else seed(chance)(views_machine.Machine)
    try:
        run_state_machine_as_test(machine, settings=how)
    finally:
        print(f"{how.max_examples} examples of {how.stateful_step_count} steps: {time.monotonic() - began:.0f} s")


def test_views_equal_a_full_replay():
    """A fresh and a long-lived catalogue equal the replay after writes, kills, compaction, copies, joins and removals."""
    play(SHORT)


@pytest.mark.long
def test_views_equal_a_full_replay_in_many_stores(seed):
    """The same in 200 stores, from a seed that is printed."""
    play(LONG, seed)


@pytest.mark.long
@pytest.mark.skipif(not os.environ.get("NIGHTLY"), reason="takes hours; NIGHTLY=1 runs it")
def test_views_equal_a_full_replay_all_night(seed):
    """The same in 2,000 stores."""
    play(NIGHTLY, seed)


def both_copies(monkeypatch):
    """A reader that counts every copy of a line."""
    monkeypatch.setattr(commits, "passed_over", lambda _commits, _chosen: {})


def by_arrival(monkeypatch):
    """A fold that takes what arrives last as what was said last."""
    monkeypatch.setattr(RunFold, "place_of", lambda _fold, _word: (0, "", 0))


def without_redactions(monkeypatch):
    """A catalogue that does not know what is to go."""
    monkeypatch.setattr(snapshot._Maker, "_removing", lambda _maker, _tables: None)
    monkeypatch.setattr(build.Lab, "_remove", lambda _lab, _told, _line: set())


def joined_copies():
    """One store and a copy of it with a segment more, each compacted for itself and joined: a line lies in two records."""
    machine = views_machine.Machine()
    try:
        machine.begin([])
        machine.train(0, "r1", 5, 0, [1, 2])
        machine.end(0, "sealed", on=False)
        machine.copy_the_store("r2", [], gone=False)
        machine.compact(0.0, 100, fold=True)
        machine.compact_apart(0.0, 100)
        machine.join()
    finally:
        machine.teardown()


@pytest.mark.parametrize("seen", [False, True])
def test_lines_know_who_told_them_though_their_header_lies_in_another_record(seen):
    """A copy of the store closed and compacted what is still being written here; with a snapshot of that, and without."""
    machine = views_machine.Machine()
    try:
        machine.begin([])
        machine.copy_the_store("r2", [], gone=True)
        machine.compact_apart(0.0, 100)
        machine.join()
        if seen:
            machine.look()
        for index in (0, 1):
            machine.append(index=index, said=[("note.changed", {"note": "late"})], about="r1", by=None, second=1, more=1)
            machine.end(index, "sealed", on=True)
        machine.compact(0.0, 100, fold=seen)
        machine.delete_cache() if not seen else None
        machine.look()
    finally:
        machine.teardown()


def test_a_reader_that_counts_both_copies_is_found(monkeypatch):
    """Stores that were compacted apart and joined are read right, and not by a reader that counts every copy of a line."""
    joined_copies()
    both_copies(monkeypatch)
    with pytest.raises(AssertionError, match="catalogue: "):
        joined_copies()


def redacted():
    """A store of which an event was redacted, read through a snapshot and what came after it, and again when all is compacted."""
    machine = views_machine.Machine()
    try:
        machine.begin([])
        machine.end(0, "sealed", on=False)
        machine.compact(0.0, 100, fold=True)
        machine.redact(1, 1, fits=True)
        machine.look()
        machine.end(0, "sealed", on=False)
        machine.compact(0.0, 100, fold=True)
        machine.look()
    finally:
        machine.teardown()


def test_a_catalogue_that_forgets_redactions_is_found(monkeypatch):
    """What is to go is gone from a catalogue, and not from one that does not know of it."""
    redacted()
    without_redactions(monkeypatch)
    with pytest.raises(AssertionError, match="catalogue: "):
        redacted()


def test_the_machine_finds_a_faulty_catalogue(monkeypatch):
    """The same machine fails where the catalogue ignores late places."""
    by_arrival(monkeypatch)
    with pytest.raises(AssertionError, match="catalogue: "):
        play(CONTROL)
