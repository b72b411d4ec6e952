"""Where things lie: the only module that knows file names.

    STORE/ailab-store.json     the marker: the format's version, the same bytes in every store
    STORE/README.md            what this folder is, for whoever finds it
    STORE/.gitignore           `*`: a store is data, not source
    STORE/segments/NAME.jsonl  one file per writer; NAME tells time, host, process, randomness and the run, if any
    STORE/blobs/ab/abcd…       files by SHA-256
    STORE/compacted/…          commit records and the tables that they name
    STORE/claims/NAME          leases made by exclusive creation
    STORE/cache/…              what a reader computed to be faster the next time; may be deleted at any moment

A folder that is not empty and has no marker is never adopted. The marker is the first file that a new store gets and is
made by exclusive creation; its bytes are always the same, so whoever finds it cut short may write it again. Nothing in a
store is bound to its path: a copy of the folder is a store.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import IO

from .errors import ForeignFolderError, StoreError, is_from_signal_handler

MARKER = "ailab-store.json"
_CANNOT_FLUSH = frozenset((errno.EINVAL, errno.EACCES, errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EBADF))
"""What file systems say that keep no flushes for folders, and folders that we may write to and not read."""
MARKER_BYTES = b'{"format":1}\n'
DEFAULT_NAME = "events"
SEGMENT_SUFFIX = ".jsonl"
COMMIT_SUFFIX = ".json"

_README = """\
# An ailab store

Every file under `segments/` is a list of events, one JSON object per line, appended by one process and never changed by
another. `blobs/` holds files by their SHA-256. Everything that ailab shows is computed from these two; to move, merge or
back up the store, copy the folder. `ailab doctor` says how it is, `ailab runs` what is in it.
"""


class Store:
    """A store's folder and the names in it. Making one touches no file; `open_store` checks or creates."""

    __slots__ = ("blobs", "cache", "claims", "compacted", "path", "segments")

    def __init__(self, path: str) -> None:
        self.path = path
        self.segments = os.path.join(path, "segments")
        self.blobs = os.path.join(path, "blobs")
        self.compacted = os.path.join(path, "compacted")
        self.claims = os.path.join(path, "claims")
        self.cache = os.path.join(path, "cache")

    def __repr__(self) -> str:
        return f"Store({self.path!r})"

    def segment_path(self, name: str) -> str:
        """Path of the segment called `name`."""
        return os.path.join(self.segments, name + SEGMENT_SUFFIX)

    def segment_names(self) -> list[str]:
        """Names of all segments, oldest first; [] when none was ever written."""
        cut = -len(SEGMENT_SUFFIX)
        try:
            with os.scandir(self.segments) as entries:
                return sorted(e.name[:cut] for e in entries if e.name.endswith(SEGMENT_SUFFIX))
        except FileNotFoundError:
            return []

    def segments_of_run(self, run: str) -> list[str]:
        """Names of the segments that were written for `run`, oldest first; reads the folder only, no file."""
        return [name for name in self.segment_names() if run_of_segment(name) == run]

    def commit_path(self, name: str) -> str:
        """Path of the commit record called `name`."""
        return os.path.join(self.compacted, name + COMMIT_SUFFIX)

    def commit_names(self) -> list[str]:
        """Names of all commit records, sorted; [] when nothing was ever compacted."""
        cut = -len(COMMIT_SUFFIX)
        try:
            with os.scandir(self.compacted) as entries:
                return sorted(e.name[:cut] for e in entries if e.name.endswith(COMMIT_SUFFIX) and not e.name.startswith("."))
        except FileNotFoundError:
            return []

    def table_path(self, name: str) -> str:
        """Path of a table that a commit record names; `name` must be a plain file name."""
        return os.path.join(self.compacted, name)

    def write_cache(self, path: str, content: bytes) -> None:
        """Put a file of the cache in its place whole, or leave the one that is there.

        Raises:
            OSError: the cache cannot be written.
        """
        os.makedirs(os.path.dirname(path), exist_ok=True)
        aside = os.path.join(self.cache, f"{os.path.basename(path)}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
        with open(aside, "wb") as file:
            file.write(content)
        os.replace(aside, path)

    def blob_path(self, sha256: str) -> str:
        """Path of the blob with this digest (64 hexadecimal digits)."""
        return os.path.join(self.blobs, sha256[:2], sha256)


def segment_name(*, host: str, pid: int, run: str | None, now: float | None = None) -> str:
    """Make a name that no other segment has: `TIME_HOST_PID_RANDOM[_RUN]`, sortable by time (UTC, microseconds)."""
    moment = time.time() if now is None else now
    whole = int(moment)
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(whole)) + f"{int((moment - whole) * 1e6):06d}Z"
    safe = "".join(c if c.isascii() and (c.isalnum() or c in ".-") else "-" for c in host)[:32] or "host"
    return f"{stamp}_{safe}_{pid}_{os.urandom(4).hex()}" + (f"_{run}" if run else "")


def run_of_segment(name: str) -> str | None:
    """The run that a segment's name tells, or None for a writer without a run."""
    parts = name.split("_", 4)
    return parts[4] if len(parts) == 5 else None  # noqa: PLR2004  (TIME_HOST_PID_RANDOM_RUN)


def sync_folder(path: str) -> None:
    """Flush a folder's names to the disk, where its file system can and we may.

    Raises:
        OSError: the disk says that it failed.
    """
    try:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as problem:
        if is_from_signal_handler(problem) or problem.errno not in _CANNOT_FLUSH:
            raise


def reason_of(problem: OSError) -> str:
    """The error's name and words, such as `ENOSPC, No space left on device`."""
    return f"{errno.errorcode.get(problem.errno or 0, 'error')}, {problem.strerror or problem}"


def open_plain(path: str) -> IO[bytes]:
    """Open a file for reading, unless it is a pipe, a device or anything else that may never end.

    Raises:
        OSError: it cannot be opened, or is no plain file.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # of a folder `open` says so itself
        raise OSError(errno.EINVAL, "not a plain file", path)
    return open(path, "rb")


def size_of(path: str) -> int:
    """Bytes of a file, or of all files in a folder."""
    try:
        if not os.path.isdir(path):
            return os.stat(path).st_size
    except OSError:
        return 0
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:  # removed meanwhile
                continue
    return total


def is_store(path: str) -> bool:
    """Whether the folder carries our marker."""
    return os.path.isfile(os.path.join(path, MARKER))


def find_store(start: str | None = None) -> str:
    """The nearest marked `events/` in `start` (default: the working folder) or above it, else `start/events`.

    Raises:
        StoreError: the working folder was deleted.
    """
    try:
        folder = here = os.path.abspath(start or os.getcwd())
    except FileNotFoundError as problem:
        hint = "name the store with AILAB_DIR or dir="
        raise StoreError("the working folder is gone, so there is no default store", path=DEFAULT_NAME, hint=hint) from problem
    while True:
        candidate = os.path.join(folder, DEFAULT_NAME)
        if is_store(candidate):
            return candidate
        parent = os.path.dirname(folder)
        if parent == folder:
            return os.path.join(here, DEFAULT_NAME)
        folder = parent


def open_store(path: str, *, create: bool) -> Store:
    """Check that `path` is a store, or make it one.

    Raises:
        ForeignFolderError: the folder is not empty and has no marker, or is a file.
        StoreError: it is not there and `create` is false, it cannot be made, or a newer format is in it.
    """
    store = Store(os.path.abspath(os.path.expanduser(path)))
    marker = os.path.join(store.path, MARKER)
    try:
        if not os.path.lexists(marker):
            _check_adoptable(store.path, create=create)
            _make(store, marker)
        else:
            _check_marker(marker)
    except (ForeignFolderError, StoreError):
        raise
    except OSError as problem:
        code = errno.errorcode.get(problem.errno or 0, "OSError")
        raise StoreError(
            f"the store cannot be opened ({code})", path=store.path, hint="check that the folder can be written"
        ) from problem
    return store


def _check_adoptable(path: str, *, create: bool) -> None:
    if os.path.lexists(path) and not os.path.isdir(path):  # in this order: somebody may be making it
        raise ForeignFolderError("a file stands where the store should be", path=path, hint=_hint(path, create=create))
    if os.path.isdir(path) and os.listdir(path) and not os.path.lexists(os.path.join(path, MARKER)):
        raise ForeignFolderError("this folder is not empty and is no ailab store", path=path, hint=_hint(path, create=create))
    if not create:
        hint = "log a run first, or name the store (AILAB_DIR, dir=, --dir); a copy of a store's folder is a store"
        raise StoreError("no store here", path=path, hint=hint)


def _hint(path: str, *, create: bool) -> str:
    """What to do about a folder that is no store: whoever reads has named the wrong one, whoever writes may want another."""
    if create:
        return f"name another folder with AILAB_DIR or dir=, or move what is in it; a store has a file {MARKER}"
    inside = os.path.join(path, DEFAULT_NAME)
    if is_store(inside):
        return f"there is a store in it: {inside}"
    return f"a store has a file {MARKER}; name another folder (AILAB_DIR, dir=, --dir)"


def _make(store: Store, marker: str) -> None:
    os.makedirs(store.path, exist_ok=True)
    _put_if_absent(marker, MARKER_BYTES)
    _put_if_absent(os.path.join(store.path, "README.md"), _README.encode())
    _put_if_absent(os.path.join(store.path, ".gitignore"), b"*\n")
    os.makedirs(store.segments, exist_ok=True)


def _put_if_absent(path: str, content: bytes) -> None:
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


def _check_marker(marker: str) -> None:
    with open(marker, "rb") as file:
        content = file.read(4096)
    if content == MARKER_BYTES:
        return
    if MARKER_BYTES.startswith(content):  # its maker was killed between creation and write: the bytes are known
        with open(marker, "wb") as file:
            file.write(MARKER_BYTES)
        return
    raise StoreError(
        f"a marker of another format, {content[:80]!r}", path=marker, hint="this store needs a newer version of ailab"
    )
