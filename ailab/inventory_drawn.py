"""How projects, datasets, files, changes and tokens look at a terminal; `terminal` has the screen and all about runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .naming import short_event
from .queries import bytes_of
from .terminal import Column, Screen, age, cell, moment, number, one_line, short_id, size, tags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rich.text import Text

    from .bodies import CreatedToken
    from .inventory import DatasetDetail, DatasetPreview, DatasetView, ProjectView, TokenView
    from .queries import ArtifactFile, Change
    from .remote import Shipped


def projects(screen: Screen, rows: Sequence[ProjectView]) -> None:
    """Projects with what is in them."""
    screen.table([
        Column("project", [cell(row.project_id, "dim") for row in rows]),
        Column("name", [cell(row.name + (" (trash)" if row.trashed else ""), "bold") for row in rows], limit=30),
        Column("runs", [cell(f"{row.run_count:,}") for row in rows], rank=1, right=True),
        Column("by status", [cell(_counts(row.runs_by_status), "dim") for row in rows], rank=4),
        Column("datasets", [cell(f"{row.dataset_count:,}") for row in rows], rank=2, right=True),
        Column("data", [cell(size(row.total_dataset_bytes)) for row in rows], rank=3, right=True),
        Column("active", [cell(age(row.last_activity)) for row in rows], rank=1, right=True),
        Column("description", [cell(row.description) for row in rows], rank=5, limit=40),
    ])  # fmt: skip


def _counts(by_status: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {word}" for word, count in by_status.items())


def project(screen: Screen, found: ProjectView, rows: Sequence[DatasetView]) -> None:
    """One project and its datasets."""
    screen.facts([
        ("project", found.project_id), ("name", found.name), ("description", found.description),
        ("created", moment(found.created_at)), ("active", age(found.last_activity)),
        ("runs", f"{found.run_count:,}  {_counts(found.runs_by_status)}".strip()),
        ("data", f"{size(found.total_dataset_bytes)} in {found.dataset_count:,}"), ("trash", "yes" if found.trashed else None),
    ])  # fmt: skip
    if rows:
        screen.heading("datasets")
        datasets(screen, rows)


def datasets(screen: Screen, rows: Sequence[DatasetView]) -> None:
    """Versions of datasets."""
    screen.table([
        Column("dataset", [cell(_named(row), "bold") for row in rows], limit=36),
        Column("format", [cell(row.format) for row in rows], rank=2),
        Column("rows", [cell(f"{row.rows:,}") for row in rows], rank=1, right=True),
        Column("columns", [cell(f"{row.columns:,}") for row in rows], rank=1, right=True),
        Column("size", [cell(size(row.size)) for row in rows], rank=2, right=True),
        Column("project", [cell(row.project) for row in rows], rank=4, limit=20),
        Column("tags", [cell(tags(row.tags)) for row in rows], rank=5, limit=20),
        Column("age", [cell(age(row.created_at)) for row in rows], rank=3, right=True),
        Column("sha256", [cell(row.sha256[:12] if screen.terminal else row.sha256, "dim") for row in rows], rank=6),
    ])  # fmt: skip


def _named(row: DatasetView) -> str:
    return f"{row.name}@v{row.version}" + (" (trash)" if row.trashed else "")


def dataset(screen: Screen, found: DatasetDetail) -> None:
    """One version: what it is, its columns, how they differ from the version before."""
    datasets(screen, [found])
    screen.facts([
        ("file", found.file), ("description", found.description), ("id", found.dataset_id), ("encoding", found.encoding),
        ("runs", f"{found.run_count:,}" if found.run_count else None), ("notes", "; ".join(found.notes) or None),
    ], indent=2)  # fmt: skip
    columns = found.columns_detail
    screen.heading("columns")
    screen.table([
        Column("name", [cell(column.name, "bold") for column in columns], limit=30),
        Column("type", [cell(column.type, "cyan") for column in columns]),
        Column("nulls", [cell(f"{column.nulls:,}" if column.nulls else "-", "dim") for column in columns], rank=1, right=True),
        Column("different", [cell(_distinct(column)) for column in columns], rank=2, right=True),
        Column("min", [cell(_short(column.min)) for column in columns], rank=3, limit=20, right=True),
        Column("max", [cell(_short(column.max)) for column in columns], rank=3, limit=20, right=True),
        Column("examples", [cell(", ".join(map(_short, column.examples)), "dim") for column in columns], rank=4, limit=40),
    ], indent=2)  # fmt: skip
    if found.schema_changes:
        screen.heading("since the version before")
        for one in found.schema_changes:
            words = {"added": f"added, {one.new}", "removed": f"gone, was {one.old}"}.get(one.change, f"{one.old} → {one.new}")
            screen.show(cell(f"  {one.column}: {words}"))


def _distinct(column: Any) -> str:
    if column.distinct is None:
        return "-"
    return f"{column.distinct:,}" + ("" if column.distinct_exact else "+")


def _short(value: Any) -> str:
    if value is None:
        return "-"
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else one_line(str(value))


def preview(screen: Screen, found: DatasetPreview) -> None:
    """The first rows."""
    names = list(found.rows[0]) if found.rows else []
    screen.table([
        Column(name, [cell(_short(row.get(name))) for row in found.rows], rank=i, limit=24,
               right=all(isinstance(row.get(name), int | float | None) for row in found.rows))
        for i, name in enumerate(names)
    ])  # fmt: skip


class _Folder(NamedTuple):
    """What is in a folder of a run, by name; a folder's name ends with a slash."""

    inside: dict[str, ArtifactFile | _Folder]
    sizes: list[int]


def tree(screen: Screen, files: Sequence[ArtifactFile]) -> None:
    """Files of a run as a tree, the newest version of each, and what keeping equal bytes once has saved."""
    newest: dict[str, ArtifactFile] = {}
    for file in files:
        newest.setdefault(file.path, file)
    root = _Folder({}, [])
    for path, file in newest.items():
        *folders, name = path.split("/")
        here = root
        for folder in folders:
            inner = here.inside.setdefault(folder + "/", _Folder({}, []))
            assert isinstance(inner, _Folder)  # noqa: S101  (no file has a name that ends so)
            here = inner
            here.sizes.append(file.size)
        here.inside[name] = file
    rows = list(_branches(root, _LINES if screen.unicode else _PLAIN_LINES))

    def told(tell: Callable[[ArtifactFile], str], style: str = "") -> list[Text]:
        return [cell("" if isinstance(thing, _Folder) else tell(thing), style) for *_, thing in rows]

    sizes = [size(sum(thing.sizes) if isinstance(thing, _Folder) else thing.size) for *_, thing in rows]
    columns = [
        Column("path", [cell(line + name, "bold" if isinstance(thing, _Folder) else "") for line, name, thing in rows], limit=60),
        Column("kind", told(lambda file: file.kind), rank=1),
        Column("size", [cell(text) for text in sizes], rank=1, right=True),
        Column("version", told(lambda file: f"v{file.version}" + " (trash)" * file.trashed), rank=2),
        Column("sha256", told(lambda file: file.sha256[: 12 if screen.terminal else 64], "dim"), rank=4),
    ]
    if any(file.reference for file in newest.values()):
        columns.insert(4, Column("reference to", told(_location), rank=3, limit=60))
    screen.table(columns)
    logged, kept = bytes_of(files)
    if kept < logged:
        words = f"{size(logged)} in {len(files):,} versions, {size(kept)} kept: {logged / max(1, kept):.1f} × deduplicated"
        screen.show(cell(words, "dim"))


_LINES = ("├── ", "└── ", "│   ", "    ")
_PLAIN_LINES = ("|-- ", "`-- ", "|   ", "    ")


def _branches(root: _Folder, lines: tuple[str, str, str, str]) -> Iterator[tuple[str, str, ArtifactFile | _Folder]]:
    """(lines of the tree, name, file or folder), a row each, folders before files."""
    waiting: list[tuple[str, str, str, ArtifactFile | _Folder]] = [("", "", "", root)]
    while waiting:
        line, below, name, thing = waiting.pop()
        if name:
            yield line, name, thing
        if isinstance(thing, _Folder):
            inside = sorted(thing.inside.items(), key=lambda pair: (not isinstance(pair[1], _Folder), pair[0]), reverse=True)
            for i, (inner, content) in enumerate(inside):  # the last one first: it is taken from the end
                branch, under = (lines[1], lines[3]) if i == 0 else (lines[0], lines[2])
                waiting.append((below + branch, below + under, inner, content))


def _location(file: ArtifactFile) -> str:
    return "" if not file.reference else file.location or "somewhere else"


def changes(screen: Screen, rows: Sequence[Change]) -> None:
    """What was changed, newest first; events as `ailab undo` takes them."""
    columns = [
        Column("when (UTC)", [cell(moment(row.at), "dim") for row in rows]),
        Column("who", [cell(row.by) for row in rows], rank=1, limit=10),
        Column("via", [cell(row.via) for row in rows], rank=4),
        Column("run", [cell(row.run_id and short_id(row.run_id), "dim") for row in rows], rank=2),
        Column("field", [cell(row.field) for row in rows], limit=12),
        Column("old", [cell("-" if row.old is None else row.old, "dim") for row in rows], limit=9),
        Column("new", [cell("-" if row.new is None else row.new) for row in rows], limit=14),
        Column("event", [cell(short_event(row.event), "dim") for row in rows], rank=3),
    ]
    screen.table(columns)


def shipped(screen: Screen, found: Shipped) -> None:
    """What was sent to a server, or that nothing was to be sent."""
    nothing = "nothing of the rest" if found.refused else "nothing: everything is there already"
    screen.facts([
        ("server", found.url), ("sent", f"{size(found.bytes)} in {found.seconds:.1f} s" if found.bytes else nothing),
        ("segments", f"{found.segments:,} to the end" if found.bytes else None),
        ("files", f"{found.files:,}" if found.files else None),
        ("without an end", f"{found.waiting:,}: more may come" if found.waiting else None),
        ("refused", "\n".join(found.refused) or None),
    ])  # fmt: skip


def tokens(screen: Screen, rows: Sequence[TokenView]) -> None:
    """Access tokens."""
    screen.table([
        Column("token", [cell(row.token, "dim") for row in rows]),
        Column("name", [cell(row.name, "bold") for row in rows], limit=30),
        Column("role", [cell(row.role) for row in rows]),
        Column("project", [cell(row.project_id or "all") for row in rows], rank=1),
        Column("created", [cell(moment(row.created_at)) for row in rows], rank=2),
        Column("by", [cell(row.by) for row in rows], rank=3),
        Column("revoked", [cell("-" if row.revoked_at is None else moment(row.revoked_at)) for row in rows], rank=1),
    ])  # fmt: skip


def created_token(screen: Screen, made: CreatedToken) -> None:
    """A token that was made: its text, this once; alone where a program reads it, as in TOKEN=$(ailab token create …)."""
    screen.raw(made.text)
    if screen.terminal:
        tokens(screen, [made.token])
