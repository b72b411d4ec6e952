"""The page of one run: what it was given, what came out, its curves, files and changes."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from ailab.queries import MetricPoint, bytes_of

from ..markup import Html, facts, join, page, pairs, tag
from ..markup import table as html_table
from .figures import chart, duration, moment, number, plain, size, status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ailab.queries import ArtifactFile, Change, Page, RunDetail
    from ailab.telemetry import SystemFigure

CHARTS_MAX = 60
"""Curves on one page; the others are in the JSON."""
SYSTEM_CHARTS_MAX = 40
PICTURES_MAX = 12
_PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".webp")
_PICTURE_BYTES_MAX = 4_000_000


def run_page(
    run: RunDetail,
    *,
    curves: dict[str, list[MetricPoint]],
    system: Sequence[SystemFigure],
    lines: Page,
    changes: Sequence[Change],
    project: str,
) -> str:
    """Draw the page.

    Args:
        run: the run.
        curves: the points to draw, by metric.
        system: figures of the machine to draw, by name and time.
        lines: the last lines that it printed, a page of ConsoleLine.
        changes: what was changed, newest first.
        project: the installation's name.
    """
    title = run.name or run.run_id
    parameters: dict[str, object] = {key: plain(value) for key, value in run.params.items()}
    metrics: dict[str, object] = {key: number(value) for key, value in run.final_metrics.items()}
    body = [
        tag("h1", title), _headline(run), _note(run),
        tag("div", _section("Final metrics", metrics), _section("Parameters", parameters), class_="columns"),
        _curves(curves), _console(lines), _files(run.artifact_files), _system(run, system), _origin(run), _changes(changes),
        _links(run),
    ]  # fmt: skip
    return page(f"{title} · {project}", *body, project=project)


def _headline(run: RunDetail) -> Html:
    words = {
        "project": run.project, "dataset": run.dataset_id, "group": run.group, "seed": run.seed, "took": duration(run.duration_s),
        "started": moment(run.started_at),
    }  # fmt: skip
    chips = [tag("li", key if value is None else f"{key}={value}", class_="chip") for key, value in run.tags.items()]
    return join(
        tag("p", status(run.status), " ", pairs({name: word for name, word in words.items() if word is not None})),
        tag("ul", *chips, class_="chips") if chips else None,
        _error(run.error) if run.error else None,
        tag("p", "this run is in the trash", class_="failed") if run.trashed else None,
        tag("p", f"{run.points_dropped:,} points could not be written", class_="failed") if run.points_dropped else None,
    )


def _error(error: str) -> Html:
    """The last line of an error, which says what it was, and the whole of it below."""
    lines = error.strip().splitlines()
    whole = tag("details", tag("summary", "Traceback"), tag("pre", error)) if len(lines) > 1 else None
    return join(tag("p", lines[-1] if lines else "", class_="failed"), whole)


def _note(run: RunDetail) -> Html:
    described = tag("p", run.description, class_="soft") if run.description else None
    return join(described, join(tag("h2", "Note"), tag("p", run.note, class_="note")) if run.note else None)


def _section(title: str, values: dict[str, object]) -> Html:
    return tag("section", tag("h2", title), facts(values) if values else tag("p", "none", class_="soft"))


def _curves(curves: dict[str, list[MetricPoint]]) -> Html:
    if not curves:
        return Html("")
    drawn = [chart(key, points) for key, points in list(curves.items())[:CHARTS_MAX]]
    left = len(curves) - len(drawn)
    more = tag("p", f"{left} more metrics are in the JSON", class_="soft") if left > 0 else None
    return join(tag("h2", "Curves"), tag("div", *drawn, class_="charts"), more)


def _console(lines: Page) -> Html:
    """The last lines, as text; what was left out before one of them is said in its place."""
    if not lines.rows:
        return Html("")
    shown: list[str] = []
    for line in lines.rows:
        if line.dropped:
            shown.append(f"… {line.dropped:,} {'line' if line.dropped == 1 else 'lines'} left out")
        if line.line is not None:
            shown.append(line.line)
    before = lines.total - len(lines.rows)
    title = "Console" if before <= 0 else f"Console, the last {len(lines.rows)} of {lines.total:,} lines"
    return join(tag("h2", title), tag("pre", "\n".join(shown)))


def _system(run: RunDetail, figures: Sequence[SystemFigure]) -> Html:
    """Curves of the machine over the seconds since the run's start."""
    start = datetime.fromisoformat(run.started_at)
    curves: dict[str, list[MetricPoint]] = {}
    for figure in figures:
        second = int((datetime.fromisoformat(figure.time) - start).total_seconds())
        point = MetricPoint(key=figure.key, step=second, time=figure.time, value=figure.value)
        curves.setdefault(figure.key, []).append(point)
    if not curves:
        return Html("")
    drawn = [chart(key, points, across="second") for key, points in list(curves.items())[:SYSTEM_CHARTS_MAX]]
    return tag("details", tag("summary", "Use of the machine"), tag("div", *drawn, class_="charts"))


def _files(files: Sequence[ArtifactFile]) -> Html:
    newest: dict[str, ArtifactFile] = {}
    for file in files:  # the newest version stands first
        if not file.trashed:
            newest.setdefault(file.path, file)
    if not newest:
        return Html("")
    rows: list[list[object]] = [
        [
            file.path if file.reference else tag("a", file.path, href=file.url), file.kind, size(file.size), file.version,
            _reference(file) if file.reference else "", tag("span", file.sha256[:12], class_="code", title=file.sha256),
        ]
        for file in newest.values()
    ]  # fmt: skip
    columns = [("File", ""), ("Kind", ""), ("Size", "num"), ("Version", "num"), ("Reference", ""), ("SHA-256", "")]
    if not any(file.reference for file in newest.values()):
        del columns[4]
        rows = [row[:4] + row[5:] for row in rows]
    pictures = [
        tag("a", tag("img", src=file.url, alt=file.path, loading="lazy"), href=file.url)
        for file in newest.values()
        if file.path.lower().endswith(_PICTURE_ENDINGS) and file.size <= _PICTURE_BYTES_MAX and not file.reference
    ][:PICTURES_MAX]
    shown = tag("div", *pictures, class_="figures") if pictures else None
    return join(tag("h2", "Files"), html_table(columns, rows), _kept_once(files), shown)


def _reference(file: ArtifactFile) -> str:
    return file.location or "its bytes were never here"


def _kept_once(files: Sequence[ArtifactFile]) -> Html | None:
    """What keeping equal contents once has saved."""
    logged, kept = bytes_of(files)
    if kept >= logged:
        return None
    words = f"{size(logged)} in {len(files):,} versions, {size(kept)} kept: {logged / max(1, kept):.1f} × deduplicated"
    return tag("p", words, class_="soft")


def _origin(run: RunDetail) -> Html:
    known = facts({
        "run id": run.run_id, "command": run.command, "git commit": run.git_hash,
        "branch": run.git_branch, "remote": run.git_remote, "python": run.python_version, "user": run.user, "host": run.host,
        "parent run": run.parent_run_id, "W&B": run.wandb_url, "ended": moment(run.ended_at) if run.ended_at else None,
    })  # fmt: skip
    long = (("Difference to the commit", run.git_diff), ("Packages", run.pip_freeze), ("Device", _indented(run.device_info)))
    return join(
        tag("h2", "Origin"),
        known,
        *(tag("details", tag("summary", title), tag("pre", content)) for title, content in long if content),
    )


def _indented(json: str | None) -> str | None:
    return None if json is None else msgspec.json.format(json, indent=2)


def _changes(changes: Sequence[Change]) -> Html:
    if not changes:
        return Html("")
    rows: list[list[object]] = [
        [moment(change.at), change.field, change.old or "", change.new or "", _who(change)] for change in changes
    ]
    return join(
        tag("h2", "Changes"), html_table([("When", "line"), ("Field", ""), ("Before", ""), ("After", ""), ("Who", "")], rows)
    )


def _who(change: Change) -> str:
    return " ".join(filter(None, (change.by, change.via and f"via {change.via}")))


def _links(run: RunDetail) -> Html:
    run_id = quote(run.run_id, safe="")
    links = [
        ("this run", f"/runs/{run_id}?format=json"),
        ("points", f"/runs/{run_id}/metrics"),
        ("console", f"/runs/{run_id}/console"),
        ("use of the machine", f"/runs/{run_id}/system-metrics"),
        ("changes", f"/runs/{run_id}/changes"),
        ("files", f"/artifacts/{run_id}"),
    ]
    return tag("p", "As JSON:", *(join(" ", tag("a", name, href=href)) for name, href in links), class_="links")
