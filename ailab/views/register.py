"""The register: projects, dataset versions, tokens and accepted segments, everything that is said of no run.

A pure function of the set of events, as the fold of a run is: each subject keeps its events and is replayed in the order of their
places, so late, repeated or merged segments lead to the same rows as a replay from nothing. Who writes: the snapshot, once, and
each reader's own copy of it as events arrive. A subject's events are loaded when something new is said of it; the rows of all
others stand as they are.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from .. import events
from .fold import UNDONE, Told, undoing_of, undone
from .rows import insert, project_of, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import duckdb

    from .fold import RunFold

NAMING_KINDS = ("run.started", "run.changed")
"""Kinds of events about a run that may name a project."""
KINDS: dict[str, str] = {
    "project.created": "project", "project.changed": "project", "project.trashed": "project", "project.restored": "project",
    "dataset_version.registered": "dataset", "dataset_version.changed": "dataset", "dataset_version.trashed": "dataset",
    "dataset_version.restored": "dataset", "token.created": "token", "token.revoked": "token", "segment.accepted": "segment",
    UNDONE: "",
}  # fmt: skip
"""The kinds that the register keeps, and which subject each is about."""
_decoders: dict[str, Callable[..., Any]] = {kind: msgspec.json.Decoder(events.KINDS[kind]).decode for kind in KINDS}

Place = tuple[int, str, int]
Words = list[tuple[Told, msgspec.Raw]]
Replayed = tuple[dict[str, list[dict[str, Any]]], list[dict[str, Any]]]
"""Rows by table, and what was changed, oldest first."""
Subject = tuple[str, str]
"""What something is said of: project, dataset, token or segment, and its id."""


class _Fold:
    """The events of one subject; its rows go into `table`."""

    table: ClassVar[str]

    def __init__(self, name: str) -> None:
        self.name = name
        self.words: Words = []

    def take(self, told: Told, data: bytes) -> None:
        """Keep one event."""
        self.words.append((told, msgspec.Raw(data)))

    def dump(self) -> Any:
        """What is known of the subject, for `load`."""
        return self.words

    def load(self, content: bytes) -> None:
        """Take up what `dump` gave."""
        self.words = msgspec.json.decode(content, type=Words)

    def named(self) -> Iterator[tuple[str, Place, datetime, str]]:
        """(project, place, time, name) of every name that its events gave to a project."""
        return iter(())

    def replay(self) -> Replayed:
        """(rows by table, what was changed, oldest first)."""
        raise NotImplementedError

    def _replay(
        self, tell: Callable[[Any], dict[Any, Any]], words: Words | None = None
    ) -> tuple[dict[Any, Any], list[dict[str, Any]]]:
        """The value of each field by what `tell` says that an event sets, and every change of one that was there before it.

        A field is a text, or a tuple whose last part is the field and whose others say what of the subject it belongs to.
        """
        ordered = sorted(self.words if words is None else words, key=lambda word: word[0].place)
        told = [word for word, _ in ordered]
        said = [_decoders[word.kind](data) for word, data in ordered]
        index = [(word.event, word.kind, getattr(event, "event", None)) for word, event in zip(told, said, strict=True)]
        now: dict[Any, Any] = {}
        changes: list[dict[str, Any]] = []
        for i, (word, event) in enumerate(zip(told, said, strict=True)):
            if word.kind == UNDONE:
                gone, then = undone(index[: i + 1]), dict[Any, Any]()
                for j in range(i):
                    if j not in gone and told[j].kind != UNDONE:
                        then.update(tell(said[j]))
                new = {field: then.get(field) for field in [*now, *then] if now.get(field) != then.get(field)}
            else:
                new = {field: value for field, value in tell(event).items() if now.get(field) != value}
            if word.kind in events.UNDOABLE:
                changes += [_change(word, field, now.get(field), value) for field, value in new.items()]
            now.update(new)
        return now, changes


def _change(word: Told, field: Any, old: Any, new: Any) -> dict[str, Any]:
    return {
        "event": word.event, "at": word.at, "by": word.by, "via": word.via, "kind": word.kind,
        "version": field[0] if isinstance(field, tuple) else None, "field": field[-1] if isinstance(field, tuple) else field,
        "old": old, "new": new,
    }  # fmt: skip


class ProjectFold(_Fold):
    """One project: named by its first run or dataset, or by `project.created`."""

    table = "project_table"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.first_name: tuple[Place, datetime, str] | None = None

    def call(self, place: Place, at: datetime, name: str) -> None:
        """Something named the project."""
        if self.first_name is None or place < self.first_name[0]:
            self.first_name = (place, at, name)

    def dump(self) -> Any:
        """What is known of the project."""
        return self.first_name, self.words

    def load(self, content: bytes) -> None:
        """Take up what `dump` gave."""
        self.first_name, self.words = msgspec.json.decode(content, type=tuple[tuple[Place, datetime, str] | None, Words])

    def named(self) -> Iterator[tuple[str, Place, datetime, str]]:
        """The name that it was created with."""
        for told, data in self.words:
            if told.kind == events.ProjectCreated.kind and (name := _decoders[told.kind](data).name):
                yield self.name, told.place, told.at, name

    def _tell(self, event: Any) -> dict[Any, Any]:
        if isinstance(event, events.ProjectTrashed | events.ProjectRestored):
            return {"trashed": isinstance(event, events.ProjectTrashed)}
        said = {} if event.description is None else {"description": event.description}
        if isinstance(event, events.ProjectChanged) and event.name:
            said["name"] = event.name
        return said

    def label(self) -> tuple[str, bool] | None:
        """(its name as it reads now, whether it is in the trash); None where nothing named it."""
        if self.first_name is None:
            return None
        now, _ = self._replay(self._tell)
        return now.get("name") or self.first_name[2], bool(now.get("trashed"))

    def replay(self) -> Replayed:
        """One row, if something named it."""
        if self.first_name is None:
            return {}, []
        _, at, first = self.first_name
        now, changes = self._replay(self._tell)
        for change in changes:
            if change["field"] == "name":
                change["old"], change["new"] = change["old"] or first, change["new"] or first
        row = {
            "project_id": self.name, "name": now.get("name") or first, "description": now.get("description"), "created_at": at,
            "trashed": bool(now.get("trashed")),
        }  # fmt: skip
        return {self.table: [row]}, changes


class DatasetFold(_Fold):
    """One dataset: its versions, each a content that was registered under its name."""

    table = "dataset_table"

    def named(self) -> Iterator[tuple[str, Place, datetime, str]]:
        """Names of projects that its versions were said to belong to."""
        for told, data in self._there():
            name = getattr(_decoders[told.kind](data), "project", None)
            if name and told.kind != UNDONE:
                yield project_of(name), told.place, told.at, name

    def _there(self) -> Words:
        """Its events but for those about versions that nobody registered, which change nothing until somebody does."""
        said = [(word, _decoders[word[0].kind](word[1])) for word in self.words]
        born = {event.sha256 for (told, _), event in said if told.kind == events.DatasetVersionRegistered.kind}
        return [word for word, event in said if word[0].kind == UNDONE or event.sha256 in born]

    @staticmethod
    def _tell(event: Any) -> dict[Any, Any]:
        key = event.sha256
        if isinstance(event, events.DatasetVersionTrashed | events.DatasetVersionRestored):
            return {(key, "trashed"): isinstance(event, events.DatasetVersionTrashed)}
        values = {field: getattr(event, field) for field in ("description", "tags", "metadata", "project")}
        if isinstance(event, events.DatasetVersionChanged):
            said = {(key, field): value for field, value in values.items() if value is not None}
            return said | ({"name": event.name} if event.name else {})
        return {(key, field): value for field, value in values.items() if value}

    def replay(self) -> Replayed:
        """A row for each version, oldest first."""
        now, changes = self._replay(self._tell, self._there())
        born: dict[str, tuple[Told, events.DatasetVersionRegistered]] = {}
        for told, data in sorted(self.words, key=lambda word: word[0].place):
            if told.kind == events.DatasetVersionRegistered.kind:
                event = _decoders[told.kind](data)
                born.setdefault(event.sha256, (told, event))
        label = now.get("name") or next((event.name for _, event in born.values() if event.name), None)
        rows = [
            {
                "dataset_id": dataset_id(self.name, sha256), "dataset": self.name, "name": label, "version": version,
                "sha256": sha256, "size": event.size, "format": event.format, "rows": event.rows, "schema": event.schema,
                "file": event.file, "description": now.get((sha256, "description")),
                "tags": {key: text_of(value) for key, value in (now.get((sha256, "tags")) or {}).items()},
                "metadata": now.get((sha256, "metadata")) or {},
                "project_id": project_of(project) if (project := now.get((sha256, "project"))) else None,
                "parent_id": dataset_id(self.name, event.parent) if event.parent else None, "created_at": told.at, "by": told.by,
                "event": told.event, "own_trashed": bool(now.get((sha256, "trashed"))),
            }
            for version, (sha256, (told, event)) in enumerate(born.items(), 1)
        ]  # fmt: skip
        return {self.table: rows}, changes


def dataset_id(dataset: str, sha256: str) -> str:
    """The id of a version of a dataset: it always means the same content."""
    return f"{dataset}@sha256:{sha256}"


class TokenFold(_Fold):
    """One access token."""

    table = "token_table"

    def replay(self) -> Replayed:
        """One row, if it was created."""
        words = sorted(self.words, key=lambda word: word[0].place)
        born = [(told, _decoders[told.kind](data)) for told, data in words if told.kind == events.TokenCreated.kind]
        if not born:
            return {}, []
        told, event = born[0]
        row = {
            "token": self.name, "sha256": event.sha256, "role": event.role, "name": event.name, "project_id": event.project,
            "created_at": told.at, "by": told.by,
            "revoked_at": next((word.at for word, _ in words if word.kind == events.TokenRevoked.kind), None),
        }  # fmt: skip
        return {self.table: [row]}, []


class SegmentFold(_Fold):
    """A segment that came through a server, and by whom."""

    table = "accepted_table"

    def replay(self) -> Replayed:
        """One row, if somebody is named."""
        said = [(told.place, _decoders[told.kind](data)) for told, data in self.words]
        by = [event.by for _, event in sorted(said, key=lambda one: one[0]) if event.by]
        return {self.table: [{"segment": self.name, "by": by[-1] if by else None}]}, []


_FOLDS: dict[str, type[_Fold]] = {"project": ProjectFold, "dataset": DatasetFold, "token": TokenFold, "segment": SegmentFold}
_KEYS = {"project_table": "project_id", "dataset_table": "dataset", "token_table": "token", "accepted_table": "segment"}


class Register:
    """All subjects of one catalogue.

    Args:
        con: the connection; `base` has the rows.
        states: the table that keeps what a snapshot knew of each subject; None where nothing is known yet.

    Attributes:
        labels: name and trash of each project, as `write` left them.
    """

    tables: ClassVar[tuple[str, ...]] = (*_KEYS, "subject_change_table")

    def __init__(self, con: duckdb.DuckDBPyConnection, states: str | None) -> None:
        self._con = con
        self._states = states
        self._folds: dict[Subject, _Fold] = {}
        self._touched: set[Subject] = set()
        rows = con.execute("SELECT project_id, name, trashed FROM base.project_table").fetchall()
        self.labels: dict[str, tuple[str, bool]] = {project: (name, trashed) for project, name, trashed in rows}

    @property
    def is_touched(self) -> bool:
        """Whether something was said since the rows were written."""
        return bool(self._touched)

    def take(self, told: Told, data: bytes) -> None:
        """Add one event; an undoing that names no project or dataset is about none.

        Raises:
            msgspec.ValidationError: the payload does not fit its kind; nothing changes.
        """
        event = _decoders[told.kind](data)
        about = KINDS[told.kind]
        if not about:
            about = "project" if event.project is not None else "dataset"
        name = getattr(event, about)
        if name is None:
            return
        fold = self._fold((about, name))
        fold.take(told, data)
        self._name(fold)

    def clock_of(self, about: str, name: str) -> int:
        """The greatest Lamport clock among the events of a subject; -1 where nothing was said of it."""
        return max((told.clock for told, _ in self._known((about, name)).words), default=-1)

    def undoing_of(self, event: str, about: str, name: str) -> str | None:
        """The undoing that takes an event of a subject out of the count; None where it counts."""
        words = sorted(self._known((about, name)).words, key=lambda word: word[0].place)
        said = [(told.event, told.kind, getattr(_decoders[told.kind](data), "event", None)) for told, data in words]
        return undoing_of(event, said)

    def call(self, run: RunFold) -> None:
        """Take in the names that a run gave to projects: none as long as the run is not there."""
        if run.exists:
            for word in run.words:
                if word.kind in NAMING_KINDS and (name := word.event.project):
                    self._call(project_of(name), run.place_of(word), word.at, name)

    def _name(self, fold: _Fold) -> None:
        for named in fold.named():
            self._call(*named)

    def _call(self, project: str, place: Place, at: datetime, name: str) -> None:
        fold = self._fold(("project", project))
        assert isinstance(fold, ProjectFold)  # noqa: S101  (by its key)
        fold.call(place, at, name)

    def _fold(self, subject: Subject) -> _Fold:
        self._touched.add(subject)
        fold = self._folds.get(subject)
        if fold is None:
            fold = self._folds[subject] = _FOLDS[subject[0]](subject[1])
            if self._states is not None:
                text = f"SELECT state FROM {self._states} WHERE about = ? AND name = ?"  # noqa: S608  (our own table)
                for (state,) in self._con.execute(text, list(subject)).fetchall():
                    fold.load(state.encode())
        return fold

    def _known(self, subject: Subject) -> _Fold:
        """What is known of a subject; nothing is said of it, so its rows stand."""
        was_touched = subject in self._touched
        fold = self._fold(subject)
        if not was_touched:
            self._touched.discard(subject)
        return fold

    def again(self, is_gone: Callable[[Told], bool]) -> None:
        """Replay all subjects without events that are gone; the names that runs gave to projects are to be called again."""
        if self._states is not None:
            for subject in self._con.execute(f"SELECT about, name FROM {self._states}").fetchall():  # noqa: S608
                self._fold(subject)
        old = list(self._folds.items())
        self._touched |= set(self._folds)
        self._folds, self._states = {}, None
        for subject, fold in old:
            fresh = self._fold(subject)
            fresh.words = [(told, data) for told, data in fold.words if not is_gone(told)]
        for subject, _ in old:
            self._name(self._folds[subject])

    def settle(self) -> dict[str, tuple[tuple[str, bool] | None, tuple[str, bool] | None]]:
        """Bring `labels` up to date; return (before, now) of each project whose label or trash is another."""
        changed: dict[str, tuple[tuple[str, bool] | None, tuple[str, bool] | None]] = {}
        for about, name in self._touched:
            if about == "project":
                fold = self._folds[about, name]
                assert isinstance(fold, ProjectFold)  # noqa: S101  (by its key)
                before, now = self.labels.get(name), fold.label()
                if before != now:
                    changed[name] = (before, now)
                if now is None:
                    self.labels.pop(name, None)
                else:
                    self.labels[name] = now
        return changed

    def write(self) -> None:
        """Write the rows of all subjects of which something was said."""
        rows: dict[str, list[dict[str, Any]]] = {table: [] for table in self.tables}
        gone: dict[str, list[str]] = {}
        for about, name in sorted(self._touched):
            fold = self._folds[about, name]
            gone.setdefault(about, []).append(name)
            found, changes = fold.replay()
            for table, some in found.items():
                rows[table] += some
            rows["subject_change_table"] += [{"about": about, "name": name, **change} for change in changes]
        for about, names in gone.items():
            table = _FOLDS[about].table
            self._con.execute(f"DELETE FROM base.{table} WHERE {_KEYS[table]} IN (SELECT unnest($1::VARCHAR[]))", [names])  # noqa: S608
            text = "DELETE FROM base.subject_change_table WHERE about = $1 AND name IN (SELECT unnest($2::VARCHAR[]))"
            self._con.execute(text, [about, names])
        for table, some in rows.items():
            insert(self._con, f"base.{table}", some)
        self._touched.clear()

    def states(self) -> list[dict[str, Any]]:
        """What is known of each subject that was loaded or changed, as rows for a table of states."""
        return [
            {"about": about, "name": name, "state": msgspec.json.encode(fold.dump()).decode()}
            for (about, name), fold in self._folds.items()
        ]  # fmt: skip
