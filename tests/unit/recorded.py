"""What a store says of a run, for the tests of the writing side: by strict reading of the journal, and by the catalogue."""

from __future__ import annotations

import time

import msgspec

from ailab import journal, queries


def lines_of(run):
    """Every event of a run as written, in the order of its segments; the journal must be without fault."""
    found = []
    for name in run.store.segments_of_run(run.id):
        found += journal.scan(run.store.segment_path(name), mode="strict")
    return found


def payloads(run, kind):
    """The payloads of a run's events of one kind."""
    return [msgspec.json.decode(line.data) for line in lines_of(run) if line.kind == kind]


def wait_for(found, seconds=20):
    """Wait until `found()` is true; it then is what comes back."""
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end, "it did not come in time"
        time.sleep(0.01)
    return result


def detail(lab, run):
    """The run as the catalogue answers, which must have found nothing wrong."""
    catalogue = lab()
    assert catalogue.problems == []
    return queries.get_run(catalogue, run.id)


class Unprintable:
    """A value whose own text raises."""

    def __repr__(self):
        raise RuntimeError("no text")
