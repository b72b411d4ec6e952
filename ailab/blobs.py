"""Files by SHA-256: put, open, check. Artifacts, environments, code and datasets rest here.

A blob is written to a temporary name in the same folder, flushed to disk, renamed to its digest, and the name flushed as well; so
a name that is there is whole and outlives a power loss, two writers of the same bytes cannot harm each other, and a killed writer
leaves only a temporary file that no reader looks at. A blob is never changed. Digests are checked to be 64 hexadecimal digits
before they become a path, so no text from outside ever does.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import IO, TYPE_CHECKING

from .errors import DamageError, NotFoundError, StoreError
from .store import open_plain, reason_of, size_of, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .store import Store

CHUNK = 1 << 20
_HEX = frozenset("0123456789abcdef")
_DIGEST_LENGTH = 64
DIGEST = "[0-9a-f]{64}"
"""A SHA-256 in lower-case hexadecimal, as a pattern."""


def is_digest(text: str) -> bool:
    """Whether `text` is a SHA-256 in lower-case hexadecimal."""
    return len(text) == _DIGEST_LENGTH and _HEX.issuperset(text)


def put_bytes(store: Store, content: bytes) -> str:
    """Keep `content`; return its SHA-256. Where it is there already, only the time of its last change is set to now."""
    import hashlib  # not needed by the first log()

    digest = hashlib.sha256(content).hexdigest()
    if not _is_there(store, digest):
        temporary, file = _temporary(store)
        try:
            with file:
                file.write(content)
                _settle(file)
        except BaseException:
            os.unlink(temporary)
            raise
        _publish(store, temporary, digest)
    return digest


class Incoming:
    """A blob that comes in pieces, kept in constant memory: `write` them, then `keep` the whole, or `discard` it.

    Attributes:
        path: where its bytes lie meanwhile; no reader looks there.
        size: bytes so far.
    """

    def __init__(self, store: Store) -> None:
        import hashlib

        self._store = store
        self._digest = hashlib.sha256()
        self.path, self._file = _temporary(store)
        self.size = 0

    @property
    def sha256(self) -> str:
        """SHA-256 of what came so far."""
        return self._digest.hexdigest()

    def write(self, chunk: bytes) -> None:
        """Add bytes."""
        self._file.write(chunk)
        self._digest.update(chunk)
        self.size += len(chunk)

    def fill(self, path: str) -> None:
        """Add all bytes of a file."""
        with open(path, "rb") as source:
            for chunk in pieces(source):
                self.write(chunk)

    def settle(self) -> None:
        """Make sure that its bytes are on disk, and can be read at `path`."""
        _settle(self._file)

    def keep(self) -> tuple[str, int]:
        """Keep it under its digest, unless it is there already; return (SHA-256, size in bytes)."""
        if _is_there(self._store, self.sha256) and size_of(self._store.blob_path(self.sha256)) == self.size:
            self.discard()
            return self.sha256, self.size
        try:
            with self._file as file:
                _settle(file)
        except BaseException:
            self.discard()
            raise
        _publish(self._store, self.path, self.sha256)
        return self.sha256, self.size

    def discard(self) -> None:
        """Forget it."""
        self._file.close()
        with suppress(FileNotFoundError):
            os.unlink(self.path)


def put_file(store: Store, path: str) -> tuple[str, int]:
    """Keep a copy of the file at `path` in constant memory; return (SHA-256, size in bytes)."""
    with open(path, "rb") as source:
        return put_open(store, source)


def put_open(store: Store, source: IO[bytes], most: int | None = None) -> tuple[str, int]:
    """Keep what an open file has from here on, at most `most` bytes, in constant memory; return (SHA-256, size in bytes)."""
    incoming = Incoming(store)
    try:
        for chunk in pieces(source, most):
            incoming.write(chunk)
    except BaseException:
        incoming.discard()
        raise
    return incoming.keep()


def hash_file(path: str) -> tuple[str, int]:
    """(SHA-256, size in bytes) of a file, nothing kept."""
    with open(path, "rb") as source:
        return hash_open(source)


def hash_open(source: IO[bytes], most: int | None = None) -> tuple[str, int]:
    """(SHA-256, size in bytes) of what an open file has from here on, at most `most` bytes; nothing kept."""
    import hashlib

    digest, size = hashlib.sha256(), 0
    for chunk in pieces(source, most):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def pieces(source: IO[bytes], most: int | None = None) -> Iterator[bytes]:
    """The bytes of an open file from here on, at most `most` of them, piece by piece."""
    left = sys.maxsize if most is None else most
    while left > 0 and (chunk := source.read(min(CHUNK, left))):
        left -= len(chunk)
        yield chunk


def open_blob(store: Store, sha256: str) -> IO[bytes]:
    """Open a blob for reading.

    Raises:
        NotFoundError: there is no such blob, or the text is no digest.
        StoreError: what is there is no plain file, or cannot be read.
    """
    if not is_digest(sha256):
        raise NotFoundError("blob", sha256)
    path = store.blob_path(sha256)
    try:
        return open_plain(path)
    except FileNotFoundError:
        raise NotFoundError("blob", sha256, hint="its bytes are not in this store (a copy may have left them out)") from None
    except OSError as problem:
        raise StoreError(f"a file cannot be read ({reason_of(problem)})", path=path) from problem


def read_blob(store: Store, sha256: str) -> bytes:
    """The bytes of a blob, checked against its name.

    Raises:
        NotFoundError: there is no such blob.
        DamageError: its bytes do not have that digest.
    """
    import hashlib

    with open_blob(store, sha256) as file:
        content = file.read()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DamageError("bad-checksum", path=store.blob_path(sha256), detail="the bytes do not have the digest of their name")
    return content


def is_kept(store: Store, digest: str) -> bool:
    """Whether a blob is there; it is young then, so that nobody collects it before the event that names it is written."""
    return is_digest(digest) and _is_there(store, digest)


def _is_there(store: Store, digest: str) -> bool:
    """Whether a blob is there; it is young then, so that nobody collects it before the event that names it is written."""
    try:
        os.utime(store.blob_path(digest))
    except FileNotFoundError:
        return False
    except OSError:  # another user's, or a disk that cannot be written now
        return os.path.exists(store.blob_path(digest))
    return True


def _temporary(store: Store) -> tuple[str, IO[bytes]]:
    os.makedirs(store.blobs, exist_ok=True)
    path = os.path.join(store.blobs, f".tmp-{os.getpid()}-{os.urandom(6).hex()}")
    return path, open(path, "xb")


def _settle(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _publish(store: Store, temporary: str, digest: str) -> None:
    final = store.blob_path(digest)
    folder = os.path.dirname(final)
    is_first = not os.path.isdir(folder)
    try:
        os.makedirs(folder, exist_ok=True)
        os.replace(temporary, final)
    except BaseException:
        os.unlink(temporary)
        raise
    sync_folder(folder)
    if is_first:
        sync_folder(store.blobs)
