"""The table of goals names tests that are there, with a control each; and every switch is used by some control."""

from __future__ import annotations

import re
from pathlib import Path

import unprotected

HERE = Path(__file__).resolve().parent
PAGE = (HERE / "README.md").read_text(encoding="utf-8")
SOURCES = {
    path.name: path.read_text(encoding="utf-8")
    for folder in (HERE, HERE.parent / "api")
    for path in folder.glob("test_*.py")
    if path.name != Path(__file__).name
}
TESTS = {name for source in SOURCES.values() for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE)}


def rows():
    """{goal: the cells of its row}."""
    cells = (line.strip("| ").split(" | ") for line in PAGE.splitlines() if re.match(r"\| G\d+b? \|", line))
    return {goal: rest for goal, *rest in cells}


def test_every_test_that_the_table_names_is_there():
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert named - TESTS == set()
    assert len(named) > 60


def test_every_goal_has_a_test_a_figure_and_a_control():
    """And each control's docstring says whose it is."""
    for goal, (promise, tests, short, long, controls) in rows().items():
        assert promise
        assert re.findall(r"`(test_\w+)`", tests), goal
        assert short != "–", goal
        assert long, goal
        names = re.findall(r"`(test_control_\w+)`", controls)
        assert names, goal
        text = "\n".join(SOURCES.values())
        for name in names:
            assert f"{goal}, negative control:" in text.partition(f"def {name}(")[2][:600], (goal, name)


def test_every_goal_is_named_by_a_test_of_its_own():
    """A docstring of a test in its row begins with the goal."""
    text = "\n".join(SOURCES.values())
    for goal, (_, tests, *_) in rows().items():
        first = [text.partition(f"def {name}(")[2].partition('"""')[2][:40] for name in re.findall(r"`(test_\w+)`", tests)]
        assert any(goal in said for said in first), (goal, first)


def test_every_switch_has_a_control():
    """No protection is said to be switched off that no test switches off."""
    text = "\n".join(SOURCES.values())
    assert [name for name in unprotected.SWITCHES if f'"{name}"' not in text] == []
    assert all(each.__doc__ for each in unprotected.SWITCHES.values())
