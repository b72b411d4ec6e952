"""The verbs of upkeep: they look after the files of a store, and most of them open no catalogue.

Who uses it: `cli`, which adds `VERBS` behind its own. What holds: a verb that removes something says before what, asks on a
terminal unless `--yes` is given, and off a terminal does nothing without `--yes`; progress is shown on standard error, and only
on a terminal.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from .calling import Call, Verb, counted
from .errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .collecting import Collection
    from .joining import Joining
    from .removal import Removal
    from .store import Store
    from .terminal import Screen
    from .verification import Verification
    from .views.compact import Compaction
    from .views.exports import Export

VERBS: list[click.Command] = []
"""In the order of the help."""


def _verb(*examples: str, calls: str) -> Callable[[Callable[..., None]], click.Command]:
    def add(function: Callable[..., None]) -> click.Command:
        command = click.command(cls=Verb, calls=calls, examples=examples)(function)
        VERBS.append(command)
        return command

    return add


def _store(call: Call) -> Store:
    """The store that is meant, which must be there."""
    from .checkup import store_path
    from .store import open_store

    return open_store(store_path(call.dir), create=False)


@contextmanager
def _progress(call: Call, what: str, *, unit: str = "bytes") -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, moved by (done, to do); nothing where that is no terminal."""
    if call.json or not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    amount = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = TextColumn("{task.description}"), BarColumn(), amount, TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _confirm(question: str, *, yes: bool) -> None:
    """Go on only when that is wanted.

    Raises:
        RefusedError: nobody can be asked.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise RefusedError("nothing was removed: nobody can be asked", hint="--yes removes without asking")
    if not click.confirm(question, err=True):
        raise RefusedError("nothing was removed")


@_verb("ailab verify", "ailab verify --references", "ailab verify --dir /mnt/backup/events --json", calls="verification.verify")
@click.option("--references", is_flag=True, help="Read files of this machine that artifacts only refer to, too.")
@click.pass_context
def verify(ctx: click.Context, /, references: bool) -> None:  # noqa: FBT001
    """Read every byte of the store and say what is damaged.

    Lines, chains, footers, closings, commit records, tables, blobs. A segment that is gone as a whole is missed only where
    another file names it: before it is compacted, often none does. The exit status is 0 without errors, else 1.
    """
    from . import verification

    call = ctx.ensure_object(Call)
    with _progress(call, "reading") as progress:
        found = verification.verify(_store(call), references=references, progress=progress)
    call.answer(found, lambda terminal, screen: _draw_verification(found, terminal, screen))
    if not found.sound:
        ctx.exit(1)


def _draw_verification(found: Verification, terminal: Any, screen: Screen) -> None:
    screen.facts(
        [
            ("store", found.store),
            ("segments", f"{found.segments:,}"),
            (
                "compacted",
                ", ".join(
                    counted(n, noun) for n, noun in ((found.commits, "record"), (found.tables, "table"), (found.spans, "span"))
                ),
            ),
            ("lines", f"{found.lines:,}" + (f", {found.redacted:,} of them redacted" if found.redacted else "")),
            ("blobs", f"{found.blobs:,}"),
            ("references", None if found.references is None else _references(found)),
            ("read", f"{terminal.size(found.bytes)} in {found.seconds:.1f} s"),
        ]
    )
    screen.show()
    rows: list[tuple[str, str, str, str, str]] = []
    for one in found.findings:
        where = one.file.replace(found.store + os.sep, "") + (f":{one.line}:{one.offset}" if one.line else "")
        rows.append((one.level, f"{one.kind}: {one.what}" if one.what else one.kind, where, one.cost, one.hint))
    terminal.findings(screen, rows or [("ok", "every byte is as it was written", "", "", "")])


def _references(found: Verification) -> str:
    if not found.references:
        return "none to files of this machine"
    wrong = len({one.file for one in found.findings if " refers to this file: " in one.what})
    return f"{counted(found.references, 'file')}, " + (f"{wrong:,} changed or gone" if wrong else "all as they were logged")


@_verb("ailab compact", "ailab compact --grace 0 --json", calls="views.compact.compact")
@click.option("--grace", "grace_s", type=click.FloatRange(min=0), default=3600.0, metavar="SECONDS",
              help="How long replaced segments stay beside the tables. [default: 3600]")  # fmt: skip
@click.option(
    "--background", is_flag=True, hidden=True, help="As a run that ends starts it: nobody is told, nobody is disturbed."
)
@click.pass_obj
def compact(call: Call, /, grace_s: float, background: bool) -> None:  # noqa: FBT001
    """Rewrite sealed and closed segments as Parquet.

    Segments whose writer is gone are closed first. Nothing of a line is lost: every span is read back and compared before it
    counts. Replaced segments are removed once their tables are older than the grace, so that a copy of the store that is under
    way has one or the other.
    """
    if background:
        from .background import step_back

        step_back()
    from .views.compact import compact as rewrite

    with _progress(call, "compacting") as progress:
        done = rewrite(_store(call), grace_s=grace_s, progress=progress)
    if done.busy is not None:
        raise RefusedError(f"the store is being compacted already, by {done.busy}", hint="try again when that has ended")
    call.answer(done, lambda terminal, screen: _draw_compaction(done, terminal, screen))


def _draw_compaction(done: Compaction, terminal: Any, screen: Screen) -> None:
    ratio = f", {done.bytes_after / done.points:.2f} bytes a point" if done.points else ""
    counts = ((done.segments, "segment"), (done.lines, "line"), (done.points, "point"))
    became = f"{terminal.size(done.bytes_before)} became {terminal.size(done.bytes_after)}{ratio}"
    screen.facts(
        [
            ("compacted", ", ".join(counted(n, noun) for n, noun in counts)),
            ("size", became if done.segments else None),
            ("closed", f"{done.closed:,} segments whose writer is gone" if done.closed else None),
            ("live", f"{done.live:,} segments are still being written" if done.live else None),
            ("merged", f"{done.merged:,} small records into larger ones" if done.merged else None),
            ("removed", f"{done.removed:,} replaced segments and records, {terminal.size(done.removed_bytes)}"),
            ("took", f"{done.seconds:.1f} s"),
        ]
    )
    if done.left:
        screen.show()
        terminal.findings(screen, [("note", f"left as it is: {left.why}", left.name, "", "") for left in done.left])


@_verb("ailab merge ~/lab/events /mnt/node7/events", "ailab merge events backup --heal --dry-run", calls="joining.join")
@click.argument("into", metavar="STORE")
@click.argument("source", metavar="OTHER")
@click.option("--heal", is_flag=True, help="Read what both have, and replace what is damaged in STORE by what is whole in OTHER.")
@click.option("--dry-run", is_flag=True, help="Say what would be copied, and copy nothing.")
@click.pass_context
def merge(ctx: click.Context, /, into: str, source: str, heal: bool, dry_run: bool) -> None:  # noqa: FBT001
    """Copy into STORE what OTHER has and STORE lacks.

    Every file is read back before it counts; a second merge copies nothing. What is redacted or purged in either is removed from
    STORE, and never copied. OTHER is only read. The exit status is 1 where something was left.
    """
    from .joining import join
    from .store import open_store

    call: Call = ctx.obj
    stores = open_store(into, create=False), open_store(source, create=False)
    with _progress(call, "copying") as progress:
        done = join(*stores, heal=heal, dry_run=dry_run, progress=progress)
    call.answer(done, lambda terminal, screen: _draw_joining(done, terminal, screen))
    if done.left:
        ctx.exit(1)


def _draw_joining(done: Joining, terminal: Any, screen: Screen) -> None:
    word = "would copy" if done.dry_run else "copied"
    kinds = (done.segments, "segment"), (done.records, "commit record"), (done.tables, "table"), (done.blobs, "blob")
    copied = ", ".join(counted(number, kind) for number, kind in kinds)
    nothing = "nothing: all that the other store has is here, or named below"
    screen.facts(
        [
            (word, f"{copied}; {terminal.size(done.bytes)}" if done.bytes else nothing),
            ("healed", f"{counted(done.healed, 'file')} among them replaced damaged ones" if done.healed else None),
            ("there before", counted(done.there, "file")),
            ("lost data", f"{done.rewritten:,} files, as somebody wanted" if done.rewritten else None),
            ("blobs removed", f"{done.removed_blobs:,}" if done.removed_blobs else None),
            ("took", f"{done.seconds:.1f} s"),
        ]
    )
    if done.left or done.damaged:
        screen.show()
        terminal.findings(
            screen, [("warning", f"{one.kind}: {one.why}", one.name, "", "") for one in (*done.left, *done.damaged)]
        )


@_verb("ailab export lab.duckdb", "ailab export tables/", "ailab export runs.csv --force", calls="views.exports.export")
@click.argument("target")
@click.option("--force", is_flag=True, help="Replace what is there.")
@click.pass_obj
def export(call: Call, /, target: str, force: bool) -> None:  # noqa: FBT001
    """Write the views as files for other programs.

    NAME.duckdb becomes a database with a table per view, a folder (with a slash behind its name) one Parquet file per view,
    NAME.csv the runs with their parameters and final metrics.
    """
    from .views import exports

    exports.form_of(target)
    with call.lab() as lab, _progress(call, "writing", unit="views") as progress:
        done = exports.export(lab, target, force=force, progress=progress)
    call.answer(done, lambda terminal, screen: _draw_export(done, terminal, screen))


def _draw_export(done: Export, terminal: Any, screen: Screen) -> None:
    rows = ", ".join(f"{table.name} {table.rows:,}" for table in done.tables)
    screen.facts(
        [("written", done.target), ("rows", rows), ("size", terminal.size(done.bytes)), ("took", f"{done.seconds:.1f} s")]
    )


@_verb("ailab gc --dry-run", "ailab gc --trash-days 90 --yes", calls="collecting.collect")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option("--grace", "grace_s", type=click.FloatRange(min=0), default=3600.0, metavar="SECONDS",
              help="How long replaced segments and records stay. [default: 3600]")  # fmt: skip
@click.option("--trash-days", type=click.FloatRange(min=0), default=30.0, metavar="DAYS",
              help="How long runs stay in the trash before their data go for good. [default: 30]")  # fmt: skip
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def gc(call: Call, /, dry_run: bool, grace_s: float, trash_days: float, yes: bool) -> None:  # noqa: FBT001
    """Remove what nobody needs any more.

    Segments and records that tables replaced, tables that no record names, what killed processes left, old snapshots, blobs that
    no event names, and the data of runs that have been in the trash for long.
    """
    from .collecting import collect

    with call.lab() as lab:
        if not dry_run and not yes:
            would = collect(lab, dry_run=True, grace_s=grace_s, trash_days=trash_days)
            if sys.stdin.isatty() and not call.json:
                call.answer(would, lambda terminal, screen: _draw_collection(would, terminal, screen))
            _confirm(f"Remove these from {lab.store.path} for good?", yes=False)
        with _progress(call, "collecting", unit="steps") as progress:
            done = collect(lab, dry_run=dry_run, grace_s=grace_s, trash_days=trash_days, progress=progress)
    call.answer(done, lambda terminal, screen: _draw_collection(done, terminal, screen))


def _draw_collection(done: Collection, terminal: Any, screen: Screen) -> None:
    rows = [(one.sort, f"{one.count:,}, {terminal.size(one.bytes)}") for one in done.sorts if one.count]
    screen.facts([*rows, ("would free" if done.dry_run else "freed", terminal.size(done.bytes) if rows else "nothing")])
    if done.left:
        screen.show()
        terminal.findings(screen, [("note", f"stays: {one.why}", one.name, "", "") for one in done.left])


@_verb(
    'ailab redact 20261124T091500123456Z_lab1_9572_57e9d430_demo-1:12 --reason "a name in a note"',
    "ailab redact --blob 06757b143313ec656eb20f515f887cb9889e1f9c91ed8d4049ce38c7d9154ef1 --reason asked --yes",
    calls="removal.redact",
)
@click.argument("event_ids", metavar="[EVENT]...", nargs=-1)
@click.option("--blob", "digests", multiple=True, metavar="SHA256", help="Remove the bytes of this blob; may be given again.")
@click.option("--reason", required=True, help="Why; it is kept.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def redact(
    ctx: click.Context,
    /,
    event_ids: tuple[str, ...],
    digests: tuple[str, ...],
    reason: str,
    yes: bool,  # noqa: FBT001
) -> None:
    """Remove the data of events, or the bytes of blobs, for good.

    EVENT is SEGMENT:SEQ. That it happened, when, and its checksum stay; the data go from segments and tables at once, but for
    segments that are still being written: then the exit status is 1.
    """
    from . import removal

    call: Call = ctx.obj
    if not event_ids and not digests:
        raise click.UsageError("nothing is named: EVENT or --blob SHA256")
    lines = [removal.parse_event(text) for text in event_ids]
    store = _store(call)
    wanted = [counted(len(lines), "event"), counted(len(digests), "blob")]
    named = ", ".join((*event_ids, *digests)[:3]) + (" …" if len(lines) + len(digests) > 3 else "")  # noqa: PLR2004
    _confirm(f"Remove the data of {' and '.join(wanted)} from {store.path} for good ({named})?", yes=yes)
    done = removal.redact(store, lines, digests=digests, reason=reason)
    call.answer(done, lambda terminal, screen: _draw_removal(done, terminal, screen))
    if done.left:
        ctx.exit(1)


def _draw_removal(done: Removal, terminal: Any, screen: Screen) -> None:
    screen.facts(
        [
            ("events", f"{len(done.events):,} without their data now" if done.events or not done.blobs else None),
            ("blobs", f"{len(done.blobs):,} removed, {terminal.size(done.bytes)}" if done.blobs else None),
        ]
    )
    hint = "the next compaction after that removes it"
    found = [("warning", f"not done yet: {one.why}", one.name, "", hint) for one in done.left]
    hint = "it is written down that it is to go, and no merge brings it; see that the SHA-256 is the one you mean"
    found += [("warning", "there is no such blob here", digest, "", hint) for digest in done.absent]
    if found:
        screen.show()
        terminal.findings(screen, found)
