"""Whoever reads the pages finds everything: each verb stands in README.md, each route in api/README.md, and no other does."""

from __future__ import annotations

import re

import pytest
from house import blocks, page

from ailab.cli import main

VERBS = (
    "artifacts", "changes", "compact", "compare", "datasets", "demo", "doctor", "export", "flag", "gc", "merge", "note",
    "projects", "protect", "redact", "rename", "restore", "runs", "serve", "show", "sql", "sync", "tag", "token", "top",
    "trash", "undo", "verify",
)  # fmt: skip
CODE = {"sh", "console", "bash"}


def routes() -> list[tuple[str, str]]:
    """(method, path) of every operation of the server's OpenAPI document."""
    from ailab_api.app import create_app

    paths = create_app().openapi_schema.to_schema()["paths"]
    methods = {"get", "post", "put", "patch", "delete"}
    return sorted((method.upper(), path) for path, item in paths.items() for method in item if method in methods)


def as_pattern(path: str) -> str:
    """A pattern for a route's path as people write it: `{name}`, or a value in its place."""
    parts = re.split(r"(\{[^}]*\})", path)
    return "".join(r"(?:\{[^}]*\}|[^\s/?\"'`]+)" if part.startswith("{") else re.escape(part) for part in parts)


def test_the_verbs_are_these():
    """The command line has the promised verbs."""
    assert sorted(main.commands) == sorted(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_stands_in_the_readme(verb):
    """README.md shows it as one types it."""
    assert re.search(rf"\bailab {verb}\b", page("README.md"))


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_says_what_it_does_and_calls(verb):
    """Its help has a sentence, an example that begins with `ailab VERB`, and the query or action behind it."""
    command = main.commands[verb]
    text = command.get_help(command.make_context(verb, [], resilient_parsing=True, parent=main.make_context("ailab", [verb])))
    assert (command.help or "").split("\n")[0].endswith(".")
    assert f"ailab {verb}" in text
    assert re.search(
        r"\b(?:queries|inventory|actions|checkup|demo|ailab_api|verification|joining|collecting|removal|remote|views)\.\w+", text
    )
    assert "--json" in text


def test_readme_names_no_verb_that_is_not_there():
    """Every `ailab WORD` in a command block of the README is a verb or an option."""
    lines = [line for block in blocks(page("README.md")) if block.language in CODE for line in block.text.splitlines()]
    words = {found[1] for line in lines if (found := re.match(r"(?:\$ )?ailab ([a-z-]+)", line))}
    assert words - set(VERBS) - {"--help", "--version"} == set()


def asked() -> list[tuple[str, str]]:
    """(method, path) of every curl line of api/README.md that asks the server."""
    lines = [line for block in blocks(page("api/README.md")) if block.language in CODE for line in block.text.splitlines()]
    found = []
    for line in lines:
        url = re.search(r"^(?:[A-Z]+=\$\()?curl\b.*?(?:\$URL|https?://[^/\s]+)(/[^\s\"'?]*)", line)
        method = re.search(r"-X ([A-Z]+)", line)
        if url:
            found.append((method[1] if method else "GET", url[1]))
    return found


def test_the_manual_has_a_curl_line_for_each_route_and_for_no_other():
    """Every operation of the OpenAPI document has its line in api/README.md, and every line asks one of them."""
    known = {(method, path): re.compile(as_pattern(path)) for method, path in routes()}
    fitting = {
        line: [route for route, shape in known.items() if route[0] == line[0] and shape.fullmatch(line[1])] for line in asked()
    }
    assert [line for line, fits in fitting.items() if not fits] == []
    named = {
        min(fits, key=lambda route: route[1].count("{")) for fits in fitting.values() if fits
    }  # /runs/compare is no run's id
    assert sorted(set(known) - named) == []
