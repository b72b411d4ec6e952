"""What people call things: runs, changes and metrics by what was written, and what is near where that names nothing.

As in `queries`, which builds on it, every function takes the catalogue first and sees it as it stands; nothing here writes.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from typing import TYPE_CHECKING

from .errors import FilterError, NotFoundError

if TYPE_CHECKING:
    from .views import Lab

LATEST = "latest"
NEAREST = 3
"""How many names are told that look like one that is not there."""
_EVENT = re.compile(r".*?_[0-9]+_([0-9a-f]{8})(?:_.*)?:([0-9]+)")
_SHORT_EVENT = re.compile(r"([0-9a-f]{8}):([0-9]+)")
SHORTEST = 4
"""Characters of a part of an id: fewer name nothing on purpose."""


def nearest_runs(lab: Lab, text: str, *, limit: int = NEAREST) -> list[str]:
    """Ids of runs whose id or name looks like `text`, best first."""
    rows = lab.con.execute(
        """
        SELECT run_id FROM base.run_table WHERE NOT trashed
        ORDER BY greatest(jaro_winkler_similarity(lower(run_id), $1),
                          jaro_winkler_similarity(reverse(lower(run_id)), reverse($1)),
                          jaro_winkler_similarity(lower(name), $1)) DESC, started_at DESC LIMIT $2
        """,
        [text[:200].lower(), limit],
    ).fetchall()
    return [row[0] for row in rows]


def resolve_run(lab: Lab, text: str) -> str:
    """The id of the run that a person means: its id, `latest`, or a start or end of one id that no other shares.

    Raises:
        NotFoundError: no run fits, or several do; names them.
    """
    if text == LATEST:
        rows = lab.con.execute(
            "SELECT run_id FROM base.run_table WHERE NOT trashed ORDER BY started_at DESC, run_id DESC LIMIT 1"
        ).fetchall()
    else:
        rows = lab.con.execute("SELECT run_id FROM base.run_table WHERE run_id = ?", [text]).fetchall()
    if not rows and len(text) >= SHORTEST:
        rows = lab.con.execute(
            "SELECT run_id FROM base.run_table WHERE starts_with(lower(run_id), $1) OR ends_with(lower(run_id), $1) "
            "ORDER BY run_id LIMIT 4",
            [text.lower()],
        ).fetchall()
    if len(rows) == 1:
        return str(rows[0][0])
    if rows:
        raise NotFoundError(
            "run", text, nearest=[row[0] for row in rows], hint=f"several runs fit: {', '.join(row[0] for row in rows)}"
        )
    raise NotFoundError("run", text, nearest=nearest_runs(lab, text))


def resolve_trashed_run(lab: Lab, text: str) -> str:
    """The id of the run that a person wants back: as `resolve_run`, but `latest` is the one that went into the trash last.

    Raises:
        NotFoundError: no run fits, or several do, or none was put in the trash.
    """
    if text != LATEST:
        return resolve_run(lab, text)
    lab.make_views()
    rows = lab.rows(
        """
        SELECT run_id FROM changes WHERE field = 'trashed' AND "new" = 'true'
          AND run_id IN (SELECT run_id FROM base.run_table WHERE own_trashed)
        ORDER BY "at" DESC, length(event) DESC, event DESC LIMIT 1
        """
    )
    if not rows:
        raise NotFoundError("run", text, hint="no run was put in the trash; one that went with its project comes back with it")
    return str(rows[0][0])


def short_event(event: str) -> str:
    """An event's id as people type it: what is random in its segment's name, and its number; see `resolve_change`."""
    found = _EVENT.fullmatch(event)
    return event if found is None else f"{found[1]}:{found[2]}"


def resolve_change(lab: Lab, text: str) -> str:
    """The id of the event that a person means who names a change: its id, or what `short_event` makes of it.

    Raises:
        NotFoundError: no change fits, or several do; names them.
    """
    lab.make_views()
    short = _SHORT_EVENT.fullmatch(text)
    pattern = f".*_[0-9]+_{short[1]}(_.*)?:{short[2]}" if short else None
    rows = lab.rows(
        "SELECT DISTINCT event FROM changes WHERE event = $1 OR regexp_full_match(event, $2) ORDER BY 1", [text, pattern]
    )
    if len(rows) == 1:
        return str(rows[0][0])
    found = [row[0] for row in rows[:4]]
    hint = f"several changes fit: {', '.join(found)}" if found else "`ailab changes` lists those that can be undone"
    raise NotFoundError("change", text, nearest=found, hint=hint)


def known_metrics(lab: Lab, project_id: str | None = None) -> list[str]:
    """Names of all final metrics of runs that are not in the trash, or of one project's, the most used first."""
    return _known(lab, "metrics", project_id)


def _known(lab: Lab, table: str, project_id: str | None) -> list[str]:
    uses: Counter[str] = Counter()
    if project_id is None:
        for (of, key, _), count in lab.keys.items():
            if of == table and count > 0:
                uses[key] += count
    else:
        member = "$.final_metrics" if table == "metrics" else "$.params"
        text = (
            "SELECT key, count(*) FROM (SELECT unnest(json_keys(detail::JSON, ?)) AS key FROM base.run_table "
            "WHERE project_id = ? AND NOT trashed) GROUP BY key"
        )
        uses.update(dict(lab.rows(text, [member, project_id])))
    return sorted(uses, key=lambda key: (-uses[key], key))


def check_known(lab: Lab, table: str, name: str, *, where: str, project_id: str | None = None) -> None:
    """Make sure that some run has a metric or parameter, or that none has any: whoever asks before the first run is not wrong.

    Args:
        lab: the catalogue.
        table: metrics or params.
        name: the metric or parameter.
        where: the part of the question that names it.
        project_id: the only project whose names are told.

    Raises:
        FilterError: runs have others, but not this one; names what looks like it.
    """
    known = _known(lab, table, project_id)
    if known and name not in known:
        raise unknown("metric" if table == "metrics" else "parameter", name, known, where=where)


def check_project(lab: Lab, project_id: str) -> None:
    """Make sure that a project is there, or that none is: whoever asks before the first run is not wrong.

    Raises:
        FilterError: others are there, but not this one; names what looks like it.
    """
    known = [row[0] for row in lab.rows("SELECT project_id FROM base.project_table ORDER BY created_at DESC")]
    if known and project_id not in known:
        raise unknown("project", project_id, known, where="project_id")


def unknown(what: str, name: str, known: list[str], *, where: str) -> FilterError:
    """What is said of a name in a question that is none of the known ones."""
    found = near(name, known)
    return FilterError(f"no {what} {name[:200]!r}", where=where, hint=f"nearest: {', '.join(found)}", nearest=found)


def near(name: str, known: list[str]) -> list[str]:
    """Known names that look like `name`, best first; where none does, the first of them."""
    lower = {text.lower(): text for text in reversed(known)}
    found = [lower[text] for text in difflib.get_close_matches(name.lower(), list(lower), n=NEAREST, cutoff=0.4)]
    return found or known[:NEAREST]
