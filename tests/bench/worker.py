"""The process that is measured: call one function with arguments given as JSON, put what it returns where it is wanted.

    python worker.py MODULE FUNCTION OUT ARGUMENTS

It imports as little as it can: what a fresh process costs in time and memory is among the things measured.
"""

from __future__ import annotations

import json
import os
import sys

OUT = ""


def tell(answer: dict) -> None:
    """Write an answer, so that a job which is ended later has given it in part."""
    with open(OUT + ".part", "w") as file:
        json.dump(answer, file)
    os.replace(OUT + ".part", OUT)


def main(module: str, function: str, out: str, arguments: str) -> None:
    """Call the function; its answer is JSON."""
    global OUT  # noqa: PLW0603  (one process, one job)
    OUT = out
    sys.modules["worker"] = sys.modules["__main__"]
    from importlib import import_module

    tell(getattr(import_module(module), function)(**json.loads(arguments)))


if __name__ == "__main__":
    main(*sys.argv[1:])
