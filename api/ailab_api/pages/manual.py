"""The page at /schema: every route with its parameters, an example answer and a curl line, made from the OpenAPI document."""

from __future__ import annotations

import shlex
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from ..markup import Html, join, page, tag
from ..markup import table as html_table


def manual(document: dict[str, Any], *, base: str, project: str) -> str:
    """Draw the page.

    Args:
        document: the OpenAPI document.
        base: the server's address, as the curl lines name it.
        project: the installation's name.
    """
    groups: dict[str, list[Html]] = {}
    for path, item in document["paths"].items():
        for verb, found in item.items():
            groups.setdefault(found["tags"][0], []).append(_operation(path, verb, found, base))
    contents = tag("ul", *(tag("li", tag("a", name, href=f"#{name}", class_="chip")) for name in groups), class_="chips")
    body = [
        tag("h1", f"{document['info']['title']} {document['info']['version']}"), tag("p", document["info"]["description"]),
        tag("p", "The same for programs: ", tag("a", "/schema/openapi.json", href="/schema/openapi.json")), contents,
        *(join(tag("h2", name, id=name), *routes) for name, routes in groups.items()),
    ]  # fmt: skip
    return page(f"API · {project}", *body, project=project)


def _operation(path: str, verb: str, found: dict[str, Any], base: str) -> Html:
    body = _example(found.get("requestBody", {}))
    return tag(
        "div", tag("h3", tag("span", verb.upper(), class_="verb"), tag("code", path)), tag("p", found["summary"]),
        _parameters(found.get("parameters", [])), tag("pre", curl_line(path, verb, found, base)),
        tag("details", tag("summary", "Body"), tag("pre", body)) if body else None, _answers(found),
        class_="route", id=found["operationId"],
    )  # fmt: skip


def _parameters(parameters: list[dict[str, Any]]) -> Html:
    if not parameters:
        return Html("")
    rows: list[list[object]] = [
        [
            tag("code", p["name"]),
            _kind(p),
            p.get("description", ""),
            "" if p.get("example") is None else tag("code", _written(p["example"])),
        ]
        for p in parameters
    ]
    return html_table([("Name", ""), ("Type", ""), ("Meaning", ""), ("Example", "")], rows)


def _written(example: Any) -> str:
    """An example as it stands in a URL."""
    one = example[0] if isinstance(example, list) else example
    return str(one).lower() if isinstance(one, bool) else str(one)


def _kind(parameter: dict[str, Any]) -> str:
    schema = parameter["schema"]
    words = [schema["items"]["type"] + ", repeated" if schema.get("type") == "array" else schema.get("type", "string")]
    if parameter["in"] == "path" or parameter.get("required"):
        words.append("needed")
    if schema.get("enum"):
        words.append("one of " + " ".join(schema["enum"]))
    if schema.get("default") is not None:
        words.append(f"default {schema['default']}")
    return ", ".join(words)


def _example(holder: dict[str, Any]) -> str:
    for media, content in holder.get("content", {}).items():
        if content.get("example") is not None:
            found = content["example"]
            return msgspec.json.format(msgspec.json.encode(found), indent=2).decode() if media.endswith("json") else str(found)
    return ""


def _answers(found: dict[str, Any]) -> Html:
    good = {status: answer for status, answer in found["responses"].items() if status.startswith("2")}
    bad = ", ".join(status for status in found["responses"] if status >= "400")
    parts = [
        tag("details", tag("summary", f"Answer {status} · {', '.join(answer.get('content', {}))}"), tag("pre", _example(answer)))
        for status, answer in good.items()
    ]
    return join(*parts, tag("p", f"errors: {bad}, as application/problem+json", class_="soft"))


def curl_line(path: str, verb: str, found: dict[str, Any], base: str) -> str:
    """A command that asks this route with the document's own examples."""
    query: list[tuple[str, str]] = []
    for parameter in found.get("parameters", []):
        example = _written(parameter.get("example", ""))
        if parameter["in"] == "path":
            path = path.replace("{" + parameter["name"] + "}", quote(example))
        elif parameter.get("required") or parameter["name"] in {"limit", "max_points"}:
            query.append((parameter["name"], example))
    words = ["curl"] + (["-X", verb.upper()] if verb != "get" else [])
    content = found.get("requestBody", {}).get("content", {})
    body = content.get("application/json", {}).get("example")
    if "multipart/form-data" in content:
        words += ["-F", "file=@FILE"]
    if body is not None:
        words += ["-H", "Content-Type: application/json", "-d", msgspec.json.encode(body).decode()]
    words.append(base + path + ("?" + urlencode(query) if query else ""))
    return " ".join(shlex.quote(word) for word in words)
