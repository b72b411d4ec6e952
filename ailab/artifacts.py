"""What a run keeps as files: their place in the run, their kind, and the bytes of figures, images and tables.

Called by the recorder. A file is copied into the store by its hash, so it may change or go afterwards. Its place in the run
is a relative path with forward slashes that never leaves the run's folder, whatever the caller wrote; the path as written
stays beside it. Nothing here is ever unpickled.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

from . import blobs
from .errors import MissingExtraError, RejectedError
from .events import ArtifactAdded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .store import Store

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


def keep(store: Store, logged: str, *, kind: str | None, name: str | None) -> ArtifactAdded:
    """Copy a file into the store; return the event that says so.

    Raises:
        RejectedError: there is no such file, or it cannot be read.
    """
    here = _working_folder()
    inside = name or (os.path.relpath(logged, here) if here and os.path.isabs(logged) and _is_below(logged, here) else logged)
    try:
        if not stat.S_ISREG(os.stat(logged).st_mode):  # a pipe would block for ever, a device would never end
            raise RejectedError(f"artifact {logged!r} is no regular file", key=logged, hint="give the path of a file or a folder")
        digest, size = blobs.put_file(store, logged)
    except FileNotFoundError:
        raise RejectedError(
            f"artifact {logged!r}: there is no such file (in {here or 'a folder that was deleted'})", key=logged
        ) from None
    except OSError as problem:
        raise RejectedError(f"artifact {logged!r} cannot be kept: {problem.strerror or problem}", key=logged) from problem
    return ArtifactAdded(path=place_in_run(inside), logged=logged, type=kind or kind_of(inside), size=size, sha256=digest)


def keep_bytes(store: Store, content: bytes, path: str) -> ArtifactAdded:
    """Keep bytes as the artifact `path`."""
    digest = blobs.put_bytes(store, content)
    return ArtifactAdded(path=place_in_run(path), logged=path, type=kind_of(path), size=len(content), sha256=digest)


def files_below(folder: str) -> Iterator[str]:
    """Every regular file below a folder, in a stable order; links to folders are not followed."""
    for here, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(here, name)
            if os.path.isfile(path):
                yield path


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
