"""Several threads ask one catalogue: at the same time, of one state, with the settings of its owner; a change has its turn."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import ailab
from ailab import queries
from ailab.filters import RunFilter
from ailab.views import open_lab

WAIT_S = 30


class Steps:
    """What threads did, in which order, and events that they wait for."""

    def __init__(self):
        self.done = []
        self.go = threading.Event()
        self.begun = threading.Semaphore(0)

    def read(self, lab, name):
        with lab.reading():
            self.done.append(f"{name} begins")
            self.begun.release()
            assert self.go.wait(WAIT_S)
            self.done.append(f"{name} ends")

    def change(self, lab):
        with lab._askers.changing(), lab._askers.changing():
            self.done.append("change")


@pytest.fixture
def catalogue(store_dir):
    """A catalogue over three runs."""
    for i in range(3):
        with ailab.start_run(f"r{i}", config={"lr": i}) as run:
            run.log({"loss": float(i)}, step=0)
    lab = open_lab(store_dir)
    yield lab
    lab.close()


def started(target, *given):
    thread = threading.Thread(target=target, args=given, daemon=True)
    thread.start()
    return thread


def test_readers_read_at_once_and_a_change_has_its_turn(catalogue):
    """Two are in at the same time; a change waits for them, and a reader that comes later waits for the change."""
    steps = Steps()
    readers = [started(steps.read, catalogue, name) for name in ("a", "b")]
    for _ in readers:
        assert steps.begun.acquire(timeout=WAIT_S)
    change = started(steps.change, catalogue)
    until = time.monotonic() + WAIT_S
    while not catalogue._askers._waiting and change.is_alive() and time.monotonic() < until:
        time.sleep(0.001)
    late = started(steps.read, catalogue, "late")
    late.join(0.2)
    assert sorted(steps.done) == ["a begins", "b begins"]
    steps.go.set()
    for thread in (*readers, change, late):
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert steps.done[4:] == ["change", "late begins", "late ends"]


def test_a_change_waits_for_another_one(catalogue):
    """Two threads that change it take turns; the same one may say twice that it does."""
    inside, most = [], []

    def change(i):
        with catalogue._askers.changing(), catalogue._askers.changing():
            inside.append(i)
            most.append(len(inside))
            time.sleep(0.005)
            inside.remove(i)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(change, range(20)))
    assert most == [1] * 20


def test_a_question_that_would_refresh_is_refused(catalogue):
    """It would wait for itself; the connection is given back, and the catalogue goes on."""
    with pytest.raises(AssertionError, match="wait for itself"), catalogue.reading():
        catalogue.refresh()
    catalogue.refresh()
    with catalogue.reading():
        assert queries.list_runs(catalogue).total == 3


def test_each_has_a_connection_of_its_own_with_the_same_settings(catalogue):
    """Another one for each that reads at once, the same one again afterwards; what is set for the owner holds on all."""
    asked = "SELECT current_setting('timezone'), current_setting('late_materialization_max_rows')"
    owner = catalogue.con
    with catalogue.reading():
        first = catalogue.con
        assert first is not owner
        assert catalogue.rows(asked) == owner.execute(asked).fetchall() == [("UTC", 1001)]
        with ThreadPoolExecutor(1) as pool:

            def other():
                with catalogue.reading():
                    return catalogue.con, catalogue.rows(asked)

            con, settings = pool.submit(other).result(WAIT_S)
            assert con not in {first, owner}
            assert settings == [("UTC", 1001)]
    assert catalogue.con is owner
    with catalogue.reading():
        assert catalogue.con in {first, con}


def test_answers_in_threads_are_those_of_one_state(store_dir, catalogue):
    """While runs come in and go into the trash, a page, its total and its order belong together, and nothing goes backwards."""
    catalogue.make_views()
    stop, seen, wrong = threading.Event(), [0, 0], []

    def ask(i):
        asked = [RunFilter(limit=2), RunFilter(where="metrics.loss >= 0", sort="metrics.loss", limit=2)][i]
        while not stop.is_set():
            with catalogue.reading():
                page = queries.list_runs(catalogue, asked)
                best = queries.leaderboard(catalogue, "loss", top_k=1000, order="asc", of="max" if i else None)
                everybody = [row[0] for row in catalogue.rows("SELECT run_id FROM base.run_table WHERE NOT trashed")]
            if not page.total == len(best) == len(everybody) >= seen[i]:
                wrong.append((page.total, len(best), len(everybody), seen[i]))
            if i and [row.run_id for row in page.rows] != [row.run_id for row in best][:2]:
                wrong.append((page.rows, best))
            seen[i] = page.total

    threads = [started(ask, i) for i in range(2)]
    try:
        for i in range(40):
            with ailab.start_run(f"more{i}", config={"lr": i, f"new{i}": 1}) as run:
                run.log({"loss": i + 0.5, f"m{i}": 1.0}, step=0)
            catalogue.refresh()
    finally:
        stop.set()
    for thread in threads:
        thread.join(WAIT_S)
    assert wrong == []
    assert queries.list_runs(catalogue).total == 43
    assert min(seen) > 3
