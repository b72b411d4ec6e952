"""Projects, datasets and tokens: all one may ask of what is no run; a function per question, a Struct as its answer.

As in `queries`, every function takes the catalogue first and sees it as it stands, values from outside only ever reach SQL as
bound parameters, and nothing here writes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from . import blobs, columns, datasets
from .columns import Column, Difference
from .errors import ConflictError, FilterError, NotFoundError
from .filters import LIMIT_DEFAULT, LIMIT_MAX, datasets_called, parse_count, pointer, project_called
from .queries import Page, newest_of, stamp
from .views.rows import project_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from typing import IO

    from .views import Lab

PREVIEW_MAX = 100
_REFERENCE = re.compile(r"(?:(?P<name>.+)@)?(?:v(?P<version>[0-9]{1,9})|(?P<latest>latest)|sha256:(?P<digest>[0-9a-f]{8,64}))")


# -- answers -----------------------------------------------------------------------------------------------------------


class ProjectView(msgspec.Struct, kw_only=True):
    """A project with what is in it, its trash not counted; `last_activity` is the last sign of life of a run or dataset."""

    project_id: str
    name: str
    description: str | None
    created_at: str
    trashed: bool
    dataset_count: int
    run_count: int
    runs_by_status: dict[str, int]
    total_dataset_bytes: int
    last_activity: str


class DatasetView(msgspec.Struct, kw_only=True):
    """A version of a dataset in a list; `versions` counts all of the dataset, `columns` those of its table."""

    dataset_id: str
    name: str
    version: int
    versions: int
    sha256: str
    size: int
    format: str
    rows: int
    columns: int
    description: str | None
    tags: dict[str, str | None]
    project_id: str | None
    project: str | None
    parent_id: str | None
    file: str
    created_at: str
    by: str | None
    trashed: bool


class DatasetDetail(DatasetView, kw_only=True):
    """Everything about one version: its columns, how they differ from its parent's, and how many runs read it."""

    metadata: dict[str, Any]
    encoding: str | None
    delimiter: str | None
    notes: list[str]
    columns_detail: list[Column]
    schema_changes: list[Difference]
    run_count: int


class DatasetPreview(msgspec.Struct, kw_only=True):
    """The first rows of a dataset, `showing` of `total`."""

    rows: list[dict[str, Any]]
    total: int
    showing: int


class TokenView(msgspec.Struct, kw_only=True):
    """An access token, without its text, which is kept nowhere."""

    token: str
    name: str
    role: str
    project_id: str | None
    created_at: str
    by: str | None
    revoked_at: str | None


# -- projects ----------------------------------------------------------------------------------------------------------

_PROJECTS = """
    WITH run AS (
        SELECT project_id, status, count(*) AS n, max(coalesce(ended_at, last_at, started_at)) AS last
        FROM base.run_table WHERE NOT own_trashed AND project_id IS NOT NULL {only} GROUP BY ALL
    ), run_sum AS (
        SELECT project_id, sum(n)::BIGINT AS runs, map_from_entries(list({{k: status, v: n}} ORDER BY status)) AS by_status,
               max(last) AS last
        FROM run GROUP BY project_id
    ), data AS (
        SELECT project_id, count(DISTINCT dataset) AS datasets, sum(size)::BIGINT AS bytes, max(created_at) AS last
        FROM base.dataset_table WHERE NOT own_trashed GROUP BY project_id
    )
    SELECT p.project_id, p.name, p.description, p.created_at, p.trashed, coalesce(d.datasets, 0), coalesce(r.runs, 0),
           r.by_status, coalesce(d.bytes, 0), greatest(p.created_at, r.last, d.last) AS last_activity
    FROM base.project_table p LEFT JOIN run_sum r USING (project_id) LEFT JOIN data d USING (project_id)
"""


def list_projects(
    lab: Lab, *, q: str | None = None, trashed: bool = False, limit: int = LIMIT_DEFAULT, only: str | None = None
) -> Page:
    """Projects, the most active first.

    Args:
        lab: the catalogue.
        q: only those that have this text in id, name or description.
        trashed: those in the trash instead.
        limit: how many at most, 1 to 1,000.
        only: no other one than this.

    Returns:
        A page of ProjectView.
    """
    parse_count("limit", str(limit), LIMIT_MAX)
    text = (
        _PROJECTS.format(only="")
        + """
        WHERE p.trashed = $1 AND ($2 IS NULL OR contains(lower(concat_ws(' ', p.project_id, p.name, p.description)), lower($2)))
          AND ($3 IS NULL OR p.project_id = $3)
        ORDER BY last_activity DESC, p.project_id
    """
    )
    rows = lab.rows(text, [trashed, q, only])
    return Page(rows=[_project(row) for row in rows[:limit]], total=len(rows))


def get_project(lab: Lab, project_id: str) -> ProjectView:
    """One project, in the trash or not.

    Raises:
        NotFoundError: there is none with this id.
    """
    text = _PROJECTS.format(only="AND project_id = $1") + "WHERE p.project_id = $1"
    rows = lab.rows(text, [project_id])
    if not rows:
        known = lab.rows(
            "SELECT project_id FROM base.project_table ORDER BY jaro_winkler_similarity(project_id, lower(?)) DESC LIMIT 3",
            [project_id[:200]],
        )
        raise NotFoundError("project", project_id, nearest=[row[0] for row in known])
    return _project(rows[0])


def find_project(lab: Lab, text: str) -> str:
    """The id of the project that a text means: an id, or a name.

    Raises:
        NotFoundError: there is none.
    """
    rows = lab.rows("SELECT project_id FROM base.project_table WHERE project_id = ? OR name = ?", [text, text])
    found = {row[0] for row in rows}
    if len(found) == 1:
        return str(found.pop())
    return get_project(lab, text if text in found else project_of(text)).project_id


def _project(row: Sequence[Any]) -> ProjectView:
    project_id, name, description, created_at, trashed, count, runs, by_status, size, last = row
    return ProjectView(
        project_id=project_id, name=name, description=description, created_at=stamp(created_at), trashed=trashed,
        dataset_count=count, run_count=runs, runs_by_status=dict(by_status or {}), total_dataset_bytes=size,
        last_activity=stamp(last),
    )  # fmt: skip


def protected_runs(lab: Lab, project_id: str) -> list[str]:
    """Ids of the runs of a project that cannot be trashed."""
    text = "SELECT run_id FROM base.run_table WHERE project_id = ? AND protected AND NOT own_trashed ORDER BY run_id"
    return [row[0] for row in lab.rows(text, [project_id])]


# -- datasets ----------------------------------------------------------------------------------------------------------


class DatasetFilter(msgspec.Struct, kw_only=True, frozen=True):
    """Which datasets: every condition must hold. `all_versions` lists older ones too, `trashed` what is in the trash instead."""

    project_id: str | None = None
    name: str | None = None
    q: str | None = None
    tag: str | None = None
    all_versions: bool = False
    trashed: bool = False
    limit: int = LIMIT_DEFAULT


_DATASET = """
    SELECT d.dataset_id, d.name, d.version, (SELECT count(*) FROM base.dataset_table o WHERE o.dataset = d.dataset) AS versions,
           d.sha256, d.size, d.format, d.rows, coalesce(json_array_length(d.schema, '$.columns'), 0)::BIGINT, d.description,
           d.tags, d.project_id, p.name, d.parent_id, d.file, d.created_at, coalesce(a."by", d."by"),
           d.own_trashed OR coalesce(p.trashed, false) AS trashed, d.metadata, d.schema,
           (SELECT o.project_id FROM base.dataset_table o WHERE o.dataset_id = d.parent_id) AS parent_project_id
    FROM base.dataset_table d LEFT JOIN base.project_table p ON p.project_id = d.project_id
    LEFT JOIN base.accepted_table a ON a.segment = regexp_replace(d."event", ':[0-9]+$', '')
"""


def list_datasets(lab: Lab, f: DatasetFilter | None = None) -> Page:
    """The newest version of every dataset that a filter keeps, newest first.

    Returns:
        A page of DatasetView.
    """
    f = f or DatasetFilter()
    parse_count("limit", str(f.limit), LIMIT_MAX)
    parts: list[tuple[str, list[Any]]] = [("(d.own_trashed OR coalesce(p.trashed, false)) = ?", [f.trashed])]
    if f.project_id is not None:
        parts.append(("d.project_id = ?", [project_called(lab, f.project_id)]))
    if f.name is not None:
        parts.append(("(d.dataset = ? OR lower(d.name) = lower(?))", [project_of(f.name), f.name]))
    if f.q is not None:
        known = "concat_ws(' ', d.dataset, d.name, d.description, d.file, d.tags, d.metadata)"
        parts.append((f"contains(lower({known}), lower(?))", [f.q]))
    if f.tag is not None:
        key, equals, value = f.tag.partition("=")
        at = pointer(key)
        parts.append(("d.tags ->> ? = ?", [at, value]) if equals else ("json_exists(d.tags, ?)", [at]))
    newest = "" if f.all_versions else "QUALIFY row_number() OVER (PARTITION BY d.dataset ORDER BY d.version DESC) = 1"
    where = " AND ".join(part for part, _ in parts)
    values = [value for _, some in parts for value in some]
    rows = lab.rows(f"{_DATASET} WHERE {where} {newest} ORDER BY d.created_at DESC, d.dataset_id", values)
    return Page(rows=[_dataset(row, f.project_id) for row in rows[: f.limit]], total=len(rows))


def find_dataset(lab: Lab, text: str, *, before: datetime | None = None, only: str | None = None, trashed: bool = False) -> str:
    """The id of the version that a text means: an id, NAME@vN, NAME@latest, NAME@sha256:HEX, a SHA-256, or NAME for the newest.

    A name is the id of a dataset, or its label as it reads now, where no dataset has it as its id; versions in the trash are
    found only by their number or content.

    Args:
        lab: the catalogue.
        text: what a person wrote.
        before: the newest is the newest of this time, UTC, as far as one was registered by then.
        only: no other project's versions are there.
        trashed: the newest is the newest in the trash, where there is one: whoever wants to have something back means that.

    Raises:
        NotFoundError: none fits, or several do.
    """
    found = _REFERENCE.fullmatch(text)
    name = found["name"] if found else text
    digest = found["digest"] if found else text if blobs.is_digest(text) else None
    where: list[tuple[str, list[Any]]] = [] if only is None else [("d.project_id = ?", [only])]
    if digest is not None:
        where.append(("starts_with(d.sha256, ?)", [digest]))
        name = found["name"] if found else None
    elif found and found["version"]:
        where.append(("d.version = ?", [int(found["version"])]))
    else:
        where.append(("d.own_trashed" if trashed else "NOT (d.own_trashed OR coalesce(p.trashed, false))", []))
    if name is not None:
        where.append(("d.dataset IN (SELECT unnest(?::VARCHAR[]))", [datasets_called(lab, name, only=only)]))
    elif digest is None:
        raise FilterError(f"dataset {text[:100]!r} names no dataset", where="dataset", hint="such as iris, iris@v2")
    text_of = f"""
        SELECT d.dataset_id, d.dataset FROM base.dataset_table d LEFT JOIN base.project_table p ON p.project_id = d.project_id
        WHERE {" AND ".join(part for part, _ in where)} ORDER BY coalesce(d.created_at <= ?, false) DESC, d.version DESC
    """  # noqa: S608  (fixed fragments)
    rows = lab.rows(text_of, [*(value for _, some in where for value in some), before])
    if rows and len({row[1] for row in rows}) == 1 and (digest is None or len(rows) == 1):
        return str(rows[0][0])
    if rows:
        ids = [row[0] for row in rows[:4]]
        raise NotFoundError("single version", text, nearest=ids, hint=f"several fit: {', '.join(ids)}")
    if trashed:
        return find_dataset(lab, text, before=before, only=only)
    raise _not_found(lab, text, name, only)


def _not_found(lab: Lab, text: str, name: str | None, only: str | None) -> NotFoundError:
    """What is said of a text that means no version: which one of its name is the newest, or which names look like it."""
    known = lab.rows(
        "SELECT d.name, max(d.version), bool_and(d.own_trashed OR coalesce(p.trashed, false)) FROM base.dataset_table d "
        "LEFT JOIN base.project_table p ON p.project_id = d.project_id "
        "WHERE d.dataset IN (SELECT unnest($1::VARCHAR[])) AND ($2 IS NULL OR d.project_id = $2) "
        "GROUP BY d.dataset, d.name ORDER BY 2 DESC LIMIT 1",
        [datasets_called(lab, name or "", only=only), only],
    )
    if known:
        label, newest, all_trashed = known[0]
        return NotFoundError("version", text, nearest=[f"{label}@v{newest}"], hint=newest_of(label, newest, trashed=all_trashed))
    likeness = "jaro_winkler_similarity(lower(name), lower($1))"
    near = lab.rows(
        f"SELECT DISTINCT name, {likeness} AS likeness FROM base.dataset_table "  # noqa: S608  (fixed fragments)
        "WHERE $2 IS NULL OR project_id = $2 ORDER BY likeness DESC LIMIT 3",
        [(name or text)[:200], only],
    )
    return NotFoundError("dataset", text, nearest=[row[0] for row in near])


def find_content(lab: Lab, text: str, *, before: datetime) -> tuple[str, str] | None:
    """(dataset, SHA-256) of what a text means; see `find_dataset`. None where it names no dataset.

    Raises:
        NotFoundError: it names a dataset, but no version of it, or several.
    """
    try:
        dataset, _, sha256 = find_dataset(lab, text, before=before).rpartition("@sha256:")
    except FilterError:
        return None
    except NotFoundError as problem:
        if problem.what == "dataset" or (problem.what == "version" and _REFERENCE.fullmatch(text) is None):
            return None
        raise
    return dataset, sha256


def get_dataset(lab: Lab, text: str, *, only: str | None = None) -> DatasetDetail:
    """Everything about the version that a text means; see `find_dataset`.

    Args:
        lab: the catalogue.
        text: what a person wrote.
        only: no other project's versions are there, nor a parent or runs.

    Raises:
        NotFoundError: there is none.
    """
    wanted = find_dataset(lab, text, only=only)
    (row,) = lab.rows(f"{_DATASET} WHERE d.dataset_id = ?", [wanted])
    view = _dataset(row, only)
    schema = msgspec.json.decode(row[19])
    found = schema.get("columns", [])
    changes: list[Difference] = []
    if view.parent_id is not None:
        parents = lab.rows("SELECT schema FROM base.dataset_table WHERE dataset_id = ?", [view.parent_id])
        if parents:
            changes = columns.differences(msgspec.json.decode(parents[0][0]).get("columns", []), found)
    used = lab.rows(
        "SELECT count(*) FROM base.run_table WHERE datasets IS NOT NULL AND NOT trashed AND contains(datasets, $1) "
        "AND ($2 IS NULL OR project_id = $2)",
        [view.sha256, only],
    )
    return DatasetDetail(
        **{name: getattr(view, name) for name in DatasetView.__struct_fields__}, metadata=msgspec.json.decode(row[18] or "{}"),
        encoding=schema.get("encoding"), delimiter=schema.get("delimiter"), notes=schema.get("notes", []),
        columns_detail=msgspec.convert(found, list[Column]), schema_changes=changes, run_count=used[0][0],
    )  # fmt: skip


def dataset_contents(lab: Lab, dataset_ids: Sequence[str]) -> dict[str, tuple[dict[str, Any], list[Column]]]:
    """What a list of versions leaves out: the metadata and the columns of each that is there, by its id."""
    rows = lab.rows(
        "SELECT dataset_id, metadata, schema FROM base.dataset_table WHERE dataset_id IN (SELECT unnest(?::VARCHAR[]))",
        [list(dataset_ids)],
    )
    return {
        row[0]: (
            msgspec.json.decode(row[1] or "{}"), msgspec.convert(msgspec.json.decode(row[2]).get("columns", []), list[Column])
        )
        for row in rows
    }  # fmt: skip


def check_fits(wanted: DatasetDetail, contents: datasets.Contents) -> None:
    """Make sure that code that reads a version can read other contents: no column is gone, of another type, or newly has nulls.

    Raises:
        ConflictError: it cannot; names the columns.
    """
    old, new = msgspec.to_builtins(wanted.columns_detail), msgspec.to_builtins(contents.columns)
    broken = [one for one in columns.differences(old, new) if columns.breaks(one)]
    if broken:
        words = "; ".join(
            f"column {one.column[:60]!r} {'is gone' if one.change == 'removed' else f'is {one.new}, not {one.old}'}"
            for one in broken
        )
        raise ConflictError(f"it does not fit {wanted.name}@v{wanted.version}: {words}", where="validate_against")


def list_versions(lab: Lab, text: str, *, only: str | None = None) -> list[DatasetView]:
    """All versions of the dataset that a text means, newest first, those in the trash too; `only` those of a project.

    Raises:
        NotFoundError: there is none.
    """
    return versions_of(lab, find_dataset(lab, text, only=only).partition("@")[0], only=only)


def versions_of(lab: Lab, dataset: str, *, only: str | None = None) -> list[DatasetView]:
    """The same of a dataset by its id, the part of a version's id before the @; none where there is no such dataset."""
    where = "d.dataset = $1 AND ($2 IS NULL OR d.project_id = $2)"
    rows = lab.rows(f"{_DATASET} WHERE {where} ORDER BY d.version DESC", [dataset, only])
    return [_dataset(row, only) for row in rows]


def preview_dataset(lab: Lab, text: str, *, limit: int = PREVIEW_MAX) -> DatasetPreview:
    """The first rows of the version that a text means.

    Raises:
        NotFoundError: there is none, or its bytes are not in this store.
    """
    found, given = preview_job(lab, text, limit)
    rows = datasets.preview(given["path"], given["format"], given["schema"], limit)
    return DatasetPreview(rows=rows, total=found.rows, showing=len(rows))


def preview_job(lab: Lab, text: str, limit: int) -> tuple[DatasetDetail, dict[str, Any]]:
    """The version that a text means, and what `datasets.preview` is to be given.

    Raises:
        NotFoundError: there is none, or its bytes are not in this store.
    """
    found = get_dataset(lab, text)
    blobs.open_blob(lab.store, found.sha256).close()
    schema = {
        "columns": msgspec.to_builtins(found.columns_detail), "encoding": found.encoding, "delimiter": found.delimiter,
    }  # fmt: skip
    path = lab.store.blob_path(found.sha256)
    return found, {"path": path, "format": found.format, "schema": schema, "limit": limit}


def open_dataset(lab: Lab, text: str) -> tuple[DatasetDetail, IO[bytes]]:
    """The version that a text means, opened for reading.

    Raises:
        NotFoundError: there is none, or its bytes are not in this store.
    """
    found = get_dataset(lab, text)
    return found, blobs.open_blob(lab.store, found.sha256)


def _dataset(row: Sequence[Any], only: str | None) -> DatasetView:
    return DatasetView(
        dataset_id=row[0], name=row[1], version=row[2], versions=row[3], sha256=row[4], size=row[5], format=row[6], rows=row[7],
        columns=row[8], description=row[9], tags=msgspec.json.decode(row[10] or "{}"), project_id=row[11], project=row[12],
        parent_id=row[13] if only is None or row[20] == only else None, file=row[14] or "", created_at=stamp(row[15]),
        by=row[16], trashed=row[17],
    )  # fmt: skip


# -- tokens ------------------------------------------------------------------------------------------------------------


def list_tokens(lab: Lab) -> list[TokenView]:
    """All access tokens, newest first, those that count no more too."""
    return _tokens(lab, "true", [])


def _tokens(lab: Lab, where: str, values: list[Any]) -> list[TokenView]:
    columns = 'token, name, role, project_id, created_at, "by", revoked_at'
    rows = lab.rows(f"SELECT {columns} FROM base.token_table WHERE {where} ORDER BY created_at DESC, token", values)  # noqa: S608
    return [
        TokenView(
            token=row[0], name=row[1] or "", role=row[2], project_id=row[3], created_at=stamp(row[4]), by=row[5],
            revoked_at=stamp(row[6]) if row[6] is not None else None,
        )
        for row in rows
    ]  # fmt: skip


def token_of(lab: Lab, sha256: str) -> TokenView | None:
    """The token whose text has this SHA-256, if it counts."""
    return next(iter(_tokens(lab, "sha256 = ? AND revoked_at IS NULL", [sha256])), None)
