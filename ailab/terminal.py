"""How answers look to a person: tables that fit, curves, bars, ages. Structs go in, text comes out; nothing here asks a store.

On a terminal a table is as wide as the terminal: columns that matter less are left out, and long cells are cut. Anywhere else
it is plain text with every column whole, so that `grep` and `awk` see all of it; NO_COLOR takes colour and weight away. Text
from a store was written by anyone: characters that could steer a terminal are shown as escapes, never sent.
"""

from __future__ import annotations

import csv
import io
import math
import os
import sys
from collections import Counter
from datetime import datetime, timezone
from typing import IO, TYPE_CHECKING, Any

import msgspec
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.console import RenderableType

    from .checkup import Checkup
    from .queries import (
        ArtifactFile,
        DatasetUse,
        LeaderboardRow,
        RunComparison,
        RunDetail,
        RunSummaryView,
        SqlAnswer,
        ViewInfo,
    )

WIDE = 100_000
"""Columns of an output that is no terminal: nothing is cut."""
CURVE_WIDTH = 80
"""Columns of a curve where there is no terminal."""
SHORT_LIST = 12
"""Points or rows that are listed whole; of more, as many from both ends together."""
CSV_BYTES = 8 << 20
CSV_ROWS = 20_000
CSV_COLUMNS = 100
GAP = 2
_LEVELS = "▁▂▃▄▅▆▇█"
_PLAIN_LEVELS = "_.-=+*#@"
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_STATUS_STYLE = {
    "completed": "green", "running": "cyan", "pending": "dim", "failed": "red", "crashed": "magenta", "killed": "yellow",
}  # fmt: skip
_RULE = box.Box("    \n    \n ── \n    \n    \n    \n    \n    \n")
_LEVEL_STYLE = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}
_SQL_NUMBERS = (
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "HUGEINT",
    "UINTEGER",
    "UBIGINT",
    "UHUGEINT",
    "FLOAT",
    "DOUBLE",
    "DECIMAL",
)
_ID_LENGTH = 26
_SHORT_LENGTH = 8
_NAN = math.nan
_RESET = "\x1b[0m"


# -- text --------------------------------------------------------------------------------------------------------------


def _without_end(line: str) -> str:
    """A line without the spaces at its end, before and behind the end of a style."""
    text = line.rstrip(" ")
    return text.removesuffix(_RESET).rstrip(" ") + _RESET if text.endswith(_RESET) else text


def plain(text: str, *, lines: bool = False) -> str:
    """`text` without anything that steers a terminal; with `lines`, newlines and tabs stay."""
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(c if c.isprintable() or c in kept else " " if c.isspace() else ascii(c)[1:-1] for c in text)


def one_line(text: str) -> str:
    """`text` in one line, runs of white space as one space."""
    return plain(" ".join(text.split()))


def cell(value: Any, style: str = "") -> Text:
    """A cell of a table."""
    return value if isinstance(value, Text) else Text("" if value is None else one_line(str(value)), style=style)


def short_id(run_id: str) -> str:
    """The end of a run's id, enough to name it; a caller's own id stays whole."""
    return run_id[-_SHORT_LENGTH:] if len(run_id) == _ID_LENGTH and run_id.isalnum() else run_id


def status(word: str) -> Text:
    """A run's status in its colour."""
    return Text(plain(word), style=_STATUS_STYLE.get(word, ""))


def size(number: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:  # noqa: PLR2004
            return f"{number:.0f} {unit}" if unit == "B" or number >= 10 else f"{number:.1f} {unit}"  # noqa: PLR2004
        number /= 1000
    return f"{number:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds as a person reads them."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def moment(timestamp: str) -> str:
    """A time of an answer to the second, UTC."""
    return timestamp[:19].replace("T", " ")


def age(timestamp: str, now: datetime | None = None) -> str:
    """How long ago a time of an answer was, in one unit."""
    passed = ((now or datetime.now(timezone.utc)) - datetime.fromisoformat(timestamp)).total_seconds()
    for limit, unit, length in ((60, "s", 1), (3600, "min", 60), (48 * 3600, "h", 3600), (60 * 86400, "d", 86400)):
        if passed < limit:
            return f"{max(0, int(passed // length))} {unit}"
    return timestamp[:10]


# -- numbers -----------------------------------------------------------------------------------------------------------


def as_float(value: Any) -> float:
    """A number of an answer as a float; NaN where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return _NAN
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def number(value: Any) -> str:
    """One number with four digits that count."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return one_line(str(value))
    if isinstance(value, int) and abs(value) < 10**9:
        return str(value)
    v = as_float(value)
    return f"{v:.1f}" if 1000 <= abs(v) < 10**7 else f"{v:.4g}"  # noqa: PLR2004


def figure(key: str, value: float) -> str:
    """A figure of the machine; its name says whether it counts bytes."""
    if key.endswith("_bytes"):
        return size(value)
    return f"{size(value)}/s" if key.endswith("_bytes_per_s") else number(value)


def numbers(values: Sequence[Any]) -> list[str]:
    """The numbers of one column, with the same number of digits behind the point where that reads well."""
    finite = [abs(v) for v in map(as_float, values) if v - v == 0]
    whole = all(v == int(v) for v in finite) if finite else True
    if not whole and max(finite) < 1000 and min((v for v in finite if v), default=1) >= 0.001:  # noqa: PLR2004
        digits = 4 if max(finite) < 10 else 2  # noqa: PLR2004
        return ["" if v is None else f"{v:.{digits}f}" if isinstance(v, int | float) else one_line(str(v)) for v in values]
    return ["" if v is None else number(v) for v in values]


def sparkline(
    values: Sequence[float], width: int, *, low: float | None = None, high: float | None = None, levels: str = _LEVELS
) -> str:
    """A curve in one line of `width` characters: stretched, or each character the mean of its share; NaN leaves a hole.

    `low` and `high` fix the scale, so that several curves can be compared.
    """
    finite = [v for v in values if v - v == 0]
    if not values or not finite or width < 1:
        return ""
    low = min(finite) if low is None else low
    high = max(finite) if high is None else high
    drawn = []
    for i in range(width):
        start = i * len(values) // width
        share = values[start : max(start + 1, (i + 1) * len(values) // width)]
        drawn.append(_level(share, low, high, levels))
    return "".join(drawn)


def _level(share: Sequence[float], low: float, high: float, levels: str) -> str:
    real = [v for v in share if not math.isnan(v)]
    if not real:
        return " "
    mean = sum(real) / len(real)
    if math.isnan(mean) or high <= low:
        return levels[0]
    place = min(1.0, max(0.0, (mean - low) / (high - low)))
    return levels[min(len(levels) - 1, int(place * len(levels)))]


def bar(value: float, low: float, high: float, width: int, *, plain_text: bool = False) -> str:
    """A bar from `low` to `value` on a scale that ends at `high`; the lowest value is a sliver, not nothing."""
    if value != value or width < 1:  # noqa: PLR0124  (NaN)
        return ""
    place = 1.0 if high <= low else min(1.0, max(0.0, (value - low) / (high - low)))
    eighths = max(1, round(place * width * 8))
    if plain_text:
        return "#" * max(1, round(place * width))
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


# -- the screen --------------------------------------------------------------------------------------------------------


class Column(msgspec.Struct):
    """A column of a table: `rank` says when it is left out (0 never, the greatest first), `limit` from where on it may be cut."""

    header: str
    cells: list[Text]
    rank: int = 0
    limit: int = 40
    right: bool = False

    @property
    def natural(self) -> int:
        """Its width with every cell whole."""
        return max([cell_len(self.header), *(cell.cell_len for cell in self.cells)])


class Screen:
    """Standard output as it is now: how wide, whether a terminal, whether it can show block characters."""

    def __init__(self) -> None:
        colour = None if os.environ.get("NO_COLOR") else "auto"
        self.console = Console(file=sys.stdout, color_system=colour, markup=False, highlight=False, emoji=False)  # type: ignore[arg-type]
        self.terminal = self.console.is_terminal
        if not self.terminal:
            self.console.width = WIDE
        self.unicode = (self.console.encoding or "").lower().startswith("utf")
        self.left_out: list[str] = []

    @property
    def curve_width(self) -> int:
        """How wide a curve may be."""
        return self.console.width if self.terminal else CURVE_WIDTH

    def sparkline(
        self, values: Sequence[float], width: int | None = None, *, low: float | None = None, high: float | None = None
    ) -> str:
        """A curve, across the screen by default."""
        return sparkline(values, width or self.curve_width, low=low, high=high, levels=_LEVELS if self.unicode else _PLAIN_LEVELS)

    def show(self, thing: RenderableType = "") -> None:
        """Print one thing; no line ends in spaces."""
        with self.console.capture() as held:
            self.console.print(thing)
        sys.stdout.write("\n".join(map(_without_end, held.get().split("\n"))))

    def raw(self, text: str) -> None:
        """Print text that is data: as it is, but on a terminal without what could steer it."""
        sys.stdout.write(plain(text, lines=True) if self.terminal else text)
        if not text.endswith("\n"):
            sys.stdout.write("\n")

    def table(self, columns: Sequence[Column], *, indent: int = 0, header: bool = True) -> None:
        """Print a table; `left_out` then names the columns that did not fit."""
        chosen = self._fit(columns, self.console.width - indent)
        rule = _RULE if self.terminal and self.unicode and header else None
        gap = GAP - 1 if rule else GAP  # a rule has a divider of its own
        table = Table(box=rule, show_edge=False, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold", show_header=header)
        for column, width in chosen:
            table.add_column(
                Text(one_line(column.header)),
                justify="right" if column.right else "left",
                no_wrap=True,
                overflow="ellipsis",
                max_width=width,
            )
        for row in zip(*(column.cells for column, _ in chosen), strict=True):
            table.add_row(*row)
        self.show(Padding(table, (0, 0, 0, indent), expand=False))

    def _fit(self, columns: Sequence[Column], width: int) -> list[tuple[Column, int]]:
        """Which columns are shown, and how wide: the most wanted first, then what is left over goes to those that are cut."""
        there = list(columns)
        if not self.terminal:
            self.left_out = []
            return [(column, column.natural) for column in there]
        chosen: dict[int, int] = {}
        free = width + GAP
        for i, column in sorted(enumerate(there), key=lambda pair: pair[1].rank):
            wanted = min(column.natural, column.limit)
            if column.rank == 0 or wanted + GAP <= free:
                chosen[i] = wanted
                free -= wanted + GAP
        for i in sorted(chosen):
            more = min(there[i].natural - chosen[i], max(0, free))
            chosen[i] += more
            free -= more
        self.left_out = [column.header for i, column in enumerate(there) if i not in chosen]
        return [(there[i], chosen[i]) for i in sorted(chosen)]

    def facts(self, pairs: Iterable[tuple[str, Any]], *, indent: int = 0) -> None:
        """Print names and what they are, one a line; those without a value are left out."""
        table = Table(box=None, show_header=False, show_edge=False, pad_edge=False, padding=(0, GAP, 0, 0))
        table.add_column(no_wrap=True, style="dim")
        table.add_column(overflow="fold")
        for name, value in pairs:
            if value is not None and value != "":
                table.add_row(Text(one_line(name)), value if isinstance(value, Text) else Text(plain(str(value), lines=True)))
        if table.row_count:
            self.show(Padding(table, (0, 0, 0, indent), expand=False))

    def heading(self, text: str) -> None:
        """Print a heading with an empty line before it."""
        self.show()
        self.show(Text(text, style="bold"))


# -- answers -----------------------------------------------------------------------------------------------------------


def runs(
    screen: Screen, rows: Sequence[RunSummaryView], params: Mapping[str, Mapping[str, Any]], *, first: Sequence[str] = ()
) -> None:
    """Runs as a table: the metrics most of them have (those in `first` before), the parameters in which they differ."""
    metrics = _main_metrics(rows, first)
    keys = _telling(params)
    metric_columns = [
        Column(key, [cell(v) for v in numbers([row.final_metrics.get(key) for row in rows])], rank=3 + 2 * i, right=True)
        for i, key in enumerate(metrics)
    ]
    param_columns = [
        Column(key, [cell(params[row.run_id].get(key)) for row in rows], rank=4 + 2 * i, limit=20) for i, key in enumerate(keys)
    ]
    columns = [
        Column("run", [cell(short_id(row.run_id), "dim") for row in rows]),
        Column("name", [cell(row.name, "bold") for row in rows], limit=28),
        Column("status", [status(row.status) for row in rows], rank=1),
        *metric_columns,
        *param_columns,
        Column("project", [cell(row.project) for row in rows], rank=8, limit=16),
        Column("dataset", [cell(row.dataset_id) for row in rows], rank=7, limit=16),
        Column("tags", [cell(tags(row.tags)) for row in rows], rank=10, limit=16),
        Column("age", [cell(age(row.timestamp)) for row in rows], rank=2, right=True),
        Column("note", [cell(row.note) for row in rows], rank=11, limit=20),
    ]
    screen.table(_filled(columns))


def _filled(columns: Sequence[Column]) -> list[Column]:
    """Columns that have to be there, and those that have anything to say."""
    return [column for column in columns if not column.rank or any(text.plain for text in column.cells)]


def _main_metrics(rows: Sequence[RunSummaryView], first: Sequence[str], most: int = 4) -> list[str]:
    uses = Counter(key for row in rows for key in row.final_metrics)
    named = [key for key in dict.fromkeys(first) if key in uses]
    return [*named, *(key for key, _ in uses.most_common() if key not in named)][:most]


def _telling(params: Mapping[str, Mapping[str, Any]], most: int = 4) -> list[str]:
    """Parameters with more than one value, those that make the fewest groups first."""
    values: dict[str, set[str]] = {}
    for known in params.values():
        for key in known:
            values.setdefault(key, set()).add(str(known[key]))
    telling = sorted((len(found), key) for key, found in values.items() if len(found) > 1 or len(params) == 1)
    return [key for _, key in telling][:most]


def tags(found: Mapping[str, str | None]) -> str:
    """Tags in one line."""
    return ", ".join(key if value is None else f"{key}={value}" for key, value in found.items())


def title(run: RunSummaryView | RunDetail) -> Text:
    """A run's name, status, id and age in one line."""
    return Text.assemble(
        (one_line(run.name) or "(no name)", "bold"),
        "  ",
        status(run.status),
        (f"  {plain(run.run_id)}  {age(run.timestamp)} ago", "dim"),
    )


def latest(screen: Screen, details: Sequence[RunDetail]) -> None:
    """Runs one below the other, each with its parameters, final metrics and artifacts."""
    for i, run in enumerate(details):
        if i:
            screen.show()
        screen.show(title(run))
        there = [file for file in run.artifact_files if not file.trashed]
        files = [f"{one_line(file.path)} ({file.kind}, {size(file.size)}{', reference' * file.reference})" for file in there]
        screen.facts([
            ("project", run.project), ("dataset", run.dataset_id),
            ("params", _pairs({key: _value(value) for key, value in run.params.items()}) or "none"),
            ("metrics", _pairs({key: number(value) for key, value in run.final_metrics.items()}) or "none"),
            ("artifacts", ", ".join(files) or "none"), ("note", run.note),
        ], indent=2)  # fmt: skip


def _pairs(found: Mapping[str, str]) -> str:
    return ", ".join(f"{one_line(key)}={one_line(value)}" for key, value in found.items())


def _value(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _read(used: DatasetUse) -> str:
    """A content that a run read: which version of which dataset, for what, and its SHA-256."""
    name = used.dataset_id.partition("@")[0] if used.version is not None else used.name or "a content"
    return f"{name}{'' if used.version is None else f'@v{used.version}'} ({used.role}), sha256 {used.sha256}"


def overview(screen: Screen, run: RunDetail, curves: Mapping[str, Sequence[float]]) -> None:
    """All about one run but its points, diff and packages."""
    error = (run.error or "").strip()
    screen.show(title(run))
    git = " ".join(part for part in (run.git_hash, run.git_branch and f"({run.git_branch})", run.git_remote) if part)
    screen.facts([
        ("project", run.project), ("dataset", run.dataset_id), ("read", "\n".join(_read(one) for one in run.datasets)),
        ("group", run.group), ("parent", run.parent_run_id), ("seed", run.seed), ("tags", tags(run.tags)),
        ("note", run.note), ("description", run.description),
        ("error", Text(one_line(error.splitlines()[-1]), style="red") if error else None),
        ("started", f"{moment(run.started_at)} UTC, ran {duration(run.duration_s)}"),
        ("by", "@".join(part for part in (run.user, run.host) if part)), ("command", run.command), ("git", git),
        ("diff", f"{len(run.git_diff.splitlines())} lines differ from the commit: show --diff" if run.git_diff else None),
        ("python", run.python_version and f"{run.python_version}, {len((run.pip_freeze or '').splitlines())} packages"),
        ("W&B", run.wandb_url),
        ("dropped", f"{run.points_dropped} points could not be written" if run.points_dropped else None),
        ("trash", "this run is in the trash" if run.trashed else None),
    ], indent=2)  # fmt: skip
    if run.params:
        screen.heading("parameters")
        screen.facts([(key, one_line(_value(value)) or '""') for key, value in run.params.items()], indent=2)
    if run.final_metrics:
        screen.heading("metrics")
        _metric_table(screen, run.final_metrics, curves)
    if run.artifact_files:
        screen.heading("artifacts")
        artifacts(screen, run.artifact_files, indent=2)
    if run.error and "\n" in run.error.strip():
        screen.heading("error")
        screen.raw(run.error.strip())


def _metric_table(screen: Screen, final: Mapping[str, Any], curves: Mapping[str, Sequence[float]]) -> None:
    least = [min((v for v in curves.get(key, ()) if v - v == 0), default=None) for key in final]
    most = [max((v for v in curves.get(key, ()) if v - v == 0), default=None) for key in final]
    labels = max(map(cell_len, final))
    width = max(8, min(60, screen.curve_width - labels - 40))
    drawn = [screen.sparkline(curves[key], width) if len(curves.get(key, ())) > 1 else "" for key in final]
    columns = [
        Column("metric", [cell(key) for key in final]),
        Column("final", [cell(number(value), "bold") for value in final.values()], right=True),
        Column("min", [cell(None if v is None else number(v)) for v in least], rank=2, right=True),
        Column("max", [cell(None if v is None else number(v)) for v in most], rank=2, right=True),
        Column("curve", [Text(line, style="cyan") for line in drawn], rank=1, limit=width),
    ]
    screen.table(columns, indent=2)


def artifacts(screen: Screen, files: Sequence[ArtifactFile], *, indent: int = 0) -> None:
    """Files of a run, newest first."""
    columns = [
        Column("path", [cell(file.path) for file in files], limit=60),
        Column("kind", [cell(file.kind) for file in files], rank=1),
        Column("size", [cell(size(file.size)) for file in files], rank=1, right=True),
        Column("version", [cell(f"v{file.version}" + " (trash)" * file.trashed) for file in files], rank=2),
        Column("sha256", [cell(file.sha256[:12] if screen.terminal else file.sha256, "dim") for file in files], rank=3),
    ]
    if any(file.reference for file in files):
        there = [cell((file.location or "somewhere else") if file.reference else "") for file in files]
        columns.insert(4, Column("reference to", there, rank=2, limit=60))
    screen.table(columns, indent=indent)


def points(screen: Screen, key: str, steps: Sequence[int], values: Sequence[float], *, count: int) -> None:
    """One metric: what it did, its curve, and its points, of which only the first and the last are listed where there are many.

    `count` is how many points were logged; where fewer are given, those are the minima and maxima, and none is listed.
    """
    screen.heading(one_line(key))
    whole = count == len(values)
    facts = [f"{count:,} point" + ("s" if count != 1 else "")]
    if whole:
        facts += [f"first {number(values[0])}", f"last {number(values[-1])}"]
    real = [i for i, v in enumerate(values) if v == v]  # noqa: PLR0124  (NaN)
    if real:
        low, high = min(real, key=lambda i: values[i]), max(real, key=lambda i: values[i])
        facts += [f"min {number(values[low])} at step {steps[low]}", f"max {number(values[high])} at step {steps[high]}"]
    screen.show(Text(", ".join(facts), style="dim"))
    if len(values) > 1 and real:
        screen.show(Text(screen.sparkline(values), style="cyan"))
    half = SHORT_LIST // 2
    if not whole:
        return
    if len(values) <= SHORT_LIST:
        _point_lines(screen, steps, values)
    else:
        _point_lines(screen, [*steps[:half], *steps[-half:]], [*values[:half], *values[-half:]], gap_at=half)


def _point_lines(screen: Screen, steps: Sequence[int], values: Sequence[float], *, gap_at: int = 0) -> None:
    """Points side by side, each as wide as the widest; `…` stands before the point `gap_at`."""
    texts = numbers(values)
    wide, far = max(map(len, texts)), max(len(str(step)) for step in steps)
    points = [Text.assemble((f"{step:>{far}}", "dim"), f" {text:>{wide}}") for step, text in zip(steps, texts, strict=True)]
    per_line = max(1, (screen.curve_width + 3) // (far + wide + 4))
    for start, end in ((0, gap_at), (gap_at, len(points))):
        for i in range(start, end, per_line):
            screen.show(Text("   ").join(points[i : min(end, i + per_line)]))
        if end and end < len(points):
            screen.show(Text("…", style="dim"))


class Sheet(msgspec.Struct):
    """A CSV file as far as it was read: rows as wide as the header; `more` says that there is more of it."""

    columns: list[str]
    rows: list[list[str]]
    more: bool


def read_sheet(file: IO[bytes]) -> Sheet:
    """Read a CSV file of any dialect as far as it makes sense to show it: bounded in bytes, rows and columns, never raising.

    The first line is the header. Rows that are shorter are filled up, longer ones are cut.
    """
    data = file.read(CSV_BYTES + 1)
    more = len(data) > CSV_BYTES
    text = (data[: data.rfind(b"\n") + 1] if more else data).decode("utf-8-sig", "replace")
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows: list[list[str]] = []
    try:
        for row in reader:
            if row:
                rows.append(row[:CSV_COLUMNS])
                more = more or len(row) > CSV_COLUMNS
            if len(rows) > CSV_ROWS:
                more = True
                break
    except csv.Error:  # a cell of more than 128 KiB, or quotes that never end: what came before it is shown
        more = True
    columns = rows[0] if rows else []
    width = len(columns)
    return Sheet(columns=columns, rows=[(row + [""] * width)[:width] for row in rows[1 : CSV_ROWS + 1]], more=more)


def sheet(screen: Screen, name: str, found: Sheet) -> None:
    """A CSV file: its first and last rows, and a curve for each column of numbers."""
    screen.heading(one_line(name))
    read = f"{'the first ' if found.more else ''}{len(found.rows):,} rows, {len(found.columns)} columns"
    screen.show(Text(read, style="dim"))
    if not found.columns:
        return
    half = SHORT_LIST // 2
    short = len(found.rows) <= SHORT_LIST
    shown = found.rows if short else [*found.rows[:half], ["…"] * len(found.columns), *found.rows[-half:]]
    curves = {i: [as_float(row[i]) for row in found.rows] for i in range(len(found.columns))}
    curves = {i: values for i, values in curves.items() if sum(v == v for v in values) * 2 > len(values)}  # noqa: PLR0124
    columns = []
    for i, label in enumerate(found.columns):
        texts = [row[i] for row in shown]
        if i in curves:
            texts = [
                text if as_float(text) != as_float(text) else rounded
                for text, rounded in zip(texts, numbers([as_float(t) for t in texts]), strict=True)
            ]
        columns.append(Column(label, [cell(text) for text in texts], rank=i, limit=16, right=i in curves))
    screen.table(columns)
    if screen.left_out:
        screen.show(Text(f"{len(screen.left_out)} columns do not fit: {', '.join(map(one_line, screen.left_out))}", style="dim"))
    labels = max((cell_len(one_line(found.columns[i])) for i in curves), default=0)
    for i, values in curves.items():
        if len(values) > 1:
            label = one_line(found.columns[i])
            drawn = screen.sparkline(values, max(8, screen.curve_width - labels - GAP))
            screen.show(Text.assemble((label + " " * (labels - cell_len(label) + GAP), "dim"), (drawn, "cyan")))


def comparison(
    screen: Screen,
    found: RunComparison,
    goals: Mapping[str, str],
    curves: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    everything: bool,
) -> None:
    """Runs side by side: what differs first; `*` marks the best value of a metric, behind it is the change from the first run."""
    facts: list[tuple[str, list[Text]]] = [
        (field, [cell(getattr(run, field)) if field != "status" else status(run.status) for run in found.runs])
        for field in ("name", "status", "project", "dataset_id", "seed", "git_hash")
        if field in {"name", "status"} or len({getattr(run, field) for run in found.runs}) > 1
    ]
    given = {key: [_value(run.params[key]) if key in run.params else None for run in found.runs] for key in found.param_keys}
    differ = [(key, [cell(v) for v in values]) for key, values in given.items() if len(set(values)) > 1]
    equal = [(key, [cell(v, "dim") for v in values]) for key, values in given.items() if len(set(values)) == 1]
    metrics = [
        (key, _compared([run.final_metrics.get(key) for run in found.runs], goals.get(key, "max"))) for key in found.metric_keys
    ]
    groups = [
        ("", facts),
        ("parameters that differ", differ),
        ("equal parameters", equal if everything else []),
        ("metrics", metrics),
    ]
    _side_by_side(screen, [short_id(run.run_id) for run in found.runs], [(name, rows) for name, rows in groups if rows])
    if equal and not everything:
        screen.show(Text(f"\n{len(equal)} equal parameters are not shown: --all", style="dim"))
    for key, by_run in curves.items():
        _common_curve(screen, key, by_run)


def _compared(values: Sequence[Any], goal: str) -> list[Text]:
    floats = [_NAN if v is None else as_float(v) for v in values]
    real = [v for v in floats if v == v]  # noqa: PLR0124  (NaN)
    best = (min(real) if goal == "min" else max(real)) if real else _NAN
    texts = numbers(values)
    width = max(map(len, texts))
    digits = max(len(text.partition(".")[2]) for text in texts)
    form = ".3g" if any("e" in text for text in texts) else f".{digits}f"
    cells: list[Text] = []
    for value, text in zip(floats, texts, strict=True):
        marked = value == best and len(real) > 1
        change = value - floats[0]
        said = f" {change:+{form}}" if cells and change - change == 0 else ""
        cells.append(
            Text.assemble((f"{text:>{width}}", "bold green" if marked else ""), ("*" if marked else " ", "green"), (said, "dim"))
        )
    return cells


def _side_by_side(screen: Screen, ids: Sequence[str], groups: Sequence[tuple[str, list[tuple[str, list[Text]]]]]) -> None:
    """One column per run; where they do not fit side by side, several tables that each begin with the first run."""
    labels, columns = _labels_and_columns(ids, groups)
    free = screen.console.width - labels.natural - GAP
    widths = [min(column.natural, column.limit) + GAP for column in columns]
    block: list[int] = [0]
    for i in range(1, len(columns)):
        if len(block) > 1 and sum(widths[k] for k in block) + widths[i] > free + GAP:
            screen.table([labels, *(columns[k] for k in block)])
            screen.show()
            block = [0]
        block.append(i)
    screen.table([labels, *(columns[k] for k in block)])


def _labels_and_columns(
    ids: Sequence[str], groups: Sequence[tuple[str, list[tuple[str, list[Text]]]]]
) -> tuple[Column, list[Column]]:
    labels: list[Text] = []
    cells: list[list[Text]] = [[] for _ in ids]
    for name, rows in groups:
        if name:
            labels += [Text(), Text(name, style="bold")]
            for column in cells:
                column += [Text(), Text()]
        for label, values in rows:
            labels.append(Text(f"  {one_line(label)}" if name else one_line(label)))
            for column, value in zip(cells, values, strict=True):
                column.append(value)
    return Column("", labels, limit=30), [Column(run_id, column, limit=26) for run_id, column in zip(ids, cells, strict=True)]


def _common_curve(screen: Screen, key: str, by_run: Mapping[str, Sequence[float]]) -> None:
    finite = [v for values in by_run.values() for v in values if v - v == 0]
    if not finite:
        return
    low, high = min(finite), max(finite)
    screen.heading(f"{one_line(key)}  {number(low)} to {number(high)}")
    labels = max(len(short_id(run_id)) for run_id in by_run)
    for run_id, values in by_run.items():
        drawn = screen.sparkline(values, max(8, screen.curve_width - labels - GAP), low=low, high=high)
        screen.show(Text.assemble((f"{short_id(run_id):<{labels + GAP}}", "dim"), (drawn, "cyan")))


def leaderboard(screen: Screen, rows: Sequence[LeaderboardRow]) -> None:
    """The best runs; bars reach from the lowest to the highest value shown."""
    values = [as_float(row.value) for row in rows]
    finite = [v for v in values if v - v == 0] or [0.0]
    low, high = min(finite), max(finite)
    width = 16 if screen.console.width < 100 else 30  # noqa: PLR2004
    bars = [bar(v, low, high, width, plain_text=not screen.unicode) for v in values]
    columns = [
        Column("", [cell(row.rank, "dim") for row in rows], right=True),
        Column("run", [cell(short_id(row.run_id), "dim") for row in rows]),
        Column("name", [cell(row.name, "bold") for row in rows], limit=30),
        Column(rows[0].metric_name, [cell(text, "bold") for text in numbers([row.value for row in rows])], right=True, limit=24),
        Column(f"{low:.3g} to {high:.3g}", [Text(line, style="cyan") for line in bars], rank=1, limit=width),
        Column("status", [status(row.status) for row in rows], rank=5),
        Column("dataset", [cell(row.dataset_id) for row in rows], rank=2, limit=16),
        Column("project", [cell(row.project) for row in rows], rank=3, limit=16),
        Column("age", [cell(age(row.timestamp)) for row in rows], rank=4, right=True),
        Column("note", [cell(row.note) for row in rows], rank=6, limit=20),
    ]
    screen.table(_filled(columns))


def acted(screen: Screen, run: RunDetail) -> None:
    """What an action can change of a run, as it is now."""
    screen.show(title(run))
    screen.facts([("note", run.note), ("tags", tags(run.tags))], indent=2)


def rows_of_sql(screen: Screen, answer: SqlAnswer) -> None:
    """The rows of a SELECT."""
    columns = []
    for i, name in enumerate(answer.columns):
        values = [row[i] for row in answer.rows]
        right = answer.types[i].startswith(_SQL_NUMBERS) and not answer.types[i].endswith("]")
        cells = [Text("NULL", style="dim") if v is None else cell(_value(v)) for v in values]
        columns.append(Column(name, cells, rank=i, limit=32, right=right))
    screen.table(columns)


def views(screen: Screen, found: Sequence[ViewInfo]) -> None:
    """Views and what their columns mean."""
    for i, view in enumerate(found):
        if i:
            screen.show()
        screen.show(Text.assemble((view.name, "bold"), ("  " + view.comment, "dim")))
        columns = [
            Column("", [cell(column.name) for column in view.columns], limit=30),
            Column("", [cell(column.type, "cyan") for column in view.columns], limit=22),
            Column("", [cell(column.comment, "dim") for column in view.columns], rank=1, limit=20),
        ]
        screen.table(columns, indent=2, header=False)


def checkup(screen: Screen, found: Checkup) -> None:
    """How a store is: figures first, then what was found."""
    runs_now = ", ".join(f"{count} {word}" for word, count in found.runs.items()) or "none"
    segments = f"{found.segments:,}: {found.sealed:,} sealed, {found.live:,} live, {found.unsealed:,} without an end"
    screen.facts(
        [
            ("store", found.store),
            ("segments", f"{segments}; {size(found.segment_bytes)}"),
            (
                "compacted",
                f"{found.compacted_lines:,} lines in tables alone; {size(found.compacted_bytes)}" if found.commits else None,
            ),
            ("waiting", f"{found.waiting:,} segments for compaction, {size(found.waiting_bytes)}" if found.waiting else None),
            ("events", f"{found.events:,}"),
            ("runs", runs_now + (f"; {found.runs_in_tables:,} in tables" if found.runs_in_tables else "")),
            ("cache", size(found.cache_bytes) if found.cache_bytes else None),
            ("dropped", f"{found.points_dropped:,} points" if found.points_dropped else None),
            ("blobs", f"{found.blobs:,}, {size(found.blob_bytes)}"),
            ("free", size(found.free_bytes)),
            ("versions", ", ".join(f"{name} {version or '(not installed)'}" for name, version in found.versions.items())),
        ]
    )
    screen.show()
    lines = []
    for finding in found.findings:
        where = finding.where.replace(found.store + os.sep, "") if finding.level != "ok" else ""
        lines.append((finding.level, finding.what, where, finding.cost, finding.hint))
    findings(screen, lines)


def findings(screen: Screen, found: Iterable[tuple[str, str, str, str, str]]) -> None:
    """What was found, as (level, what, where, cost, hint)."""
    table = Table(box=None, show_header=False, show_edge=False, pad_edge=False, padding=(0, GAP, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for level, what, where, cost, hint in found:
        about = [where, *(f"{name}: {text}" for name, text in (("cost", cost), ("hint", hint)) if text)]
        lines = "".join(f"\n{plain(line)}" for line in about if line)
        table.add_row(Text(level, style=_LEVEL_STYLE[level]), Text.assemble(plain(what), (lines, "dim")))
    screen.show(table)
