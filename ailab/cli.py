"""The command line: one function per verb; each opens the store, asks one query or does one action, and prints the answer.

Data goes to standard output, everything else to standard error. `--json` prints the Struct that the HTTP route gives, byte for
byte; without it a person gets tables (`terminal`). What people may do wrong ends in one line `error: …`, one line `hint: …`
and exit status 1 (2 where the command line itself is wrong), with `--json` in one problem object of the same fields as the
server's; a closed pipe ends silently. Modules that a verb needs are imported when it is called: `ailab --help` loads neither
DuckDB nor rich.
"""

from __future__ import annotations

import sys
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import click
import msgspec

from . import __version__, inventory_verbs, upkeep
from .calling import Call, Verbs, counted, dir_option, say
from .errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from . import queries
    from .filters import RunFilter
    from .telemetry import ConsoleLine
    from .terminal import Screen
    from .views import Lab

LATEST = 5
LIMIT_MAX = 1000
POINTS_MAX = 100_000
"""Points of a run that are read one by one; of more, each metric is thinned out, its minima and maxima kept."""
THINNED = 2000


def _given_or_stdin(text: str) -> str:
    """`text`, or for `-` all of standard input without its last newline."""
    if text != "-":
        return text
    return sys.stdin.buffer.read().decode("utf-8", "backslashreplace").removesuffix("\n")


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ailab", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Experiments as files: train, log, look, compare.

    Every verb has --json, and --help with examples. Data goes to standard output, everything else to standard error.
    """
    ctx.ensure_object(Call)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


main.params.append(dir_option())


def _verb(*examples: str, calls: str, **attributes: Any) -> Callable[[Callable[..., None]], click.Command]:
    return main.command(calls=calls, examples=examples, **attributes)


# -- starting ----------------------------------------------------------------------------------------------------------


class Serving(msgspec.Struct):
    """A server that answers at `url`."""

    url: str


@_verb("ailab demo", "ailab demo --runs 12 --no-serve", calls="demo.run_demo, queries.leaderboard")
@click.option("--serve/--no-serve", "serving", default=True, help="Serve the store afterwards. [default: serve]")
@click.option("--runs", "n_runs", type=click.IntRange(min=1), metavar="N", help="How many models to train.")
@click.pass_obj
def demo(call: Call, serving: bool, n_runs: int | None) -> None:  # noqa: FBT001
    """Train small models, then show which are best."""
    from . import queries
    from .demo import run_demo

    run_ids = run_demo(dir=call.dir, n_runs=n_runs, progress=not call.json)
    with call.lab() as lab:
        project = queries.get_run(lab, run_ids[0]).project_id
        rows = queries.leaderboard(lab, "accuracy", project_id=project)
    call.answer(rows, lambda terminal, screen: terminal.leaderboard(screen, rows))
    if serving:
        _serve(call, host="127.0.0.1", port=None, reload=False)
    else:
        say("next: ailab runs, ailab show latest, ailab top accuracy, ailab serve")


@_verb("ailab serve", "ailab serve --port 8080 --dir ~/lab/events", calls="ailab_api.app.serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; off loopback a token is needed.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port. [default: 8000, or the next free one]")
@click.option("--reload", is_flag=True, help="Start anew when the server's own code changes.")
@click.option("--token-file", type=click.Path(), metavar="FILE", help="A file that holds one token that may all.")
@click.pass_obj
def serve(call: Call, host: str, port: int | None, reload: bool, token_file: str | None) -> None:  # noqa: FBT001
    """Serve pages and the HTTP API until Ctrl-C.

    Its address is printed once it answers; with --json as {"url": …}. On loopback nobody needs a token; off it everybody does.
    It answers to its addresses; other names that it is to answer to stand in AILAB_ALLOWED_HOSTS, such as lab.example.
    """
    _serve(call, host=host, port=port, reload=reload, token_file=token_file)


def _serve(call: Call, *, host: str, port: int | None, reload: bool, token_file: str | None = None) -> None:
    from ailab_api.app import serve as start
    from ailab_api.app import told_elsewhere

    from . import settings

    def announce(url: str) -> None:
        click.echo(msgspec.json.encode(Serving(url=url)) if call.json else url)
        for line in told_elsewhere(host, url, settings.load(dir=call.dir)):
            say(line)

    start(host=host, port=port, dir=call.dir, reload=reload, token_file=token_file, announce=announce, waiting=say)


# -- looking -----------------------------------------------------------------------------------------------------------


@_verb(
    "ailab runs --project iris --sort=-metrics.accuracy --limit 10",
    "ailab runs --metric-name accuracy --metric-min 0.9 --param model_name=linear_svm",
    "ailab runs --latest 3",
    calls="queries.list_runs; with --latest also queries.get_runs_by_ids",
)
@click.option("--latest", type=click.IntRange(1, LIMIT_MAX), is_flag=False, flag_value=LATEST, metavar="[N]",
              help=f"The newest N runs, each with parameters, final metrics and artifacts. [N: {LATEST}]")  # fmt: skip
@click.option("--project", help="Of this project: its name or id.")
@click.option("--status", help="pending, running, completed, failed, killed or crashed.")
@click.option("--tag", metavar="KEY[=VALUE]", help="With this tag.")
@click.option("--param", "params", multiple=True, metavar="KEY=VALUE", help="With this parameter; may be given again.")
@click.option("--metric-name", help="With this final metric.")
@click.option("--metric-min", type=float, help="Whose value is at least this.")
@click.option("--metric-max", type=float, help="Whose value is at most this.")
@click.option("--from", "from_timestamp", metavar="TIME", help="Started at or after 2026-01-31 or 2026-01-31T12:00:00Z.")
@click.option("--to", "to_timestamp", metavar="TIME", help="Started at or before; a bare date includes its whole day.")
@click.option("--has-artifacts/--no-artifacts", "has_artifacts", default=None, help="With, or without, artifacts.")
@click.option("--dataset", "dataset_id", help="On this dataset: NAME, NAME@v2, or the text that was its dataset_id.")
@click.option("--command", "command_substring", metavar="TEXT", help="Whose command has this text in it.")
@click.option("--note", "note_substring", metavar="TEXT", help="Whose note has this text in it.")
@click.option("--q", metavar="TEXT", help="With this text in id, name, project, command, dataset, note, parameters or tags.")
@click.option(
    "--where", metavar="TEXT", help="A condition: metrics.acc > 0.9 and (params.model = 'svm' or tags.best is not null)."
)
@click.option("--trashed", is_flag=True, default=None, help="What is in the trash.")
@click.option("--sort", metavar="[-]COLUMN", help="A column, metrics.NAME or params.NAME; - for falling. [default: -started_at]")
@click.option("--limit", type=click.IntRange(1, LIMIT_MAX), help="How many at most. [default: 100]")
@click.pass_obj
def runs(call: Call, /, latest: int | None, **given: Any) -> None:
    """List runs, newest first."""
    from . import queries
    from .filters import RunFilter

    pairs = _filter_pairs(given)
    if latest is not None:
        if given["limit"] is not None or given["sort"] is not None:
            raise click.UsageError("--latest takes neither --limit nor --sort")
        pairs.append(("limit", str(latest)))
    asked = RunFilter.parse(pairs)
    with call.lab() as lab:
        page = queries.list_runs(lab, asked, strict=True)
        if latest is not None:
            details = queries.get_runs_by_ids(lab, [row.run_id for row in page.rows])
            call.answer(details, lambda terminal, screen: terminal.latest(screen, details))
        else:
            call.answer(page.rows, lambda terminal, screen: _draw_runs(lab, page, asked, terminal, screen))
    if not page.rows:
        say("no runs" + (" that the filters keep" if pairs else ""))
    elif page.total > len(page.rows) and latest is None:
        say(f"{len(page.rows):,} of {page.total:,} runs; --limit shows more")


def _filter_pairs(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Options as the texts that a query string would have, so that both are read by the same rules."""
    if given["metric_name"] is None and (given["metric_min"] is not None or given["metric_max"] is not None):
        raise click.UsageError("--metric-min and --metric-max need --metric-name")
    pairs: dict[str, str] = {}
    for name, value in given.items():
        if value is not None and name not in {"params", "project"}:
            pairs[name] = str(value).lower() if isinstance(value, bool) else str(value)
    if given["project"] is not None:
        pairs["project_id"] = given["project"]
    for text in given["params"]:
        key, equals, value = text.partition("=")
        if not equals or f"params.{key}" in pairs:
            raise click.UsageError(f"--param {text!r}: " + ("given twice" if equals else "KEY=VALUE is wanted"))
        pairs[f"params.{key}"] = value
    return list(pairs.items())


def _draw_runs(lab: Lab, page: queries.Page, asked: RunFilter, terminal: Any, screen: Screen) -> None:
    from . import queries

    if not page.rows:
        return
    params = {run.run_id: run.params for run in queries.get_runs_by_ids(lab, [row.run_id for row in page.rows])}
    wanted = [asked.sort.removeprefix("-").removeprefix("metrics."), asked.metric_name or ""]
    terminal.runs(screen, page.rows, params, first=wanted)


@_verb(
    "ailab show latest",
    "ailab show 9y3kf2ab --metrics train_loss val_loss",
    "ailab show latest --console",
    "ailab show latest --diff > change.patch",
    calls="queries.get_run; with --metrics queries.metric_points, with --artifacts queries.list_artifacts, "
    "with --console telemetry.console, with --system telemetry.system_metrics",
)
@click.argument("run")
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@click.option("--metrics", is_flag=True, help="Its points (of the metrics KEY, else of all) and its metrics files.")
@click.option("--artifacts", is_flag=True, help="Its files.")
@click.option("--console", is_flag=True, help="The lines that it printed.")
@click.option("--system", is_flag=True, help="What it used of the machine.")
@click.option("--diff", is_flag=True, help="What differed from the commit.")
@click.option("--packages", is_flag=True, help="The installed packages.")
@click.pass_obj
def show(call: Call, /, run: str, keys: tuple[str, ...], **parts: bool) -> None:
    """Show one run.

    RUN is an id, a start or an end of one that no other run shares, or `latest`. With --json, --metrics prints the points,
    --artifacts the files, --console the lines and --system the figures; without them the answer is the whole run.
    """
    from . import naming, queries, telemetry

    if keys and not parts["metrics"]:
        raise click.UsageError(f"{keys[0]!r} is one word too many; names of metrics need --metrics")
    if call.json and sum(parts[name] for name in ("metrics", "artifacts", "console", "system")) > 1:
        raise click.UsageError("--json gives one answer: --metrics, --artifacts, --console or --system")
    with call.lab() as lab:
        found = queries.get_run(lab, naming.resolve_run(lab, run))
        if call.json and parts["artifacts"]:
            call.answer(queries.list_artifacts(lab, found.run_id))
        elif call.json and parts["metrics"]:
            _check_keys(found, keys, [])
            call.answer(queries.metric_points(lab, found.run_id, keys=keys or None).rows)
        elif call.json and parts["console"]:
            call.answer(list(_console_lines(lab, found.run_id)))
        elif call.json and parts["system"]:
            call.answer(telemetry.system_metrics(lab, found.run_id).rows)
        else:
            call.answer(found, lambda terminal, screen: _draw_run(lab, found, terminal, screen, keys=keys, parts=parts))


def _draw_run(
    lab: Lab, run: queries.RunDetail, terminal: Any, screen: Screen, *, keys: Sequence[str], parts: Mapping[str, bool]
) -> None:
    from . import queries

    if not any(parts.values()):
        page = queries.metric_points(lab, run.run_id, max_points=400)
        terminal.overview(screen, run, {key: values for key, (_, values) in _by_key(page.rows).items()})
    if parts["metrics"]:
        _print_metrics(lab, screen, run, keys)
    if parts["artifacts"]:
        terminal.artifacts(screen, run.artifact_files) if run.artifact_files else say("no artifacts")
    if parts["console"]:
        _print_console(lab, screen, run)
    if parts["system"]:
        _print_system(lab, screen, run)
    if parts["diff"]:
        screen.raw(run.git_diff) if run.git_diff else say("no diff: nothing differed from the commit, or there was no repository")
    if parts["packages"]:
        screen.raw(run.pip_freeze) if run.pip_freeze else say("no packages were captured")


def _console_lines(lab: Lab, run_id: str) -> Iterator[ConsoleLine]:
    """All lines that a run printed."""
    from . import telemetry

    since = None
    while (page := telemetry.console(lab, run_id, since=since, limit=LIMIT_MAX)).rows:
        yield from page.rows
        since = page.next


def _print_console(lab: Lab, screen: Screen, run: queries.RunDetail) -> None:
    line = None
    for line in _console_lines(lab, run.run_id):
        if line.dropped:
            screen.raw(f"… {counted(line.dropped, 'line')} left out")
        if line.line is not None:
            screen.raw(line.line)
    if line is None:
        say("no lines were kept")


def _print_system(lab: Lab, screen: Screen, run: queries.RunDetail) -> None:
    """A line for each figure: what it was in the end, between what it lay, and its curve."""
    from . import telemetry, terminal

    figures: dict[str, list[float]] = {}
    for figure in telemetry.system_metrics(lab, run.run_id, max_points=THINNED).rows:
        figures.setdefault(figure.key, []).append(float(figure.value))
    if not figures:
        say("the use of the machine was not recorded")
        return
    columns = [terminal.Column("figure", [terminal.cell(key) for key in figures])]
    for title, pick in (("last", itemgetter(-1)), ("min", min), ("max", max)):
        texts = [terminal.cell(terminal.figure(key, pick(values))) for key, values in figures.items()]
        columns.append(terminal.Column(title, texts, right=True))
    curves = [terminal.cell(screen.sparkline(values, width=24), "cyan") for values in figures.values()]
    screen.show(terminal.title(run))
    screen.table([*columns, terminal.Column("curve", curves, rank=1)])


def _print_metrics(lab: Lab, screen: Screen, run: queries.RunDetail, keys: Sequence[str]) -> None:
    from . import queries, terminal

    page = queries.metric_points(lab, run.run_id, keys=keys or None, max_points=2)
    names = list(dict.fromkeys(point.key for point in page.rows))
    _check_keys(run, keys, names)
    screen.show(terminal.title(run))
    whole = _by_key(queries.metric_points(lab, run.run_id, keys=names).rows) if page.total <= POINTS_MAX else {}
    for name in names:
        if name in whole:
            steps, values = whole[name]
            count = len(values)
        else:
            thinned = queries.metric_points(lab, run.run_id, keys=[name], max_points=THINNED)
            (steps, values), count = _by_key(thinned.rows)[name], thinned.total
        terminal.points(screen, name, steps, values, count=count)
    finals = {key: value for key, value in run.final_metrics.items() if key not in names and (not keys or key in keys)}
    if not names and not finals:
        say("no metrics were logged")
    if finals:
        screen.heading("final values without points")
        screen.facts([(key, terminal.number(value)) for key, value in finals.items()], indent=2)
    if not keys:
        _print_sheets(lab, screen, run)


def _check_keys(run: queries.RunDetail, keys: Sequence[str], names: Sequence[str]) -> None:
    """Raise NotFoundError for a metric that the run does not have."""
    from . import naming

    known = [*names, *run.final_metrics]
    for key in keys:
        if key not in known:
            raise NotFoundError("metric", key, nearest=naming.near(key, list(dict.fromkeys(known))))


def _by_key(rows: Sequence[queries.MetricPoint]) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values by metric."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for point in rows:
        steps, values = found.setdefault(point.key, ([], []))
        steps.append(point.step)
        values.append(float(point.value))
    return found


def _print_sheets(lab: Lab, screen: Screen, run: queries.RunDetail) -> None:
    """The newest version of each CSV file among the artifacts that holds metrics."""
    from . import queries, terminal

    seen: set[str] = set()
    for file in run.artifact_files:
        if file.kind == "metrics" and file.path.lower().endswith((".csv", ".tsv")) and not file.trashed and file.path not in seen:
            seen.add(file.path)
            try:
                _, content = queries.open_artifact(lab, run.run_id, file.path)
            except NotFoundError as problem:
                say(f"note: {terminal.plain(file.path)} cannot be shown: {problem.message}")
                continue
            with content:
                terminal.sheet(screen, file.path, terminal.read_sheet(content))


@_verb(
    "ailab compare 9y3kf2ab latest", "ailab compare 9y3kf2ab 0c1d2e3f --all", calls="queries.compare_runs, queries.metric_points"
)
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN RUN...")
@click.option("--all", "everything", is_flag=True, help="Also the parameters that are equal.")
@click.pass_obj
def compare(call: Call, run_ids: tuple[str, ...], everything: bool) -> None:  # noqa: FBT001
    """Put runs side by side, with what differs first.

    `*` marks the best value of a metric; behind it is the change from the first run. Curves of one metric have one scale.
    RUN is an id, a start or an end of one that no other run shares, or `latest`.
    """
    from . import naming, queries

    with call.lab() as lab:
        found = queries.compare_runs(lab, [naming.resolve_run(lab, run) for run in run_ids])
        if len(found.runs) < 2:  # noqa: PLR2004
            raise click.UsageError("compare takes two different runs or more")
        call.answer(found, lambda terminal, screen: _draw_comparison(lab, found, terminal, screen, everything=everything))


def _draw_comparison(lab: Lab, found: queries.RunComparison, terminal: Any, screen: Screen, *, everything: bool) -> None:
    from . import queries

    curves: dict[str, dict[str, list[float]]] = {}
    for run in found.runs:
        page = queries.metric_points(lab, run.run_id, max_points=400)
        for key, (_, values) in _by_key(page.rows).items():
            if len(values) > 1:
                curves.setdefault(key, {})[run.run_id] = values
    common = {key: by_run for key, by_run in curves.items() if len(by_run) > 1}
    goals = queries.metric_goals(lab, found.metric_keys)
    terminal.comparison(screen, found, goals, common, everything=everything)


@_verb("ailab top accuracy", "ailab top val_loss -k 5 --dataset iris --of min", calls="queries.leaderboard")
@click.argument("metric")
@click.option("-k", "--top-k", type=click.IntRange(1, LIMIT_MAX), default=10, show_default=True, help="How many at most.")
@click.option("--dataset", "dataset_id", help="On this dataset: NAME, NAME@v2, or the text that was its dataset_id.")
@click.option("--project", help="Only runs of this project: its name or id.")
@click.option(
    "--of", type=click.Choice(["last", "min", "max", "mean"]), help="Which of the logged points. [default: the final value]"
)
@click.option(
    "--order", type=click.Choice(["asc", "desc"]), help="Which way is best. [default: as the metric's goal or name says]"
)
@click.option("--has-artifacts/--no-artifacts", "has_artifacts", default=None, help="Only runs with, or without, artifacts.")
@click.pass_obj
def top(call: Call, /, metric: str, project: str | None, **options: Any) -> None:
    """Rank runs by a metric, best first."""
    from . import naming, queries

    with call.lab() as lab:
        rows = queries.leaderboard(lab, metric, project_id=project, strict=True, **options)
        if not rows:
            known = naming.known_metrics(lab)
            say("no runs that the filters keep have this metric" if known else "no run has a final metric yet")
    if rows or call.json:
        call.answer(rows, lambda terminal, screen: terminal.leaderboard(screen, rows))


# -- acting ------------------------------------------------------------------------------------------------------------


@_verb('ailab note latest "lower rate, same data"', "git log -1 | ailab note latest -", calls="actions.Actions.note")
@click.argument("run")
@click.argument("text", nargs=-1, required=True)
@click.pass_obj
def note(call: Call, run: str, text: tuple[str, ...]) -> None:
    """Set the note of a run; every version is kept.

    RUN is an id, a start or an end of one that no other run shares, or `latest`. TEXT `-` reads standard input.
    """
    content = _given_or_stdin(" ".join(text))
    _act(call, run, lambda actions, run_id: actions.note(run_id, content))


@_verb("ailab flag latest best", 'ailab flag 9y3kf2ab "bad run"', calls="actions.Actions.flag")
@click.argument("run")
@click.argument("word", nargs=-1, required=True, metavar="publish|best|bad run")
@click.pass_obj
def flag(call: Call, run: str, word: tuple[str, ...]) -> None:
    """Flag a run PUBLISH, BEST or BAD RUN.

    The tag is set, and the note begins with the word.
    RUN is an id, a start or an end of one that no other run shares, or `latest`.
    """
    _act(call, run, lambda actions, run_id: actions.flag(run_id, " ".join(word)))


@_verb("ailab tag latest baseline data=v2", "ailab tag 9y3kf2ab --remove baseline", calls="actions.Actions.tag")
@click.argument("run")
@click.argument("tags", nargs=-1, metavar="[KEY[=VALUE]]...")
@click.option("--remove", multiple=True, metavar="KEY", help="Take this tag away; may be given again.")
@click.pass_obj
def tag(call: Call, run: str, tags: tuple[str, ...], remove: tuple[str, ...]) -> None:
    """Set tags of a run, or take them away.

    RUN is an id, a start or an end of one that no other run shares, or `latest`.
    """
    if not tags and not remove:
        raise click.UsageError("no tag is given: KEY, KEY=VALUE or --remove KEY")
    _act(call, run, lambda actions, run_id: _retag(actions, run_id, tags, remove))


def _retag(actions: Any, run_id: str, chosen: Sequence[str], remove: Sequence[str]) -> queries.RunDetail:
    """Set and remove tags; what cannot be removed, because it is not there, is said."""
    from . import queries

    run = queries.get_run(actions.lab, run_id)
    there = run.tags
    if absent := [key for key in remove if key not in there]:
        say(f"note: no tag {', '.join(map(repr, absent))} to remove; the run has {', '.join(there) or 'none'}")
    gone = [key for key in remove if key in there]
    return actions.tag(run_id, chosen, remove=gone) if chosen or gone else run


def _act(call: Call, run: str, act: Callable[[Any, str], queries.RunDetail]) -> None:
    from . import naming
    from .actions import Actions
    from .capture import user_name

    with call.lab() as lab, Actions(lab, via="cli", by=user_name()) as actions:
        found = act(actions, naming.resolve_run(lab, run))
    call.answer(found, lambda terminal, screen: terminal.acted(screen, found))


@_verb("ailab changes", "ailab changes latest --limit 5", calls="queries.list_changes")
@click.argument("run", required=False)
@click.option("--limit", type=click.IntRange(1, LIMIT_MAX), default=100, show_default=True, help="How many at most.")
@click.pass_obj
def changes(call: Call, run: str | None, limit: int) -> None:
    """List what was changed, when, and by whom.

    Newest first, with the value before and after, and the event that `ailab undo` takes.
    RUN is an id, a start or an end of one that no other run shares, or `latest`; without it, of all runs and projects.
    """
    from . import inventory_drawn, naming, queries

    with call.lab() as lab:
        run_id = None if run is None else naming.resolve_run(lab, run)
        page = queries.list_changes(lab, run_id=run_id, limit=limit)
    if page.rows or call.json:
        call.answer(page.rows, lambda _terminal, screen: inventory_drawn.changes(screen, page.rows))
    if not page.rows:
        say("nothing was changed")
    elif page.total > len(page.rows):
        say(f"{len(page.rows):,} of {page.total:,} changes; --limit shows more")


# -- asking ------------------------------------------------------------------------------------------------------------


@_verb(
    "ailab sql",
    'ailab sql "select model_name, max(accuracy) from wide group by 1"',
    "ailab sql --csv - < question.sql > answer.csv",
    calls="queries.run_sql; without QUERY queries.describe_views",
)
@click.argument("query", required=False)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@click.option("--limit", type=click.IntRange(min=1), help=f"How many rows at most. [default: {LIMIT_MAX}; with --csv all]")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True, metavar="S",
              help="How long it may take.")  # fmt: skip
@click.pass_obj
def sql(call: Call, query: str | None, as_csv: bool, limit: int | None, seconds: float) -> None:  # noqa: FBT001
    """Answer a SELECT over the views, or list them.

    Without QUERY, the views and what their columns mean.
    QUERY `-` reads standard input. It runs in a process of its own, which may take so long and 2 GiB of memory.
    """
    from . import queries

    if as_csv and call.json:
        raise click.UsageError("--json or --csv, not both")
    if query is None:
        with call.lab() as lab:
            found = queries.describe_views(lab)
        call.answer(found, lambda terminal, screen: terminal.views(screen, found))
        return
    most = limit or (sys.maxsize >> 1 if as_csv else LIMIT_MAX)
    text = _given_or_stdin(query)
    answer = _asked(call, text, most, seconds)
    if as_csv:
        _print_csv(answer)
    else:
        call.answer(answer, lambda terminal, screen: _draw_rows(answer, terminal, screen))
    if answer.truncated:
        say(f"the first {counted(len(answer.rows), 'row')}; --limit shows more")


def _asked(call: Call, text: str, limit: int, seconds: float) -> queries.SqlAnswer:
    """The answer of a query that is asked in a process of its own."""
    from . import queries
    from .checkup import store_path
    from .sandbox import Sandbox, collect
    from .store import open_store

    box = Sandbox(open_store(store_path(call.dir), create=False).path)
    try:
        head, rows, truncated = collect(box.ask(text, limit=limit, seconds=seconds, size=sys.maxsize >> 1))
    finally:
        box.close()
    if head.problems:
        say(f"note: {counted(head.problems, 'place')} in this store could not be read; `ailab doctor` says where")
    return queries.SqlAnswer(columns=head.columns, types=head.types, rows=rows, truncated=truncated)


def _draw_rows(answer: queries.SqlAnswer, terminal: Any, screen: Screen) -> None:
    terminal.rows_of_sql(screen, answer)
    if screen.left_out:
        missing = counted(len(screen.left_out), "column")
        say(f"{missing} without room: {', '.join(screen.left_out)}; --json and --csv give all")


def _print_csv(answer: queries.SqlAnswer) -> None:
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(answer.columns)
    for row in answer.rows:
        writer.writerow([msgspec.json.encode(v).decode() if isinstance(v, dict | list | bool) else v for v in row])


@_verb("ailab doctor", "ailab doctor --dir /mnt/backup/events --json", calls="checkup.examine")
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """Say what is damaged, what it cost, what to do.

    The exit status is 0 without errors, else 1.
    """
    from . import checkup

    call = ctx.ensure_object(Call)
    found = checkup.examine(checkup.store_path(call.dir))
    call.answer(found, lambda terminal, screen: terminal.checkup(screen, found))
    if not found.healthy:
        ctx.exit(1)


for _command in [*upkeep.VERBS, *inventory_verbs.VERBS]:
    main.add_command(_command)
