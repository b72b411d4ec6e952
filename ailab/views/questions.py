"""SQL of strangers: what a query may be, and its rows.

A query is one SELECT over the views and what it makes itself: DuckDB's own parser says which tables and functions it names, and
only those that are known are let through, so no file, setting, variable of the environment or inner table is reached by a name
that nobody thought of. What a WITH makes is known only where the engine finds it. Besides, the catalogue is locked: it can
open nothing outside the store, and no setting can be changed. What a query costs in time and memory is not bounded here, since no
limit of the engine holds: `sandbox` asks in a process that can be killed.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

import duckdb
import msgspec

from ..errors import FilterError
from ..values import as_json
from .rows import stamp
from .tables import literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .build import Lab

FETCH = 500
TABLE_FUNCTIONS = frozenset({"range", "generate_series", "unnest", "runs_as_of", "repeat_row", "summary"})
"""Functions that make rows of nothing but what they are given."""
FORBIDDEN = frozenset({
    "current_setting", "getenv", "getvariable", "write_log", "current_query", "current_database", "current_schemas",
    "in_search_path", "nextval", "currval", "set_config", "pg_sleep", "sleep_ms", "finalize", "json_execute_serialized_sql",
    "query", "query_table", "current_connection_id", "current_transaction_id", "current_query_id", "txid_current",
})  # fmt: skip
"""Functions that tell of the process, its settings and its environment, or change something."""
_VIEWS = "SHOW TABLES names the views, DESCRIBE wide the columns of one"
_EXPLAIN = re.compile(r"\s*explain\s+(?!analyze\b)", re.IGNORECASE)
_SHOW = re.compile(r"\s*show\s+tables\s*;?\s*", re.IGNORECASE)
_PLAIN_NAME = re.compile(r"[^\W\d]\w*")
_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
"""What the engine takes as the same in names; Python also takes the sign of Kelvin for a k."""


def check(con: duckdb.DuckDBPyConnection, query: str, views: frozenset[str]) -> None:
    """Let a query pass that only reads views.

    Args:
        con: any connection; nothing is run on it but the parser.
        query: the text.
        views: what it may read, in lower case.

    Raises:
        FilterError: it does not parse, is not one SELECT, or names something else; says what.
    """
    try:
        kinds = [statement.type.name for statement in duckdb.extract_statements(query)]
    except duckdb.Error as problem:
        raise _refusal(str(problem)) from None
    if kinds not in (["SELECT"], ["EXPLAIN"]):
        said = f"{len(kinds)} statements" if len(kinds) > 1 else ", ".join(kinds) or "nothing"
        hint = (
            "ask them one by one, or join them with UNION ALL" if len(kinds) > 1 else "DESCRIBE wide tells the columns of a view"
        )
        raise FilterError(f"one SELECT is allowed, not {said}", where="sql", hint=hint)
    text = _EXPLAIN.sub("", query, count=1) if kinds == ["EXPLAIN"] else query
    ((parsed,),) = con.execute("SELECT json_serialize_sql(?)", [text]).fetchall()
    tree = msgspec.json.decode(parsed)
    if tree.get("error"):
        raise FilterError("only a SELECT can be asked", where="sql", hint="EXPLAIN SELECT … shows its plan; ANALYZE runs it")
    for node, made in _nodes(tree):
        _check_node(node, views, made)


def _nodes(tree: Any) -> Iterator[tuple[dict[str, Any], frozenset[str]]]:
    """Every node, and the names that WITHs have made where it stands.

    As the engine finds them: what a WITH makes is there in its node and below, and for what it makes later; for itself it is
    there only behind the UNION of a recursive one. Anywhere else the same name is that of a table, and may be of an inner one.
    """
    todo: list[tuple[Any, frozenset[str]]] = [(tree, frozenset())]
    while todo:
        part, made = todo.pop()
        if isinstance(part, list):
            todo += [(one, made) for one in part]
        elif isinstance(part, dict):
            yield part, made
            for entry in (part.get("cte_map") or {}).get("map", []):
                todo.append((entry["value"], made))
                made |= _made_by(entry["key"])
            itself = _made_by(part.get("cte_name", "")) if part.get("type") == "RECURSIVE_CTE_NODE" else frozenset()
            todo += [(one, made | itself if key == "right" else made) for key, one in part.items() if key != "cte_map"]


def _made_by(name: str) -> frozenset[str]:
    return frozenset([name.translate(_LOWER)] if _PLAIN_NAME.fullmatch(name) else [])


def _check_node(node: dict[str, Any], views: frozenset[str], made: frozenset[str]) -> None:
    kind = node.get("type")
    if kind == "BASE_TABLE":
        name, of = str(node.get("table_name", "")), (node.get("catalog_name"), node.get("schema_name"))
        plain = name.translate(_LOWER)
        if not (of == ("", "") and plain in made) and not (of[0] in {"", "memory"} and of[1] in {"", "main"} and plain in views):
            raise FilterError(f"no view {name[:60]!r}", where="sql", hint=_VIEWS)
    elif kind == "TABLE_FUNCTION":
        name = str(node["function"].get("function_name", "")).lower()
        if name not in TABLE_FUNCTIONS:
            raise FilterError(f"{name[:60]} is not allowed", where="sql", hint="queries read the views, and no files or settings")
    elif kind == "SHOW_REF" and str(node.get("table_name") or '"tables"') != '"tables"':
        raise FilterError("only SHOW TABLES, DESCRIBE and SUMMARIZE are allowed", where="sql", hint="DESCRIBE wide")
    elif node.get("class") == "FUNCTION" and str(node.get("function_name", "")).lower() in FORBIDDEN:
        raise FilterError(f"{node['function_name']} is not allowed", where="sql", hint="queries read the views, and no settings")


def _refusal(words: str) -> FilterError:
    return FilterError(words.strip(), where="sql", hint=_VIEWS)


def rows_of(lab: Lab, query: str) -> tuple[list[str], list[str], Iterator[list[tuple[Any, ...]]]]:
    """Run a query; return (column names, column types, its rows, some at a time).

    Raises:
        FilterError: as `check`, or it cannot be run; DuckDB's words say where. Also from the iterator.
    """
    if _SHOW.fullmatch(query):
        query = f"SELECT unnest([{', '.join(literal(name) for name in sorted(lab.view_names()))}]) AS name"
    try:
        lab.prepare(query)
        check(lab.con, query, lab.view_names())
        cursor = lab.locked().execute(query)
        columns = [(str(d[0]), str(d[1])) for d in cursor.description or ()]
    except duckdb.Error as problem:
        raise _refusal(str(problem)) from None

    def some() -> Iterator[list[tuple[Any, ...]]]:
        try:
            while rows := cursor.fetchmany(FETCH):
                yield rows
        except duckdb.Error as problem:
            raise _refusal(str(problem)) from None

    return [name for name, _ in columns], [kind for _, kind in columns], some()


def select(lab: Lab, query: str, *, limit: int) -> tuple[list[str], list[str], list[tuple[Any, ...]]]:
    """Run a query; return (column names, column types, at most `limit` rows).

    Raises:
        FilterError: as `rows_of`.
    """
    columns, types, parts = rows_of(lab, query)
    rows: list[tuple[Any, ...]] = []
    for some in parts:
        rows += some
        if len(rows) >= limit:
            break
    return columns, types, rows[:limit]


def plain_value(value: Any) -> Any:
    """A value of SQL as JSON has it."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return as_json(value)
    if isinstance(value, datetime):
        return stamp(value)
    if isinstance(value, dict):
        return {str(k): plain_value(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(v) for v in value]
    return str(value)
