"""The README can be believed: its code runs as a user would run it, in order, in one empty folder.

Each ```python block is a script of its own. Of ```sh and ```console blocks the `ailab …` and `python …` commands run (in
`console`, the lines behind `$`); `make`, `ailab serve` and what installs have tests of their own. Each ```sql block is asked
with `ailab sql` and has rows. A block behind `<!-- no test: reason -->` does not run, for that reason.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from house import ROOT, Block, blocks, environment, page

if TYPE_CHECKING:
    from pathlib import Path

SHELLS = {"sh", "console", "bash"}
RUN = {"python", "sql", *SHELLS}
TESTED_ELSEWHERE = re.compile(r"make\b|ailab serve\b|curl\b|pip install\b|python -m (?:venv|pip)\b|git clone\b|cd\b|source\b|\. ")
TIMEOUT_S = 120


@dataclass(frozen=True)
class Step:
    """One thing that a reader of a page runs."""

    block: Block
    kind: str
    text: str

    def __str__(self) -> str:
        return f"line {self.block.line}: {self.text.strip().splitlines()[0]}"


def commands(block: Block) -> list[str]:
    """The commands of a shell block, continued lines joined, comments and answers left out."""
    text = re.sub(r"\\\n\s*", "", block.text)
    lines = text.splitlines()
    if block.language == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    stripped = [re.sub(r"(?:^|\s)#(?=\s|$).*", "", line).strip() for line in lines]
    return [line for line in stripped if line]


def steps(text: str) -> list[Step]:
    """What runs of a page, in order."""
    found = []
    for block in blocks(text):
        if block.language not in RUN or block.no_test is not None:
            continue
        if block.language in SHELLS:
            found += [Step(block, "shell", line) for line in commands(block) if not TESTED_ELSEWHERE.match(line)]
        else:
            found.append(Step(block, block.language, block.text))
    return found


class Reader:
    """Somebody who does what a page says, in a folder of their own with the examples beside them.

    `ailab` and `python` are those of this interpreter.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "desk"
        self.folder.mkdir()
        shutil.copytree(ROOT / "examples", self.folder / "examples", ignore=shutil.ignore_patterns("checkpoints", "__pycache__"))
        tools = folder / "bin"
        tools.mkdir()
        for name, line in {"ailab": f'exec "{sys.executable}" -m ailab "$@"', "python": f'exec "{sys.executable}" "$@"'}.items():
            (tools / name).write_text(f"#!/bin/sh\n{line}\n")
            (tools / name).chmod(0o755)
        plain = environment()
        self.environment = {**plain, "PATH": f"{tools}{os.pathsep}{plain['PATH']}", "HOME": str(folder), "NO_COLOR": "1"}
        self.scripts = 0

    def do(self, step: Step) -> str:
        """Run one step; return what it printed.

        Raises:
            AssertionError: it failed, or a question had no rows, or a print nothing to show.
        """
        if step.kind == "python":
            self.scripts += 1
            script = self.folder / f"script_{self.scripts}.py"
            script.write_text(step.text)
            told = self._run([sys.executable, str(script)], step)
            assert not {"[]", "None"} & set(told.splitlines()), f"{step} prints an empty answer:\n{told}"
            return told
        if step.kind == "sql":
            told = self._run([sys.executable, "-m", "ailab", "sql", step.text, "--json"], step)
            assert json.loads(told)["rows"], f"{step} has no rows"
            return told
        first = step.text.split()[0]
        assert first in {"ailab", "python"}, f"{step} is run by no test; say why before the block: <!-- no test: reason -->"
        return self._run(["bash", "-euo", "pipefail", "-c", step.text], step)

    def _run(self, command: list[str], step: Step) -> str:
        done = subprocess.run(
            command, check=False, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=TIMEOUT_S
        )
        assert done.returncode == 0, f"{step} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def test_the_readme_runs(tmp_path):
    """Every step of the README works, one after the other."""
    reader = Reader(tmp_path)
    todo = steps(page("README.md"))
    assert {step.kind for step in todo} >= {"python", "shell", "sql"}
    for step in todo:
        reader.do(step)


def test_what_does_not_run_says_why():
    """A block that is left out names the test that runs it or what it does, and so few are that the promise keeps its worth."""
    left_out = [block for block in blocks(page("README.md")) if block.no_test is not None]
    named = {block.line: re.findall(r"tests/[\w/]+\.py", block.no_test) for block in left_out}
    assert [line for line, tests in named.items() if not tests or not all((ROOT / test).is_file() for test in tests)] == []
    assert len(left_out) <= 4


def test_every_block_has_a_language():
    """A block without one would be run by nobody without anyone's noticing."""
    known = RUN | {"text", "toml", "json", "jsonl", "mermaid", "dotenv", "ini", "html", "js", "makefile", "yaml"}
    for name in ("README.md", "CONTRIBUTING.md", "events/README.md"):
        unknown = [block for block in blocks(page(name)) if block.language not in known]
        assert [block.line for block in unknown if not block.text.startswith("ailab/ ")] == [], name  # the picture of the house


PAGE = """
```python
import ailab
with ailab.start_run("svm", id="one", params={"lr": 0.1}) as run:
    run.log({"accuracy": 0.9})
```

```console
$ ailab runs   # a comment
one  svm
$ python -c \\
    "print('joined')"
$ make demo
```

<!-- no test: it needs a key -->
```python
raise SystemExit("not run")
```

```sql
SELECT name, accuracy FROM wide
```
"""


def test_a_page_is_done_as_it_is_written(tmp_path):
    """The machinery of this test: order, joined lines, comments, answers, blocks left out; and what is wrong is found out."""
    todo = steps(PAGE)
    assert [(step.kind, step.text) for step in todo[1:]] == [
        ("shell", "ailab runs"), ("shell", "python -c \"print('joined')\""), ("sql", "SELECT name, accuracy FROM wide\n"),
    ]  # fmt: skip
    reader = Reader(tmp_path)
    told = [reader.do(step) for step in todo]
    assert "svm" in told[1]
    assert told[2] == "joined\n"
    assert json.loads(told[3])["rows"] == [["svm", 0.9]]
    for text in (
        "python\n1 / 0",
        "sh\nailab show nothing",
        "sql\nSELECT 1 WHERE false",
        "sh\nrm -r x",
        "python\nprint(1, [])\nprint([])",
    ):
        with pytest.raises(AssertionError, match="line 1"):
            reader.do(steps(f"```{text}\n```")[0])
