"""What may be logged: metrics, steps and parameters, made fit for JSON without losing anything.

Called by the recorder and the actions, never by readers. numpy, torch and other array scalars are known by what they can
do (`item`, `shape`), not by their type, so none of those libraries is imported. A number keeps its exact value: integers
of any size as digits, Decimals as a string of digits, NaN and the infinities as "NaN", "Infinity", "-Infinity".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import RejectedError, is_from_signal_handler

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT_MAX = 1_000_000
"""Characters of a parameter's text that are kept."""
DEPTH_MAX = 64
"""Levels of nested dictionaries and lists that are followed."""
BITS_MAX = 13_000
"""Bits of an integer that is kept: Python neither prints nor reads more than 4,300 digits."""
_STEP_LIMIT = 2**63
_FIRST_MOMENT, _LAST_MOMENT = -62_135_596_800, 253_402_300_800
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def as_json(value: float) -> float | str:
    """A number as JSON has it: NaN and the infinities are the words for them."""
    return value if value - value == 0 else _NOT_FINITE[str(value)]


def number(value: Any, *, key: str) -> int | float | str:
    """The JSON form of a metric's value.

    Raises:
        RejectedError: it is no number; says key, value and why.
    """
    if type(value) is float:
        return value if value - value == 0 else _NOT_FINITE[str(value)]
    if isinstance(value, int) and value.bit_length() <= BITS_MAX:
        return int(value)
    if isinstance(value, str | bytes | bytearray | complex | int) or value is None:
        raise _no_number(value, key)
    if hasattr(value, "item"):
        return _from_item(value, key)
    try:
        return str(value) if _is_decimal(value) and value.is_finite() else number(float(value), key=key)
    except Exception as problem:
        if is_from_signal_handler(problem):
            raise
        raise _no_number(value, key) from None


def _is_decimal(value: Any) -> bool:
    return type(value).__name__ == "Decimal" and hasattr(value, "is_finite")


def _from_item(value: Any, key: str) -> int | float | str:
    try:
        plain = value.item()
    except Exception as problem:
        if is_from_signal_handler(problem):
            raise
        raise RejectedError(
            f"metric {key!r}: {_short(value)} is no single number ({problem})", key=key, hint="log one number, such as x.mean()"
        ) from None
    if hasattr(plain, "item"):
        raise _no_number(value, key)
    return number(plain, key=key)


def _no_number(value: Any, key: str) -> RejectedError:
    return RejectedError(
        f"metric {key!r}: {_short(value)} is no number",
        key=key,
        hint="allowed: int, float, Decimal, bool, array scalars of one element",
    )


def metrics(values: Any) -> tuple[dict[str, Any], list[RejectedError]]:
    """Flatten nested dictionaries with "/", make every value a JSON number; return (what can be kept, what cannot)."""
    kept: dict[str, Any] = {}
    refused: list[RejectedError] = []
    if not callable(getattr(values, "items", None)):
        return kept, [RejectedError(f"metrics are a dictionary, not {_short(values)}", key="", hint='log({"loss": 0.3}, step=1)')]
    for key, value in _flat(values):
        try:
            kept[key] = number(value, key=key)
        except RejectedError as problem:
            refused.append(problem)
    return kept, refused


def step(value: Any) -> int | None:
    """A step as a whole number.

    Raises:
        RejectedError: it is neither absent nor a whole number.
    """
    if value is None:
        return None
    try:
        whole = int(value.__index__()) if hasattr(value, "__index__") else _whole(value)
        if -_STEP_LIMIT <= whole < _STEP_LIMIT:
            return whole
    except Exception as problem:
        if is_from_signal_handler(problem):
            raise
    raise RejectedError(f"step {_short(value)} is no whole number of 64 bits", key="step", hint="allowed: an integer, or none")


def moment(value: Any) -> float | None:
    """A caller's own time in seconds since 1970, if it lies in the years 1 to 9999.

    Raises:
        RejectedError: it is neither absent nor such a number.
    """
    if value is None:
        return None
    try:
        if not isinstance(value, str | bytes) and _FIRST_MOMENT <= float(value) < _LAST_MOMENT:
            return float(value)
    except Exception as problem:
        if is_from_signal_handler(problem):
            raise
    raise RejectedError(f"time {_short(value)} is no time", key="time", hint="allowed: seconds since 1970, or none")


def _whole(value: Any) -> int:
    if isinstance(value, str | bytes):
        raise TypeError
    plain = float(value)
    if plain != int(plain):
        raise ValueError
    return int(plain)


def parameters(values: Any) -> tuple[dict[str, Any], list[RejectedError]]:
    """Flatten nested dictionaries with "/", make every value JSON; return (what is kept, what could not be kept whole).

    Values of parameters whose name says that they are secret are replaced before they are written anywhere.
    """
    from . import redaction

    kept: dict[str, Any] = {}
    refused: list[RejectedError] = []
    plain = _as_mapping(values)
    if plain is None:
        return kept, [RejectedError(f"parameters are a dictionary, not {_short(values)}", key="", hint='log_params({"lr": 0.1})')]
    for key, value in _flat(plain):
        form = _Form(redaction.is_secret_name)
        try:
            kept[key] = form.of(value, name=key.rpartition("/")[2])
        except Exception as problem:
            if is_from_signal_handler(problem):
                raise
            kept[key] = f"<{type(value).__module__}.{type(value).__qualname__}>"
            form.cut = f"a {type(value).__name__} cannot be encoded ({type(problem).__name__}: {problem}), its type is kept"
        if form.cut:
            refused.append(RejectedError(f"parameter {key!r}: {form.cut}", key=key))
    return kept, refused


def _as_mapping(values: Any) -> Any:
    if _is_mapping(values):
        return values
    if isinstance(values, type):
        return None
    if hasattr(values, "__dataclass_fields__"):
        return {name: getattr(values, name) for name in values.__dataclass_fields__}
    if hasattr(values, "__struct_fields__"):
        return {name: getattr(values, name) for name in values.__struct_fields__}
    if type(values).__name__ in {"Namespace", "SimpleNamespace"}:
        return vars(values)
    return None


def _is_mapping(value: Any) -> bool:
    """Whether a value is a dictionary by what it can do; a data frame, which has a shape, is none."""
    kind = type(value)
    return isinstance(value, dict) or (
        all(callable(getattr(kind, verb, None)) for verb in ("keys", "items", "__getitem__", "__len__"))
        and not hasattr(kind, "shape")
    )


def _flat(values: Any) -> list[tuple[str, Any]]:
    """(key, value) pairs with nested dictionaries joined by "/"; a circle or too deep a nest stays a value."""
    found: list[tuple[str, Any]] = []
    todo: list[tuple[str, Any, tuple[int, ...]]] = [("", values, (id(values),))]
    while todo:
        prefix, mapping, above = todo.pop()
        for key, value in mapping.items():
            name = f"{prefix}{_text(str(key))}"
            if _is_mapping(value) and len(value) and len(above) <= DEPTH_MAX and id(value) not in above:
                todo.append((name + "/", value, (*above, id(value))))
            else:
                found.append((name, value))
    return found


def _text(text: str) -> str:
    """`text` with lone surrogates escaped, so that every JSON library can write and read it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


class _Form:
    """Make the JSON form of one parameter; `cut` says what of it could not be kept whole, or is empty."""

    __slots__ = ("_above", "_is_secret_name", "cut")

    def __init__(self, is_secret_name: Callable[[str], bool]) -> None:
        self.cut = ""
        self._above: list[int] = []
        self._is_secret_name = is_secret_name

    def of(self, value: Any, *, name: str = "") -> Any:  # noqa: PLR0911  (one line per kind of value)
        """The JSON form of `value`; `name` is its key, which may say that it is secret."""
        if value is None or type(value) is bool:
            return value
        if isinstance(value, str):
            return self._text(value, name)
        if isinstance(value, int):
            return self._integer(value)
        if isinstance(value, float):
            return as_json(float(value))
        if isinstance(value, list | tuple | set | frozenset):
            return self._inside(value, lambda: self._list(value))
        if _is_mapping(value):
            return self._inside(value, lambda: self._mapping(value))
        return self._object(value)

    def _text(self, value: str, name: str) -> str:
        if value and name and self._is_secret_name(name):
            return "[redacted]"
        text = _text(str(value.value) if hasattr(value, "value") and hasattr(value, "name") else str(value))
        if len(text) <= TEXT_MAX:
            return text
        self.cut = f"of its {len(text)} characters {TEXT_MAX} are kept"
        return text[:TEXT_MAX] + f"… ({len(text)} characters)"

    def _integer(self, value: int) -> int:
        if value.bit_length() > BITS_MAX:
            raise ValueError(f"an integer of {value.bit_length()} bits")
        return int(value)

    def _inside(self, value: Any, form: Callable[[], Any]) -> Any:
        """The form of what is in a container, unless the container holds itself or lies too deep."""
        if id(value) in self._above or len(self._above) >= DEPTH_MAX:
            deep = len(self._above) >= DEPTH_MAX
            self.cut = f"it is nested deeper than {DEPTH_MAX} levels" if deep else f"a {type(value).__name__} holds itself"
            return "…"
        self._above.append(id(value))
        try:
            return form()
        finally:
            self._above.pop()

    def _list(self, value: Any) -> list[Any]:
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [self.of(item) for item in items]

    def _mapping(self, value: Any) -> dict[str, Any]:
        return {_text(str(key)): self.of(inner, name=str(key)) for key, inner in value.items()}

    def _object(self, value: Any) -> Any:  # noqa: PLR0911  (the same)
        if hasattr(value, "dtype") or hasattr(value, "shape"):
            return self._array(value)
        if hasattr(value, "__fspath__"):
            return _text(str(value.__fspath__()))
        if hasattr(value, "isoformat"):
            return value.isoformat()
        if _is_decimal(value):
            return str(value)
        if hasattr(type(value), "__members__") and hasattr(value, "value"):
            return self._inside(value, lambda: self.of(value.value))
        mapping = _as_mapping(value)
        if mapping is not None:
            return self._inside(value, lambda: self._mapping(mapping))
        if hasattr(value, "__qualname__"):
            return f"{getattr(value, '__module__', '')}.{value.__qualname__}"
        return self._text(repr(value), "")

    def _array(self, value: Any) -> Any:
        shape = tuple(getattr(value, "shape", ()))
        if shape == () and hasattr(value, "item"):
            return self._inside(value, lambda: self.of(value.item()))
        return f"{type(value).__name__}(shape={shape}, dtype={getattr(value, 'dtype', None)})"


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as problem:  # noqa: BLE001  (the caller's own __repr__ may raise anything)
        text = f"<{type(value).__name__} whose repr raises {type(problem).__name__}>"
    return _text(text if len(text) <= 80 else text[:77] + "...")  # noqa: PLR2004


def tags(values: Any) -> dict[str, Any]:
    """Tags as a dictionary; a list of words gives them as they are asked for: KEY=VALUE, or KEY, whose value is None."""
    if values is None:
        return {}
    if isinstance(values, str):
        return tags([values])
    if hasattr(values, "items"):
        return {_text(str(key)): None if value is None else _text(str(value)) for key, value in values.items()}
    parts = [str(word).partition("=") for word in values]
    return {_text(key): _text(value) if equals else None for key, equals, value in parts}
