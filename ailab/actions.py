"""What people do afterwards: one call is one event, written through the same door as everything else.

An action checks against the catalogue that what it means is there, appends its event, and returns once the event is in the
kernel. Nothing is ever overwritten: the value before stays in the journal and is shown among the changes. A call that says
several things checks all of them before it writes any. Actions raise where a run's own logging would only warn: a person or a
program waits for the answer.
"""

from __future__ import annotations

import copy
import hashlib
import secrets
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from . import artifacts, blobs, events, inventory, naming, queries, undoing, values
from .bodies import (
    BATCH_MAX,
    BEGINNINGS,
    PATH_MAX,
    ROLES,
    SET_STATUSES,
    SIZE_MAX,
    CreatedToken,
    DatasetFields,
    LoggedEvent,
    NewProject,
    NewRun,
    NewToken,
    ProjectChange,
    RunChange,
    as_event,
    as_metadata,
    as_metrics,
    as_name,
    as_params,
    as_tags,
    as_text,
    given,
)
from .errors import ConflictError, FilterError, NotFoundError, RefusedError, RejectedError
from .journal import Writer
from .runs import check_run_id, new_run_id
from .views.rows import project_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .blobs import Incoming
    from .datasets import Contents
    from .inventory import DatasetDetail, DatasetView, ProjectView, TokenView
    from .views import Lab

FLAGS = ("PUBLISH", "BEST", "BAD RUN")
_TAKEN = {
    "project": "SELECT 1 FROM base.project_table WHERE project_id <> $1 AND (project_id = $2 OR lower(name) = lower($3))",
    "dataset": "SELECT 1 FROM base.dataset_table WHERE dataset <> $1 AND (dataset = $2 OR lower(name) = lower($3))",
}
"""Whether another project or dataset than $1, in the trash or not, has a name as its id or its label."""
_UNPROTECT = "take the protection back first: PATCH /runs/ID with protected false, or `ailab protect ID --off`"
TOKEN_PREFIX = "ailab_"  # noqa: S105  (what a token begins with, so that people and scanners know one)


class Actions:
    """Act on a store; keeps one segment open for its life.

    Args:
        lab: the catalogue of the store; brought up to date before and after every action.
        via: cli, http, agent, import or server.
        by: the person or token, where there is one.

    Attributes:
        appended: how many events were written, by kind; one count for all persons.
    """

    def __init__(self, lab: Lab, *, via: str, by: str | None = None) -> None:
        self.lab = lab
        self._by = by
        self._only: str | None = None
        self._writer = Writer(lab.store, via=via, strict=True)
        self.appended: Counter[str] = Counter()

    def acting(self, by: str | None, *, only: str | None = None) -> Actions:
        """The same, for another person or token; where it reaches `only` one project, what it names is looked for there.

        That a thing which an action is about is of that project is for the caller to make sure.
        """
        other = copy.copy(self)
        other._by, other._only = by, only
        return other

    @property
    def segment(self) -> str:
        """The name of the segment that is written to now; empty before the first event."""
        return self._writer.name

    def close(self) -> None:
        """Seal the segment."""
        self._writer.seal()

    def __enter__(self) -> Actions:  # noqa: PYI034
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    # -- runs --------------------------------------------------------------------------------------------------------

    def create_run(self, new: NewRun) -> queries.RunDetail:
        """Begin a run that a client without the library logs; the event that it started comes last, so it is there as a whole.

        Raises:
            ConflictError: there is a run with this id, or its project is in the trash.
            RejectedError: a field cannot be kept as it is.
        """
        self.lab.refresh()
        run_id = new_run_id() if new.run_id is None else check_run_id(new.run_id)
        if there := queries.get_runs_by_ids(self.lab, [run_id]):
            ours = self._only in {None, there[0].project_id}
            hint = "leave run_id out" + (", or change the run that is there" if ours else "")
            raise ConflictError(f"run_id {run_id!r} is taken", where="run_id", hint=hint)
        if new.status not in BEGINNINGS:
            hint = f"allowed: {', '.join(BEGINNINGS)}"
            raise RejectedError(f"status {new.status[:40]!r} is not allowed", key="status", hint=hint)
        if new.seed is not None and not 0 <= new.seed < 1 << 64:
            raise RejectedError(f"seed {new.seed} is not allowed", key="seed", hint="allowed: 0 to 2^64 - 1, or none")
        if new.parent_run_id is not None:
            self._check_parent(new.parent_run_id)
        about: list[events.Event] = []
        if new.commit is not None:
            about.append(self._code(new.commit))
        about += self._used(new.dataset_id)
        started = events.RunStarted(
            name=as_name(new.name, "name"),
            project=self._project(new.project_id) if new.project is None else self._project(new.project, "project"),
            params=as_params(new.params), command=as_text(new.command, "command"),
            seed=secrets.randbelow(1 << 32) if new.seed is None else new.seed,
            group=None if new.group is None else as_name(new.group, "group"), parent=new.parent_run_id,
            dataset=None if new.dataset_id is None else as_name(new.dataset_id, "dataset_id"), tags=as_tags(new.tags),
            description=None if new.description is None else as_text(new.description, "description"), status=new.status,
        )  # fmt: skip
        self._write([*about, started], run_id, -1)
        return queries.get_run(self.lab, run_id)

    def _check_parent(self, run_id: str) -> None:
        parent = queries.get_run(self.lab, run_id)
        if self._only not in {None, parent.project_id}:
            raise NotFoundError("run", run_id)

    def change_run(self, run_id: str, change: RunChange) -> queries.RunDetail:
        """Change fields of a run.

        Raises:
            NotFoundError: there is no such run.
            ConflictError: the project is in the trash.
            RejectedError: a field cannot be kept as it is.
        """
        self.lab.refresh()
        run = queries.get_run(self.lab, run_id)
        said: list[events.Event] = []
        if change.params is not UNSET and (params := as_params(change.params)):
            said.append(events.ParametersAdded(params=params))
        if change.metrics is not UNSET and (metrics := as_metrics(change.metrics)):
            said.append(events.MetricsLogged(values=metrics, step=values.step(change.step)))
        if change.tags is not UNSET and (tags := as_tags(change.tags)):
            said.append(events.TagsChanged(set=tags))
        if change.protected is not UNSET and change.protected != run.protected:
            said.append(events.RunProtected() if change.protected else events.RunUnprotected())
        if change.status is not UNSET and change.status not in SET_STATUSES:
            raise RejectedError(
                f"status {change.status[:40]!r} is not allowed", key="status", hint=f"allowed: {', '.join(SET_STATUSES)}"
            )
        if change.dataset_id is not UNSET:
            said += self._used(change.dataset_id)
        fields: dict[str, str | None] = {
            "name": given(change.name, lambda text: as_name(text, "name")),
            "description": given(change.description, lambda text: as_text(text, "description")),
            "group": given(change.group, lambda text: as_name(text, "group")),
            "project": given(change.project_id, self._project),
            "dataset": given(change.dataset_id, lambda text: as_name(text, "dataset_id")), "status": given(change.status, str),
        }  # fmt: skip
        if any(value is not None for value in fields.values()):
            said.append(events.RunChanged(**fields))
        self._write(said, run_id, self.lab.clock_of(run_id))
        return queries.get_run(self.lab, run_id)

    def log_events(self, run_id: str, logged: list[LoggedEvent]) -> int:
        """Add events of a run that a client without the library logs; all of them or none is checked before the first is written.

        Returns:
            How many were added.

        Raises:
            NotFoundError: there is no such run.
            RejectedError: one of them is of another kind, or does not fit its kind; says which.
        """
        if len(logged) > BATCH_MAX:
            raise RejectedError(f"{len(logged)} events in one call", key="events", hint=f"at most {BATCH_MAX}")
        said = [as_event(i, one) for i, one in enumerate(logged)]
        self.lab.refresh()
        queries.get_run(self.lab, run_id)
        self._write(said, run_id, self.lab.clock_of(run_id))
        return len(said)

    def note(self, run_id: str, text: str) -> queries.RunDetail:
        """Set the note of a run.

        Raises:
            NotFoundError: there is no such run.
            RejectedError: the note is longer than a million characters.
        """
        return self._act(run_id, events.NoteChanged(note=as_text(text, "note")))

    def flag(self, run_id: str, flag: str) -> queries.RunDetail:
        """Flag a run PUBLISH, BEST or BAD RUN: set the tag, and put the word in front of the note.

        Raises:
            NotFoundError: there is no such run.
            RejectedError: it is another word.
        """
        word = flag.replace("_", " ").replace("-", " ").upper().strip()
        if word not in FLAGS:
            raise RejectedError(f"flag {flag[:40]!r} is not allowed", key="flag", hint=f"allowed: {', '.join(FLAGS)}")
        self.lab.refresh()
        before = queries.get_run(self.lab, run_id).note or ""
        note = before if before == word or before.startswith(f"{word}:") else f"{word}: {before}" if before else word
        return self._act(run_id, events.RunFlagged(flag=word, note=as_text(note, "note")))

    def tag(self, run_id: str, tags: Any = None, *, remove: Iterable[str] = ()) -> queries.RunDetail:
        """Set tags (a dictionary, or words) and take others away.

        Raises:
            NotFoundError: there is no such run.
            RejectedError: a tag has no name, or too long a one.
        """
        gone = [as_name(str(name), "tag", least=1) for name in remove]
        return self._act(run_id, events.TagsChanged(set=as_tags(tags), removed=gone))

    def rename_run(self, run_id: str, name: str) -> queries.RunDetail:
        """Give a run another name.

        Raises:
            NotFoundError: there is no such run.
            RejectedError: the name is empty or too long.
        """
        return self._act(run_id, events.RunRenamed(name=as_name(name, "name", least=1)))

    def trash_run(self, run_id: str) -> queries.RunDetail:
        """Put a run in the trash; one that is there stays.

        Raises:
            NotFoundError: there is no such run.
            ConflictError: it is protected.
        """
        self.lab.refresh()
        run = self._check_unprotected(run_id)
        return run if self._is_trashed(run_id) else self._act(run_id, events.RunTrashed())

    def _check_unprotected(self, run_id: str) -> queries.RunDetail:
        """The run; raises ConflictError where it is protected."""
        run = queries.get_run(self.lab, run_id)
        if run.protected:
            raise ConflictError(f"run {run_id!r} is protected", where="protected", hint=_UNPROTECT)
        return run

    def restore_run(self, run_id: str) -> queries.RunDetail:
        """Take a run out of the trash. One that is there with its project comes back with it.

        Raises:
            NotFoundError: there is no such run.
            ConflictError: its project is in the trash.
        """
        self.lab.refresh()
        run = queries.get_run(self.lab, run_id)
        if run.trashed and not self._is_trashed(run_id):
            raise ConflictError(f"project {run.project_id!r} is in the trash", where="project_id", hint="restore the project")
        return self._act(run_id, events.RunRestored()) if self._is_trashed(run_id) else run

    def protect_run(self, run_id: str, *, on: bool = True) -> queries.RunDetail:
        """Protect a run from the trash, or take that back.

        Raises:
            NotFoundError: there is no such run.
        """
        return self.change_run(run_id, RunChange(protected=on))

    def _is_trashed(self, run_id: str) -> bool:
        rows = self.lab.rows("SELECT own_trashed FROM base.run_table WHERE run_id = ?", [run_id])
        return bool(rows and rows[0][0])

    def _code(self, commit: str) -> events.CodeCaptured:
        plain = commit.strip().lower()
        if not (4 <= len(plain) <= 64 and all(c in "0123456789abcdef" for c in plain)):  # noqa: PLR2004  (as git has them)
            raise RejectedError(f"commit {commit[:80]!r} is none", key="commit", hint="allowed: 4 to 64 hexadecimal digits")
        content = msgspec.json.encode({"git_hash": plain, "branch": None, "remote": None, "dirty": False, "diff": "", "files": {},
                                       "script": None, "problems": []})  # fmt: skip
        return events.CodeCaptured(code=blobs.put_bytes(self.lab.store, content), git_hash=plain)

    def _used(self, text: str | None) -> list[events.Event]:
        """The event that a run read the dataset that a text names; none where it names none that is there."""
        if not text:
            return []
        try:
            found = inventory.get_dataset(self.lab, text, only=self._only)
        except (NotFoundError, FilterError):
            return []
        return [events.DatasetUsed(sha256=found.sha256, dataset=found.dataset_id.partition("@")[0], name=text)]

    def use_dataset(self, run_id: str, text: str, *, role: str = "training") -> DatasetDetail:
        """Say that a run read the version of a dataset that a text means.

        Raises:
            NotFoundError: there is no such run or dataset.
        """
        self.lab.refresh()
        found = inventory.get_dataset(self.lab, text, only=self._only)
        used = events.DatasetUsed(
            sha256=found.sha256, dataset=found.dataset_id.partition("@")[0], name=text, role=as_name(role, "role", least=1)
        )
        self._act(run_id, used)
        return found

    def _project(self, text: str | None, key: str = "project_id") -> str | None:
        """The text that a run or dataset names its project with; `key` is the field that it stands in.

        Raises:
            ConflictError: the project is in the trash.
            RejectedError: no project can be called so.
        """
        if text is None:
            return None
        name = as_name(text, key, least=1)
        try:
            found = inventory.get_project(self.lab, project_of(name))
        except NotFoundError:
            return name
        if found.trashed:
            raise ConflictError(f"project {found.project_id!r} is in the trash", where=key, hint="restore it first")
        return name

    # -- artifacts ---------------------------------------------------------------------------------------------------

    def add_artifact(
        self, run_id: str, path: str, *, sha256: str, size: int, kind: str | None = None, metadata: dict[str, Any] | None = None,
        reference: bool = False,
    ) -> queries.ArtifactFile:  # fmt: skip
        """Add a file to a run, the next version of its path: its bytes are a blob that is there, or it refers to some elsewhere.

        Without a kind it is of that of the version before it, or else of the one that its name tells.

        Raises:
            NotFoundError: there is no such run.
            RejectedError: the path, kind, size or digest is not allowed.
        """
        if not 0 <= size <= SIZE_MAX:
            raise RejectedError(f"size {size} is not allowed", key="size", hint=f"bytes, 0 to {SIZE_MAX}")
        if not blobs.is_digest(sha256):
            raise RejectedError(f"sha256 {sha256[:80]!r} is none", key="sha256", hint="64 hexadecimal digits in lower case")
        place = artifacts.place_in_run(as_name(path, "path", least=1, most=PATH_MAX))
        added = events.ArtifactAdded(
            path=place, logged=path, type=artifacts.kind_of(path), size=size, sha256=sha256, reference=reference,
            metadata=metadata or {},
        )  # fmt: skip
        return self.add_kept(run_id, [added], kind=None if kind is None else as_name(kind, "kind", least=1))[0]

    def add_kept(
        self, run_id: str, said: Sequence[events.ArtifactAdded], *, kind: str | None = None
    ) -> list[queries.ArtifactFile]:
        """Add files to a run, as `artifacts.keep` kept them, each the next version of its path; the files, in that order.

        All are of the kind that is given; without one, each is of that of the version before it, or else of its own.

        Raises:
            NotFoundError: there is no such run.
        """
        self.lab.refresh()
        queries.get_run(self.lab, run_id)
        kinds = {file.path: file.kind for file in reversed(queries.list_artifacts(self.lab, run_id))}
        kept: list[events.Event] = [msgspec.structs.replace(one, type=kind or kinds.get(one.path, one.type)) for one in said]
        self._write(kept, run_id, self.lab.clock_of(run_id))
        there = {file.path: file for file in reversed(queries.list_artifacts(self.lab, run_id))}
        return [there[one.path] for one in said]

    def trash_artifact(self, run_id: str, path: str, *, on: bool = True) -> queries.ArtifactFile:
        """Put all versions of a file of a run in the trash, or take them out again.

        Raises:
            NotFoundError: there is no such run or file.
            ConflictError: it is to go there, and the run is protected.
        """
        self.lab.refresh()
        if on:
            self._check_unprotected(run_id)
        files = queries.list_artifacts(self.lab, run_id)
        found = next((file for file in files if file.path == path), None)
        if found is None:
            raise NotFoundError("artifact", path, nearest=[file.path for file in files][:3])
        if found.trashed != on:
            self._act(run_id, events.ArtifactTrashed(path=path) if on else events.ArtifactRestored(path=path))
        return next(file for file in queries.list_artifacts(self.lab, run_id) if file.path == path)

    # -- projects ----------------------------------------------------------------------------------------------------

    def create_project(self, new: NewProject) -> ProjectView:
        """Make a project.

        Raises:
            ConflictError: there is one of this name.
            RejectedError: the name is empty or too long.
        """
        self.lab.refresh()
        name = as_name(new.name, "name", least=1)
        project = project_of(name)
        try:
            found = inventory.get_project(self.lab, project)
        except NotFoundError:
            pass
        else:
            hint = f"restore it: POST /projects/{project}/restore" if found.trashed else "choose another name, or log to that one"
            said = f"project {found.name!r} is {'in the trash' if found.trashed else 'there'}"
            raise ConflictError(said, where="name", nearest=[project], hint=hint)
        description = None if new.description is None else as_text(new.description, "description")
        self._write_about([events.ProjectCreated(project=project, name=name, description=description)], "project", project)
        return inventory.get_project(self.lab, project)

    def change_project(self, project_id: str, change: ProjectChange) -> ProjectView:
        """Give a project another label or description; its id stays.

        Raises:
            NotFoundError: there is none.
            ConflictError: another project has the name.
            RejectedError: the name is empty or too long.
        """
        self.lab.refresh()
        inventory.get_project(self.lab, project_id)
        name = given(change.name, lambda text: as_name(text, "name", least=1))
        if name is not None:
            self._check_free("project", project_id, name)
        description = given(change.description, lambda text: as_text(text, "description"))
        if name is not None or description is not None:
            changed = events.ProjectChanged(project=project_id, name=name, description=description)
            self._write_about([changed], "project", project_id)
        return inventory.get_project(self.lab, project_id)

    def _check_free(self, about: str, of: str, name: str, key: str = "name") -> None:
        """Raise ConflictError where another project or dataset than `of` has a name; `key` is the field that it stands in."""
        if self.lab.rows(_TAKEN[about], [of, project_of(name), name]):
            raise ConflictError(f"the name {name!r} is taken", where=key, hint="choose another name")

    def trash_project(self, project_id: str) -> ProjectView:
        """Put a project in the trash, and with it its runs and datasets.

        Raises:
            NotFoundError: there is none.
            ConflictError: one of its runs is protected.
        """
        self.lab.refresh()
        found = inventory.get_project(self.lab, project_id)
        self._check_none_protected(project_id)
        if not found.trashed:
            self._write_about([events.ProjectTrashed(project=project_id)], "project", project_id)
        return inventory.get_project(self.lab, project_id)

    def _check_none_protected(self, project_id: str) -> None:
        if held := inventory.protected_runs(self.lab, project_id):
            some = ", ".join(held[:3]) + (" …" if len(held) > 3 else "")  # noqa: PLR2004
            said = f"project {project_id!r} has protected runs: {some}"
            raise ConflictError(said, where="protected", nearest=held[:3], hint=_UNPROTECT)

    def restore_project(self, project_id: str) -> ProjectView:
        """Take a project out of the trash: exactly what went there with it is there again.

        Raises:
            NotFoundError: there is none.
        """
        self.lab.refresh()
        if inventory.get_project(self.lab, project_id).trashed:
            self._write_about([events.ProjectRestored(project=project_id)], "project", project_id)
        return inventory.get_project(self.lab, project_id)

    # -- datasets ----------------------------------------------------------------------------------------------------

    def add_dataset(
        self, incoming: Incoming, contents: Contents, *, file: str, fields: DatasetFields
    ) -> tuple[DatasetDetail, bool]:
        """Register a content under a name: the next version of that dataset, unless the dataset has that content.

        Args:
            incoming: its bytes, which are kept unless the name is another project's.
            contents: what they hold.
            file: the file's name as it came; the dataset's name where none is given.
            fields: what is said of it; without a project or description, the newest version's is taken over.

        Returns:
            The version, and whether it is new.

        Raises:
            ConflictError: the project is in the trash, the dataset of this name belongs to another one, or there is none and the
                name is another dataset's label.
            RejectedError: a field cannot be kept as it is.
        """
        self.lab.refresh()
        base = file.replace("\\", "/").rpartition("/")[2]
        key, said_name = ("file", base.rpartition(".")[0] or base) if fields.name is UNSET else ("name", fields.name)
        name = as_name(said_name, key, least=1)
        if "@" in name:
            raise RejectedError(f"{key} {name[:60]!r} is not allowed", key=key, hint="@ separates a name from its version")
        dataset = project_of(name)
        said = self._dataset_fields(fields)
        versions = inventory.versions_of(self.lab, dataset)
        self._check_owner(name, said["project"], versions)
        if not versions:
            self._check_free("dataset", dataset, name, key)
        sha256, size = incoming.keep()
        same = next((version for version in versions if version.sha256 == sha256), None)
        newest = same or next(iter(versions), None)
        project = None if newest is None else self._project(newest.project_id)
        if same is None:
            parent = next((version for version in versions if not version.trashed), None)
            said["project"] = said["project"] or project
            if parent is not None and said["description"] is None:
                said["description"] = parent.description
            registered = events.DatasetVersionRegistered(
                dataset=dataset, name=name, sha256=sha256, size=size, format=contents.format, rows=contents.rows,
                schema=contents.schema, file=as_name(base, "file"), parent=None if parent is None else parent.sha256,
                **{field: value for field, value in said.items() if value is not None},
            )  # fmt: skip
            self._write_about([registered], "dataset", dataset)
            return inventory.get_dataset(self.lab, f"{dataset}@sha256:{sha256}"), True
        restored = [events.DatasetVersionRestored(dataset=dataset, sha256=sha256)] if same.trashed else []
        self._write_about([*restored, *_told(same, said, versions)], "dataset", dataset)
        return inventory.get_dataset(self.lab, same.dataset_id), False

    def _check_owner(self, name: str, project: str | None, versions: list[DatasetView]) -> None:
        """Raise ConflictError where the dataset of a name is not of the project that a content is to belong to."""
        owners = {version.project_id for version in versions}
        if self._only is not None and owners - {self._only}:
            raise ConflictError(f"the name {name!r} is taken", where="name", hint="choose another name")
        if project is not None and owners - {None} and project_of(project) not in owners:
            owner = next(version.project_id for version in versions if version.project_id is not None)
            hint = f"choose another name, or change project_id of {versions[0].dataset_id} first"
            raise ConflictError(f"dataset {name!r} belongs to project {owner!r}", where="project_id", nearest=[owner], hint=hint)

    def _dataset_fields(self, fields: DatasetFields) -> dict[str, Any]:
        return {
            "description": given(fields.description, lambda text: as_text(text, "description")),
            "tags": given(fields.tags, as_tags),
            "metadata": given(fields.metadata, as_metadata),
            "project": given(fields.project_id, self._project),
        }

    def change_dataset(self, text: str, fields: DatasetFields) -> DatasetDetail:
        """Change what is said of a version of a dataset; to another project goes the dataset, with all versions of the same.

        Raises:
            NotFoundError: there is none.
            ConflictError: the project is in the trash, or another dataset has the name.
            RejectedError: a field cannot be kept as it is.
        """
        self.lab.refresh()
        found = inventory.get_dataset(self.lab, text)
        said = self._dataset_fields(fields) | {"name": given(fields.name, lambda name: as_name(name, "name", least=1))}
        dataset = found.dataset_id.partition("@")[0]
        versions = inventory.versions_of(self.lab, dataset)
        if said["name"] not in {None, found.name}:
            self._check_free("dataset", dataset, said["name"])
        if said["name"] is not None and self._only is not None and {one.project_id for one in versions} != {self._only}:
            raise ConflictError("versions of it are outside of the project", where="name", hint="leave the name as it is")
        self._write_about(_told(found, said, versions), "dataset", dataset)
        return inventory.get_dataset(self.lab, found.dataset_id)

    def trash_dataset(self, text: str, *, on: bool = True) -> DatasetDetail:
        """Put a version of a dataset in the trash, or take it out again.

        Raises:
            NotFoundError: there is none.
            ConflictError: it is to be taken out, and its project is in the trash.
        """
        self.lab.refresh()
        found = inventory.get_dataset(self.lab, inventory.find_dataset(self.lab, text, trashed=not on))
        ((own,),) = self.lab.rows("SELECT own_trashed FROM base.dataset_table WHERE dataset_id = ?", [found.dataset_id])
        if not on and found.trashed and not own:
            raise ConflictError(f"project {found.project_id!r} is in the trash", where="project_id", hint="restore the project")
        if own != on:
            dataset = found.dataset_id.partition("@")[0]
            kind = events.DatasetVersionTrashed if on else events.DatasetVersionRestored
            self._write_about([kind(dataset=dataset, sha256=found.sha256)], "dataset", dataset)
        return inventory.get_dataset(self.lab, found.dataset_id)

    # -- taking back -------------------------------------------------------------------------------------------------

    def undo(self, event: str) -> list[queries.Change]:
        """Take back a change of a run, project or dataset, with what changed with it: it reads as it did before.

        Returns:
            What the undoing changed.

        Raises:
            NotFoundError: no change has this id.
            RefusedError: it moved something, and whoever acts reaches one project only.
            ConflictError: it is undone already, something was changed since that it had set, the name before is taken, or the
                rules of the trash forbid it.
        """
        self.lab.refresh()
        found = undoing.undoing_of(self.lab, event)
        if self._only is not None and found.moves:
            raise RefusedError("a token of one project moves nothing", hint="it needs a token without a project")
        undoing.check(self.lab, found)
        self._check_trash(found.changes)
        for change in found.changes if found.about != "run" else ():
            if change.field == "name" and change.old is not None:  # without one it reads as its id does, which nobody else gets
                self._check_free(found.about, found.name, change.old, "event")
        about = {} if found.about == "run" else {found.about: found.name}
        undone: list[events.Event] = [events.ChangeUndone(event=one, **about) for one in found.events]
        if found.about == "run":
            said = self._write(undone, found.name, self.lab.clock_of(found.name))
        else:
            said = self._write_about(undone, found.about, found.name)
        return [change for one in said for change in queries.changes_of_event(self.lab, one)]

    def _check_trash(self, rows: list[queries.Change]) -> None:
        """Raise ConflictError where what is undone put something out of the trash that may not go there now."""
        for change in rows:
            of_file = change.field.startswith("artifacts.") and change.old == "trashed"
            if of_file or (change.field == "trashed" and change.old not in {None, "false"}):
                if change.run_id is not None:
                    self._check_unprotected(change.run_id)
                elif change.project_id is not None:
                    self._check_none_protected(change.project_id)

    # -- tokens ------------------------------------------------------------------------------------------------------

    def create_token(self, new: NewToken) -> CreatedToken:
        """Make an access token; without a name it gets one of its own.

        Raises:
            RejectedError: it is no role.
            NotFoundError: there is no such project.
            ConflictError: a token that counts has the name.
        """
        if new.role not in ROLES:
            raise RejectedError(f"role {new.role[:40]!r} is not allowed", key="role", hint=f"allowed: {', '.join(ROLES)}")
        self.lab.refresh()
        project = None if new.project_id is None else inventory.find_project(self.lab, new.project_id)
        if project is not None and new.role == "admin":
            raise RejectedError("an admin is not limited to a project", key="project_id", hint="allowed roles: reader, writer")
        text, token = TOKEN_PREFIX + secrets.token_urlsafe(32), secrets.token_hex(6)
        name = as_name(new.name, "name") or f"{new.role}-{token}"
        taken = [one.token for one in inventory.list_tokens(self.lab) if name in {one.token, one.name} and not one.revoked_at]
        if taken:
            hint = f"choose another name, or revoke the token {taken[0]} first"
            raise ConflictError(f"name {name!r} is taken by a token", where="name", nearest=taken, hint=hint)
        created = events.TokenCreated(token=token, sha256=token_digest(text), role=new.role, name=name, project=project)
        self._write_about([created], "token", token)
        return CreatedToken(text=text, token=next(one for one in inventory.list_tokens(self.lab) if one.token == token))

    def revoke_token(self, token: str) -> TokenView:
        """Let an access token count no more, for good; one that was revoked before stays so.

        Args:
            token: its id, or a name that only one token that counts has.

        Raises:
            NotFoundError: there is none.
            ConflictError: several that count have the name; names their ids.
        """
        self.lab.refresh()
        known = inventory.list_tokens(self.lab)
        named = [one for one in known if one.name == token]
        found = [one for one in known if one.token == token] or [one for one in named if not one.revoked_at] or named[:1]
        if not found:
            near = naming.near(token, [one.name for one in known if not one.revoked_at])
            raise NotFoundError("token", token, nearest=near, hint="" if near else "no token counts")
        if len(found) > 1:
            ids = [one.token for one in found]
            hint = f"revoke one by its id: {', '.join(ids)}"
            raise ConflictError(f"{len(ids)} tokens have the name {token!r}", where="name", nearest=ids, hint=hint)
        if found[0].revoked_at is None:
            self._write_about([events.TokenRevoked(token=found[0].token)], "token", found[0].token)
        return next(one for one in inventory.list_tokens(self.lab) if one.token == found[0].token)

    def accept_segment(self, segment: str, *, offset: int, token: str | None, address: str) -> None:
        """Note that bytes of another writer's segment came, and from whom."""
        accepted = events.SegmentAccepted(segment=segment, offset=offset, token=token, by=self._by, address=address)
        self._writer.append(accepted)
        self.appended[accepted.kind] += 1

    # -- writing -----------------------------------------------------------------------------------------------------

    def _act(self, run_id: str, event: events.Event) -> queries.RunDetail:
        self.lab.refresh()
        queries.get_run(self.lab, run_id)
        self._write([event], run_id, self.lab.clock_of(run_id))
        return queries.get_run(self.lab, run_id)

    def _write(self, said: list[events.Event], run_id: str | None, clock: int) -> list[str]:
        self._writer.observe(clock)
        written = self._writer.append_all(said, run=run_id, by=self._by) if said else []
        self.appended.update(event.kind for event in said)
        self.lab.refresh()
        return written

    def _write_about(self, said: list[events.Event], about: str, name: str) -> list[str]:
        return self._write(said, None, self.lab.clock_of_subject(about, name))


def _told(version: DatasetView, said: dict[str, Any], versions: list[DatasetView]) -> list[events.Event]:
    """The events that say something of a version; to another project go all that are of the same as it."""
    if all(value is None for value in said.values()):
        return []
    dataset, _, sha256 = version.dataset_id.partition("@sha256:")
    project = said["project"]
    others = [
        events.DatasetVersionChanged(dataset=dataset, sha256=other.sha256, project=project)
        for other in versions
        if project is not None and other.sha256 != sha256 and other.project_id == version.project_id != project_of(project)
    ]
    return [events.DatasetVersionChanged(dataset=dataset, sha256=sha256, **said), *others]


def token_digest(text: str) -> str:
    """What is kept of a token: 256 random bits need no salt, and no slow hash."""
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
