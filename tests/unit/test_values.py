"""What may be logged: every value is kept exactly, or refused with a sentence that names key, value and reason."""

from __future__ import annotations

import math
from argparse import Namespace
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ailab import values
from ailab.errors import RejectedError


class Scalar:
    """What torch, jax and tensorflow scalars have in common, and nothing else."""

    shape = ()
    dtype = "float32"

    def __init__(self, value: object) -> None:
        self._value = value

    def item(self) -> object:
        return self._value

    def __float__(self) -> float:
        raise AssertionError("item() is exact, float() is not")


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no text for you")


class Seven(IntEnum):
    SEVEN = 7


class Long(int):
    """An integer of a subclass, as some libraries hand out."""


class Colour(Enum):
    RED = "red"


EXACT = [
    pytest.param(True, 1, id="bool"),
    pytest.param(3, 3, id="int"),
    pytest.param(2**53 + 1, 2**53 + 1, id="beyond a double"),
    pytest.param(2**63, 2**63, id="beyond 64 bits"),
    pytest.param(10**30, 10**30, id="30 digits"),
    pytest.param(10**400, 10**400, id="beyond every double"),
    pytest.param(Long(2**53 + 1), 2**53 + 1, id="int subclass"),
    pytest.param(Seven.SEVEN, 7, id="IntEnum"),
    pytest.param(0.1, 0.1, id="float"),
    pytest.param(5e-324, 5e-324, id="denormal"),
    pytest.param(-0.0, -0.0, id="minus zero"),
    pytest.param(math.nan, "NaN", id="NaN"),
    pytest.param(math.inf, "Infinity", id="inf"),
    pytest.param(-math.inf, "-Infinity", id="-inf"),
    pytest.param(np.float64(0.1), 0.1, id="float64"),
    pytest.param(np.float64("nan"), "NaN", id="float64 NaN"),
    pytest.param(np.float32(0.1), 0.10000000149011612, id="float32"),
    pytest.param(np.float16(0.5), 0.5, id="float16"),
    pytest.param(np.int64(-3), -3, id="int64"),
    pytest.param(np.uint64(2**64 - 1), 2**64 - 1, id="uint64"),
    pytest.param(np.bool_(True), 1, id="numpy bool"),
    pytest.param(np.array(0.25), 0.25, id="0-d array"),
    pytest.param(np.array([0.25]), 0.25, id="array of one"),
    pytest.param(Scalar(0.3), 0.3, id="tensor"),
    pytest.param(Scalar(2**60 + 1), 2**60 + 1, id="integer tensor"),
    pytest.param(Decimal("0.1"), "0.1", id="Decimal"),
    pytest.param(Decimal("1E+3"), "1E+3", id="Decimal with exponent"),
    pytest.param(Decimal("NaN"), "NaN", id="Decimal NaN"),
    pytest.param(Decimal("-Infinity"), "-Infinity", id="Decimal -inf"),
    pytest.param(Fraction(1, 4), 0.25, id="Fraction"),
]


@pytest.mark.parametrize(("value", "kept"), EXACT)
def test_a_number_is_kept_exactly(value, kept):
    """Numbers of any kind come out as the same number, of a plain type."""
    found = values.number(value, key="k")
    assert found == kept
    assert type(found) is type(kept)
    assert math.copysign(1, float(found)) == math.copysign(1, float(kept)) if kept == 0 else True


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("0.5", id="text"),
        pytest.param(b"5", id="bytes"),
        pytest.param(bytearray(b"5"), id="bytearray"),
        pytest.param(None, id="None"),
        pytest.param(1 + 2j, id="complex"),
        pytest.param([1.0], id="list"),
        pytest.param({"a": 1}.keys(), id="keys"),
        pytest.param(np.array([1.0, 2.0]), id="array of two"),
        pytest.param(np.complex64(1j), id="numpy complex"),
        pytest.param(np.array("x"), id="array of text"),
        pytest.param(Scalar([1, 2]), id="tensor of two"),
        pytest.param(Scalar(Scalar(1)), id="tensor that gives a tensor"),
        pytest.param(object(), id="object"),
        pytest.param(Broken(), id="no repr"),
        pytest.param(Decimal("sNaN"), id="signalling NaN"),
        pytest.param(10**5000, id="an integer that Python will not print"),
    ],
)
def test_what_is_no_number_is_refused_by_name(value):
    """The refusal names the key; nothing else than RejectedError ever comes out."""
    with pytest.raises(RejectedError, match="metric 'val/acc'") as problem:
        values.number(value, key="val/acc")
    assert problem.value.key == "val/acc"


@given(st.floats(allow_nan=False, allow_infinity=False, width=64) | st.integers())
def test_every_finite_number_comes_back_bit_for_bit(value):
    """Whatever float64 or integer goes in, the same bits come out."""
    found = values.number(value, key="k")
    assert (found, type(found)) == (value, type(value))
    assert math.copysign(1, found) == math.copysign(1, value)


def test_metrics_are_flattened_and_a_bad_one_does_not_take_the_others():
    """Nested names are joined with a slash; what is no number is listed, and the rest is kept."""
    kept, refused = values.metrics({"a": 1, "train": {"loss": 0.5, "bad": "x", "deep": {"y": np.float32(2)}}, "none": None})
    assert kept == {"a": 1, "train/loss": 0.5, "train/deep/y": 2.0}
    assert sorted(problem.key for problem in refused) == ["none", "train/bad"]


@pytest.mark.parametrize("given_values", [None, 5, "loss", [("a", 1)], 0.5])
def test_metrics_that_are_no_dictionary_are_refused(given_values):
    kept, refused = values.metrics(given_values)
    assert kept == {}
    assert len(refused) == 1


def test_a_bad_decimal_does_not_take_the_other_metrics():
    """A value whose own conversion raises is refused alone."""
    kept, refused = values.metrics({"a": 1, "b": Decimal("sNaN"), "c": 10**5000})
    assert kept == {"a": 1}
    assert sorted(problem.key for problem in refused) == ["b", "c"]


@pytest.mark.parametrize(
    ("given_step", "kept"),
    [(None, None), (0, 0), (-7, -7), (5.0, 5), (np.int32(4), 4), (np.array(4), 4), (True, 1), (2**40, 2**40), (np.float64(3), 3)],
)
def test_a_step_is_a_whole_number(given_step, kept):
    found = values.step(given_step)
    assert (found, type(found)) == (kept, type(kept))


@pytest.mark.parametrize("given_step", ["5", 5.5, math.nan, math.inf, "x", object(), [1], 2**63, -(2**63) - 1])
def test_a_step_that_is_no_whole_number_is_refused(given_step):
    with pytest.raises(RejectedError, match="step") as problem:
        values.step(given_step)
    assert problem.value.key == "step"


def test_parameters_of_every_kind_are_kept():
    """Nested dictionaries are joined with a slash, everything else becomes JSON that says what it was."""

    @dataclass
    class Config:
        lr: float = 0.1
        layers: tuple[int, ...] = (3, 4)

    kept, refused = values.parameters({
        "none": None, "yes": True, "n": 3, "f": 0.5, "nan": math.nan, "s": "text", "list": [1, "a", None],
        "opt": {"name": "sgd", "betas": (0.9, 0.99)}, "path": Path("/data/x"), "colour": Colour.RED, "f32": np.float32(0.5),
        "arr": np.zeros((2, 3)), "set": {3, 1, 2}, "config": Config(), "ns": Namespace(a=1), "cls": Colour, "fn": len,
        "big": 10**30, "empty": {},
    })  # fmt: skip
    assert refused == []
    assert kept == {
        "none": None, "yes": True, "n": 3, "f": 0.5, "nan": "NaN", "s": "text", "list": [1, "a", None],
        "opt/name": "sgd", "opt/betas": [0.9, 0.99], "path": "/data/x", "colour": "red", "f32": 0.5,
        "arr": "ndarray(shape=(2, 3), dtype=float64)", "set": [1, 2, 3], "config": {"lr": 0.1, "layers": [3, 4]},
        "ns": {"a": 1}, "cls": "tests_values.Colour", "fn": "builtins.len", "big": 10**30, "empty": {},
    } | {"cls": f"{Colour.__module__}.Colour"}  # fmt: skip


def test_a_parameter_that_cannot_be_encoded_keeps_its_type_and_is_named():
    kept, refused = values.parameters({"ok": 1, "bad": Broken()})
    assert kept == {"ok": 1, "bad": f"<{__name__}.Broken>"}
    assert [problem.key for problem in refused] == ["bad"]
    assert "RuntimeError" in refused[0].message


def test_a_circle_ends():
    """A dictionary or list that holds itself, even twice, is written in no time."""
    circle: dict[str, object] = {"a": 1}
    circle["left"] = circle["right"] = circle
    ring: list[object] = [2]
    ring += [ring, ring]
    kept, _ = values.parameters({"circle": circle, "ring": ring})
    assert kept["circle/a"] == 1
    assert kept["ring"][0] == 2
    assert len(kept) < 10


def test_the_same_dictionary_twice_is_no_circle():
    """Sharing is not a circle: both places keep their values."""
    shared = {"x": 1}
    kept, refused = values.parameters({"a": shared, "b": shared, "c": [shared, shared]})
    assert kept == {"a/x": 1, "b/x": 1, "c": [{"x": 1}, {"x": 1}]}
    assert refused == []


def test_a_deep_nest_ends_and_says_so():
    """Ten thousand levels neither overflow the stack nor vanish without a word."""
    deep: dict[str, object] = {"leaf": 1}
    for _ in range(10_000):
        deep = {"d": deep}
    kept, refused = values.parameters({"deep": deep, "b": 2})
    assert kept["b"] == 2
    assert [problem.key[:6] for problem in refused] == ["deep/d"]


def test_a_long_text_is_cut_and_said():
    """A text of 64 MB keeps its first million characters, says how long it was, and is among the refused."""
    kept, refused = values.parameters({"s": "x" * 64_000_000, "t": "y"})
    assert kept["t"] == "y"
    assert kept["s"].startswith("x" * values.TEXT_MAX)
    assert kept["s"].endswith("(64000000 characters)")
    assert [problem.key for problem in refused] == ["s"]


def test_secret_parameters_are_replaced():
    kept, _ = values.parameters({"api_key": "sk-123456", "opt": {"hf_token": "hf_abc"}, "max_tokens": 5, "lr": 0.1})
    assert kept == {"api_key": "[redacted]", "opt/hf_token": "[redacted]", "max_tokens": 5, "lr": 0.1}


def test_text_that_no_json_library_writes_is_escaped():
    """Lone surrogates in names and values are escaped; NUL is kept."""
    kept, refused = values.parameters({"a\ud800": "b\udfff", "nul": "x\0y"})
    assert kept == {"a\\ud800": "b\\udfff", "nul": "x\0y"}
    assert refused == []


class Frame:
    """A data frame, as pandas has it: columns like a dictionary, and a shape."""

    shape = (1_000_000, 2)
    columns = ("a", "b")

    def __len__(self) -> int:
        return 1_000_000

    def keys(self) -> tuple[str, ...]:
        return self.columns

    def items(self) -> object:
        raise AssertionError("a data frame is not a dictionary of parameters")

    def __getitem__(self, key: str) -> object:
        raise AssertionError("a data frame is not a dictionary of parameters")


class Basket:
    """A thing with an attribute called `items` that is no method."""

    items = ("apple", "pear")

    def __repr__(self) -> str:
        return "Basket()"


def test_a_data_frame_is_one_parameter():
    """A million rows do not become a million parameters."""
    kept, refused = values.parameters({"x": Frame(), "nested": {"y": Frame()}, "z": [Frame()]})
    shown = "Frame(shape=(1000000, 2), dtype=None)"
    assert kept == {"x": shown, "nested/y": shown, "z": [shown]}
    assert refused == []


def test_a_thing_that_is_no_dictionary_is_not_taken_for_one():
    """An attribute called `items` makes no dictionary."""
    kept, refused = values.parameters({"basket": Basket(), "lr": 0.1})
    assert (kept, refused) == ({"basket": "Basket()", "lr": 0.1}, [])


def test_tags_are_words_or_pairs():
    assert values.tags(None) == {}
    assert values.tags("one") == {"one": None}
    assert values.tags(["a", "b=1", "c=d=e"]) == {"a": None, "b": "1", "c": "d=e"}
    assert values.tags("b=1") == {"b": "1"}
    assert values.tags({"a": 1, "b": None, 3: "x"}) == {"a": "1", "b": None, "3": "x"}
