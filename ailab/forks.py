"""What a fork must not cut in two, and what a forked child puts right.

A fork copies the thread that calls it; what other threads were at stays half done in the child, and the locks that they held
stay held. Who calls: the recorder, from the interpreter's hooks around a fork; and the threads beside the training, around what a
child could not put right: the import of a module, the start of a program, the work of a library with locks (`undivided`).

What holds. A fork waits for such work alone, and for all of it together not longer than `WAIT_SECONDS`; never for a disk, an
answer of git's or a reading of the GPUs. Where that was not enough, the child goes on all the same: a module that a thread of its
parent was importing counts there as not imported, as after an import that failed (`renew`). What is not promised: a lock that
another library held, on a thread that did not say so.
"""

from __future__ import annotations

import sys
import time
from _thread import LockType, RLock, allocate_lock, get_ident
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT_SECONDS = 0.05
"""How long a fork waits at most."""

_entry: Any = RLock()  # held by a fork, so that nobody begins what it would have to wait for
_busy: set[LockType] = set()
"""A lock for each piece of work that is under way, held until it is done."""


@contextmanager
def undivided() -> Iterator[None]:
    """Do what a fork should find done or not begun. Several threads may, at once."""
    own = allocate_lock()
    with own:
        with _entry:
            _busy.add(own)
        try:
            yield
        finally:
            _busy.discard(own)


def hold() -> None:
    """Before a fork: let what is under way come to its end, if it does so in time, and let nothing new begin."""
    until = time.monotonic() + WAIT_SECONDS
    if not _entry.acquire(timeout=WAIT_SECONDS):
        return
    for each in list(_busy):
        if not each.acquire(timeout=max(0.0, until - time.monotonic())):
            return
        each.release()


def release() -> None:
    """Behind a fork, in the parent: go on."""
    if _entry._is_owned():  # else another thread's fork had it all the time
        _entry.release()


def renew() -> None:
    """Behind a fork, in the child: nobody is at work but the thread that is here."""
    global _entry  # noqa: PLW0603  (its holder may not be here)
    _entry = RLock()
    _busy.clear()
    _forget_half_imported()


def _forget_half_imported() -> None:
    """Let modules be imported anew that threads of the parent were importing: else whoever wants one waits for them for ever.

    Python has no word for this, so what its import system notes of a module is read: who holds its lock, whether it is whole.
    With a package its modules go, which would lack in the new one; but not extension modules, many of which load but once.
    """
    locks = getattr(sys.modules.get("_frozen_importlib"), "_module_locks", {})
    for name, reference in list(locks.items()):
        owner = getattr(reference(), "owner", None)
        if owner is None or owner == get_ident():
            continue
        locks.pop(name, None)
        if getattr(_spec(name), "_initializing", False):
            for each in [each for each in sys.modules if each == name or each.startswith(f"{name}.")]:
                if not isinstance(getattr(_spec(each), "loader", None), ExtensionFileLoader):
                    sys.modules.pop(each, None)


def _spec(name: str) -> Any:
    return getattr(sys.modules.get(name), "__spec__", None)
