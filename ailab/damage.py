"""What each kind of damage costs, and what helps: the same words for whoever takes a look and whoever verifies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from .errors import DamageError
    from .segments import Segment

FROM_COPY = "`ailab merge --heal` takes what is whole from a copy of the store"


class Effect(NamedTuple):
    """How bad a damage is, what is lost by it, and what to do."""

    level: Literal["note", "warning", "error"]
    cost: str
    hint: str


EFFECTS = {
    "torn-write": Effect(
        "warning", "the event of this line, unless the writer wrote it again behind it", "the disk was full, or a limit was met",
    ),
    "torn-tail": Effect(
        "note", "the last event, of which only a part is there; had the file been cut, those behind it too",
        "its writer was killed while it wrote, and nothing is to be done; or `ailab merge` brings what a copy has more",
    ),
    "bad-checksum": Effect("error", "the event of this line", f"its bytes changed after they were written; {FROM_COPY}"),
    "bad-json": Effect("error", "the event of this line", FROM_COPY),
    "gap": Effect("error", "the events that are missing, unless another file has them", FROM_COPY),
    "duplicate": Effect("error", "nothing: the event counts once", f"the file was edited or joined; {FROM_COPY}"),
    "missing": Effect("error", "the events that it had, unless segments still have them", FROM_COPY),
    "unknown-version": Effect("error", "all of this file, to this version", "it needs a newer version of ailab"),
    "unreadable": Effect("error", "all of this file", "check who may read it"),
}  # fmt: skip
"""By the kind of a `DamageError`."""


def effect_of(problem: DamageError, segment: Segment | None = None) -> Effect:
    """What a problem means; `segment` is where a reader found it, since its footer speaks of the whole file."""
    effect = EFFECTS[problem.kind]
    if (
        segment is not None
        and segment.footer is not None
        and problem.line == segment.line
        and problem.kind in {"gap", "bad-checksum"}
    ):
        return effect._replace(cost="what is named above, or lines that are gone without a trace")
    return effect
