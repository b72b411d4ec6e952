"""All that can go wrong, as one tree.

    AilabError
    ├── StoreError (OSError)          the store cannot be found, opened, created or written
    │   └── ForeignFolderError        a folder that is not empty and does not carry our marker
    ├── DamageError (ValueError)      bytes on disk that are not what was written; names file, line and offset
    ├── RejectedError (ValueError)    a value handed to the recorder that cannot be kept as it is
    ├── SettingError (ValueError)     a setting whose text is not allowed
    ├── FilterError (ValueError)      a question that does not parse; says where
    ├── NotFoundError (KeyError)      a run, project, artifact or event that is not there; says what is near
    ├── RefusedError (PermissionError) a request that the rules of the store or server forbid
    ├── ConflictError (ValueError)    a change that does not fit what is there now; says what is in its way
    └── MissingExtraError (ImportError) a door that needs an optional dependency; says the install line

Who raises: every module. Who catches: the recorder's edge (training goes on; one warning) and the HTTP translator
(one answer per class). Messages are lower case, without a full stop, with the offending value; `hint` is the next step.
"""

from __future__ import annotations

import sys


class AilabError(Exception):
    """Base of every error that ailab raises on purpose.

    Attributes:
        message: what happened, with the offending value.
        hint: what a person can do next, or "".
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class StoreError(AilabError, OSError):
    """The store cannot be found, opened, created or written.

    Attributes:
        path: the file or folder meant.
    """

    def __init__(self, message: str, *, path: str, hint: str = "") -> None:
        super().__init__(f"{message}: {path}", hint=hint)
        self.path = path


class ForeignFolderError(StoreError):
    """A folder that is not empty and does not carry our marker; it is never adopted."""


class DamageError(AilabError, ValueError):
    """Bytes on disk that are not what was written.

    Attributes:
        path: the file.
        line: 1-based line number, 0 where the whole file is meant.
        offset: byte offset of the line's first byte.
        kind: torn-tail, torn-write, bad-checksum, bad-json, gap, duplicate, missing, unknown-version, unreadable.
    """

    def __init__(self, kind: str, *, path: str, line: int = 0, offset: int = 0, detail: str = "") -> None:
        place = f"{path}, line {line}, byte {offset}" if line else path
        super().__init__(f"{kind} in {place}" + (f": {detail}" if detail else ""))
        self.kind = kind
        self.path = path
        self.line = line
        self.offset = offset
        self.detail = detail


class RejectedError(AilabError, ValueError):
    """A value handed to the recorder that cannot be kept as it is.

    Attributes:
        key: the metric, parameter, tag or artifact.
        step: the step it was logged at, or None.
    """

    def __init__(self, message: str, *, key: str, step: int | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.key = key
        self.step = step


class SettingError(AilabError, ValueError):
    """A setting whose text is not allowed."""


class FilterError(AilabError, ValueError):
    """A filter, sort or SQL text that does not parse.

    Attributes:
        where: the part of the question that is meant, such as `metric_min`.
        nearest: what could have been meant, best first.
    """

    def __init__(self, message: str, *, where: str, hint: str = "", nearest: list[str] | None = None) -> None:
        super().__init__(message, hint=hint)
        self.where = where
        self.nearest = nearest or []


class NotFoundError(AilabError, KeyError):
    """A run, project, artifact or event that is not there.

    Attributes:
        what: the noun, such as `run`.
        name: the id that was asked for.
        nearest: ids that exist and look like it, best first.
    """

    def __init__(self, what: str, name: str, *, nearest: list[str] | None = None, hint: str = "") -> None:
        near = nearest or []
        super().__init__(f"no {what} {name!r}", hint=hint or (f"nearest: {', '.join(near)}" if near else ""))
        self.what = what
        self.name = name
        self.nearest = near


class RefusedError(AilabError, PermissionError):
    """A request that the rules of the store or server forbid."""


class ConflictError(AilabError, ValueError):
    """A change that does not fit what is there now.

    Attributes:
        where: the field that is meant, or "".
        nearest: ids of what is in its way.
    """

    def __init__(self, message: str, *, where: str = "", nearest: list[str] | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.where = where
        self.nearest = nearest or []


class MissingExtraError(AilabError, ImportError):
    """A door that needs an optional dependency which is not installed."""

    def __init__(self, what: str, *, extra: str) -> None:
        super().__init__(f"{what} needs an optional dependency", hint=f'pip install "ailab[{extra}]"')
        self.extra = extra


def is_from_signal_handler(problem: BaseException) -> bool:
    """Whether a signal handler of the caller's, run by the interpreter in the middle of our code, raised this.

    Such an exception (a time limit, say) is for the caller and is never swallowed. The traceback tells: a frame in it runs the
    code of an installed handler, or was handed the frame before it, as only handlers are.
    """
    signal = sys.modules.get("signal")
    trace = problem.__traceback__
    if signal is None or trace is None or trace.tb_next is None:
        return False
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    codes = {getattr(getattr(handler, "__func__", handler), "__code__", None) for handler in handlers} - {None}
    while trace.tb_next is not None:
        frame = trace.tb_next.tb_frame
        if frame.f_code in codes or any(value is trace.tb_frame for value in frame.f_locals.values()):
            return True
        trace = trace.tb_next
    return False
