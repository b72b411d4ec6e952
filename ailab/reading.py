"""The questions and actions for a person at a Python prompt, each over what is in the store now.

The same functions as `queries` and `actions`, with the store found as `start_run` finds it, over the catalogue that the process
keeps of the last store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import inventory, naming, queries
from .actions import Actions
from .filters import RunFilter
from .recorder import active_run
from .views import Table, borrow, history

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from .runs import Run


class RecordedRun(queries.RunDetail, kw_only=True):
    """A run as it was recorded, with its points at hand."""

    store: str

    def history(self, keys: Sequence[str] | None = None) -> Table:
        """Every logged point: columns key, step, time, value, exact."""
        return history(self.run_id, keys=keys, dir=self.store)

    def _repr_html_(self) -> str:
        from html import escape

        rows = "".join(
            f"<tr><td>{escape(str(k))}</td><td>{escape(str(v))}</td></tr>"
            for k, v in {**self.params, **self.final_metrics}.items()
        )
        return f"<b>{escape(self.name)}</b> · {escape(self.status)} · <code>{escape(self.run_id)}</code><table>{rows}</table>"


def get_run(run_id: str, *, dir: str | os.PathLike[str] | None = None) -> RecordedRun:  # noqa: A002
    """Everything about one run: its id, `latest`, or a start or end of an id that no other run shares.

    Raises:
        NotFoundError: there is no such run; names the nearest ids.
    """
    with borrow(dir) as lab:
        detail = queries.get_run(lab, naming.resolve_run(lab, run_id))
        return RecordedRun(**{f: getattr(detail, f) for f in queries.RunDetail.__struct_fields__}, store=lab.store.path)


def list_runs(*, dir: str | os.PathLike[str] | None = None, **filters: Any) -> list[queries.RunSummaryView]:  # noqa: A002
    """Runs that the filters keep, newest first; the filters are those of `GET /runs`.

    Raises:
        FilterError: a filter that is not there or does not parse.
    """
    pairs = [(name, str(value)) for name, value in filters.items() if value is not None]
    return list(_ask(dir, lambda lab: queries.list_runs(lab, RunFilter.parse(pairs), counted=False).rows))


def leaderboard(metric_name: str, *, dir: str | os.PathLike[str] | None = None, **options: Any) -> list[queries.LeaderboardRow]:  # noqa: A002
    """The best runs by a metric; see `queries.leaderboard`."""
    return list(_ask(dir, lambda lab: queries.leaderboard(lab, metric_name, **options)))


def compare_runs(run_ids: Sequence[str], *, dir: str | os.PathLike[str] | None = None) -> queries.RunComparison:  # noqa: A002
    """Runs side by side.

    Raises:
        NotFoundError: one of them is not there.
    """
    found: queries.RunComparison = _ask(dir, lambda lab: queries.compare_runs(lab, [naming.resolve_run(lab, r) for r in run_ids]))
    return found


class UsedDataset(inventory.DatasetDetail, kw_only=True):
    """A version of a dataset, and the file that holds its bytes, which is not to be written to; readers take it as a path."""

    path: str

    def __fspath__(self) -> str:
        return self.path


def use_dataset(text: str, *, role: str = "training", dir: str | os.PathLike[str] | None = None) -> UsedDataset:  # noqa: A002
    """Find a registered version of a dataset; where a run is open, note that it read exactly this content.

    Args:
        text: `iris@v2`, `iris` (its newest version), `iris@sha256:HEX`, or a SHA-256.
        role: what for: training, validation, test, or any word.
        dir: the store; by default that of the current run, or as for `start_run`.

    Raises:
        NotFoundError: there is no such version, or its bytes are not in this store.
    """
    current: Run | None = active_run()
    store = current.store if current is not None else None
    with borrow(store.path if dir is None and store is not None else dir) as lab:
        detail, file = inventory.open_dataset(lab, text)
    file.close()
    if current is not None:
        current.use_content(detail.sha256, dataset=detail.dataset_id.partition("@")[0], name=text, role=role)
    return UsedDataset(**{name: getattr(detail, name) for name in inventory.DatasetDetail.__struct_fields__}, path=file.name)


def note(text: str, run_id: str | None = None, *, dir: str | os.PathLike[str] | None = None) -> None:  # noqa: A002
    """Set the note of the current run, or of the recorded run `run_id`."""
    current: Run | None = active_run()
    if run_id is None and current is not None:
        current.note(text)
        return
    _act(dir, run_id, lambda actions, found: actions.note(found, text))


def flag(word: str, run_id: str | None = None, *, dir: str | os.PathLike[str] | None = None) -> None:  # noqa: A002
    """Flag a recorded run, by default the latest, PUBLISH, BEST or BAD RUN: the tag is set, the note begins with the word."""
    _act(dir, run_id, lambda actions, found: actions.flag(found, word))


def _ask(folder: Any, question: Any) -> Any:
    with borrow(folder) as lab:
        return question(lab)


def _act(folder: Any, run_id: str | None, act: Any) -> None:
    from . import capture

    with borrow(folder) as lab, Actions(lab, via="sdk", by=capture.user_name()) as actions:
        act(actions, naming.resolve_run(lab, run_id or "latest"))
