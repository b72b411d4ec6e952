"""The bench itself: stores written in bulk are stores, the jobs answer what they time, and its page tells what was missed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import figures
import jobs
import kit
import population
import pytest
from adapters import ailab_local

import ailab
from ailab import segments, views
from ailab.store import open_store

HERE = Path(__file__).resolve().parent


def test_runs_written_in_bulk_read_as_if_they_had_been_recorded(store_dir, monkeypatch):
    """Every segment passes the strict reader, one follows the other, and each run has its parameters, metrics and point."""
    monkeypatch.setattr(population, "SEGMENT_BYTES", 20_000)
    ids = population.populate(store_dir, 100)
    store = open_store(str(store_dir), create=False)
    names = store.segment_names()
    lines = [line for name in names for line in segments.scan(store.segment_path(name), mode="strict")]
    headers = [json.loads(bytes(line.data)) for line in lines if line.kind == "segment.opened"]
    assert len(names) > 3
    assert [header.get("previous") for header in headers] == [None, *names[:-1]]
    assert [line.clock for line in lines] == sorted({line.clock for line in lines})
    assert ids == sorted(ids)

    lab = views.open_lab(store_dir)
    found = ailab.get_run(ids[7], dir=store_dir)
    name, params, metrics = kit.run_record(7)
    assert (found.name, found.params, found.final_metrics, found.status) == (name, params, metrics, "completed")
    assert ailab.history(ids[7], ["m0"], dir=store_dir).rows()[0]["value"] == metrics["m0"]
    wanted = sum(kit.run_record(i)[1]["p0"] == "v3" and kit.run_record(i)[2]["m0"] >= 0.9 for i in range(100))
    assert [ailab_local.ask(lab, question, ids[7]) for question in kit.QUESTIONS] == [50, wanted, 10, 1]
    lab.close()


def test_an_id_and_its_number_rise_together():
    """A limit's UUIDs lie in the order of the runs."""
    ids = [ailab.runs.new_run_id(now=1e9 + i) for i in range(5)]
    numbers = [population.number_of(run) for run in ids]
    assert numbers == sorted(numbers)
    assert all(number < 1 << 128 for number in numbers)


@pytest.mark.parametrize("system", ["limit_raw", "ailab_local"])
def test_what_was_logged_is_recovered(system, tmp_path, monkeypatch):
    """The jobs that count what a kill cost find every point of a run that was not killed, and its history."""
    monkeypatch.setenv("AILAB_DIR", str(tmp_path / "store"))
    monkeypatch.setattr(kit, "POOL", 50)
    told = jobs.parallel(system, str(tmp_path), who=0, n=30, go=str(tmp_path), budget_s=9, first=False)
    assert (told["acknowledged"], told["errors"]) == (30, 0)
    assert jobs.recovered(system, str(tmp_path), names=["parallel-0"]) == {"recovered": [30], "errors": []}
    assert jobs.fill(system, str(tmp_path), n=50, budget_s=9)["points"] == 500
    assert jobs.history(system, str(tmp_path), reads=2, budget_s=9)["points"] == 50


def test_a_run_that_cannot_be_read_is_told(tmp_path):
    """It counts as nothing recovered, and the error is not swallowed."""
    found = jobs.recovered("limit_raw", str(tmp_path), names=["nobody"])
    assert found["recovered"] == [0]
    assert "FileNotFoundError" in found["errors"][0]


def test_a_page_tells_what_was_reached_missed_and_not_measured():
    """Ratios are medians over blocks, and a row without a figure misses its target."""
    rows = [
        figures.compared("log", "µs", ("limit", [1.0, 2.0, 4.0]), [1.5, 3.0, 8.0], 1.5),
        figures.compared("log", "µs", ("limit", [1.0, 2.0, 4.0]), [1.6, 3.2, 6.0], 1.5),
        figures.failed("open", "no answer within 9 s", "≤ 1 s"),
        figures.Row("size", measured="7 | 8"),
    ]
    assert [row.reached for row in rows] == [True, False, False, None]
    text = figures.report(rows, [figures.Table("Others", ["work", "x"], [["log", "2 (× 3)"]])], minutes=1, notes=["others: x 1"])
    assert "1 of 3 reached" in text
    assert "| log | limit 2.00 µs | 3.20 (1.60-6.00) µs | 1.60 (1.50-1.60) × limit | ≤ 1.5 × limit | **missed** |" in text
    assert "| open | – | not measured: no answer within 9 s | – | ≤ 1 s | **missed** |" in text
    assert "| size | – | 7 / 8 | – | – | – |" in text
    assert text.endswith("| work | x |\n|---|---|\n| log | 2 (× 3) |\n")


def test_parts_that_are_not_there_are_named():
    """`bench.py NAME` with a wrong name says which there are, and measures nothing."""
    command = [sys.executable, str(HERE / "bench.py"), "speed"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == 2
    assert "no part 'speed'; allowed: import, log, runs, watched, first, kill, parallel, points, buckets" in done.stderr
