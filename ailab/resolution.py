"""Which content a `dataset_id` means: looked up beside the training, in what the store knew when the run started.

Called by the recorder on the thread that captures environment and code, so the training does not wait. What holds: the views
answer, so the same text means the same as everywhere else; a text that names no dataset is a text; nothing is written. DuckDB is
loaded only where a dataset may be registered, and no catalogue is left open in the training process, which may fork.

What is not promised: a dataset that a writer of another make registered in a segment of a run is found only where others are.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from . import commits, events
from .errors import NotFoundError, RejectedError
from .forks import undivided
from .store import run_of_segment

if TYPE_CHECKING:
    from datetime import datetime

    from .store import Store

SCANNED_MAX = 64 << 20
"""Bytes of segments that are searched for a dataset, at most; a store with more is asked."""
_MARK = b"dataset_version.registered"
_BLOCK = 1 << 20

_State = tuple[tuple[tuple[str, int], ...], tuple[str, ...]]
"""What registered datasets depend on: segments of no run with their sizes, and commit records."""
_known: dict[str, tuple[_State, dict[str, events.DatasetUsed | None]]] = {}
"""What this process has found, by store: it holds as long as the state is the same."""


def content_of(store: Store, text: str, *, before: datetime) -> events.DatasetUsed | None:
    """The event that a run read what a text means; None where it names no dataset.

    Args:
        store: the store.
        text: `iris@v2`, `iris` (its newest version), `iris@sha256:HEX`, a SHA-256, or any text.
        before: when the run started, UTC without a zone: the newest version is that of then.

    Raises:
        RejectedError: there is a dataset of this name, but no such version, or several fit.
        DamageError, OSError: the store cannot be read.
    """
    state = _state_of(store)
    was, found = _known.get(store.path, (None, {}))
    if was != state:
        found = {}
        _known[store.path] = (state, found)
    if text not in found:
        if _may_have_any(store, state):
            with undivided():  # DuckDB has locks of its own
                found[text] = _asked(store, text, before)
        else:
            found[text] = None
    return found[text]


def _state_of(store: Store) -> _State:
    sizes = []
    for name in store.segment_names():
        if run_of_segment(name) is None:
            try:
                sizes.append((name, os.stat(store.segment_path(name)).st_size))
            except FileNotFoundError:  # in tables since it was listed
                continue
    return tuple(sizes), tuple(store.commit_names())


def _may_have_any(store: Store, state: _State) -> bool:
    """Whether a dataset may be registered here; reads segments of no run, and what records say that tables have of such."""
    segments, records = state
    if sum(size for _, size in segments) > SCANNED_MAX or any(_has_mark(store.segment_path(name)) for name, _ in segments):
        return True
    if not records:
        return False
    counting, problems = commits.load(store)
    return bool(problems) or any(run_of_segment(span.segment) is None for one in counting.values() for span in one.spans)


def _has_mark(path: str) -> bool:
    before = b""
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                if _MARK in before + block:
                    return True
                before = block[-len(_MARK) :]
    except FileNotFoundError:  # in tables since it was listed: a record names it
        return True
    return False


def _asked(store: Store, text: str, before: datetime) -> events.DatasetUsed | None:
    from . import inventory
    from .views import Lab

    lab = Lab(store)
    try:
        lab.refresh()
        found = inventory.find_content(lab, text, before=before)
    except NotFoundError as problem:
        raise RejectedError(f"dataset_id {text[:200]!r} names no version: {problem.hint}", key="dataset_id") from None
    finally:
        lab.close()
    return None if found is None else events.DatasetUsed(sha256=found[1], dataset=found[0], name=text)
