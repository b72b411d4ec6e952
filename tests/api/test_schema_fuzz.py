"""The OpenAPI document is the truth: schemathesis asks everything that it allows and much that it forbids, and reads the answers.

It runs as its users run it, a process of its own against a real server over a socket, with the checks of `schema_checks` beside
its own. Left out are four of its checks: `ignored_auth` and `object_level_authorization`, since loopback needs no token
(`test_access` has them), and `use_after_free` and `ensure_resource_availability`, since the trash loses nothing: what lies in it
can be read, and projects and runs come into being by being named. For the same reason the stateful phase is left out.
"""

from __future__ import annotations

import collections
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode

import pytest
from live import SERVER, environment, launch

from ailab_api import examples

CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "negative_data_rejection", "positive_data_acceptance", "missing_required_header",
    "unsupported_method", "allow_header_conformance", "security_headers", "errors_have_one_form",
)  # fmt: skip
CONFIG = """
request-timeout = 60
continue-on-failure = true
[checks]
negative_data_rejection.expected-statuses = ["400", "404", "405", "409", "413", "415", "416"]
positive_data_acceptance.expected-statuses = ["2xx", "304", "404", "409", "413", "416"]
[generation]
max-examples = {examples}
database = "none"
no-shrink = true
"""
"""What counts as refused and as accepted: a body of allowed texts may be too large in all, an allowed id may not be there."""
OFTEN = 0.6
"""How often an id is one that is there; schemathesis finds others in answers, and makes up the rest."""
BODIES = "".join(
    f'[[operations]]\ninclude-operation-id = "{operation}"\n'
    f'parameters."body.{field}" = {{ dictionary = "{words}", probability = {probability} }}\n'
    for operation, field, words, probability in (
        ("create_project", "name", "create_project", 1.0),
        ("modellab_create_project", "name", "modellab_create_project", 1.0),
        ("modellab_log_artifact", "run_id", "run_id", OFTEN),
    )
)
"""A project can be made only once, and both operations would think of the same names; a file is noted of a run that is there."""
TWICE = (
    "add_dataset", "modellab_add_dataset", "modellab_upload_dataset", "modellab_upload_artifact", "modellab_preview_dataset",
    "modellab_create_project", "history", "change_run_by_put",
    "change_dataset_by_patch", "change_project_by_patch", "modellab_change_project_by_patch", "modellab_change_dataset_by_patch",
    "modellab_change_run_by_patch",
)  # fmt: skip
"""What is asked little in the short form: uploads of datasets, which a process of its own reads, and what has a second name."""
NEVER_GOOD = {("PUT", "/journal/{segment}"): "takes lines with their checksums, in their order; test_shipping sends such"}
"""Operations that nobody succeeds at by chance."""
BROKEN = """
import functools
from litestar import Response
from ailab.errors import FilterError
from ailab_api import guard
from ailab_api.routes import changes, datasets, health, leaderboard, projects, sql

def breaks(handler, put):
    handler._fn = functools.wraps(handler._fn)(put)

def refuse(request):
    raise FilterError("no", where="limit")

guard.SECURITY = guard.SECURITY[1:]
breaks(health.get_whoami, lambda request: 1 / 0)
breaks(health.get_health, lambda request: {"status": 1})
breaks(projects.list_projects, lambda request: Response([], status_code=418))
breaks(leaderboard.get_leaderboard, lambda request: Response("none", media_type="text/plain"))
breaks(sql.get_views, lambda request: Response({"oops": 1}, status_code=400, media_type="application/problem+json"))
breaks(changes.list_changes, lambda request: Response([]))
breaks(datasets.list_datasets, lambda request: Response([], headers={"X-Total-Count": "0"}))
breaks(projects.list_project_datasets, refuse)
"""
"""Routes that are wrong, each in its way, and a header that is nowhere."""


def prepare(live, examples_each):
    """Make what the document's examples speak of, and more of it than requests at random will put in the trash.

    Returns:
        The configuration of schemathesis, with ids of all that is there.
    """
    there = {"run_id": [], "project_id": [], "dataset_id": [], "path": [examples.PATH]}
    file = {"Content-Type": "application/octet-stream"}
    for i, run_id in enumerate((examples.RUN_ID, examples.OTHER_ID, *(f"fuzz-{i}" for i in range(10)))):
        assert live.send("POST", "/runs", {"run_id": run_id, "project": "iris" if i < 2 else f"p{i}"}).status == 201
        assert live.send("PATCH", f"/runs/{run_id}/note", {"note": "first"}).status == 200
        found = live.ask("POST", f"/artifacts/{run_id}?path={examples.PATH}", file, examples.FILE_TEXT.encode())
        assert found.status == 201
        there["run_id"].append(run_id)
        there["project_id"].append("iris" if i < 2 else f"p{i}")
    for name in ("iris", "d1", "d2", "d3"):
        found = live.ask("POST", f"/datasets?name={name}&file={name}.csv&project_id=iris", file, examples.FILE_TEXT.encode())
        assert found.status == 201
        there["dataset_id"].append(found.json()["dataset_id"])
    assert there["dataset_id"][0] == examples.DATASET_ID
    there["event"] = [change["event"] for change in live.get("/changes").json()]
    there["segment"] = sorted({event.partition(":")[0] for event in there["event"]})
    lines = [f"{name}.values = {json.dumps(values)}" for name, values in there.items()]
    bound = [f'"path.{name}" = {{ dictionary = "{name}", probability = {OFTEN} }}' for name in there]
    names = [
        f"{prefix}create_project.values = {json.dumps([f'{prefix}project {i}' for i in range(50)])}"
        for prefix in ("", "modellab_")
    ]
    config = CONFIG.format(examples=examples_each)
    return "\n".join([config, "[dictionaries]", *lines, *names, "[parameters]", *bound, BODIES])


class Report:
    """What schemathesis did and found."""

    def __init__(self, folder: Path, output: str) -> None:
        self.output = output
        self.whole = json.loads((folder / "report.json").read_text())
        self.statuses: dict[tuple[str, str], collections.Counter[int]] = collections.defaultdict(collections.Counter)
        self.modes: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for line in (folder / "events.ndjson").read_text().splitlines():
            recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
            for case_id, found in recorder.get("interactions", {}).items():
                case = recorder["cases"][case_id]["value"]
                operation = tuple(recorder["label"].split(" ", 1))
                if case["method"] == operation[0]:  # not a probe of a method that is not there
                    self.statuses[operation][found["response"]["status_code"]] += 1
                    self.modes[operation][case["meta"]["generation"]["mode"]] += 1

    @property
    def failures(self):
        """(operation, kind of failure or name of our check) of all that it found."""
        kinds = [(found["title"].split("`")[1::2] or [found["type"]], found["operations"]) for found in self.whole["failures"]]
        return {(operation, kind) for (kind, *_), operations in kinds for operation in operations}

    @property
    def requests(self):
        """How many it sent."""
        return self.whole["test_cases"]["generated"]


def fuzz(live, folder, config, *options):
    """Let schemathesis loose on a server; the options are those of its command line."""
    folder.mkdir()
    (folder / "schemathesis.toml").write_text(config)
    # from a file, since it does not ask for a document that it loaded from a URL
    (folder / "openapi.json").write_bytes(live.get("/schema/openapi.json").body)
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml", "run", "openapi.json", "--url", live.url,
        "--phases", "examples,coverage,fuzzing", "--checks", ",".join(CHECKS), "--workers", "2", "--no-color",
        "--report-json-path", "report.json", "--report-ndjson-path", "events.ndjson", *options,
    ]  # fmt: skip
    paths = os.pathsep.join((str(Path(__file__).parent), environment()["PYTHONPATH"]))
    env = environment(PYTHONPATH=paths, SCHEMATHESIS_HOOKS="schema_checks", PYTHONWARNINGS="ignore")
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    return Report(folder, done.stdout)


@pytest.fixture
def fresh(store, tmp_path):
    """`fresh(source=…)` starts a server on a copy of the store of six runs; its temporary files go to a folder of its own."""
    copy, scratch = tmp_path / "store", tmp_path / "scratch"
    scratch.mkdir()
    shutil.copytree(store, copy, copy_function=os.link)  # files never change, so links will do
    started = []

    def start(**given):
        started.append(launch(tmp_path, dir=copy, TMPDIR=str(scratch), **given))
        return started[-1]

    yield start
    for live in started:
        live.end()


def everything_is_as_documented(fresh, figure, folder, *, seed, examples_each, little=()):
    """Every operation is asked well and badly, no answer is other than the document says, the server is whole afterwards."""
    live = fresh()
    config = prepare(live, examples_each)
    if little:
        config += f"[[operations]]\ninclude-operation-id = {json.dumps(little)}\nphases.coverage.enabled = false\n"
    report = fuzz(live, folder / "fuzz", config, "--seed", seed)
    assert not report.failures, report.output
    assert report.whole["exit_code"] == 0, report.output
    document = live.get("/schema/openapi.json").json()
    operations = {(verb.upper(), path): found for path, item in document["paths"].items() for verb, found in item.items()}
    assert set(report.statuses) == set(operations)
    good = {operation for operation, found in report.statuses.items() if any(200 <= status < 300 for status in found)}
    assert set(operations) - good == set(NEVER_GOOD)
    for operation, found in operations.items():
        if found["operationId"] not in little and ("requestBody" in found or "query" in str(found.get("parameters"))):
            assert report.modes[operation]["negative"], operation
    assert live.get("/health").json() == {"status": "ok", "project": "ailab"}
    assert live.end() == (-signal.SIGTERM, "")
    left = [*(folder / "scratch").iterdir(), *(folder / "store" / "blobs").rglob(".tmp-*")]
    # the process that answers SQL is killed with the server: what it leaves, the next one removes (ailab.views.scratch)
    assert [path.name for path in left if not path.name.startswith("ailab-view-")] == []
    assert len(left) <= 1
    figure(f"{report.requests} requests to {len(operations)} operations, seed {seed}")


def test_every_operation_is_as_documented(fresh, figure, tmp_path):
    """The short form: a few requests of each kind to each operation, the same ones each time as far as the server's ids allow."""
    everything_is_as_documented(fresh, figure, tmp_path, seed="1", examples_each=3, little=TWICE)


@pytest.mark.long
def test_every_operation_is_as_documented_at_length(fresh, figure, tmp_path):
    """The long form: other requests at each run; the printed seed is what it takes to have them again."""
    seed = str(secrets.randbelow(1 << 32))
    everything_is_as_documented(fresh, figure, tmp_path, seed=seed, examples_each=40)


VALIDATE = """
import json, sys
import jsonschema_rs, schemathesis

document = json.load(sys.stdin)
schemathesis.openapi.from_dict(document).validate()  # against the OpenAPI Initiative's own schema of OpenAPI 3.1

def check(place, holder):
    if "example" in holder:
        schema = {"components": document["components"], "allOf": [holder["schema"]]}
        for problem in jsonschema_rs.validator_for(schema).iter_errors(holder["example"]):
            print(place, "example:", problem.message)

for path, item in document["paths"].items():
    for verb, operation in item.items():
        for parameter in operation.get("parameters", []):
            check((verb, path, parameter["name"]), parameter)
        for answer in (operation.get("requestBody", {}), *operation["responses"].values()):
            for media, content in answer.get("content", {}).items():
                if media != "multipart/form-data":  # whose files are no strings
                    check((verb, path, media), content)
"""


def validated(folder, document):
    """What is wrong with a document, found by schemathesis' validator in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", VALIDATE], input=json.dumps(document), cwd=folder, env=environment(PYTHONWARNINGS="ignore"),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def test_the_document_is_openapi_and_its_examples_fit(server, tmp_path):
    """It is valid as OpenAPI 3.1, and every example is of the schema that it stands beside; what is not, is found."""
    document = server.get("/schema/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert validated(tmp_path, document) == ""
    limit = next(one for one in document["paths"]["/runs"]["get"]["parameters"] if one["name"] == "limit")
    limit["example"] = "ten"
    assert "'limit') example:" in validated(tmp_path, document)
    limit["in"] = "body"
    assert "ValidationError" in validated(tmp_path, document)


def test_a_cursor_of_the_document_is_taken(server):
    """What a schema cannot say of a cursor its example shows; a made-up one is refused."""
    asked = 0
    for path, item in server.get("/schema/openapi.json").json()["paths"].items():
        for parameter in item.get("get", {}).get("parameters", []):
            if parameter["name"] in {"cursor", "since"} and path != "/stream":  # which begins anew where a cursor says nothing
                place = path.replace("{run_id}", "run-a").replace("{project_id}", "iris")
                taken = server.get(f"{place}?{urlencode({parameter['name']: parameter['example']})}")
                assert taken.status == 200, (path, taken.text)
                assert server.get(f"{place}?{parameter['name']}=made-up").status == 400, path
                asked += 1
    assert asked >= 9


def test_what_is_not_as_documented_is_found(fresh, tmp_path):
    """Negative control: routes that fail, are too strict or too lax, or answer otherwise than documented, are all named."""
    live = fresh(source=BROKEN + SERVER)
    names = (
        "whoami", "health", "list_projects", "leaderboard", "describe_views", "home", "list_changes", "list_datasets",
        "list_project_datasets",
    )  # fmt: skip
    chosen = [word for name in names for word in ("--include-operation-id", name)]
    report = fuzz(live, tmp_path / "fuzz", CONFIG.format(examples=2), "--seed", "1", *chosen)
    assert report.failures >= {
        ("GET /whoami", "ServerError"), ("GET /health", "JsonSchemaError"), ("GET /projects", "UndefinedStatusCode"),
        ("GET /runs/leaderboard", "UndefinedContentType"), ("GET /sql", "errors_have_one_form"), ("GET /", "security_headers"),
        ("GET /changes", "MissingHeaders"), ("GET /datasets", "AcceptedNegativeData"),
        ("GET /projects/{project_id}/datasets", "RejectedPositiveData"),
    }  # fmt: skip
