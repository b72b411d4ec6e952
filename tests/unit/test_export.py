"""What `ailab export` promises: files that other programs open, with what the views say, whole or not there."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import ailab
from ailab import cli, views
from ailab.errors import FilterError, RefusedError
from ailab.views import exports


@pytest.fixture
def recorded(store_dir):
    """A store with two runs and odd values, one of them compacted."""
    from ailab.store import open_store
    from ailab.views.compact import compact

    for number, run_id in enumerate(["r1", "r2"]):
        with ailab.start_run(
            "größe", id=run_id, project="iris", seed=number, config={"lr": 0.1 * (number + 1), "x/y": "a,b\nc"}
        ) as run:
            for step in range(5):
                run.log({"loss": 1 / (step + 1), "bad": float("nan")}, step=step)
            run.note("a note")
        if number == 0:
            compact(open_store(str(store_dir), create=False), grace_s=0)
    return store_dir


def rows(con, table, schema=""):
    """Every row of a table or view as text, sorted."""
    return sorted(map(repr, con.execute(f'SELECT * FROM {schema}"{table}"').fetchall()))


def test_a_database_is_read_by_plain_duckdb(recorded, tmp_path):
    """Every view is a table with the same rows, column names and comments; nothing else is in it."""
    target = tmp_path / "lab.duckdb"
    with ailab.connect() as lab:
        done = exports.export(lab.lab, str(target))
        names = [table.name for table in done.tables]
        assert {"runs", "wide", "metrics", "metric_summary", "params", "events"} <= set(names)
        with duckdb.connect(str(target), read_only=True) as plain:
            assert sorted(row[0] for row in plain.execute("SELECT table_name FROM duckdb_tables()").fetchall()) == names
            for table in done.tables:
                assert rows(plain, table.name) == rows(lab.lab.con, table.name)
                assert table.rows == len(rows(plain, table.name))
            said = plain.execute("SELECT comment FROM duckdb_columns() WHERE (table_name, column_name) = ('runs', 'status')")
            assert said.fetchall()[0][0].startswith("pending, running")
            assert plain.execute("SELECT count(*) FROM metrics WHERE isnan(value)").fetchall() == [(10,)]
    assert done.bytes == target.stat().st_size
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "store") == ["lab.duckdb"]


def test_a_folder_gets_a_parquet_file_per_view(recorded, tmp_path):
    """Pyarrow reads each, with as many rows as the view; seeds stay whole numbers."""
    with ailab.connect() as lab:
        done = exports.export(lab.lab, f"{tmp_path}/out/")
        for table in done.tables:
            found = pq.read_table(table.file)
            assert found.num_rows == table.rows == len(rows(lab.lab.con, table.name))
            assert found.column_names == [row[0] for row in lab.lab.con.execute(f'DESCRIBE "{table.name}"').fetchall()]
        runs = pq.read_table(tmp_path / "out" / "runs.parquet").to_pylist()
        assert {row["run_id"]: row["seed"] for row in runs} == {"r1": 0, "r2": 1}
        points = pq.read_table(tmp_path / "out" / "metrics.parquet").to_pylist()
        assert sorted(row["value"] for row in points if row["key"] == "loss" and row["run_id"] == "r2") == sorted(
            1 / (step + 1) for step in range(5)
        )
        assert all(math.isnan(row["value"]) for row in points if row["key"] == "bad")
    assert done.bytes == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())


def test_a_seed_of_more_than_64_bits_becomes_text_and_loses_no_digit(store_dir, tmp_path):
    with ailab.start_run("x", id="r1", seed=2**80):
        pass
    with ailab.connect() as lab:
        exports.export(lab.lab, f"{tmp_path}/out/")
    assert pq.read_table(tmp_path / "out" / "runs.parquet").to_pylist()[0]["seed"] == str(2**80)


def test_csv_has_a_line_per_run(recorded, tmp_path):
    """The csv module reads it back, line breaks and commas in values too."""
    with ailab.connect() as lab:
        done = exports.export(lab.lab, str(tmp_path / "runs.csv"))
    with open(tmp_path / "runs.csv", newline="", encoding="utf-8") as file:
        read = {row["run_id"]: row for row in csv.DictReader(file)}
    assert set(read) == {"r1", "r2"}
    assert (read["r2"]["name"], read["r2"]["x/y"], float(read["r2"]["lr"])) == ("größe", "a,b\nc", 0.2)
    assert float(read["r1"]["loss"]) == 0.2
    assert [(table.name, table.rows) for table in done.tables] == [("wide", 2)]


def test_what_is_there_is_replaced_only_with_force(recorded, tmp_path):
    for target in ("lab.duckdb", "runs.csv"):
        path = tmp_path / target
        path.write_bytes(b"mine")
        with ailab.connect() as lab:
            with pytest.raises(RefusedError, match="--force"):
                exports.export(lab.lab, str(path))
            assert path.read_bytes() == b"mine"
            assert exports.export(lab.lab, str(path), force=True).bytes == path.stat().st_size > 4
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "wide.parquet").write_text("mine")
    with ailab.connect() as lab:
        with pytest.raises(RefusedError):
            exports.export(lab.lab, str(folder))
        assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "wide.parquet"]
        exports.export(lab.lab, str(folder), force=True)
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_failure_leaves_what_was_there(recorded, tmp_path, monkeypatch):
    """An export that fails halfway leaves no file, and the old one as it was."""
    path = tmp_path / "lab.duckdb"
    path.write_bytes(b"mine")

    def fail(*_):
        raise duckdb.Error("disk full")

    monkeypatch.setattr(exports, "_comment", fail)
    with ailab.connect() as lab, pytest.raises(OSError, match="disk full"):
        exports.export(lab.lab, str(path), force=True)
    assert path.read_bytes() == b"mine"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".tmp")] == []


@pytest.mark.parametrize("target", ["out.txt", "out", ""])
def test_a_target_that_does_not_say_what_it_is_is_refused(target):
    with pytest.raises(FilterError, match="does not say") as caught:
        exports.form_of(target)
    assert "NAME.duckdb" in caught.value.hint


def test_nothing_is_written_into_the_store(recorded):
    lab = views.open_lab(recorded)
    with pytest.raises(RefusedError, match="lies in the store"):
        exports.export(lab, os.path.join(str(recorded), "lab.duckdb"))
    lab.close()


def test_the_verb_writes_and_says_what(recorded, tmp_path):
    done = CliRunner().invoke(cli.main, ["export", "runs.csv", "--json"])
    answer = json.loads(done.stdout)
    assert (answer["form"], answer["target"]) == ("csv", str(Path.cwd() / "runs.csv"))
    assert answer["bytes"] == os.stat("runs.csv").st_size
    again = CliRunner().invoke(cli.main, ["export", "runs.csv"])
    assert (again.exit_code, "--force" in again.stderr) == (1, True)
    assert "wide 2" in CliRunner().invoke(cli.main, ["export", "runs.csv", "--force"]).stdout
