"""Whoever reads the pages finds everything: each verb stands in README.md, each route in api/README.md, and no other does."""

from __future__ import annotations

import re

import pytest
from house import blocks, page

from ailab.cli import main

VERBS = ("changes", "compare", "demo", "doctor", "flag", "note", "runs", "serve", "show", "sql", "tag", "top")
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
    assert re.search(r"\b(?:queries|actions|checkup|demo|ailab_api)\.\w+", text)
    assert "--json" in text


def test_readme_names_no_verb_that_is_not_there():
    """Every `ailab WORD` in a command block of the README is a verb or an option."""
    lines = [line for block in blocks(page("README.md")) if block.language in CODE for line in block.text.splitlines()]
    words = {found[1] for line in lines if (found := re.match(r"(?:\$ )?ailab ([a-z-]+)", line))}
    assert words - set(VERBS) - {"--help", "--version"} == set()


def test_each_route_stands_in_the_manual():
    """api/README.md names method and path of each together, and shows a curl line for each path."""
    text = page("api/README.md")
    code = [line for block in blocks(text) if block.language in CODE for line in block.text.splitlines()]
    unnamed, unshown = [], []
    for method, path in routes():
        pattern = as_pattern(path)
        if not re.search(rf"\b{method}\b[^\n]*?{pattern}(?![\w{{/-])", text):
            unnamed.append(f"{method} {path}")
        if not any(re.search(rf"curl\b.*?://[^/\s]+{pattern}(?=[\s?\"'#]|$)", line) for line in code):
            unshown.append(path)
    assert (unnamed, unshown) == ([], [])


def test_the_manual_names_no_route_that_is_not_there():
    """Every `METHOD /path` of api/README.md is a route of the server."""
    known = [(method, re.compile(as_pattern(path) + r"$")) for method, path in routes()]
    said = re.findall(r"\b(GET|POST|PUT|PATCH|DELETE) (/[^\s`|?)]*)", page("api/README.md"))
    unknown = [
        f"{method} {path}" for method, path in said if not any(m == method and p.match(path.rstrip(".,;:")) for m, p in known)
    ]
    assert unknown == []
    assert said
