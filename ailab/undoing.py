"""What is taken back with a change, and whether it may be. Everything here reads the catalogue as it stands; nothing writes.

A change is taken back as a whole: a dataset that moved to another project did so with all its versions, by an event for each, one
behind the other in one segment, and all of them come back. So does what a run was said to have read with the text that names its
dataset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from . import events, queries
from .errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from .views import Lab


class Undoing(msgspec.Struct):
    """What undoing a change takes back: `events` of the run, project or dataset of this name, and what they changed."""

    about: str
    name: str
    events: list[str]
    changes: list[queries.Change]

    @property
    def moves(self) -> bool:
        """Whether something is of another project afterwards."""
        return any(change.field == "project" for change in self.changes)


def undoing_of(lab: Lab, event: str) -> Undoing:
    """What goes back with an event.

    Raises:
        NotFoundError: no change has this id.
    """
    changes = queries.changes_of_event(lab, event)
    if not changes:
        raise NotFoundError("change", event, hint="the list of changes names the events that can be undone")
    about, name = _subject(changes[0])
    beside = _moved_with(lab, name, changes) if about == "dataset" else _read_with(lab, name, changes) if about == "run" else []
    changes += [change for other in beside for change in queries.changes_of_event(lab, other)]
    return Undoing(about, name, [event, *beside], changes)


def check(lab: Lab, undoing: Undoing) -> None:
    """Make sure that each of the events counts, and that nothing which it set was set again since.

    Raises:
        ConflictError: one is undone already, or something was changed again; names the event that did it.
    """
    history = _history(lab, undoing)
    last = {field: event for event, field in history}
    for event in undoing.events:
        if by := _undone_by(lab, undoing, event):
            hint = f"undo {by} to have it back"
            raise ConflictError(f"it is undone already, by event {by}", where="event", nearest=[by], hint=hint)
        for changed_by, field in history:
            if changed_by == event != last[field]:
                said = field if undoing.about == "run" else field.rpartition(".")[2]
                raise ConflictError(
                    f"{said} was changed again since, by event {last[field]}", where="event", nearest=[last[field]],
                    hint="undo the later change first",
                )  # fmt: skip


def _subject(change: queries.Change) -> tuple[str, str]:
    """What was changed, a run, project or dataset, and its id."""
    if change.run_id is not None:
        return "run", change.run_id
    if change.dataset_id is not None:
        return "dataset", change.dataset_id.partition("@")[0]
    return "project", change.project_id or ""


def _moved_with(lab: Lab, dataset: str, changes: list[queries.Change]) -> list[str]:
    """The events that moved other versions of a dataset at the same time from and to the same project."""
    move = next((change for change in changes if change.field == "project"), None)
    if move is None:
        return []
    text = """SELECT event FROM base.subject_change_table WHERE about = 'dataset' AND name = ? AND field = 'project'
              AND (old ->> '$') IS NOT DISTINCT FROM ? AND ("new" ->> '$') IS NOT DISTINCT FROM ?"""
    moves = {row[0] for row in lab.rows(text, [dataset, move.old, move.new])}
    segment, _, number = move.event.rpartition(":")
    found: list[str] = []
    for step in (-1, 1):
        place = int(number) + step
        while (event := f"{segment}:{place}") in moves:
            found.append(event)
            place += step
    return found


def _read_with(lab: Lab, run: str, changes: list[queries.Change]) -> list[str]:
    """The event that a run read the dataset that it then was said to have, or the undoing of it: it was written beside."""
    fold = lab.fold_of(run)
    if fold is None or all(change.field != "dataset" for change in changes):
        return []
    words, event = fold.words_by_event(), changes[0].event

    def meant(one: str) -> Any:
        """The payload of an event, or of the one that it takes back."""
        while one in words and words[one].kind == events.ChangeUndone.kind:
            one = words[one].event.event
        return words[one].event if one in words else None

    segment, _, number = event.rpartition(":")
    is_undoing = event in words and words[event].kind == events.ChangeUndone.kind
    beside = f"{segment}:{int(number) + (1 if is_undoing else -1)}"
    changed, used = meant(event), meant(beside)
    together = isinstance(used, events.DatasetUsed) and isinstance(changed, events.RunChanged) and used.name == changed.dataset
    return [beside] if together else []


def _history(lab: Lab, undoing: Undoing) -> list[tuple[str, str]]:
    """(event, what it changed) of all changes of a thing, the oldest first."""
    if undoing.about == "run":
        fold = lab.fold_of(undoing.name)
        return [] if fold is None else [(one["event"], one["field"]) for one in fold.state().changes]
    found = lab.rows(
        "SELECT event, version, field FROM base.subject_change_table WHERE about = ? AND name = ? ORDER BY rowid",
        [undoing.about, undoing.name],
    )
    return [(event, f"{version or ''}.{field}") for event, version, field in found]


def _undone_by(lab: Lab, undoing: Undoing, event: str) -> str | None:
    if undoing.about != "run":
        return lab.undoing_of_subject(event, undoing.about, undoing.name)
    fold = lab.fold_of(undoing.name)
    return None if fold is None else fold.undoing_of(event)
