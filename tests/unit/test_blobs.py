"""Files by SHA-256: a name that is there is whole, a killed writer leaves no blob, and no text from outside becomes a path."""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ailab import blobs, store
from ailab.errors import DamageError, NotFoundError


@pytest.fixture
def place(tmp_path):
    return store.open_store(str(tmp_path / "store"), create=True)


def files(place):
    """Everything below blobs/, hidden files too."""
    return sorted(str(path.relative_to(place.blobs)) for path in Path(place.blobs).rglob("*") if path.is_file())


def digest_of(content):
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 9000], ids=["empty", "one byte", "2 MB"])
def test_what_is_put_is_what_is_read(place, tmp_path, content):
    """Bytes or file, the name is their SHA-256, and there is nothing else in the folder."""
    digest = digest_of(content)
    assert blobs.put_bytes(place, content) == digest
    (tmp_path / "f").write_bytes(content)
    assert blobs.put_file(place, str(tmp_path / "f")) == (digest, len(content))
    assert blobs.hash_file(str(tmp_path / "f")) == (digest, len(content))
    assert blobs.read_blob(place, digest) == content
    with blobs.open_blob(place, digest) as file:
        assert file.read() == content
    assert files(place) == [f"{digest[:2]}/{digest}"]


def test_the_same_bytes_are_kept_once(place):
    blobs.put_bytes(place, b"x")
    path = Path(place.blob_path(digest_of(b"x")))
    before = path.stat().st_ino
    blobs.put_bytes(place, b"x")
    assert (path.stat().st_ino, len(files(place))) == (before, 1)


def test_many_threads_put_the_same_bytes(place):
    """Nobody meets half a file or an error."""

    def put(_):
        for n in range(30):
            content = bytes([n]) * 100_000
            assert blobs.read_blob(place, blobs.put_bytes(place, content)) == content

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, range(4)))
    assert len(files(place)) == 30


def test_a_damaged_blob_is_found_when_it_is_read(place):
    digest = blobs.put_bytes(place, b"precious")
    Path(place.blob_path(digest)).write_bytes(b"preciouS")
    with pytest.raises(DamageError, match="bad-checksum") as problem:
        blobs.read_blob(place, digest)
    assert problem.value.path == place.blob_path(digest)


@pytest.mark.parametrize(
    "text", ["", "../../etc/passwd", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "/" + "a" * 63, "a" * 32 + "\0" + "a" * 31, "٣" * 64]
)
def test_no_text_from_outside_becomes_a_path(place, text):
    assert not blobs.is_digest(text)
    with pytest.raises(NotFoundError):
        blobs.open_blob(place, text)
    with pytest.raises(NotFoundError):
        blobs.read_blob(place, text)


def test_a_blob_that_is_not_there_is_told(place):
    with pytest.raises(NotFoundError, match="no blob"):
        blobs.open_blob(place, "0" * 64)


def test_a_put_that_fails_leaves_nothing_behind(place, scripts, tmp_path):
    """A file too large for the limit, a source that cannot be read: the error comes up, no temporary file stays."""
    with pytest.raises(FileNotFoundError):
        blobs.put_file(place, str(tmp_path / "missing"))
    with pytest.raises(IsADirectoryError):
        blobs.put_file(place, str(tmp_path))
    (tmp_path / "big").write_bytes(b"x" * 300_000)
    scripts.run(
        """
        import resource, sys
        from ailab import blobs, store
        place = store.open_store(sys.argv[1], create=False)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        for put in (lambda: blobs.put_file(place, sys.argv[2]), lambda: blobs.put_bytes(place, b"y" * 300_000)):
            try:
                put()
            except OSError as problem:
                print(type(problem).__name__)
        """,
        place.path,
        tmp_path / "big",
    )
    assert not os.path.isdir(place.blobs) or files(place) == []


def test_a_killed_put_leaves_no_blob(place, scripts):
    """After 6 times kill -9 while bytes are written there is, under a digest's name, the whole file or none."""
    left = 0
    for trial in range(6):
        process = scripts.start(
            """
            import sys
            from ailab import blobs, store
            place = store.open_store(sys.argv[1], create=False)
            print("ready", flush=True)
            n = int(sys.argv[2])
            while True:
                blobs.put_bytes(place, b"%08d" % n * 400_000)
                n += 1
            """,
            place.path,
            trial * 1000,
        )
        process.stdout.readline()
        time.sleep(0.02 + 0.01 * trial)
        process.kill()
        process.wait()
        kept = [name for name in files(place) if not name.startswith(".tmp-")]
        for name in kept:
            assert digest_of((Path(place.blobs) / name).read_bytes()) == os.path.basename(name)
        left = len(files(place)) - len(kept)
        assert left <= trial + 1
    print(len(kept), "blobs,", left, "kills within a write")
    assert kept


def test_the_same_bytes_again_are_not_written_again(place, tmp_path):
    """The file stays the one it was, and is young again; where it was cut short, it is replaced."""
    (tmp_path / "x").write_bytes(b"bytes")
    digest, size = blobs.put_file(place, str(tmp_path / "x"))
    path = Path(place.blob_path(digest))
    os.utime(path, (1, 1))
    before = path.stat().st_ino
    assert blobs.put_file(place, str(tmp_path / "x")) == (digest, size) == (hashlib.sha256(b"bytes").hexdigest(), 5)
    assert path.stat().st_ino == before
    assert path.stat().st_mtime > 1
    path.write_bytes(b"byt")
    assert blobs.put_file(place, str(tmp_path / "x")) == (digest, size)
    assert path.read_bytes() == b"bytes"
    assert [name for name in os.listdir(place.blobs) if name.startswith(".tmp-")] == []
