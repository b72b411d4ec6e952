"""Every setting, its names and its order: argument, environment, `.env`, `[tool.ailab]` in pyproject.toml, default.

Read when a run starts or a reader opens, never kept: a changed environment counts at the next start. The nearest `.env`
and the nearest `pyproject.toml` (in the working folder or above) are read; of `.env` only our names are taken and nothing
is exported. A text that is not allowed is an error that names the setting, where it stands and what is allowed.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec

from .errors import SettingError

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for one run or one reader. Field `x` is the variable AILAB_X unless `_ALIASES` says otherwise."""

    dir: str | None = None
    project: str | None = None
    run_name: str | None = None
    run_id: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    seed: int | None = None
    dataset_id: str | None = None
    mode: str = "on"
    strict: bool = False
    silent: bool = False
    durable: bool = False
    auto_compact: bool = True
    system_metrics: bool = True
    console: bool = True
    api_url: str | None = None
    token: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    model: str | None = None
    installation: str = "ailab"
    wandb_project: str | None = None


_ALIASES: dict[str, tuple[str, ...]] = {
    "project": ("AILAB_PROJECT", "PROJECT_NAME"),
    "installation": ("PROJECT_NAME",),
    "seed": ("AILAB_SEED", "MODELLAB_SEED"),
    "api_url": ("AILAB_API_URL", "MODELLAB_API_URL"),
    "wandb_project": ("WANDB_PROJECT",),
}
_FLAGS = frozenset({"strict", "silent", "durable", "auto_compact", "system_metrics", "console"})
_LISTS = frozenset({"tags", "allowed_hosts", "cors_origins", "trusted_proxies"})
_MODES = ("on", "disabled")

_configured: dict[str, Any] = {}


def variables(field: str) -> tuple[str, ...]:
    """Names of the environment variables that set `field`, the first one wins."""
    return _ALIASES.get(field, (f"AILAB_{field.upper()}",))


def configure(**values: Any) -> None:
    """Set defaults for this process; they count as arguments. A value of None takes a setting back.

    Raises:
        SettingError: there is no such setting, or its value is not allowed.
    """
    for name, value in values.items():
        if name not in Settings.__struct_fields__:
            allowed = ", ".join(Settings.__struct_fields__)
            raise SettingError(f"no setting {name!r}", hint=f"allowed: {allowed}")
        if value is None:
            _configured.pop(name, None)
        else:
            _configured[name] = _parse(name, value, f"{name}=")


def load(folder: str | None = None, *, problems: list[Exception] | None = None, **arguments: Any) -> Settings:
    """Read all settings as they hold now; `arguments` that are None are taken as not given.

    Args:
        folder: where the search for files begins, by default the working folder.
        problems: if given, what is wrong is added to it and left out, and everything else holds.
        arguments: settings by name; they count above all others.

    Raises:
        SettingError: a text that is not allowed, without `problems`; says which setting, where it stands, what is allowed.
        OSError: a file that cannot be read, without `problems`.
    """
    found: dict[str, Any] = {}
    dotenv: dict[str, str] = {}
    table: dict[str, Any] = {}
    try:
        start = os.path.abspath(folder or _working_folder())
        dotenv = _dotenv(start)
        table = _tool_table(start)
        unknown = sorted(set(table) - set(Settings.__struct_fields__))
        if unknown:
            allowed = ", ".join(Settings.__struct_fields__)
            raise SettingError(f"[tool.ailab] in pyproject.toml has no setting {unknown[0]!r}", hint=f"allowed: {allowed}")
    except (SettingError, OSError) as problem:
        if problems is None:
            raise
        problems.append(problem)
    for name in Settings.__struct_fields__:
        value, where = _first(name, arguments, dotenv, table)
        try:
            if where:
                found[name] = _parse(name, value, where)
        except SettingError as problem:
            if problems is None:
                raise
            problems.append(problem)
    return Settings(**found)


def _working_folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was deleted: then no file in it sets anything
        return os.sep


def _first(name: str, arguments: dict[str, Any], dotenv: dict[str, str], table: dict[str, Any]) -> tuple[Any, str]:
    if arguments.get(name) is not None:
        return arguments[name], f"{name}="
    if name in _configured:
        return _configured[name], f"configure({name}=)"
    for variable in variables(name):
        if variable in os.environ:
            return os.environ[variable], variable
    for variable in variables(name):
        if variable in dotenv:
            return dotenv[variable], f"{variable} in .env"
    if name in table:
        return table[name], f"{name} in [tool.ailab]"
    return None, ""


def _parse(name: str, value: Any, where: str) -> Any:
    if name in _FLAGS:
        return _flag(value, where)
    if name in _LISTS:
        parts = value.split(",") if isinstance(value, str) else list(value)
        return tuple(str(part).strip() for part in parts if str(part).strip())
    if name == "seed":
        return _seed(value, where)
    if name == "mode":
        return _mode(value, where)
    if name == "project":
        return str(value).strip() or None
    return os.fspath(value) if hasattr(value, "__fspath__") else str(value) or None


def _flag(value: Any, where: str) -> bool:
    text = str(value).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise SettingError(f"{where}: {value!r} is no switch", hint="allowed: 1, true, yes, on, 0, false, no, off")


def _seed(value: Any, where: str) -> int | None:
    if value == "":
        return None
    try:
        seed = int(value)
        if -(2**127) <= seed < 2**127:
            return seed
    except (TypeError, ValueError, OverflowError):
        seed = 0
    raise SettingError(f"{where}: {value!r} is no whole number of 128 bits", hint="allowed: a whole number such as 42")


def _mode(value: Any, where: str) -> str:
    text = str(value).strip().lower() or "on"
    text = {"online": "on", "offline": "on", "enabled": "on", "off": "disabled"}.get(text, text)
    if text not in _MODES:
        raise SettingError(f"{where}: {value!r} is no mode", hint=f"allowed: {', '.join(_MODES)}")
    return text


def _nearest(start: str, name: str) -> str | None:
    folder = start
    while True:
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            return path
        parent = os.path.dirname(folder)
        if parent == folder:
            return None
        folder = parent


def _dotenv(start: str) -> dict[str, str]:
    """Our names in the nearest `.env`: `NAME=value` lines, `export` in front, quotes and trailing comments taken off."""
    path = _nearest(start, ".env")
    if path is None:
        return {}
    ours = {variable for field in Settings.__struct_fields__ for variable in variables(field)}
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:  # a file that cannot be read sets nothing; `ailab doctor` names it
        return {}
    found: dict[str, str] = {}
    for line in lines:
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and name.strip() in ours:
            found[name.strip()] = _unquote(value.strip())
    return found


def _unquote(value: str) -> str:
    if value[:1] in {'"', "'"}:
        end = value.find(value[0], 1)
        return value[1:end] if end > 0 else value[1:]
    return value.split(" #", 1)[0].split("\t#", 1)[0].strip()


def _tool_table(start: str) -> dict[str, Any]:
    path = _nearest(start, "pyproject.toml")
    if path is None:
        return {}
    with open(path, "rb") as file:
        content = file.read()
    if b"tool.ailab" not in content:  # spares the parser for almost everybody
        return {}
    import tomllib

    try:
        table = tomllib.loads(content.decode()).get("tool", {}).get("ailab", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise SettingError(f"{path} does not parse: {problem}", hint="mend [tool.ailab], or take it out") from problem
    if not isinstance(table, dict):
        raise SettingError(f"tool.ailab in {path} is no table", hint="allowed: [tool.ailab] with one setting a line")
    return dict(table)
