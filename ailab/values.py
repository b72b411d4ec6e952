"""What may be logged: metrics, steps and parameters, made fit for JSON without losing anything.

Called by the recorder and the actions, never by readers. numpy, torch and other array scalars are known by what they can
do (`item`, `shape`), not by their type, so none of those libraries is imported. A number keeps its exact value: integers
of any size as digits, Decimals as a string of digits, NaN and the infinities as "NaN", "Infinity", "-Infinity".
"""

from __future__ import annotations

from typing import Any

from .errors import RejectedError

TEXT_MAX = 1_000_000
"""Characters of a parameter's text that are kept."""
DEPTH_MAX = 64
"""Levels of nested dictionaries and lists that are followed."""
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def number(value: Any, *, key: str) -> int | float | str:
    """The JSON form of a metric's value.

    Raises:
        RejectedError: it is no number; says key, value and why.
    """
    kind = type(value)
    if kind is bool:
        return int(value)
    if kind is int:
        return int(value)
    if kind is float:
        return value if value - value == 0 else _NOT_FINITE[str(value)]
    if isinstance(value, str | bytes | complex) or value is None:
        raise _no_number(value, key)
    if hasattr(value, "item"):
        return _from_item(value, key)
    if kind.__name__ == "Decimal" and hasattr(value, "is_finite"):
        return format(value, "f") if value.is_finite() else number(float(value), key=key)
    try:
        return number(float(value), key=key)
    except (TypeError, ValueError, OverflowError):
        raise _no_number(value, key) from None


def _from_item(value: Any, key: str) -> int | float | str:
    try:
        plain = value.item()
    except Exception as problem:  # noqa: BLE001  (any array library may raise anything here)
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
    if not hasattr(values, "items"):
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
        return int(value.__index__()) if hasattr(value, "__index__") else _whole(value)
    except (TypeError, ValueError, OverflowError, AttributeError):
        raise RejectedError(f"step {_short(value)} is no whole number", key="step", hint="allowed: an integer, or none") from None


def _whole(value: Any) -> int:
    if isinstance(value, str | bytes):
        raise TypeError
    plain = float(value)
    if plain != int(plain):
        raise ValueError
    return int(plain)


def parameters(values: Any) -> tuple[dict[str, Any], list[RejectedError]]:
    """Flatten nested dictionaries with "/", make every value JSON; return (what is kept, what could only be kept as text).

    Values of parameters whose name says that they are secret are replaced before they are written anywhere.
    """
    from . import capture

    kept: dict[str, Any] = {}
    refused: list[RejectedError] = []
    plain = _as_mapping(values)
    if plain is None:
        return kept, [RejectedError(f"parameters are a dictionary, not {_short(values)}", key="", hint='log_params({"lr": 0.1})')]
    for key, value in _flat(plain):
        if isinstance(value, str) and value and capture.is_secret_name(key.rpartition("/")[2]):
            kept[key] = "[redacted]"
            continue
        try:
            kept[key] = _parameter(value, 0)
        except Exception as problem:  # noqa: BLE001  (the caller's own __repr__, __iter__ … may raise anything)
            kept[key] = f"<{type(value).__module__}.{type(value).__qualname__}>"
            reason = f"{type(problem).__name__}: {problem}"
            refused.append(
                RejectedError(
                    f"parameter {key!r}: a {type(value).__name__} cannot be encoded ({reason}), its type is kept", key=key
                )
            )
    return kept, refused


def _as_mapping(values: Any) -> Any:
    if hasattr(values, "items"):
        return values
    if hasattr(values, "__dataclass_fields__"):
        return {name: getattr(values, name) for name in values.__dataclass_fields__}
    if hasattr(values, "__struct_fields__"):
        return {name: getattr(values, name) for name in values.__struct_fields__}
    if type(values).__name__ in {"Namespace", "SimpleNamespace"}:
        return vars(values)
    return None


def _flat(values: Any) -> list[tuple[str, Any]]:
    """(key, value) pairs with nested dictionaries joined by "/"; a circle or too deep a nest stays a value."""
    found: list[tuple[str, Any]] = []
    todo: list[tuple[str, Any, int]] = [("", values, 0)]
    while todo:
        prefix, mapping, depth = todo.pop()
        for key, value in mapping.items():
            name = f"{prefix}{_text(str(key))}"
            if hasattr(value, "items") and depth < DEPTH_MAX and len(value):
                todo.append((name + "/", value, depth + 1))
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


def _parameter(value: Any, depth: int) -> Any:  # noqa: PLR0911  (one line per kind of value)
    if value is None or type(value) in {bool, int}:
        return value
    if isinstance(value, str):
        text = _text(str(value.value) if hasattr(value, "value") and hasattr(value, "name") else str(value))
        return text if len(text) <= TEXT_MAX else text[:TEXT_MAX] + f"… ({len(text)} characters)"
    if isinstance(value, float):
        return float(value) if value - value == 0 else _NOT_FINITE[str(float(value))]
    if isinstance(value, list | tuple | set | frozenset):
        return _list(value, depth)
    if hasattr(value, "items"):
        if depth >= DEPTH_MAX:
            return "…"
        return {_text(str(k)): _parameter(v, depth + 1) for k, v in value.items()}
    return _object(value, depth)


def _list(value: Any, depth: int) -> Any:
    if depth >= DEPTH_MAX:
        return "…"
    items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
    return [_parameter(item, depth + 1) for item in items]


def _object(value: Any, depth: int) -> Any:  # noqa: PLR0911
    if hasattr(value, "dtype") or hasattr(value, "shape"):
        return _array(value, depth)
    if hasattr(value, "__fspath__"):
        return _text(str(value.__fspath__()))
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(type(value), "__members__") and hasattr(value, "value"):
        return _parameter(value.value, depth + 1)
    mapping = _as_mapping(value)
    if mapping is not None and not isinstance(value, type):
        return _parameter(mapping, depth + 1)
    if hasattr(value, "__qualname__"):
        return f"{getattr(value, '__module__', '')}.{value.__qualname__}"
    return _text(repr(value))[:TEXT_MAX]


def _array(value: Any, depth: int) -> Any:
    shape = tuple(getattr(value, "shape", ()))
    if shape == () and hasattr(value, "item"):
        return _parameter(value.item(), depth + 1)
    return f"{type(value).__name__}(shape={shape}, dtype={getattr(value, 'dtype', None)})"


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as problem:  # noqa: BLE001  (the caller's own __repr__ may raise anything)
        text = f"<{type(value).__name__} whose repr raises {type(problem).__name__}>"
    return _text(text if len(text) <= 80 else text[:77] + "...")  # noqa: PLR2004


def tags(values: Any) -> dict[str, Any]:
    """Tags as a dictionary: a list of words gives bare tags, whose value is None."""
    if values is None:
        return {}
    if isinstance(values, str):
        return {_text(values): None}
    if hasattr(values, "items"):
        return {_text(str(key)): None if value is None else _text(str(value)) for key, value in values.items()}
    return {_text(str(key)): None for key in values}
