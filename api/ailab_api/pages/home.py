"""The page at /: how much there is, the best runs by one metric, the newest runs."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from ..markup import Html, join, page, pairs, tag
from ..markup import table as html_table
from .figures import age, note_line, number, plain, status, utc_now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ailab.queries import LeaderboardRow, RunDetail, RunSummaryView

PARAMETERS_SHOWN = 4
METRICS_SHOWN = 4
METRICS_LINKED = 30


def best_guess(metrics: Sequence[str]) -> str | None:
    """The metric to rank by where nobody has said: accuracy if there is one, else the most used."""
    if "accuracy" in metrics:
        return "accuracy"
    return metrics[0] if metrics else None


def home(
    *,
    project: str,
    counts: dict[str, int],
    metrics: Sequence[str],
    metric: str | None,
    best: Sequence[LeaderboardRow],
    newest: Sequence[RunSummaryView],
    details: dict[str, RunDetail],
) -> str:
    """Draw the page.

    Args:
        project: the installation's name.
        counts: how many runs there are, under "runs", then by status.
        metrics: known metrics, the most used first.
        metric: what the leaderboard ranks by, or None where there is no metric.
        best: the leaderboard.
        newest: the newest runs.
        details: parameters of all runs that are shown, by run id.
    """
    body = [tag("h1", "Runs"), _tiles(counts)]
    if not newest:
        return page(project, *body, _empty(), project=project)
    if metric is not None:
        body += [tag("h2", f"Best by {metric}"), _metric_links(metrics, metric), _leaderboard(best, details)]
    body += [tag("h2", "Newest"), _newest(newest, details, counts["runs"])]
    return page(project, *body, project=project)


def _tiles(counts: dict[str, int]) -> Html:
    return tag(
        "ul",
        *(tag("li", tag("b", f"{count:,}"), name) for name, count in counts.items() if count or name == "runs"),
        class_="tiles",
    )


def _empty() -> Html:
    example = 'import ailab\n\nwith ailab.start_run(project="iris") as run:\n    run.log({"accuracy": 0.9})'
    return tag("div", tag("h2", "No run yet"), tag("p", "A script that logs its first run shows up here:"), tag("pre", example))


def _metric_links(metrics: Sequence[str], chosen: str) -> Html:
    shown = list(dict.fromkeys([*metrics[:METRICS_LINKED], chosen]))
    links = [
        tag("li", tag("a", name, href="/?" + urlencode({"metric_name": name}), class_="chip here" if name == chosen else "chip"))
        for name in shown
    ]
    return tag("ul", *links, class_="chips")


def run_link(run_id: str, name: str) -> Html:
    """A link to a run's page."""
    return tag("a", name or run_id, href=f"/runs/{quote(run_id, safe='')}")


def _leaderboard(best: Sequence[LeaderboardRow], details: dict[str, RunDetail]) -> Html:
    if not best:
        return tag("p", "No run has this metric.", class_="soft")
    chosen = telling_parameters([details[row.run_id] for row in best if row.run_id in details])
    rows: list[list[object]] = [
        [
            row.rank, run_link(row.run_id, row.name), number(row.value), row.project or "", row.dataset_id or "",
            _parameters(row.run_id, details, chosen),
        ]
        for row in best
    ]  # fmt: skip
    columns = [
        ("Rank", ""),
        ("Run", ""),
        (best[0].metric_name, "num"),
        ("Project", "word"),
        ("Dataset", "word"),
        ("Parameters", ""),
    ]
    return html_table(columns, rows)


def _newest(newest: Sequence[RunSummaryView], details: dict[str, RunDetail], total: int) -> Html:
    chosen = telling_parameters([details[row.run_id] for row in newest if row.run_id in details])
    now = utc_now()
    rows: list[list[object]] = [
        [
            join(run_link(row.run_id, row.name), _tags(row.tags)), status(row.status), row.project or "", row.dataset_id or "",
            _parameters(row.run_id, details, chosen), _metrics(row), note_line(row.note), age(row.timestamp, now),
            tag("a", "JSON", href=f"/runs/{quote(row.run_id, safe='')}?format=json"),
        ]
        for row in newest
    ]  # fmt: skip
    columns = [
        ("Run", ""),
        ("Status", ""),
        ("Project", "word"),
        ("Dataset", "word"),
        ("Parameters", ""),
        ("Metrics", ""),
        ("Note", ""),
        ("Started", "num"),
        ("Data", "num"),
    ]
    more = tag("p", f"{len(newest)} of {total:,}; more at ", tag("a", "/runs", href="/runs?limit=1000"), class_="soft")
    return join(html_table(columns, rows), more if total > len(newest) else None)


def _tags(tags: dict[str, str | None]) -> Html:
    return join(
        *(join(" ", tag("span", key if value is None else f"{key}={value}", class_="chip")) for key, value in tags.items())
    )


def telling_parameters(runs: Sequence[RunDetail]) -> list[str]:
    """The parameters that differ between runs, those that most runs have first; where none differs, the first ones."""
    values: dict[str, set[str]] = {}
    uses: dict[str, int] = {}
    for run in runs:
        for key, value in run.params.items():
            values.setdefault(key, set()).add(plain(value))
            uses[key] = uses.get(key, 0) + 1
    differing = [key for key in values if len(values[key]) > 1 or uses[key] < len(runs)]
    return sorted(differing or list(values), key=lambda key: -uses[key])[:PARAMETERS_SHOWN]


def _parameters(run_id: str, details: dict[str, RunDetail], chosen: list[str]) -> Html:
    run = details.get(run_id)
    return pairs({key: plain(run.params[key])[:60] for key in chosen if key in run.params}) if run else Html("")


def _metrics(row: RunSummaryView) -> Html:
    names = list(row.final_metrics)[:METRICS_SHOWN]
    more = len(row.final_metrics) - len(names)
    return join(
        pairs({name: number(row.final_metrics[name]) for name in names}),
        tag("span", f"+{more}", class_="soft") if more > 0 else None,
    )
