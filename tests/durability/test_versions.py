"""Versions: a store of any release answers for ever what it answered then; what is newer is passed over or refused by name."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zlib

import golden
import oracle
import pytest
import unprotected

import ailab
from ailab import checkup, events, queries
from ailab.errors import StoreError
from ailab.store import open_store
from ailab.views import open_lab

RELEASES = sorted(path.name for path in golden.FOLDER.iterdir() if path.is_dir())


@pytest.fixture(params=RELEASES)
def kept(request, tmp_path):
    """A copy of the store of a release, as old as it is, and what was answered from it then."""
    folder = tmp_path / "store"
    shutil.copytree(golden.FOLDER / request.param / "store", folder)
    for path in folder.rglob("*"):
        os.utime(path, (golden.START, golden.START))
    return folder, json.loads((golden.FOLDER / request.param / "answers.json").read_text())


def tree(folder):
    """Every file but a reader's cache, by its bytes."""
    files = (path for path in folder.rglob("*") if path.is_file() and "cache" not in path.relative_to(folder).parts)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def differences(then, now, place=""):
    """Where an answer of today is not what it was; a newer version may say more, never less and nothing else.

    The address of an older version of a file was that of the newest one until 0.2.0; which one it means is said behind it now.
    """
    if place.endswith("/url") and re.fullmatch(re.escape(then) + r"\?version=\d+", now):
        return []
    if isinstance(then, dict) and isinstance(now, dict):
        return [each for key in then for each in differences(then[key], now.get(key, "not there"), f"{place}/{key}")]
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        return [each for n, value in enumerate(then) for each in differences(value, now[n], f"{place}/{n}")]
    return [] if then == now and type(then) is type(now) else [f"{place}: {then!r}, now {now!r}"]


def line(seq, kind, data, **more):
    """A line by hand, with members that this version does not know."""
    known = {"seq": seq, "at": "2031-01-01T00:00:00Z", "clock": 10**6 + seq, "kind": kind, "run": "new", "data": data, **more}
    body = json.dumps({**known, "prev": 0, "crc": 0}, separators=(",", ":")).encode()
    return body[:-2] + b"%d}\n" % zlib.crc32(body)


def header(name, number):
    return {"format": number, "segment": name, "ailab": "9.0", "host": "h", "pid": 1, "colour": "blue"}


def test_a_store_of_every_release_answers_what_it_answered_then(kept):
    """G22: runs, points, leaderboard, tables and the doctor's counts are the same, and reading changes no file."""
    folder, then = kept
    before = tree(folder)
    assert differences(then, golden.answers(folder)) == []
    assert differences(then, golden.answers(folder)) == []  # what a reader kept meanwhile changes nothing
    assert tree(folder) == before
    print(f"{len(then['runs'])} runs, {then['doctor']['events']} events of {len(then['tables']['kinds'])} kinds")


def test_a_reader_by_the_formats_page_gives_the_same_points(kept):
    """G22: what was answered then is what the page about the format says, not only what the package says."""
    folder, then = kept
    true = oracle.state(folder)["runs"]
    for run, points in then["points"].items():
        expected = sorted(
            (key, p["step"], str(oracle.plain(p["value"]))) for key, series in true[run]["points"].items() for p in series
        )
        assert sorted((p["key"], p["step"], str(p["value"])) for p in points) == expected
        assert then["runs"][run]["note"] == true[run]["note"]
        assert then["runs"][run]["status"] in {true[run]["status"], "crashed"}


def test_this_version_has_a_store_that_is_kept():
    """G22: `python tests/durability/golden.py` was run for this version, and its store has every kind of event that it knows."""
    then = json.loads((golden.FOLDER / ailab.__version__ / "answers.json").read_text())
    assert {kind for kind, _ in then["tables"]["kinds"]} == set(events.KINDS)


def test_newer_kinds_and_fields_are_passed_over(kept):
    """G22: in lines, headers and payloads; what was answered before is answered, and the new run as far as it is known."""
    folder, then = kept
    name = "20310101T000000000000Z_h_1_00000000_new"
    path = folder / "segments" / f"{name}.jsonl"
    path.write_bytes(
        line(0, "segment.opened", header(name, events.FORMAT))
        + line(1, "run.started", {"name": "new", "colour": "blue", "params": {"a": 1}}, mood={"good": True})
        + line(2, "moon.landed", {"crew": 3})
        + line(3, "metrics.logged", {"values": {"later": 0.5}, "step": 1, "unit": "m"})
        + line(4, "run.finished", {"status": "completed", "cost": 3.5})
    )
    before = tree(folder)
    now = golden.answers(folder)
    assert now["order"].pop(0) == "new"
    assert now["runs"]["new"]["final_metrics"] == {"later": 0.5}
    assert (now["runs"]["new"]["status"], now["runs"]["new"]["params"]) == ("completed", {"a": 1})
    assert differences(then["runs"], now["runs"]) + differences(then["points"], now["points"]) == []
    assert "moon.landed" in [kind for kind, _ in now["tables"]["kinds"]]
    assert "moon.landed" in " ".join(finding.what for finding in checkup.examine(str(folder)).findings)
    assert tree(folder) == before


def of_the_future(folder):
    """A segment in a format that this version does not know."""
    name = "20310101T000000000000Z_h_1_00000000_new"
    path = folder / "segments" / f"{name}.jsonl"
    path.write_bytes(
        line(0, "segment.opened", header(name, events.FORMAT + 1))
        + line(1, "metrics.logged", {"values": {"later": 0.5}, "step": 1})
    )
    return path


def test_a_segment_in_a_newer_format_is_refused_by_name_and_the_others_are_read(kept):
    """G22: nothing of it is read, catalogue and doctor name it with both numbers, and no file is touched."""
    folder, then = kept
    path = of_the_future(folder)
    before = tree(folder)
    now = golden.answers(folder)
    assert differences({name: then[name] for name in ("order", "runs", "points", "leaderboard", "tables")}, now) == []
    (problem,) = [each for each in now["problems"] if "unknown-version" in each]
    assert path.name in problem
    assert f"format {events.FORMAT + 1}" in problem
    named = [finding.what for finding in checkup.examine(str(folder)).findings if str(path) in finding.where]
    assert [what for what in named if f"format {events.FORMAT + 1}, this version reads up to {events.FORMAT}" in what]
    assert tree(folder) == before


def test_control_without_the_number_of_the_format_a_newer_one_is_read(kept, monkeypatch):
    """G22, negative control: where every format is taken as known, the segment of the future is served."""
    folder, then = kept
    of_the_future(folder)
    unprotected.apply("format_number", monkeypatch.setattr)
    assert differences(then["tables"], golden.answers(folder)["tables"]) != []


def test_a_store_in_a_newer_format_is_refused_by_name_and_not_touched(kept, capsys):
    """G22: nobody reads it or writes into it; a run that is meant for it says so once, records nothing, and goes on."""
    folder, _ = kept
    (folder / "ailab-store.json").write_bytes(b'{"format":2}\n')
    before = tree(folder)
    for ask in (lambda: open_store(str(folder), create=True), lambda: open_lab(str(folder))):
        with pytest.raises(StoreError, match="another format") as raised:
            ask()
        assert str(folder) in raised.value.path
    with ailab.start_run("x", dir=folder) as run:
        run.log({"a": 1.0})
        run.log_text("t", "t.txt")
    told = capsys.readouterr().err
    assert told.count("another format") == 1
    assert "not recorded" in told
    with pytest.raises(StoreError):
        ailab.start_run("x", dir=folder, strict=True)
    assert "another format" in " ".join(f.what for f in checkup.examine(str(folder)).findings if f.level == "error")
    assert tree(folder) == before


def test_going_on_with_a_run_of_an_older_release(kept):
    """G22: this version takes up a run of each release, in a segment of its own, and all of it is answered together."""
    folder, then = kept
    before = tree(folder)
    with ailab.start_run("again", id="third", dir=folder, resume="must") as run:
        run.log({"accuracy": 0.85}, step=2)
    lab = open_lab(str(folder))
    found = queries.get_run(lab, "third")
    lab.close()
    assert found.final_metrics["accuracy"] == 0.85
    assert found.params == then["runs"]["third"]["params"]
    after = tree(folder)
    assert {name: after[name] for name in before} == before
