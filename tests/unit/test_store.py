"""Where things lie: a store is marked, found, created once, and never anybody else's folder."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

import ailab
from ailab import queries, store, views
from ailab.errors import ForeignFolderError, StoreError


def tree(folder):
    """Relative paths of everything below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_new_store_has_its_marker_readme_and_gitignore(tmp_path):
    """The same marker in every store, nothing that names the place or the time."""
    for name in ("one", "two/deep"):
        found = store.open_store(str(tmp_path / name), create=True)
        assert tree(tmp_path / name) == [".gitignore", "README.md", "ailab-store.json", "segments"]
        assert (tmp_path / name / "ailab-store.json").read_bytes() == b'{"format":1}\n'
        assert (tmp_path / name / ".gitignore").read_text() == "*\n"
        assert found.path == str(tmp_path / name)
    assert (tmp_path / "one/README.md").read_bytes() == (tmp_path / "two/deep/README.md").read_bytes()


def test_opening_again_changes_nothing(tmp_path):
    store.open_store(str(tmp_path / "s"), create=True)
    (tmp_path / "s" / "README.md").write_text("my own words")
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (tmp_path / "s").rglob("*")}
    store.open_store(str(tmp_path / "s"), create=True)
    store.open_store(str(tmp_path / "s"), create=False)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (tmp_path / "s").rglob("*")} == before


def test_an_empty_folder_is_adopted_a_foreign_one_never(tmp_path):
    """A folder with anything in it that is not ours is refused with a hint, and not a byte changes."""
    (tmp_path / "empty").mkdir()
    assert store.is_store(store.open_store(str(tmp_path / "empty"), create=True).path)
    for name in ("thesis.txt", ".hidden", "segments", "ailab-store.json.bak"):
        foreign = tmp_path / f"foreign-{name}"
        foreign.mkdir()
        (foreign / name).write_text("mine")
        with pytest.raises(ForeignFolderError, match="not empty and is no ailab store") as problem:
            store.open_store(str(foreign), create=True)
        assert "AILAB_DIR" in problem.value.hint
        assert tree(foreign) == [name]
    (tmp_path / "file").write_text("mine")
    for path in ("file", "file/below"):
        with pytest.raises(StoreError):
            store.open_store(str(tmp_path / path), create=True)
    assert (tmp_path / "file").read_text() == "mine"


def test_reading_never_creates(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("nothing", "empty"):
        with pytest.raises(StoreError, match="no store here"):
            store.open_store(str(tmp_path / name), create=False)
    assert tree(tmp_path) == ["empty"]


@pytest.mark.parametrize("left", [b"", b"{", b'{"format":1}'])
def test_a_marker_that_was_cut_short_is_written_again(tmp_path, left):
    """Its maker was killed in between; the bytes are known, and the store is the same store."""
    place = store.open_store(str(tmp_path / "s"), create=True)
    (tmp_path / "s" / "ailab-store.json").write_bytes(left)
    store.open_store(place.path, create=True)
    assert (tmp_path / "s" / "ailab-store.json").read_bytes() == store.MARKER_BYTES


@pytest.mark.parametrize("other", [b'{"format":2}\n', b'{"format":1,"x":2}\n', b"rubbish", b"\0" * 13])
def test_another_format_is_refused_and_not_touched(tmp_path, other):
    """G22: a newer store gives a named refusal; its files stay as they are."""
    place = store.open_store(str(tmp_path / "s"), create=True)
    (tmp_path / "s" / "ailab-store.json").write_bytes(other)
    with pytest.raises(StoreError, match="another format") as problem:
        store.open_store(place.path, create=True)
    assert "newer version" in problem.value.hint
    assert (tmp_path / "s" / "ailab-store.json").read_bytes() == other


def test_the_nearest_marked_events_folder_is_found(tmp_path, monkeypatch):
    """Upwards from the working folder; a folder of that name without our marker does not count."""
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (tmp_path / "a" / "b" / "events").mkdir()
    (tmp_path / "a" / "b" / "events" / "party.txt").write_text("somebody's")
    monkeypatch.chdir(deep)
    assert store.find_store() == str(deep / "events")
    store.open_store(str(tmp_path / "a" / "events"), create=True)
    assert store.find_store() == str(tmp_path / "a" / "events")
    assert store.find_store(str(tmp_path)) == str(tmp_path / "events")
    store.open_store(str(deep / "events"), create=True)
    assert store.find_store() == str(deep / "events")


def test_without_a_setting_a_run_goes_to_the_store_above_or_a_new_one_here(tmp_path, monkeypatch):
    (tmp_path / "project" / "code").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project" / "code")
    with ailab.start_run("here") as run:
        pass
    assert run.store.path == str(tmp_path / "project" / "code" / "events")
    shutil.rmtree("events")
    store.open_store(str(tmp_path / "project" / "events"), create=True)
    with ailab.start_run("above") as run:
        pass
    assert run.store.path == str(tmp_path / "project" / "events")
    assert not (tmp_path / "project" / "code" / "events").exists()


def test_segment_names_are_unique_sortable_and_tell_their_run():
    """Time, host, process, randomness, run; whatever the host is called and whatever the run id allows."""
    names = [store.segment_name(host="h", pid=1, run=None, now=1.7e9 + i / 1000) for i in range(200)]
    assert names == sorted(names)
    assert len({store.segment_name(host="h", pid=1, run="r", now=0.0) for _ in range(1000)}) == 1000
    for run in ("r", "a_b_c", "x.y-z", "_"):
        for host in ("h", "my_host", "höst/../x", "", "a" * 300):
            name = store.segment_name(host=host, pid=7, run=run)
            assert store.run_of_segment(name) == run
            assert "/" not in name
            assert len(name) < 100
    assert store.run_of_segment(store.segment_name(host="h", pid=1, run=None)) is None
    assert store.run_of_segment("copy") is None


def test_a_copied_store_is_a_store_and_merging_is_copying(tmp_path):
    """Nothing is bound to its path: a copy of a live store reads whole, and two stores copied together are one, repeatedly."""
    runs = {}
    for name in ("one", "two"):
        with ailab.start_run(name, dir=tmp_path / name, id=f"run-{name}") as run:
            run.log({"a": 1.0})
            run.log_text(name, "x.txt")
            if name == "one":
                shutil.copytree(tmp_path / "one", tmp_path / "moved")  # while it is written
        runs[name] = run
    (tmp_path / "merged").mkdir()
    for _ in range(2):
        for name in ("one", "two", "moved"):
            subprocess.run(["cp", "-r", f"{tmp_path / name}/.", str(tmp_path / "merged")], check=True)
        # the copy that was made in the middle must not win over the whole file
        subprocess.run(["cp", "-r", f"{tmp_path / 'one'}/.", str(tmp_path / "merged")], check=True)
    lab = views.open_lab(tmp_path / "merged")
    found = queries.list_runs(lab).rows
    assert sorted((run.run_id, run.status) for run in found) == [("run-one", "completed"), ("run-two", "completed")]
    with queries.open_artifact(lab, "run-two", "x.txt")[1] as content:
        assert content.read() == b"two"
    assert lab.problems == []
    lab.close()


def test_a_home_in_a_path_is_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store.open_store("~/lab", create=True).path == str(tmp_path / "lab")


def test_segments_of_a_run_are_told_by_their_names(tmp_path):
    place = store.open_store(str(tmp_path / "s"), create=True)
    for name in ("2_h_1_x_r", "1_h_1_x_r", "3_h_1_x_other", "4_h_1_x", "note"):
        open(place.segment_path(name), "w").close()
    (tmp_path / "s" / "segments" / "5_h_1_x_r.txt").touch()
    assert place.segments_of_run("r") == ["1_h_1_x_r", "2_h_1_x_r"]
    assert place.segment_names() == ["1_h_1_x_r", "2_h_1_x_r", "3_h_1_x_other", "4_h_1_x", "note"]
    assert store.Store(str(tmp_path / "nothing")).segment_names() == []
    assert os.path.basename(place.blob_path("ab" + "0" * 62)) == "ab" + "0" * 62
