"""What a run keeps as files: their place in the run, their kind, and the bytes of figures, images and tables.

Called by the recorder and by whoever adds files on the command line. A file is copied into the store by its hash, so it may
change or go afterwards; of a reference only size, hash and location are kept, and its bytes stay where they are. Its place in the
run is a relative path with forward slashes that never leaves the run's folder, whatever the caller wrote; the path as written
stays beside it. Of a folder every regular file is kept and everything else is named. Nothing here is ever unpickled.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

from . import blobs, capture
from .errors import MissingExtraError, RejectedError, is_from_signal_handler
from .events import ArtifactAdded
from .store import is_store, open_plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .store import Store

_NAMED = 3
"""So many things that a folder has and that are not kept are named."""
_AGAIN = "log it again when nobody writes to it"

_KINDS_BY_ENDING = {
    "model": ("joblib", "pkl", "pickle", "pt", "pth", "h5", "keras", "onnx", "safetensors", "ubj", "bst", "cbm", "skops", "gguf"),
    "checkpoint": ("ckpt",),
    "plot": ("png", "svg", "jpg", "jpeg", "gif", "webp", "pdf", "html"),
    "data": ("csv", "tsv", "parquet", "feather", "arrow", "json", "jsonl", "ndjson", "npy", "npz", "txt"),
    "log": ("log", "out", "err"),
}
_KINDS_BY_WORD = (
    ("checkpoint", "checkpoint"),
    ("ckpt", "checkpoint"),
    ("metrics", "metrics"),
    ("predictions", "predictions"),
    ("eval", "evaluation"),
)


def place_in_run(path: str) -> str:
    """A relative path with forward slashes, without `..`, drive or leading slash; at least one character.

    Raises:
        RejectedError: nothing of a name is left.
    """
    parts = [part for part in path.replace("\x00", "").replace("\\", "/").split("/") if part not in {"", ".", ".."}]
    while parts and parts[0].endswith(":"):
        parts = parts[1:]
    place = "/".join(parts)
    if not place:
        raise RejectedError(f"artifact {path!r} has no name", key=path, hint="give the path of a file")
    return place


def kind_of(path: str) -> str:
    """The kind that a file's name tells, `other` where it tells none."""
    name = os.path.basename(path).lower()
    ending = name.rpartition(".")[2]
    by_ending = next((kind for kind, endings in _KINDS_BY_ENDING.items() if ending in endings), "other")
    if by_ending in {"data", "model", "other"}:
        return next((kind for word, kind in _KINDS_BY_WORD if word in name), by_ending)
    return by_ending


def keep(
    store: Store, logged: str, *, kind: str | None = None, name: str | None = None, reference: bool = False
) -> Iterator[ArtifactAdded | RejectedError]:
    """Copy a file, or each file of a folder, into the store; as a `reference` only look at its bytes.

    Args:
        store: the store.
        logged: the path as the caller wrote it.
        kind: what it is, by default as its name tells.
        name: its place in the run; None is the path as given, "" for a folder the run itself.
        reference: keep no bytes.

    Returns:
        The events that say so, one by one, and last what is to be said of the rest: files that changed meanwhile, things in the
        folder that are no files.

    Raises:
        RejectedError: there is no such file, or it cannot be read.
    """
    if os.path.isdir(logged):
        yield from _keep_folder(store, logged, kind=kind, name=name, reference=reference)
        return
    try:
        added, changed = _keep_file(store, logged, name or _as_given(logged), kind=kind, reference=reference)
    except FileNotFoundError:
        here = _working_folder() or "a folder that was deleted"
        raise RejectedError(f"artifact {logged!r}: there is no such file (in {here})", key=logged) from None
    except OSError as problem:
        raise RejectedError(f"artifact {logged!r} cannot be kept: {_reason(problem)}", key=logged) from problem
    yield added
    if changed:
        yield RejectedError(
            f"artifact {logged!r} changed while it was read: {added.size:,} bytes of it count", key=logged, hint=_AGAIN
        )


def _keep_folder(
    store: Store, folder: str, *, kind: str | None, name: str | None, reference: bool
) -> Iterator[ArtifactAdded | RejectedError]:
    lacking: list[str] = []
    unsteady: list[str] = []
    kept = 0
    for path, reason in files_below(folder):
        inside, why = os.path.relpath(path, folder), reason
        if not why:
            place = _as_given(path) if name is None else os.path.join(name, inside)
            try:
                added, changed = _keep_file(store, path, place, kind=kind, reference=reference)
            except (OSError, RejectedError) as problem:
                why = _reason(problem)
            else:
                yield added
                kept += 1
                unsteady += [repr(inside)] * changed
        if why:
            lacking.append(f"{inside!r} ({why})")
    if lacking:
        hint = "what a link points to can be logged by its own path"
        yield RejectedError(f"folder {folder!r}: {kept:,} files kept, left out {_some(lacking)}", key=folder, hint=hint)
    elif not kept:
        yield RejectedError(f"folder {folder!r} has no file", key=folder)
    if unsteady:
        yield RejectedError(f"folder {folder!r}: changed while they were read {_some(unsteady)}", key=folder, hint=_AGAIN)


def _reason(problem: OSError | RejectedError) -> str:
    """Why a file is not kept; what a signal handler of the caller raised is raised on."""
    if is_from_signal_handler(problem):
        raise problem
    return problem.message if isinstance(problem, RejectedError) else problem.strerror or str(problem)


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else "")


def _keep_file(store: Store, path: str, place: str, *, kind: str | None, reference: bool) -> tuple[ArtifactAdded, bool]:
    """(the event of one file, whether it changed while it was read).

    Raises:
        OSError: it cannot be read, or is no plain file.
    """
    with open_plain(path) as file:
        before = os.fstat(file.fileno())
        most = before.st_size or None  # what grows faster than it is read ends too; files of /proc say that they are empty
        digest, size = blobs.hash_open(file, most) if reference else blobs.put_open(store, file, most)
        after = os.fstat(file.fileno())
    added = ArtifactAdded(
        path=place_in_run(place), logged=path, type=kind or kind_of(place), size=size, sha256=digest, reference=reference,
        metadata={"location": location_of(path)} if reference else {},
    )  # fmt: skip
    return added, (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or size < before.st_size


def location_of(path: str) -> str:
    """Where a file lies, as `file://HOST/PATH`: any bytes of its name are given back by percent-decoding."""
    from urllib.parse import quote

    return f"file://{capture.host_name()}/{quote(os.fsencode(os.path.abspath(path)).lstrip(b'/'))}"


def path_of_location(location: str) -> tuple[str, str] | None:
    """(host, path) of a location that `location_of` made; None of any other."""
    from urllib.parse import unquote_to_bytes

    if not location.startswith("file://"):
        return None
    host, slash, path = location.removeprefix("file://").partition("/")
    return (host, os.fsdecode(b"/" + unquote_to_bytes(path))) if slash else None


def keep_bytes(store: Store, content: bytes, path: str) -> ArtifactAdded:
    """Keep bytes as the artifact `path`."""
    digest = blobs.put_bytes(store, content)
    return ArtifactAdded(path=place_in_run(path), logged=path, type=kind_of(path), size=len(content), sha256=digest)


def files_below(folder: str) -> Iterator[tuple[str, str]]:
    """Every regular file below a folder, in a stable order, as (path, ""); everything that is left out as (path, why).

    Folders without a file leave no trace. A link to a file in the folder is that file; no other link is followed. A store is left
    out: it grows by what is kept of it.
    """
    root = os.path.realpath(folder)
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        if is_store(here):
            yield here, "a store"
            continue
        try:
            with os.scandir(here) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as problem:
            yield here, problem.strerror or str(problem)
            continue
        inner = []
        for entry in found:
            try:
                if entry.is_dir(follow_symlinks=False):
                    inner.append(entry.path)
                else:
                    yield entry.path, _why_not(entry, root)
            except OSError as problem:  # among them links that go round in a circle
                yield entry.path, problem.strerror or str(problem)
        waiting += reversed(inner)


def _why_not(entry: os.DirEntry[str], root: str) -> str:
    """Why something in a folder is not kept; "" where it is.

    Raises:
        OSError: it is gone, or a link that leads nowhere.
    """
    path = entry.path
    if entry.is_symlink():
        path = os.path.realpath(path, strict=True)
        if os.path.isdir(path):
            return "a link to a folder"
        if not _is_below(path, root):
            return "a link out of the folder"
    return "" if stat.S_ISREG(os.stat(path).st_mode) else "no plain file"


def _as_given(path: str) -> str:
    """A path by which a file is known without a name: from the working folder on where it is below it."""
    here = _working_folder()
    return os.path.relpath(path, here) if here and os.path.isabs(path) and _is_below(path, here) else path


def _working_folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


def _is_below(path: str, folder: str) -> bool:
    return os.path.commonpath([os.path.abspath(path), folder]) == folder


def figure_bytes(figure: Any, path: str) -> bytes:
    """The bytes of a matplotlib or plotly figure in the format that `path` ends with (png where it has no ending).

    Raises:
        RejectedError: it is no figure.
    """
    import io

    ending = os.path.splitext(path)[1].lstrip(".").lower() or "png"
    figure = getattr(figure, "figure", figure)
    if hasattr(figure, "savefig"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=ending)
        return buffer.getvalue()
    if hasattr(figure, "to_html"):
        return str(figure.to_html()).encode() if ending == "html" else bytes(figure.to_image(format=ending))
    raise RejectedError(f"{type(figure).__name__} is no matplotlib or plotly figure", key=path)


def image_bytes(image: Any, path: str) -> bytes:
    """The bytes of an image: encoded bytes as they are, a file's content, a PIL image or an array saved by PIL.

    Raises:
        RejectedError: it is none of these.
        MissingExtraError: an array needs PIL, which is not installed.
    """
    import io

    if isinstance(image, bytes):
        return image
    if isinstance(image, str) or hasattr(image, "__fspath__"):
        with open(image, "rb") as file:
            return file.read()
    if hasattr(image, "shape") and hasattr(image, "dtype"):
        image = _from_array(image, path)
    if not hasattr(image, "save"):
        raise RejectedError(
            f"{type(image).__name__} is no image", key=path, hint="allowed: PIL image, array, bytes, a file's path"
        )
    buffer = io.BytesIO()
    ending = os.path.splitext(path)[1].lstrip(".").lower() or "png"
    image.save(buffer, format={"jpg": "jpeg"}.get(ending, ending))
    return buffer.getvalue()


def _from_array(array: Any, path: str) -> Any:
    try:
        import numpy as np
        from PIL import Image
    except ImportError:
        raise MissingExtraError("log_image of an array", extra="eval") from None
    plain = np.asarray(array)
    if plain.ndim not in {2, 3} or plain.size == 0:
        raise RejectedError(f"an image has the shape (height, width[, channels]), not {plain.shape}", key=path)
    if plain.dtype.kind == "f":
        plain = (np.clip(np.nan_to_num(plain), 0.0, 1.0) * 255).round()
    return Image.fromarray(plain.astype("uint8").squeeze())


def table_bytes(table: Any, path: str) -> bytes:
    """The bytes of a table as JSON rows (`.json`) or CSV.

    Args:
        table: {column: values}, rows as dictionaries, rows as lists with the header first, or a data frame.
        path: its ending says the format.

    Raises:
        RejectedError: it is no table, or its columns have different lengths.
    """
    import csv
    import io
    import json

    columns, rows = _columns_and_rows(table, path)
    if path.endswith(".json"):
        return json.dumps([dict(zip(columns, row, strict=True)) for row in rows], default=str).encode()
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue().encode("utf-8", "backslashreplace")


def _columns_and_rows(table: Any, path: str) -> tuple[list[str], list[list[Any]]]:
    if hasattr(table, "to_dict") and hasattr(table, "columns"):
        names = [str(name) for name in table.columns]
        table = {name: list(table[column]) for name, column in zip(names, table.columns, strict=True)}
    if hasattr(table, "items"):
        columns = {str(name): list(column) for name, column in table.items()}
        lengths = {len(column) for column in columns.values()}
        if len(lengths) > 1:
            raise RejectedError(f"table {path!r}: its columns have different lengths {sorted(lengths)}", key=path)
        return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]
    rows = list(table) if hasattr(table, "__iter__") else []
    if rows and all(hasattr(row, "items") for row in rows):
        names = list(dict.fromkeys(str(name) for row in rows for name in row))
        return names, [[row.get(name) for name in names] for row in rows]
    if rows and all(isinstance(row, list | tuple) for row in rows):
        return [str(name) for name in rows[0]], [list(row) for row in rows[1:]]
    raise RejectedError(
        f"table {path!r}: {type(table).__name__} is no table",
        key=path,
        hint="allowed: {column: values}, rows as dictionaries, a data frame",
    )
