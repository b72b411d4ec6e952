"""Folders of one process in the system's temporary folder: copies that a catalogue changes, snapshots where `cache/` cannot be.

Only the process that made one writes and reads it, and its name carries that process. It goes when its catalogue is closed or the
process ends; what killed processes left goes when the next one makes its first.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from contextlib import suppress

from .. import capture

_folders: set[str] = set()
_is_ours = re.compile(r"ailab-(?:view|cache)-(\d+)-\w+").fullmatch


def make(what: str) -> str:
    """A new folder for a "view" or a "cache"."""
    if not _folders:
        atexit.register(_remove_all)
        _remove_orphans()
    folder = tempfile.mkdtemp(prefix=f"ailab-{what}-{os.getpid()}-")
    _folders.add(folder)
    return folder


def remove(folder: str) -> None:
    """Remove a folder that `make` made."""
    shutil.rmtree(folder, ignore_errors=True)
    _folders.discard(folder)


def _remove_all() -> None:
    for folder in list(_folders):
        if f"-{os.getpid()}-" in folder:  # a forked process knows those of its parent
            remove(folder)


def _remove_orphans() -> None:
    with suppress(OSError):
        for entry in os.scandir(tempfile.gettempdir()):
            owner = _is_ours(entry.name)
            if owner and int(owner[1]) != os.getpid() and capture.process_start(int(owner[1])) is None:
                shutil.rmtree(entry.path, ignore_errors=True)
