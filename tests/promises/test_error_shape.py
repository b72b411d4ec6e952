"""One shape for every error: one tree, a builtin parent, a message in lower case that shows the value, and a hint."""

from __future__ import annotations

import ast
import builtins
import inspect
import re
from typing import TYPE_CHECKING

import pytest
from house import ROOT, sources

import ailab
from ailab import actions, artifacts, blobs, errors, naming, queries, recorder, segments, settings, store, values, views
from ailab.views.questions import select

if TYPE_CHECKING:
    from collections.abc import Iterator

CLASSES = {name: found for name, found in vars(errors).items() if inspect.isclass(found) and found.__module__ == errors.__name__}
_TREE = re.compile(r"^ *(?P<bars>[│ ]*)(?:[├└]── )?(?P<name>\w+Error)(?: \((?P<parent>\w+)\))?(?P<when> .*)?$")
_BEGINS_WITH_A_NAME = re.compile(r"[A-Z]+\b(?![a-z])|[A-Z]\w*[_.(=]|[A-Z][a-z]+[A-Z]|NaN|[A-Z]\w+ Error: ")
"""What keeps its capitals at the start of a message: acronyms, settings, calls, names of classes, and DuckDB's own words."""


def drawn() -> dict[str, tuple[str | None, str | None]]:
    """The tree in the module's docstring: {class: (the class above it, its builtin parent)}."""
    found: dict[str, tuple[str | None, str | None]] = {}
    above: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        match = _TREE.match(line)
        if match is None:
            continue
        depth = len(match["bars"]) // 4 + ("──" in line)
        above[depth] = match["name"]
        found[match["name"]] = (above.get(depth - 1), match["parent"])
    return found


def test_the_drawn_tree_is_the_real_one():
    """Every class stands in the docstring under the class that it inherits, with the builtin that it also is."""
    real = {}
    for name, found in CLASSES.items():
        ours = [base.__name__ for base in found.__bases__ if base.__name__ in CLASSES]
        builtin = [base.__name__ for base in found.__bases__ if hasattr(builtins, base.__name__) and base is not Exception]
        real[name] = (ours[0] if ours else None, builtin[0] if builtin else None)
    assert drawn() == real


def test_every_error_is_an_ailab_error():
    """One base catches all that is raised on purpose, and each class but the base says when it happens and is a builtin too."""
    for name, found in CLASSES.items():
        assert issubclass(found, errors.AilabError)
        assert found.__doc__
        assert name == "AilabError" or any(
            issubclass(found, parent) for parent in (OSError, ValueError, KeyError, PermissionError, ImportError)
        )
    assert ailab.AilabError is errors.AilabError


# -- messages as people see them ---------------------------------------------------------------------------------------


def provoked(tmp_path) -> Iterator[tuple[type[errors.AilabError], object]]:
    """Ways to go wrong, from every module that raises: (the class expected, what to call)."""
    where = str(tmp_path / "lab")
    with ailab.start_run("known", id="known-run", dir=where) as run:
        run.log({"loss": 0.5})
    yield from of_stores(tmp_path)
    yield from of_questions(where)
    yield from of_settings_and_values()
    yield from of_strict_runs(tmp_path, where)


def of_stores(tmp_path):
    """Folders, markers, segments and blobs that are not what they should be."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("x")
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / store.MARKER).write_text('{"format":2}\n')
    (segment,) = (tmp_path / "lab" / "segments").iterdir()
    ruined = tmp_path / "ruined.jsonl"
    ruined.write_bytes(segment.read_bytes().replace(b"known", b"knewn"))
    sound = store.open_store(str(tmp_path / "lab"), create=False)
    yield errors.StoreError, lambda: store.open_store(str(tmp_path / "nowhere"), create=False)
    yield errors.StoreError, lambda: store.open_store(str(newer), create=True)
    yield errors.ForeignFolderError, lambda: store.open_store(str(tmp_path / "foreign"), create=True)
    yield errors.ForeignFolderError, lambda: store.open_store(str(tmp_path / "file"), create=True)
    yield errors.DamageError, lambda: list(segments.scan(str(ruined)))
    yield errors.NotFoundError, lambda: blobs.open_blob(sound, "../../etc/passwd")
    yield errors.NotFoundError, lambda: blobs.read_blob(sound, "0" * 64)


def of_questions(where):
    """Questions and actions that name what is not there, or do not parse."""
    lab = views.open_lab(where)
    with actions.Actions(lab, via="cli") as act:
        yield errors.NotFoundError, lambda: queries.get_run(lab, "known-rum")
        yield errors.NotFoundError, lambda: naming.resolve_run(lab, "unknown")
        yield errors.NotFoundError, lambda: act.note("unknown", "x")
        yield errors.RejectedError, lambda: act.flag("known-run", "GOOD")
        yield errors.RejectedError, lambda: act.tag("known-run", [""])
        yield errors.RejectedError, lambda: act.note("known-run", "x" * 1_000_001)
    yield errors.FilterError, lambda: queries.RunFilter.parse([("colour", "red")])
    yield errors.FilterError, lambda: queries.RunFilter.parse([("limit", "0")])
    yield errors.FilterError, lambda: queries.RunFilter.parse([("metric_min", "much")])
    yield errors.FilterError, lambda: queries.list_runs(lab, queries.RunFilter.parse([("sort", "colour")]))
    yield errors.FilterError, lambda: queries.list_runs(lab, queries.RunFilter.parse([("from_timestamp", "yesterday")]))
    yield errors.FilterError, lambda: select(lab, "DELETE FROM runs", limit=1)
    yield errors.FilterError, lambda: select(lab, "SELECT nothing FROM runs", limit=1)
    lab.close()


def of_settings_and_values():
    """Texts and values that are not allowed."""
    yield errors.SettingError, lambda: settings.load(mode="sometimes")
    yield errors.SettingError, lambda: settings.load(seed="many")
    yield errors.SettingError, lambda: settings.configure(colour="red")
    yield errors.RejectedError, lambda: values.number("0.9", key="accuracy")
    yield errors.RejectedError, lambda: values.step(1.5)
    yield errors.RejectedError, lambda: recorder.check_run_id("a/b")
    yield errors.RejectedError, lambda: artifacts.place_in_run("../..")


def of_strict_runs(tmp_path, where):
    """What only warns by default."""
    with ailab.start_run("strict", dir=where, strict=True) as strict:
        yield errors.RejectedError, lambda: strict.log({"loss": "high"})
        yield errors.RejectedError, lambda: strict.log_artifact(str(tmp_path / "gone.bin"))
        yield errors.RejectedError, lambda: strict.define_metric("loss", goal="least")
        yield errors.RejectedError, lambda: strict.log_table(5)
    yield errors.RejectedError, lambda: ailab.start_run(id="known-run", resume="never", dir=where, strict=True)
    yield errors.RejectedError, lambda: ailab.start_run(id="unknown-run", resume="must", dir=where, strict=True)


def test_what_people_see(tmp_path):
    """Every error carries its message and hint apart, shows both, begins in lower case and ends without a full stop."""
    seen = set()
    for expected, call in provoked(tmp_path):
        with pytest.raises(expected) as caught:
            call()
        problem = caught.value
        assert type(problem) is expected, problem
        seen.add(expected)
        assert in_house_style(problem.message), problem.message
        assert not problem.hint or not problem.hint.endswith("."), problem.hint
        assert str(problem) == problem.message + (f"\nhint: {problem.hint}" if problem.hint else "")
        assert problem.hint or isinstance(problem, errors.DamageError | errors.NotFoundError | errors.RejectedError), problem
    assert seen >= {
        errors.StoreError, errors.ForeignFolderError, errors.DamageError, errors.NotFoundError, errors.RejectedError,
        errors.FilterError, errors.SettingError,
    }  # fmt: skip


def test_errors_say_where_and_what_is_near(tmp_path):
    """The fields that a program needs are there: path, line and byte; the nearest ids; the setting; the extra to install."""
    damage = errors.DamageError("gap", path="x.jsonl", line=3, offset=120)
    assert str(damage) == "gap in x.jsonl, line 3, byte 120"
    missing = errors.NotFoundError("run", "abd", nearest=["abc", "abe"])
    assert (str(missing), missing.nearest) == ("no run 'abd'\nhint: nearest: abc, abe", ["abc", "abe"])
    door = errors.MissingExtraError("plots", extra="eval")
    assert str(door) == 'plots needs an optional dependency\nhint: pip install "ailab[eval]"'
    with pytest.raises(errors.FilterError) as caught:
        queries.RunFilter.parse([("limit", "many")])
    assert caught.value.where == "limit"


def in_house_style(message: str) -> bool:
    """Whether a message begins in lower case (or with a name that has capitals) and ends without a full stop."""
    begins = not message[:1].isupper() or bool(_BEGINS_WITH_A_NAME.match(message))
    return bool(message) and begins and not message.rstrip().endswith((".", "!"))


# -- messages as they stand in the source ------------------------------------------------------------------------------


def raised() -> Iterator[tuple[str, ast.Call]]:
    """Every call of one of our error classes in the packages, with its place."""
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in CLASSES:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def literal(node: ast.expr) -> tuple[str, str] | None:
    """(first literal part or "", last literal part or "") of a text in the source; None where it is computed elsewhere."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value, node.value
    if isinstance(node, ast.JoinedStr) and node.values:
        first, last = node.values[0], node.values[-1]
        return tuple(str(part.value) if isinstance(part, ast.Constant) else "" for part in (first, last))
    return None


def test_every_message_in_the_source_has_the_style():
    """All literals handed to our error classes, hints too, begin in lower case and end without a full stop."""
    checked, wrong = 0, []
    for place, call in raised():
        texts = [*call.args[:1], *(word.value for word in call.keywords if word.arg in {"hint", "detail"})]
        for text in texts:
            found = literal(text)
            if found is None:
                continue
            checked += 1
            if (found[0] and not in_house_style(found[0] + "…")) or found[1].rstrip().endswith((".", "!")):
                wrong.append(f"{place}: {found}")
    assert wrong == []
    assert checked > 60


@pytest.mark.parametrize(
    ("message", "fine"),
    [
        ("no run 'a'", True), ("JSON does not parse", True), ("AILAB_SEED: 'x' is no whole number", True),
        ("No run 'a'", False), ("no run 'a'.", False), ("done!", False), ("", False), ("The store is full", False),
    ],
)  # fmt: skip
def test_the_style_check_can_fail(message, fine):
    """The check that the two tests above use tells good messages from bad ones."""
    assert in_house_style(message) is fine


def test_no_nameless_error_is_raised():
    """The packages raise our classes, or builtins that say what is wrong; never Exception, RuntimeError or AssertionError."""
    wrong = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                name = getattr(node.exc.func, "id", getattr(node.exc.func, "attr", ""))
                if name in {"Exception", "RuntimeError", "AssertionError", "BaseException"}:
                    wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")
    assert wrong == []
