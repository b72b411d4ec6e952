"""What a run keeps as files: whole, at a place that never leaves the run, of the kind that its name tells."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ailab
from ailab import artifacts, queries
from ailab.errors import RejectedError


@given(
    st.text(max_size=60) | st.lists(st.sampled_from(["..", ".", "a", "C:", "", "\\", "\0", "~", "…"]), max_size=8).map("/".join)
)
def test_a_place_never_leaves_the_run(path):
    """Whatever is written, the place is relative, with forward slashes, and goes up nowhere; or it is refused."""
    try:
        place = artifacts.place_in_run(path)
    except RejectedError:
        return
    parts = place.split("/")
    assert place
    assert not place.startswith("/")
    assert "\0" not in place
    assert not {"", ".", ".."} & set(parts)
    assert os.path.normpath(os.path.join("/run", place)) == os.path.join("/run", place)
    assert artifacts.place_in_run(place) == place


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("model.pt", "model.pt"),
        ("./out/model.pt", "out/model.pt"),
        ("/abs/model.pt", "abs/model.pt"),
        ("../../model.pt", "model.pt"),
        ("out\\model.pt", "out/model.pt"),
        ("C:\\out\\model.pt", "out/model.pt"),
        ("a//b/./c", "a/b/c"),
        ("a/..\0/b", "a/b"),
        ("ünï/✓.txt", "ünï/✓.txt"),
    ],
)
def test_where_a_file_lies_in_its_run(path, place):
    assert artifacts.place_in_run(path) == place


@pytest.mark.parametrize("path", ["", "/", "..", "./.", "\0", "C:", "../.."])
def test_a_path_without_a_name_is_refused(path):
    with pytest.raises(RejectedError, match="has no name"):
        artifacts.place_in_run(path)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("m.joblib", "model"), ("M.PT", "model"), ("last.ckpt", "checkpoint"), ("checkpoint-5.pt", "checkpoint"),
        ("roc.png", "plot"), ("report.html", "plot"), ("svm_metrics_1.csv", "metrics"), ("predictions.parquet", "predictions"),
        ("eval.json", "evaluation"), ("data.csv", "data"), ("train.log", "log"), ("x.bin", "other"), ("Makefile", "other"),
    ],
)  # fmt: skip
def test_the_kind_that_a_name_tells(path, kind):
    assert artifacts.kind_of(path) == kind


def kept(lab, run):
    """{place: (logged, kind, bytes of the newest version)} of a run's files."""
    catalogue = lab()
    assert catalogue.problems == []
    found = {}
    for file in queries.list_artifacts(catalogue, run.id):
        if file.path not in found:
            with queries.open_artifact(catalogue, run.id, file.path)[1] as content:
                found[file.path] = (file.kind, content.read())
    return found


def test_files_and_folders_are_kept_whole(store_dir, lab, tmp_path):
    """A file may change or go afterwards; a folder gives each of its files; names that are no UTF-8 are kept escaped."""
    (tmp_path / "out" / "deep").mkdir(parents=True)
    (tmp_path / "out" / "a.txt").write_text("a")
    (tmp_path / "out" / "deep" / "b.bin").write_bytes(bytes(range(256)))
    (tmp_path / "out" / "empty").touch()
    (tmp_path / "model.pt").write_bytes(b"one")
    odd = os.fsencode(str(tmp_path)) + b"/caf\xe9.txt"
    with open(odd, "wb") as file:
        file.write(b"odd")
    with ailab.start_run("files") as run:
        run.log_artifact("model.pt")
        run.log_artifact("out")
        run.log_artifact("out", name="again")
        run.log_artifact(tmp_path / "model.pt", kind="mine", name="best/model.pt")
        run.log_artifact(str(tmp_path / "out" / "a.txt"))
        run.log_artifact(os.fsdecode(odd))
        (tmp_path / "model.pt").write_bytes(b"two")
        run.log_artifact("model.pt")
        (tmp_path / "model.pt").unlink()
    found = kept(lab, run)
    assert found == {
        "model.pt": ("model", b"two"), "out/a.txt": ("data", b"a"), "out/deep/b.bin": ("other", bytes(range(256))),
        "out/empty": ("other", b""), "again/a.txt": ("data", b"a"), "again/deep/b.bin": ("other", bytes(range(256))),
        "again/empty": ("other", b""), "best/model.pt": ("mine", b"one"), "caf\\udce9.txt": ("data", b"odd"),
    }  # fmt: skip
    versions = lab().con.execute("SELECT version FROM artifacts WHERE path = 'model.pt' ORDER BY version").fetchall()
    assert versions == [(1,), (2,)]


def test_a_link_to_a_folder_is_not_followed_in_circles(store_dir, lab, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.txt").write_text("a")
    (tmp_path / "out" / "again").symlink_to(tmp_path / "out")
    with ailab.start_run("links") as run:
        run.log_artifact("out")
    assert kept(lab, run) == {"out/a.txt": ("data", b"a")}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_no_file_is_refused_and_training_does_not_wait_for_it(store_dir, scripts, lab):
    """A named pipe would block for ever, a device never end: one warning each."""
    done = scripts.run(
        """
        import os, ailab
        os.mkfifo("pipe")
        os.mkdir("folder")
        os.mkfifo("folder/pipe")
        with ailab.start_run("x", id="x") as run:
            run.log_artifact("pipe")
            run.log_artifact("/dev/zero")
            run.log_artifact("folder")
            run.log({"a": 1})
        """,
        timeout=20,
    )
    assert "'pipe'" in done.stderr
    assert "/dev/zero" in done.stderr
    assert queries.get_run(lab(), "x").artifacts == []


def test_a_missing_artifact_is_named_once_and_the_others_are_kept(store_dir, lab, capsys, tmp_path):
    (tmp_path / "there.txt").write_text("x")
    with ailab.start_run("x") as run:
        run.log_artifacts(["missing.txt", "there.txt", "missing.txt"])
    said = capsys.readouterr().err
    assert said.count("ailab:") == 1
    assert "artifact 'missing.txt': there is no such file" in said
    assert str(tmp_path) in said
    assert list(kept(lab, run)) == ["there.txt"]


def test_texts_dictionaries_and_tables(store_dir, lab):
    rows = [{"a": 1, "b": "x,y"}, {"a": 2, "c": None}]
    with ailab.start_run("x") as run:
        run.log_text("héllo \ud800", "notes.txt")
        run.log_dict({"a": [1, 2], "p": Path("/x"), "nan": float("nan")}, "d.json")
        run.log_table(rows, "rows.csv")
        run.log_table({"x": [1, 2], "y": ["a", "b"]}, "columns.csv")
        run.log_table([["h1", "h2"], [1, 2]], "header.csv")
        run.log_table({"x": np.array([1.5, 2.5])}, "t.json")
    found = {path: content for path, (_, content) in kept(lab, run).items()}
    assert found["notes.txt"].decode() == "héllo \\ud800"
    assert json.loads(found["d.json"])["a"] == [1, 2]
    assert list(csv.reader(io.StringIO(found["rows.csv"].decode()))) == [["a", "b", "c"], ["1", "x,y", ""], ["2", "", ""]]
    assert found["columns.csv"] == b"x,y\n1,a\n2,b\n"
    assert found["header.csv"] == b"h1,h2\n1,2\n"
    assert json.loads(found["t.json"]) in ([{"x": 1.5}, {"x": 2.5}], [{"x": "1.5"}, {"x": "2.5"}])


def test_images_and_figures(store_dir, lab, tmp_path):
    """Arrays, encoded bytes and figures become files of the format that the ending says."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    axes.plot([1, 2, 3])
    with ailab.start_run("x") as run:
        run.log_image(np.zeros((4, 5, 3), dtype="uint8"), "rgb.png", step=3)
        run.log_image(np.full((4, 5), 0.5), "grey.png")
        run.log_image(b"\x89PNG\r\n\x1a\nrest", "raw.png")
        run.log_figure(figure, "f.svg")
        run.log_figure(axes, "g.png")
    pyplot.close(figure)
    found = {path: content for path, (_, content) in kept(lab, run).items()}
    assert all(found[name].startswith(b"\x89PNG") for name in ("rgb.png", "grey.png", "raw.png", "g.png"))
    assert b"<svg" in found["f.svg"]
    media = lab().con.execute(
        "SELECT data ->> '$.key', data ->> '$.type', data ->> '$.step' FROM events WHERE kind = 'media.logged' ORDER BY seq"
    )
    assert media.fetchall() == [
        ("rgb.png", "image", "3"),
        ("grey.png", "image", None),
        ("raw.png", "image", None),
        ("f.svg", "figure", None),
        ("g.png", "figure", None),
    ]


def test_a_large_file_is_copied_in_constant_memory(store_dir, scripts, lab):
    """100 MB more on disk do not become 100 MB more in memory."""
    done = scripts.run(
        """
        import resource
        import ailab
        with open("big.bin", "wb") as file:
            file.truncate(100_000_000)
        with ailab.start_run("x", id="big") as run:
            run.log_text("small", "small.txt")
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            run.log_artifact("big.bin")
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        """
    )
    grown = int(done.stdout) * (1 if sys.platform == "darwin" else 1024)
    assert grown < 20_000_000
    assert queries.get_run(lab(), "big").artifact_files[0].size == 100_000_000
