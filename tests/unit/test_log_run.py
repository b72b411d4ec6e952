"""The decorator: arguments in, results out, on every sort of function, and the function's own behaviour untouched."""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path

import numpy as np
import pytest

import ailab
from ailab import queries


class Halt(Exception):  # noqa: N818  (a name that is nobody else's)
    pass


# -- log_run -----------------------------------------------------------------------------------------------------------


def only_run(lab):
    catalogue = lab()
    assert catalogue.problems == []
    (summary,) = queries.list_runs(catalogue).rows
    return queries.get_run(catalogue, summary.run_id)


def test_log_run_takes_the_bound_arguments_defaults_included(store_dir, lab):
    @ailab.log_run
    def train(model, /, lr=0.1, *sizes, seed=4, **rest):
        """Docstring."""
        return model, lr, sizes, seed, rest

    assert train("svm", 0.2, 3, 4, extra=True) == ("svm", 0.2, (3, 4), 4, {"extra": True})
    found = only_run(lab)
    assert found.params == {"model": "svm", "lr": 0.2, "sizes": [3, 4], "seed": 4, "extra": True}
    assert (found.name, found.seed, found.status) == ("train", 4, "completed")
    assert (train.__name__, train.__doc__) == ("train", "Docstring.")


def test_log_run_with_arguments_of_start_run(store_dir, lab):
    @ailab.log_run(project="Iris", name="named", tags=["a"], params={"fixed": 1})
    def train(lr=0.1):
        ailab.log({"loss": lr})

    train()
    found = only_run(lab)
    assert (found.project, found.name, found.tags, found.params) == ("Iris", "named", {"a": None}, {"fixed": 1, "lr": 0.1})
    assert found.final_metrics == {"loss": 0.1}


def test_log_run_on_methods_leaves_out_self(store_dir, lab):
    class Trainer:
        @ailab.log_run
        def fit(self, n=1):
            return n

        @classmethod
        @ailab.log_run
        def make(cls, n=2):
            return n

        @staticmethod
        @ailab.log_run
        def still(n=3):
            return n

    assert (Trainer().fit(), Trainer.make(), Trainer.still(n=5)) == (1, 2, 5)
    rows = lab().con.execute("SELECT name, params ->> '$.n' FROM runs ORDER BY started_at").fetchall()
    assert rows == [("fit", "1"), ("make", "2"), ("still", "5")]


def test_log_run_of_a_call_that_does_not_fit_raises_pythons_own_error(store_dir, lab):
    @ailab.log_run
    def train(lr):
        return lr

    with pytest.raises(TypeError, match="missing 1 required positional argument: 'lr'"):
        train()
    with pytest.raises(TypeError, match="unexpected keyword argument 'nope'"):
        train(1, nope=2)
    assert [row.status for row in queries.list_runs(lab()).rows] == ["failed", "failed"]


def test_log_run_on_a_generator_lasts_until_it_ends(store_dir, lab):
    """A generator's run is open while it yields, takes what it logs, and ends with it."""

    @ailab.log_run
    def epochs(n=3):
        for i in range(n):
            ailab.log({"i": i}, step=i)
            yield i
        return {"final_metrics": {"done": n}}

    assert list(epochs()) == [0, 1, 2]
    found = only_run(lab)
    assert (found.status, found.final_metrics) == ("completed", {"i": 2, "done": 3})


def test_log_run_on_a_generator_that_is_left_early(store_dir, lab):
    """Whoever breaks out of the loop has not made the run fail."""

    @ailab.log_run
    def epochs():
        i = 0
        while True:
            ailab.log({"i": i})
            yield i
            i += 1

    for i in epochs():
        if i == 2:
            break
    found = only_run(lab)
    assert (found.status, found.final_metrics) == ("completed", {"i": 2})


def test_log_run_on_an_async_generator(store_dir, lab):
    @ailab.log_run
    async def epochs(n=3):
        for i in range(n):
            ailab.log({"i": i})
            yield i

    async def take():
        return [i async for i in epochs()]

    assert asyncio.run(take()) == [0, 1, 2]
    found = only_run(lab)
    assert (found.status, found.final_metrics, found.params) == ("completed", {"i": 2}, {"n": 3})


def test_log_run_on_something_without_a_name(store_dir, lab):
    """A partial or a callable object has no name of its own; its run has one."""

    class Trainer:
        def __call__(self, lr=0.1):
            return lr

    def train(model, lr=0.1):
        return model, lr

    assert ailab.log_run(functools.partial(train, "svm"))(lr=2) == ("svm", 2)
    assert ailab.log_run(Trainer())(lr=3) == 3
    assert [r.final_metrics for r in queries.list_runs(lab()).rows] == [{}, {}]


def test_log_run_on_an_exception(store_dir, lab):
    problem = Halt("stop")

    @ailab.log_run
    def train():
        ailab.log({"a": 1})
        raise problem

    with pytest.raises(Halt) as raised:
        train()
    assert raised.value is problem
    assert (only_run(lab).status, only_run(lab).final_metrics) == ("failed", {"a": 1})


class Answer(dict):
    """A result of a subclass is handed on as itself."""


ANSWERS = [
    ({"final_metrics": {"acc": 0.9, "n": np.int64(3)}}, {"acc": 0.9, "n": 3}, {}),
    ({"acc": 0.9, "loss": np.float32(0.5)}, {"acc": 0.9, "loss": 0.5}, {}),
    ({"acc": 0.9, "model": "svm"}, {}, {}),
    ({"final_metrics": {"acc": "good"}}, {}, {}),
    ({"final_metrics": 5}, {}, {}),
    ({"final_metrics": {"acc": 1}, "artifacts": 5}, {"acc": 1}, {}),
    ({"final_metrics": {"acc": 1}, "artifacts": None, "tags": 5, "note": 7}, {"acc": 1}, {"note": "7"}),
    ({"dataset_id": "iris@v1", "tags": ["x"], "note": "n"}, {}, {"dataset_id": "iris@v1", "tags": {"x": None}, "note": "n"}),
    ({"final_metrics": {"a": 1}, "artifacts": ["f.txt", Path("g.txt")]}, {"a": 1}, {"artifacts": ["f.txt", "g.txt"]}),
    ({"final_metrics": {"a": 1}, "artifacts": "f.txt"}, {"a": 1}, {"artifacts": ["f.txt"]}),
    ({"final_metrics": {"a": 1}, "artifacts": Path("f.txt")}, {"a": 1}, {"artifacts": ["f.txt"]}),
    (None, {}, {}),
    (0.9, {}, {}),
    ([1, 2], {}, {}),
    ("text", {}, {}),
    ({}, {}, {}),
    (Answer(final_metrics={"a": 1}), {"a": 1}, {}),
]
"""(return value, final metrics, other fields of the run)."""


def test_what_a_function_returns_is_recorded_and_handed_on(store_dir, lab, tmp_path):
    (tmp_path / "f.txt").write_text("f")
    (tmp_path / "g.txt").write_text("g")

    @ailab.log_run
    def train(number):
        return ANSWERS[number][0]

    for number, (answer, *_) in enumerate(ANSWERS):
        assert train(number) is answer
    catalogue = lab()
    assert catalogue.problems == []
    rows = catalogue.con.execute("SELECT run_id FROM runs ORDER BY CAST(params ->> '$.number' AS INT)").fetchall()
    for (run_id,), (_, final, rest) in zip(rows, ANSWERS, strict=True):
        found = queries.get_run(catalogue, run_id)
        assert (found.status, found.final_metrics) == ("completed", final)
        assert {name: getattr(found, name) for name in rest} == rest


def test_a_parameter_called_dataset_id_is_the_dataset(store_dir, lab):
    @ailab.log_run
    def train(dataset_id="digits"):
        return None

    train()
    assert only_run(lab).dataset_id == "digits"
