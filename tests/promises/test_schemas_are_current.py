"""The schemas in `events/schema/` are those of the code: one file per kind, for a whole line. Run as a script to write them."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

if __name__ == "__main__":  # pytest has its own ways to find the package
    sys.path.insert(0, str(Path(__file__).parents[2]))

from ailab import events, journal, store

EVENTS = Path(__file__).parents[2] / "events"
FOLDER = EVENTS / "schema"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def _said(kind: Any, description: str, **limits: Any) -> Any:
    return Annotated[kind, msgspec.Meta(description=description, **limits)]


def line_type(kind: str) -> type[msgspec.Struct]:
    """The type of a whole line of this kind: the envelope as it always stands on disk, with the kind's payload."""
    absent = str | msgspec.UnsetType
    fields: list[Any] = [
        ("seq", _said(int, "place in the segment, from 0, without gaps", ge=0)),
        ("at", _said(datetime, "the writer's clock: RFC 3339, UTC, microseconds", tz=True)),
        ("clock", _said(int, "Lamport clock: greater than any that the writer had seen", ge=0)),
        ("kind", Literal[kind]),
        ("run", _said(absent, "the run that the event is about"), msgspec.UNSET),
        ("by", _said(absent, "person or token, where it is not the header's"), msgspec.UNSET),
        ("via", _said(absent, "sdk, cli, http, agent, import or server, where it is not the header's"), msgspec.UNSET),
        ("data", events.KINDS[kind]),
        ("prev", _said(int, "crc of the last whole line before this one, 0 in the first", ge=0, le=2**32 - 1)),
        ("crc", _said(int, "CRC-32 of the line without its newline, the digits of crc replaced by 0", ge=0, le=2**32 - 1)),
    ]
    return msgspec.defstruct(f"{events.KINDS[kind].__name__}Line", fields, kw_only=True)


def schema_text(kind: str) -> str:
    """The schema of a kind's lines as it stands in its file."""
    (schema,), parts = msgspec.json.schema_components([line_type(kind)], ref_template="#/$defs/{name}")
    line = parts.pop(schema["$ref"].rpartition("/")[2])
    whole = {
        "$schema": DIALECT,
        "title": kind,
        "description": " ".join((events.KINDS[kind].__doc__ or "").split()),
        **{key: line[key] for key in ("type", "properties", "required")},
        "$defs": {name: _plain(part) for name, part in parts.items()},
    }
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _plain(part: dict[str, Any]) -> dict[str, Any]:
    return {**part, "description": " ".join(part.get("description", "").split())}


def write() -> None:
    """Make the folder what it should be."""
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.json"):
        if path.stem not in events.KINDS:
            path.unlink()
    for kind in events.KINDS:
        (FOLDER / f"{kind}.json").write_text(schema_text(kind), encoding="utf-8")


def test_schemas_are_those_of_the_code():
    """Every kind has its schema, no other file is there, and each is what the code gives now."""
    found = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
    expected = {f"{kind}.json": schema_text(kind) for kind in events.KINDS}
    assert sorted(found) == sorted(expected)
    stale = [name for name in sorted(expected) if found[name] != expected[name]]
    assert not stale, f"write them anew with: python {Path(__file__).relative_to(EVENTS.parent)}"


def test_the_envelope_of_the_schemas_is_the_line():
    """Names and order of the envelope's fields are those that the journal writes."""
    for kind in events.KINDS:
        assert line_type(kind).__struct_fields__ == events.Line.__struct_fields__
        schema = json.loads(schema_text(kind))
        assert tuple(schema["properties"]) == events.Line.__struct_fields__
        assert schema["required"] == ["seq", "at", "clock", "kind", "data", "prev", "crc"]


def test_lines_of_a_real_store_fit_their_schemas(tmp_path):
    """What the journal writes decodes as the types that the schemas are made from; a line of another kind does not."""
    writer = journal.Writer(store.open_store(str(tmp_path / "lab"), create=True), run="r1", by="ada")
    writer.append(events.RunStarted(name="r1", params={"lr": 0.1}))
    writer.append(events.MetricsLogged({"loss": 0.5}, 1), via="http")
    writer.append(events.RunFinished(status="completed"))
    writer.seal()
    (path,) = Path(writer.store.segments).iterdir()
    lines = path.read_bytes().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == [
        "segment.opened", "run.started", "metrics.logged", "run.finished", "segment.sealed",
    ]  # fmt: skip
    for line in lines:
        kind = json.loads(line)["kind"]
        msgspec.json.decode(line, type=line_type(kind), strict=True)
        for other in set(events.KINDS) - {kind}:
            try:
                msgspec.json.decode(line, type=line_type(other), strict=True)
            except msgspec.ValidationError:
                continue
            raise AssertionError(f"a line of kind {kind} passes as {other}")


def test_the_marker_is_the_one_that_stores_get():
    """A checkout's `events/` is a store: its marker has the bytes of every store's marker."""
    assert (EVENTS / store.MARKER).read_bytes() == store.MARKER_BYTES


def test_git_sees_the_format_and_not_the_data(tmp_path):
    """In `events/` the format, its schemas and the marker are source; everything that runs write is ignored."""
    (tmp_path / ".gitignore").write_bytes((EVENTS / ".gitignore").read_bytes())
    source = [".gitignore", "README.md", store.MARKER, "schema/run.started.json"]
    data = ["segments/x.jsonl", "blobs/ab/abcd", "claims/x", "schema/notes.txt", "other.json", "deep/README.md"]
    for name in (*source, *data):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "--quiet"], check=True)
    seen = subprocess.run([*git, "ls-files", "--others", "--exclude-standard"], check=True, capture_output=True, text=True)
    assert sorted(seen.stdout.split()) == sorted(source)


if __name__ == "__main__":
    write()
