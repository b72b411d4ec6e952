"""How `wide` is named and typed: a column per parameter and metric, whatever people call them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from .tables import literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

COLUMNS_MAX = 1000
"""Columns for parameters and metrics: the most used."""
_DURATION = "greatest(0, epoch(coalesce(ended_at, last_at) - started_at)) AS duration_s"

Column = tuple[str, str, str, "str | None"]
"""(`params` or `metrics`, name, SQL type, the column of `run_table` that has it, if one has)"""


def columns(keys: Mapping[tuple[str, str, str], int], hot: Mapping[tuple[str, str], str]) -> tuple[Column, ...]:
    """The columns that `wide` has, parameters first; `keys` tells how many runs have a name with a type."""
    types: dict[tuple[str, str], set[str]] = {}
    uses: Counter[tuple[str, str]] = Counter()
    for (table, key, type_name), count in keys.items():
        if count > 0 and table != "goals":
            types.setdefault((table, key), set()).add(type_name)
            uses[table, key] += count
    most = sorted(sorted(uses, key=lambda k: (-uses[k], k))[:COLUMNS_MAX], key=lambda k: (k[0] == "metrics", k[1]))
    return tuple((table, key, common(types[table, key]), hot.get((table, key))) for table, key in most)


def statement(base: list[str], columns: tuple[Column, ...]) -> str:
    """The SQL that makes `wide`, with the columns `base` of `runs` in front."""
    parts = [_DURATION if name == "duration_s" else f"t.{quoted(name)}" for name in base]
    for (table, key, type_name, column), label in zip(columns, labels(base, columns), strict=True):
        parts.append(f"{wide_value(table, key, type_name, column)} AS {quoted(label)}")
    return (
        f"CREATE OR REPLACE VIEW wide AS SELECT {', '.join(parts)} "  # noqa: S608  (names are quoted, keys are literals)
        "FROM base.run_table t WHERE NOT trashed"
    )


def wide_value(table: str, key: str, type_name: str, column: str | None) -> str:
    """SQL of a parameter's or metric's value in `wide`."""
    pointer = "/" + key.replace("~", "~0").replace("/", "~1")
    if table == "metrics":
        return f"t.{column}" if column else f"TRY_CAST(t.detail::JSON -> '$.final_metrics' ->> {literal(pointer)} AS DOUBLE)"
    text = f"t.{column}" if column else f"(t.detail::JSON -> '$.params' ->> {literal(pointer)})"
    return text if type_name == "VARCHAR" else f"TRY_CAST({text} AS {type_name})"


def common(types: set[str]) -> str:
    """The type that holds values of all `types`."""
    real = types - {"NULL"}
    if len(real) == 1:
        return next(iter(real))
    return "DOUBLE" if real and real <= {"BIGINT", "DOUBLE"} else "VARCHAR"


def labels(base: list[str], columns: Iterable[tuple[str, str, str, Any]]) -> Iterator[str]:
    """Column names of parameters and metrics in `wide`: one that is taken, case ignored, has its table in front."""
    columns = list(columns)
    counts = Counter([name.lower() for name in base] + [column[1].lower() for column in columns])
    used = {name.lower() for name in base}
    for table, key, *_ in columns:
        label = key if key and counts[key.lower()] == 1 else f"{table}.{key}"
        while label.lower() in used:  # two parameters that differ in case only, or one that is called `params.x` itself
            label += "_"
        used.add(label.lower())
        yield label


def quoted(name: str) -> str:
    """A name as SQL writes it."""
    return '"' + name.replace('"', '""').replace("\0", "\N{SYMBOL FOR NULL}") + '"'
