"""The front door: what `ailab` exports, that each name is there, documented, and stays what it is when it is used again."""

from __future__ import annotations

import inspect
import pkgutil

import pytest

import ailab

# The names of the design: training scripts and notebooks rely on them.
PROMISED = frozenset((
    "AilabError", "Run", "active_run", "compare_runs", "configure", "connect", "define_metric", "end_run", "finish", "flag",
    "get_run", "history", "init", "leaderboard", "list_runs", "log", "log_artifact", "log_artifacts", "log_dict", "log_figure",
    "log_image", "log_metric", "log_metrics", "log_param", "log_params", "log_run", "log_table", "log_text", "note", "run",
    "search_runs", "set_tag", "set_tags", "start_run", "use_dataset",
))  # fmt: skip
PROMISED_OF_RUN = frozenset((
    "config", "define_metric", "finish", "history", "id", "log", "log_artifact", "log_artifacts", "log_dict", "log_figure",
    "log_image", "log_metric", "log_metrics", "log_param", "log_params", "log_table", "log_text", "mode", "name", "note",
    "project", "seed", "set_tag", "set_tags", "status", "store", "summary", "url", "use_content",
))  # fmt: skip


def test_the_public_names_are_these():
    """`__all__`, `dir()` and the promised names are the same; `dir()` adds the version alone."""
    assert set(ailab.__all__) == PROMISED
    assert sorted(dir(ailab)) == sorted([*PROMISED, "__version__"])
    assert len(ailab.__all__) == len(set(ailab.__all__))
    assert sorted(ailab.__all__, key=str.casefold) == list(ailab.__all__)


@pytest.mark.parametrize("name", sorted(PROMISED))
def test_each_public_name_is_there_and_documented(name):
    """It can be reached, is a function or class, and its docstring begins with a sentence."""
    found = getattr(ailab, name)
    assert inspect.isfunction(found) or inspect.isclass(found)
    text = inspect.getdoc(found)
    assert text
    assert text[0].isupper()
    assert text.split("\n\n")[0].rstrip().endswith((".", ":", "`"))


def test_no_other_name_is_there():
    """A name that is not public raises AttributeError with the name in it, and no public object hides beside `__all__`."""
    with pytest.raises(AttributeError, match="'ailab' has no attribute 'log_everything'"):
        _ = ailab.log_everything
    ours = {name: value for name, value in vars(ailab).items() if getattr(value, "__module__", "").startswith("ailab")}
    assert {name for name in ours if not name.startswith("_")} <= PROMISED


def test_no_module_shares_its_name_with_a_public_name():
    """Otherwise a lazily reached function turns into the module once that module has been imported."""
    modules = {found.name for found in pkgutil.iter_modules(ailab.__path__)}
    assert modules >= {"journal", "recorder", "views"}
    assert not modules & PROMISED


def test_every_name_is_the_same_after_every_module_was_imported(scripts):
    """Importing all modules of the package, in whatever order, replaces none of its public names."""
    scripts.run("""
        import importlib, pkgutil, random
        import ailab
        first = {name: getattr(ailab, name) for name in ailab.__all__}
        modules = [m.name for m in pkgutil.walk_packages(ailab.__path__, "ailab.") if not m.name.endswith("__main__")]
        random.shuffle(modules)
        for module in modules:
            importlib.import_module(module)
        changed = [name for name in ailab.__all__ if getattr(ailab, name) is not first[name]]
        assert not changed, changed
    """)


def test_star_import_gives_the_public_names(scripts):
    """`from ailab import *` gives them all, the lazily reached ones too, and nothing else."""
    done = scripts.run("from ailab import *; print(*sorted(n for n in dir() if not n.startswith('__')))")
    assert set(done.stdout.split()) == PROMISED


def test_a_run_has_the_promised_names(store_dir):
    """Everything that scripts may ask of a run is there, methods with a docstring."""
    with ailab.start_run("names") as run:
        missing = [name for name in PROMISED_OF_RUN if not hasattr(run, name)]
        assert missing == []
        methods = [name for name in PROMISED_OF_RUN if callable(getattr(ailab.Run, name, None))]
        assert len(methods) > 15
        assert [name for name in methods if not getattr(ailab.Run, name).__doc__] == []


def test_verbs_of_the_module_are_methods_of_a_run():
    """Every module-level verb that acts on the current run has the signature of the run's method."""
    for name in sorted(PROMISED & PROMISED_OF_RUN - {"note", "history", "finish"}):
        verb, method = getattr(ailab, name), getattr(ailab.Run, name)
        assert verb.__name__ == name
        assert verb.__doc__.startswith(method.__doc__.rstrip())
