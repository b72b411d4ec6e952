"""Measure what people feel against physical limits and other systems; write RESULTS.md.

    python tests/bench/bench.py               # all of it, about an hour; writes RESULTS.md
    python tests/bench/bench.py --quick       # ailab and the limits, a tenth of the runs: about five minutes
    python tests/bench/bench.py log questions # some of it

Only a whole sitting writes RESULTS.md, from what it measured; `--out FILE` writes the page of any other sitting. What is
measured how stands in README.md beside this file. Progress goes to standard error, figures to standard output.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import asking
import points
import serving
import training
from figures import Row, Table, failed, markdown, report, told
from rivals import rivals
from rooms import HERE, FailedError, say, take_in_orphans
from sitting import FULL, QUICK, Sitting, Sizes

if TYPE_CHECKING:
    from collections.abc import Callable

PARTS: dict[str, Callable[[Sitting], list[Row]]] = {**training.PARTS, **points.PARTS, **asking.PARTS, **serving.PARTS}
OTHERS = "rivals"
ALL = (*PARTS, OTHERS)


def run_part(name: str, sitting: Sitting) -> list[Row]:
    """The rows of a part; one row that says why, if it failed."""
    say(name)
    try:
        rows = PARTS[name](sitting)
    except (FailedError, AssertionError, OSError) as problem:
        traceback.print_exc()
        rows = [failed(f"{name}: {(PARTS[name].__doc__ or '').splitlines()[0]}", problem, "all of it")]
    for row in rows:
        print(told(row), flush=True)
    return rows


def arguments() -> argparse.Namespace:
    """What is wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"parts: {', '.join(ALL)}")
    parser.add_argument("--quick", action="store_true", help="ailab and the limits only, smaller")
    parser.add_argument("--out", type=Path, help="where the page goes; by default RESULTS.md after a whole sitting, else nowhere")
    parser.add_argument("--runs", type=int, help="how many runs are asked about, for a trial of the bench itself")
    parser.add_argument("--jobs", default="", help="of rivals: import,runs,log,kill,points,parallel,questions")
    parser.add_argument("--budget", type=float, help="seconds that one measurement of a slow system may take")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in ALL]
    if unknown:
        parser.error(f"no part {unknown[0]!r}; allowed: {', '.join(ALL)}")
    return given


def sizes_of(given: argparse.Namespace) -> Sizes:
    """How much of everything."""
    sizes = QUICK if given.quick else FULL
    if given.runs:
        sizes = dataclasses.replace(sizes, runs=given.runs, many_runs=10 * given.runs, own_segments=min(given.runs, 300))
    if given.budget:
        sizes = dataclasses.replace(sizes, budget_s=given.budget)
    return sizes


def main() -> None:
    """Run what is wanted and tell it."""
    given, start = arguments(), time.monotonic()
    whole = not (given.names or given.quick or given.runs or given.jobs or given.budget)
    take_in_orphans()
    sizes = sizes_of(given)
    sitting = Sitting(sizes)
    wanted = [name for name in PARTS if name in (given.names or ALL) and (name != "million" or sizes.many_runs)]
    rows: list[Row] = []
    tables: list[Table] = []
    notes: list[str] = []
    try:
        for name in wanted:
            rows += run_part(name, sitting)
        if OTHERS in given.names or not (given.names or given.quick):
            tables, notes = rivals(sizes, only=[job for job in given.jobs.split(",") if job] or None)
            for table in tables:
                print("\n".join(markdown(table.head, table.rows)), flush=True)
    finally:
        sitting.close()
    out = given.out or (HERE / "RESULTS.md" if whole else None)
    if out is not None:
        out.write_text(report(rows, tables, minutes=(time.monotonic() - start) / 60, notes=notes))
        say(f"written: {out}")
    missed = sum(row.reached is False for row in rows)
    print(f"{sum(row.reached is True for row in rows)} reached, {missed} missed", file=sys.stderr)


if __name__ == "__main__":
    main()
