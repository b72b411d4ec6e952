"""Errors as one object, the same for whoever asks over HTTP and on the command line: RFC 9457 with our fields."""

from __future__ import annotations

import msgspec

from .errors import (
    AilabError,
    ConflictError,
    DamageError,
    FilterError,
    MissingExtraError,
    NotFoundError,
    RefusedError,
    RejectedError,
    SettingError,
    StoreError,
)


class Problem(msgspec.Struct, kw_only=True):
    """What went wrong: `detail` says it in a sentence, `hint` what to do next, `where` which part of the request is meant.

    `instance` names the request or verb; `nearest` lists what exists and looks like what was asked for, best first.
    """

    type: str
    title: str
    status: int
    detail: str
    instance: str
    where: str | None = None
    hint: str | None = None
    nearest: list[str] = []


_KINDS: tuple[tuple[type[AilabError], int, str, str], ...] = (
    (NotFoundError, 404, "not-found", "not there"),
    (FilterError, 400, "invalid", "a part of the request is not allowed"),
    (RejectedError, 400, "rejected", "a value that cannot be kept"),
    (SettingError, 400, "setting", "a setting that is not allowed"),
    (RefusedError, 403, "refused", "the rules forbid it"),
    (ConflictError, 409, "conflict", "it does not fit what is there now"),
    (StoreError, 503, "store", "the store cannot be used now"),
    (DamageError, 500, "damage", "bytes on disk are not what was written"),
    (MissingExtraError, 501, "missing-extra", "an optional dependency is not installed"),
)
"""Error class, status, last part of `type`, title; the first that fits counts."""


def problem_of(error: AilabError, detail: str, *, instance: str) -> Problem | None:
    """An error of ours; `detail` is its sentence as this reader may see it. None for one that nobody foresaw."""
    found = next((row[1:] for row in _KINDS if isinstance(error, row[0])), None)
    if found is None:
        return None
    status, slug, title = found
    return Problem(
        type=type_of(slug), title=title, status=status, detail=detail, instance=instance,
        where=getattr(error, "where", None) or getattr(error, "key", None), hint=error.hint or None,
        nearest=list(getattr(error, "nearest", ())),
    )  # fmt: skip


def type_of(slug: str) -> str:
    """The name of a kind of problem."""
    return f"urn:ailab:problem:{slug}"
