"""The process that answers SQL of strangers.

    python -m ailab.views.sandbox STORE    a query a line on standard input, its answer on standard output; see `ailab.sandbox`

`questions` says what a query may be. What it costs in time and memory is not bounded here, since no limit of the engine holds;
whoever started this process watches it, and kills it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec

from .. import confined
from ..errors import AilabError, StoreError
from ..sandbox import Head, Question, Tail
from ..store import open_store
from . import asof
from .build import Lab
from .questions import plain_value, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator


def _answer(lab: Lab, asked: Question) -> Iterator[bytes]:
    """The lines of an answer: the head, an array a row, the tail; each ends with a newline, the tail begins with a blank."""
    try:
        lab.refresh()
        asof.make_relations(lab, asked.sql)
        columns, types, parts = rows_of(lab, asked.sql)
        yield msgspec.json.encode(Head(columns, types, len(lab.problems))) + b"\n"
        count = size = 0
        for rows in parts:
            for row in rows:
                line = msgspec.json.encode([plain_value(value) for value in row]) + b"\n"
                count, size = count + 1, size + len(line)
                if count > asked.limit or size > asked.size:
                    yield b" " + msgspec.json.encode(Tail(truncated=True)) + b"\n"
                    return
                yield line
        yield b" " + msgspec.json.encode(Tail()) + b"\n"
    except AilabError as problem:
        told = Tail(
            message=problem.message, hint=problem.hint, where=getattr(problem, "where", "sql"), kind=type(problem).__name__
        )  # fmt: skip
        yield b" " + msgspec.json.encode(told) + b"\n"


def main(store: str) -> None:
    """Answer until nobody asks any more."""
    confined.die_with_parent()
    out = sys.stdout.buffer
    try:
        lab = Lab(open_store(store, create=False))
    except StoreError as problem:
        out.write(b" " + msgspec.json.encode(Tail(message=problem.message, hint=problem.hint, kind="StoreError")) + b"\n")
        return
    for line in sys.stdin.buffer:
        for part in _answer(lab, msgspec.json.decode(line, type=Question)):
            out.write(part)
        out.flush()
    lab.close()


if __name__ == "__main__":
    main(sys.argv[1])
