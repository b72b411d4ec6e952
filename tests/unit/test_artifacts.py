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
from ailab.errors import NotFoundError, RejectedError


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


# -- folders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "places"),
    [
        (lambda run: run.log_artifact("out/a.txt", artifact_path="sub"), ["sub/a.txt"]),
        (lambda run: run.log_artifact("out/a.txt", artifact_path="sub", name="b.txt"), ["sub/b.txt"]),
        (lambda run: run.log_artifact("out", artifact_path="sub"), ["sub/out/a.txt", "sub/out/deep/b.txt"]),
        (lambda run: run.log_artifact("out/", artifact_path="sub"), ["sub/out/a.txt", "sub/out/deep/b.txt"]),
        (lambda run: run.log_artifacts("out", artifact_path="sub"), ["sub/a.txt", "sub/deep/b.txt"]),
        (lambda run: run.log_artifacts("out", artifact_path=""), ["a.txt", "deep/b.txt"]),
        (lambda run: run.log_artifacts("out"), ["out/a.txt", "out/deep/b.txt"]),
        (lambda run: run.log_artifacts(Path("out").absolute()), ["out/a.txt", "out/deep/b.txt"]),
        (lambda run: run.log_artifacts(["out/a.txt", "out/deep"], artifact_path="sub"), ["sub/a.txt", "sub/deep/b.txt"]),
        (lambda run: run.log_artifacts("out/a.txt", artifact_path="sub"), ["sub/a.txt"]),
        (lambda run: run.log_artifact("out/a.txt", artifact_path="../../up"), ["up/a.txt"]),
    ],
)
def test_where_files_are_put(store_dir, lab, tmp_path, call, places):
    """`artifact_path` as in MLflow: a file below it by its name, a folder by its own, log_artifacts the contents of a folder."""
    (tmp_path / "out" / "deep").mkdir(parents=True)
    (tmp_path / "out" / "a.txt").write_text("a")
    (tmp_path / "out" / "deep" / "b.txt").write_text("b")
    with ailab.start_run(strict=True) as run:
        call(run)
    assert sorted(kept(lab, run)) == places


def test_type_is_another_word_for_kind(store_dir, lab, tmp_path):
    """`kind` counts where both are given; a folder's files all get it."""
    (tmp_path / "out").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "out" / name).write_text(name)
    with ailab.start_run() as run:
        run.log_artifact("out", type="evaluation")
        run.log_artifacts(["out/a.txt"], type="checkpoint", artifact_path="x")
        run.log_artifact("out/a.txt", kind="plot", type="model", name="y")
    assert {path: kind for path, (kind, _) in kept(lab, run).items()} == {
        "out/a.txt": "evaluation", "out/b.txt": "evaluation", "x/a.txt": "checkpoint", "y": "plot",
    }  # fmt: skip


@pytest.fixture
def messy(tmp_path):
    """A folder with two files, a link to one of them, and everything that is no file; what is behind links is outside."""
    import socket

    out, outside = tmp_path / "out", tmp_path / "outside"
    (out / "deep").mkdir(parents=True)
    (outside / "folder").mkdir(parents=True)
    (outside / "secret.txt").write_text("secret")
    (outside / "folder" / "more.txt").write_text("secret")
    (out / "a.txt").write_text("a")
    (out / "deep" / "b.txt").write_text("b")
    (out / "empty").mkdir()
    (out / "deep" / "inside").symlink_to("../a.txt")
    (out / "away").symlink_to(outside / "secret.txt")
    (out / "folder").symlink_to(outside / "folder")
    (out / "loop").symlink_to("loop")
    (out / "round").symlink_to(out)
    (out / "nowhere").symlink_to("nothing")
    os.mkfifo(out / "pipe")
    here = os.getcwd()
    os.chdir(out)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
    os.chdir(here)
    return out


LEFT_OUT = {
    "out/away": "a link out of the folder", "out/folder": "a link to a folder", "out/nowhere": "No such file or directory",
    "out/pipe": "no plain file", "out/round": "a link to a folder", "out/socket": "no plain file",
}  # fmt: skip


def test_a_folder_keeps_its_files_and_names_the_rest(store_dir, lab, messy, capsys):
    """Links that lead out or in circles, pipes and sockets: nothing blocks, nothing outside is read, one line says it all."""
    with ailab.start_run() as run:
        run.log_artifact("out")
        run.log({"a": 1})
    found = kept(lab, run)
    assert {path: content for path, (_, content) in found.items()} == {
        "out/a.txt": b"a", "out/deep/b.txt": b"b", "out/deep/inside": b"a",
    }  # fmt: skip
    said = capsys.readouterr().err
    assert said.count("ailab:") == 1
    assert (
        "folder 'out': 3 files kept, left out 'away' (a link out of the folder), 'folder' (a link to a folder), 'loop' (" in said
    )
    assert "and 4 more" in said
    seen = {path: why for path, why in artifacts.files_below("out") if why}
    assert "ymbolic" in seen.pop("out/loop")
    assert seen == LEFT_OUT
    assert not any(os.path.exists(run.store.blob_path(digest)) for digest in (_sha(b"secret"),))
    assert os.path.exists(run.store.blob_path(_sha(b"a")))


def _sha(content):
    import hashlib

    return hashlib.sha256(content).hexdigest()


def test_strict_raises_after_everything_else_is_kept(store_dir, lab, messy):
    with ailab.start_run(strict=True) as run:
        with pytest.raises(RejectedError, match="3 files kept, left out"):
            run.log_artifact("out")
        with pytest.raises(RejectedError, match="has no file"):
            run.log_artifact("out/empty")
    assert sorted(kept(lab, run)) == ["out/a.txt", "out/deep/b.txt", "out/deep/inside"]


def test_an_empty_folder_is_said(store_dir, lab, tmp_path, capsys):
    """Also one of empty folders; the run goes on."""
    (tmp_path / "out" / "a" / "b").mkdir(parents=True)
    with ailab.start_run() as run:
        run.log_artifact("out")
    assert "folder 'out' has no file" in capsys.readouterr().err
    assert kept(lab, run) == {}


def test_what_may_not_be_read_is_named_and_the_rest_kept(store_dir, scripts, tmp_path):
    """A file and a folder without permission; as another user where the tests are run by one who may read everything."""
    done = scripts.run(
        """
        import os, ailab
        os.makedirs("out/closed")
        for name in ("out/a.txt", "out/b.txt", "out/closed/c.txt"):
            open(name, "w").write(name)
        os.chmod("out/b.txt", 0)
        os.chmod("out/closed", 0)
        os.chmod(".", 0o755)
        with ailab.start_run(id="x") as run:
            run._captured.join()
            mighty = os.geteuid() == 0
            if mighty:
                os.seteuid(65534)
            run.log_artifact("out", reference=True)
            if mighty:
                os.seteuid(0)
        os.chmod("out/closed", 0o755)
        print([file.path for file in ailab.get_run("x").artifact_files])
        """,
        cwd=tmp_path,
    )
    assert done.stdout == "['out/a.txt']\n"
    assert "1 files kept, left out 'b.txt' (Permission denied), 'closed' (Permission denied)" in done.stderr


def test_a_store_in_a_folder_is_left_out(tmp_path, lab, store_dir, capsys):
    """It would grow by what is kept of it."""
    (tmp_path / "a.txt").write_text("a")
    with ailab.start_run() as run:
        run.log_artifact(".")
        run.log_artifact(str(tmp_path), name="all")
    assert sorted(kept(lab, run)) == ["a.txt", "all/a.txt"]
    assert "'store' (a store)" in capsys.readouterr().err


def test_a_file_that_changes_while_it_is_read_is_kept_and_said(store_dir, lab, tmp_path, capsys):
    """What was read counts, and is what its hash says; a file that nobody touches is kept without a word."""
    import threading

    with open(tmp_path / "big.bin", "wb") as file:
        file.truncate(80_000_000)
    stop, at = threading.Event(), [0]

    def touch():
        while not stop.is_set():
            at[0] += 1
            os.utime(tmp_path / "big.bin", ns=(at[0], at[0]))

    with ailab.start_run() as run:
        run.log_artifact("big.bin", name="quiet.bin")
        assert capsys.readouterr().err == ""
        toucher = threading.Thread(target=touch, daemon=True)
        toucher.start()
        try:
            run.log_artifact("big.bin")
            run.log_artifacts(".", artifact_path="all")
        finally:
            stop.set()
            toucher.join()
    said = capsys.readouterr().err
    assert "artifact 'big.bin' changed while it was read: 80,000,000 bytes of it count" in said
    assert "changed while they were read 'big.bin'" in said
    files = {file.path: (file.size, file.sha256) for file in queries.list_artifacts(lab(), run.id)}
    assert files["big.bin"] == files["quiet.bin"] == files["all/big.bin"]


def test_a_time_limit_of_the_caller_ends_the_keeping_of_a_folder(store_dir, lab, tmp_path):
    """What a signal handler of theirs raises is theirs, whatever its class: it is neither a file left out nor a warning."""
    import signal

    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / "big.bin", "wb") as file:
        file.truncate(3_000_000_000)

    def limit(*_):
        raise TimeoutError("too long")

    before = signal.signal(signal.SIGALRM, limit)
    try:
        with ailab.start_run() as run:
            for path in ("out", "out/big.bin"):
                signal.setitimer(signal.ITIMER_REAL, 0.3)
                with pytest.raises(TimeoutError, match="too long"):
                    run.log_artifact(path, reference=True)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert kept(lab, run) == {}


def test_a_file_that_grows_for_ever_ends_where_it_stood(store_dir, lab, tmp_path):
    """Reading stops at the size that the file had; its first bytes are kept."""
    path = tmp_path / "train.log"
    path.write_bytes(b"x" * 3_000_000)

    class Growing:
        """The open file: each reading of it finds it longer."""

        def __init__(self, file):
            self.file = file

        def read(self, size):
            with open(path, "ab") as writer:
                writer.write(b"y" * 2_000_000)
            return self.file.read(size)

    from ailab import blobs

    with ailab.start_run() as run, open(path, "rb") as file:
        digest, size = blobs.put_open(run.store, Growing(file), 3_000_000)
    assert (digest, size) == (_sha(b"x" * 3_000_000), 3_000_000)


def test_files_of_the_kernel_have_a_content(store_dir, lab):
    """/proc says that its files are empty; they are read to their end all the same."""
    if not os.path.exists("/proc/self/status"):
        pytest.skip("no /proc here")
    with ailab.start_run() as run:
        run.log_artifact("/proc/self/status", name="status.txt")
    assert b"VmRSS" in kept(lab, run)["status.txt"][1]


def test_thousands_of_small_files_are_one_event_each(store_dir, lab, tmp_path):
    """Twice the same folder: every file has two versions, every content is kept once, and nothing is written again."""
    (tmp_path / "out").mkdir()
    for number in range(2000):
        (tmp_path / "out" / f"{number:04}.txt").write_text(str(number // 2))
    with ailab.start_run() as run:
        run.log_artifact("out")
        digest = _sha(b"7")
        before = os.stat(run.store.blob_path(digest)).st_ino
        run.log_artifact("out")
        assert os.stat(run.store.blob_path(digest)).st_ino == before
    files = queries.list_artifacts(lab(), run.id)
    assert len(files) == 4000
    assert {file.version for file in files[:2000]} == {2}
    assert {file.version for file in files[2000:]} == {1}
    assert queries.bytes_of(files) == (2 * sum(len(str(n // 2)) for n in range(2000)), sum(len(str(n)) for n in range(1000)))


# -- references --------------------------------------------------------------------------------------------------------


def test_a_reference_keeps_no_bytes_and_says_where_they_lie(store_dir, lab, tmp_path):
    """Path, size and SHA-256; asked for, its bytes are refused with the place, even where a blob has the same digest."""
    (tmp_path / "big data.bin").write_bytes(b"big")
    with ailab.start_run() as run:
        run.log_artifact("big data.bin", reference=True, kind="data")
        assert not os.path.exists(run.store.blob_path(_sha(b"big")))
    location = f"file://{os.uname().nodename}{tmp_path}/big%20data.bin"
    (file,) = queries.list_artifacts(lab(), run.id)
    assert (file.path, file.kind, file.size, file.sha256) == ("big data.bin", "data", 3, _sha(b"big"))
    assert (file.reference, file.location, file.version) == (True, location, 1)
    assert queries.get_run(lab(), run.id).artifacts == ["big data.bin"]
    with ailab.start_run(id=run.id, resume="must") as run:
        run.log_artifact("big data.bin", name="copy.bin")
        run.log_artifact("big data.bin", reference=True)
    catalogue = lab()
    with pytest.raises(NotFoundError, match=r"no copy of artifact 'big data\.bin'") as refused:
        queries.open_artifact(catalogue, run.id, "big data.bin")
    assert location in refused.value.hint
    with queries.open_artifact(catalogue, run.id, "copy.bin")[1] as content:
        assert content.read() == b"big"
    found = catalogue.con.execute("SELECT path, version, reference, location FROM artifacts ORDER BY path, version").fetchall()
    assert found == [("big data.bin", 1, True, location), ("big data.bin", 2, True, location), ("copy.bin", 1, False, None)]
    assert queries.bytes_of(queries.list_artifacts(catalogue, run.id)) == (3, 3)


def test_references_of_a_folder(store_dir, lab, tmp_path):
    """Each file below it, also one whose name is no UTF-8: its location gives the name back."""
    (tmp_path / "out").mkdir()
    odd = os.fsencode(str(tmp_path)) + b"/out/caf\xe9.txt"
    with open(odd, "wb") as file:
        file.write(b"odd")
    (tmp_path / "out" / "a.txt").write_text("a")
    with ailab.start_run(strict=True) as run:
        run.log_artifacts("out", reference=True, artifact_path="raw")
    files = queries.list_artifacts(lab(), run.id)
    assert sorted((file.path, file.reference) for file in files) == [("raw/a.txt", True), ("raw/caf\\udce9.txt", True)]
    places = {artifacts.path_of_location(file.location)[1] for file in files}
    assert places == {os.fsdecode(odd), str(tmp_path / "out" / "a.txt")}
    assert not os.path.exists(run.store.blobs) or not os.path.exists(run.store.blob_path(_sha(b"odd")))


@pytest.mark.parametrize("location", ["s3://bucket/key", "/data/x", "file:///", "file://host", "", "http://host/x"])
def test_only_locations_of_ours_have_a_path(location):
    """Anything else that somebody wrote there is a text."""
    assert artifacts.path_of_location(location) in (None, ("", "/"))


def test_nobody_misses_the_bytes_of_a_reference(store_dir, lab, tmp_path):
    """verify, doctor, gc, compaction, merge and export of a store with references find nothing wrong, and lose none."""
    from ailab import checkup, collecting, joining, store, verification, views
    from ailab.views.compact import compact

    (tmp_path / "x.bin").write_bytes(b"x")
    with ailab.start_run(id="far") as run:
        run.log_artifact("x.bin", reference=True)
    place = store.open_store(str(store_dir), create=False)
    for _ in range(2):
        assert verification.verify(place).findings == []
        assert not [one.what for one in checkup.examine(place.path).findings if "the bytes of" in one.what]
        catalogue = views.open_lab(store_dir)
        collecting.collect(catalogue, young_s=0.0, grace_s=0.0)
        assert [(file.path, file.reference) for file in queries.list_artifacts(catalogue, "far")] == [("x.bin", True)]
        catalogue.close()
        compact(place, grace_s=0.0, orphan_s=0.0)
    other = store.open_store(str(tmp_path / "other"), create=True)
    joining.join(other, place)
    merged = views.open_lab(other.path)
    assert [(file.path, file.reference, file.location is not None) for file in queries.list_artifacts(merged, "far")] == [
        ("x.bin", True, True)
    ]
    merged.close()
    assert verification.verify(other).findings == []
