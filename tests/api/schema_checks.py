"""What schemathesis checks of every answer beside its own checks; it loads this by name, in a process of its own.

Its own checks stand but for three kinds of failures that are none: what `BEYOND` says, and what `filter_failure` does.
"""

from __future__ import annotations

import ast
import json
import re
import threading
import zlib

import schemathesis
from live import SECURITY
from schemathesis.core.parameters import ParameterLocation

BEYOND = {
    r"(cursor|since): ": "a cursor is opaque, and of one question",
    r"metric_m(in|ax): metric_m(in|ax) needs metric_name": "one parameter needs another",
    r"(last|since): \w+ stands with no \w+": "one parameter excludes another",
    r"(where|sort|as_of|from_timestamp|to_timestamp|params\.KEY|tag|sql): ": "a language of its own",
    r"metric_(min|max): ": "NaN is no limit",
    r"(key|metric_name): no metric ": "a metric that is there",
    r"project_id: no project ": "a project that is there",
    r"ids: compare takes 1 to 100 runs": "with commas between, several runs or none may stand in one text",
    r"path: path .* is not allowed": "a place is relative, with no part that goes up",
    r"(path|file): the file has no name": "the name may come by three ways, one of which is needed",
    r"(file|format|encoding): ": "what a file holds, and whether it can be read",
    r"body: the (range|first line) ": "a range of a segment is whole lines, from its header on",
    r"body\.(tags|metadata): \w+ is no such JSON": "a field of a form that holds JSON, as text",
    r"metadata: ": "a field of a form that holds JSON, as text",
    r"events\[\d+\](?!\.data[^ ]*: the data do not fit)": "what a note, a metric or a tag may be, inside of the data of an event",
    r"dataset_version: dataset_id and dataset_version have": "two texts are too long together",
    r".*: metric .* is no number": "metrics may be nested, so no schema says what is at the bottom of them",
    r"(params|metrics|summary|values|step|time): ": "they may be nested, and are flattened before they are counted",
    r".* not fit.*: expected [^,]*\binteger\b[^,]*, got number": "1.0 is an integer for JSON Schema, for msgspec none",
    r"body\.\w+: \w+ is given twice": "ModelLab's fields have two spellings",
}
"""Rules that no JSON schema of ours can say, as `where: detail` of a refusal, and why."""


def one_at_a_time(function):
    """A function that one thread runs at a time."""
    lock = threading.Lock()

    def run(*given, **named):
        with lock:
            return function(*given, **named)

    return run


# Python 3.11 breaks off where two threads make trees of source at once (gh-106905), and hypothesis does so in every worker
ast.parse = one_at_a_time(ast.parse)


def refusal(response):
    """(title, detail, where) of an error in either form; raises where it has neither."""
    found = json.loads(response.content)
    if response.headers["content-type"][0] == "application/problem+json":
        return found["title"], found["detail"], found["where"]
    details = found["details"]
    return found["error"], found["message"], details[0]["path"][0] if details and details[0]["path"] else None


@schemathesis.check
def security_headers(ctx, response, case):
    """Every answer has them, whatever it answers."""
    for name, value in SECURITY.items():
        assert response.headers.get(name) == [value], f"{name}: {response.headers.get(name)}"
    (policy,) = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'"), policy
    assert response.headers.get("cache-control"), "no Cache-Control"


@schemathesis.check
def errors_have_one_form(ctx, response, case):
    """An error is a problem with title and detail; below /api/ it has ModelLab's form, unless the guard refused it."""
    if response.status_code < 400 or response.request.method == "HEAD":
        return
    (media,) = response.headers["content-type"]
    allowed = {"application/problem+json"} | ({"application/json"} if case.path.startswith("/api/") else set())
    assert media in allowed, media
    try:
        title, detail, _ = refusal(response)
    except (KeyError, ValueError) as problem:
        raise AssertionError(f"an error of neither form: {problem!r}") from None
    assert title, "an error without a title"
    assert detail, "an error without a detail"
    if media == "application/problem+json":
        assert json.loads(response.content)["status"] == response.status_code


def _is_reference(case):
    """Whether a body of JSON says where a file is."""
    return case.media_type == "application/json" and case.path.endswith("/artifacts/{run_id}")


def _allows(case, where):
    """Whether the document allows a part of a request."""
    part = case.meta.components.get(where) if case.meta else None
    return part is None or part.mode.is_positive


@schemathesis.hook
def before_call(context, case, kwargs):
    """Ask for no stream that stays open, and mostly for what can be answered, where a schema cannot say what can.

    All streams but those with `seconds` end with what there is. A cursor that is made up is refused, and of what excludes one
    another both; so three of four requests that the document allows have its example for a cursor, and one part of such a pair.
    """
    query = case.query
    if query and _is_reference(case) and _allows(case, ParameterLocation.QUERY):
        query.pop("path", None)  # of JSON that has a path beside it, nobody reads what it says
    if case.path == "/stream" and query and str(query.get("seconds")).isdecimal():
        del query["seconds"]
    if not query or not _allows(case, ParameterLocation.QUERY):
        return
    dice = zlib.crc32(repr(sorted(query.items())).encode())
    if dice % 4 == 0:
        return
    for parameter in case.operation.definition.raw.get("parameters", []):
        if parameter["name"] in {"cursor", "since"} & query.keys() and parameter["schema"]["type"] == "string":
            query[parameter["name"]] = parameter["example"]
    excludes = next((name for name in ("last", "max_points") if name in query), None)
    if "since" in query and excludes is not None:
        del query["since" if dice // 4 % 2 else excludes]


_MADE_TEXT = r"violates `type` at /properties/\w+ \(was string, became (integer|number|boolean|array)\)"
"""What the tool says of a field of a form that arrives as a text like any other, or, where it is an empty list, not at all."""


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """Whether a failure is one."""
    kind = type(failure).__name__
    if kind == "AcceptedNegativeData" and _is_reference(case) and "path" in (case.query or {}):
        return False  # where the query says what its path is, JSON is a file like any other
    if kind == "AcceptedNegativeData" and case.media_type == "multipart/form-data":
        said = re.findall("violates .*", failure.message)
        return not said or not all(re.fullmatch(_MADE_TEXT, one) for one in said)  # a form has texts alone
    if kind == "UnsupportedMethodResponse" and response.status_code == 415:
        return False  # the guard reads the type of a body before it is known which route it means
    if kind == "RejectedPositiveData" and response.status_code == 400:
        try:
            _, detail, where = refusal(response)
        except (KeyError, ValueError):
            return True  # it has no form at all, which `errors_have_one_form` says as well
        return not any(re.match(rule, f"{where}: {detail}", re.DOTALL) for rule in BEYOND)
    return True
