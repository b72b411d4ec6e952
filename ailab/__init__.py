"""ailab: experiments as files. Log runs from training code; read them as tables, pages and answers.

Writing needs the standard library and msgspec, and is here from the start. Reading (`connect`, `get_run`, `search_runs`,
`history`, `compare_runs`, `leaderboard`) is reached by name and loaded at its first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

from .errors import AilabError
from .recorder import (
    active_run,
    configure,
    define_metric,
    end_run,
    finish,
    init,
    log,
    log_artifact,
    log_artifacts,
    log_dict,
    log_figure,
    log_image,
    log_metric,
    log_metrics,
    log_param,
    log_params,
    log_run,
    log_table,
    log_text,
    run,
    set_tag,
    set_tags,
    start_run,
)
from .runs import Run

if TYPE_CHECKING:
    from .reading import compare_runs, get_run, leaderboard, list_runs, note, flag, use_dataset  # noqa: I001
    from .views import connect, history, search_runs

_LATER = {
    "compare_runs": "reading",
    "connect": "views",
    "flag": "reading",
    "get_run": "reading",
    "history": "views",
    "leaderboard": "reading",
    "list_runs": "reading",
    "note": "reading",
    "search_runs": "views",
    "use_dataset": "reading",
}

__all__ = [  # noqa: RUF022  (sorted without regard to case)
    "active_run", "AilabError", "compare_runs", "configure", "connect", "define_metric", "end_run", "finish", "flag", "get_run",
    "history", "init", "leaderboard", "list_runs", "log", "log_artifact", "log_artifacts", "log_dict", "log_figure", "log_image",
    "log_metric", "log_metrics", "log_param", "log_params", "log_run", "log_table", "log_text", "note", "Run", "run",
    "search_runs", "set_tag", "set_tags", "start_run", "use_dataset",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LATER:
        from importlib import import_module

        found = getattr(import_module(f".{_LATER[name]}", __name__), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module 'ailab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
