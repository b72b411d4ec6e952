"""ModelLab's client works against this server: its calls as it sends them, and the envelopes that it reads."""

from __future__ import annotations

import datetime
import hashlib
import json
import urllib.request

import pytest

from ailab_api.modellab import camel, snake

PREFIX = "/api/modellab"
RUN_FIELDS = {
    "id", "name", "description", "status", "seed", "commit_hash", "project_id", "dataset_id", "dataset_version", "model_type",
    "config", "hyperparameters", "metrics", "metadata", "tags", "created_at", "completed_at",
}  # fmt: skip
TWINS = {"commitHash", "projectId", "datasetId", "datasetVersion", "modelType", "createdAt", "completedAt"}
CSV = b"feature1,feature2,label\n1,2,0\n3,4,1\n5,6,0\n"


class Client:
    """The requests of ModelLab's Python client: same methods, paths and bodies, the whole of config and metrics each time."""

    def __init__(self, live):
        self.live, self.run_id, self.config, self.metrics = live, None, {}, {}

    def now(self):
        return datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None).isoformat()

    def start_run(self, name, description="", dataset_id=None, seed=42, commit=None):
        answer = self.live.send("POST", f"{PREFIX}/runs", {
            "name": name, "description": description, "dataset_id": dataset_id, "config": {}, "metrics": {}, "seed": seed,
            "commit_hash": commit, "status": "running", "created_at": self.now(),
        })  # fmt: skip
        assert answer.status == 201, answer
        self.run_id = answer.json()["run"]["id"]
        return answer

    def change(self, content):
        answer = self.live.send("PATCH", f"{PREFIX}/runs/{self.run_id}", content)
        assert answer.status == 200, answer
        return answer.json()["run"]

    def log_param(self, key, value):
        self.config[key] = value
        return self.change({"config": self.config})

    def log_metric(self, key, value):
        self.metrics[key] = value
        return self.change({"metrics": self.metrics})

    def log_artifact(self, name, content, kind="model"):
        return self.live.send("POST", f"{PREFIX}/artifacts", {
            "run_id": self.run_id, "name": name, "type": kind, "size": len(content),
            "checksum": hashlib.sha256(content).hexdigest(), "path": f"/home/ada/{name}", "created_at": self.now(),
        })  # fmt: skip

    def end_run(self, status="completed"):
        return self.change({"status": status, "completed_at": self.now()})


@pytest.fixture
def client(playground):
    return Client(playground)


def refusal(answer, status, **expected):
    """Check ModelLab's form of an error; give it."""
    found = json.loads(answer.body)
    assert (answer.status, answer.header("content-type")) == (status, "application/json"), answer
    assert list(found) == ["error", "message", "details"]
    assert {name: found[name] for name in expected} == expected
    return found


def form(content, fields):
    """(headers, body) of a form with a file."""
    parts = [f'--X\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode() for key, value in fields.items()]
    head = b'--X\r\nContent-Disposition: form-data; name="file"; filename="data.csv"\r\nContent-Type: text/csv\r\n\r\n'
    return {"Content-Type": "multipart/form-data; boundary=X"}, b"".join([*parts, head, content, b"\r\n--X--\r\n"])


def upload(live, place, content, **fields):
    headers, body = form(content, fields)
    return live.ask("POST", PREFIX + place, headers, body)


# -- the client's calls ------------------------------------------------------------------------------------------------


def test_a_run_from_its_start_to_its_end(client):
    """start_run, log_param, log_metric, end_run: what the client has said is what the run has, here and on our own paths."""
    started = client.start_run("svm", description="first", dataset_id="iris@v1", seed=7, commit="4b825dc")
    run = started.json()["run"]
    assert set(run) == RUN_FIELDS | TWINS
    assert {key: run[key] for key in ("name", "description", "status", "seed", "commit_hash", "dataset_id")} == {
        "name": "svm", "description": "first", "status": "running", "seed": 7, "commit_hash": "4b825dc", "dataset_id": "iris@v1",
    }  # fmt: skip
    assert (run["config"], run["metrics"], run["completed_at"]) == ({}, {}, None)
    assert started.header("location") == f"{PREFIX}/runs/{client.run_id}"
    client.log_param("lr", 0.1)
    assert client.log_param("batch_size", 32)["config"] == {"lr": 0.1, "batch_size": 32}
    client.log_metric("loss", 0.5)
    client.log_metric("accuracy", 0.9)
    assert client.log_metric("loss", 0.25)["metrics"] == {"loss": 0.25, "accuracy": 0.9}
    ended = client.end_run()
    assert (ended["status"], ended["completed_at"], ended["completedAt"]) == (
        "completed",
        ended["completedAt"],
        ended["completed_at"],
    )
    assert ended["completed_at"] > ended["created_at"]
    ours = client.live.get(f"/runs/{client.run_id}").json()
    assert (ours["status"], ours["params"], ours["final_metrics"]) == ("completed", ended["config"], ended["metrics"])
    assert (ours["seed"], ours["git_hash"], ours["description"]) == (7, "4b825dc", "first")


def test_a_value_that_is_sent_again_is_no_new_point(client):
    """The client sends all its metrics whenever one is logged: only that one becomes a point, and only new parameters events."""
    client.start_run("points")
    client.log_metric("loss", 0.5)
    client.log_metric("accuracy", 0.9)
    client.log_metric("loss", 0.25)
    points = client.live.get(f"/runs/{client.run_id}/metrics").json()
    assert [(p["key"], p["value"]) for p in points] == [("accuracy", 0.9), ("loss", 0.5), ("loss", 0.25)]
    client.log_param("lr", 0.1)
    client.log_param("deep", True)
    client.log_param("deep", 1)
    assert client.log_param("lr", 0.2)["config"] == {"lr": 0.2, "deep": 1}
    sql = f"select data from events where run_id = '{client.run_id}' and kind = 'parameters.added' order by seq"
    asked = urllib.request.Request(
        f"{client.live.url}/sql", json.dumps({"sql": sql}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=20) as answer:
        added = json.load(answer)["rows"]
    assert [json.loads(row[0])["params"] for row in added] == [{"lr": 0.1}, {"deep": True}, {"deep": 1}, {"lr": 0.2}]


def test_a_failed_run_ends_as_one(client):
    """end_run("failed"), which the context manager sends where its block raises."""
    client.start_run("failing")
    assert client.end_run("failed")["status"] == "failed"


def test_an_artifact_of_the_client_is_noted(client):
    """log_artifact sends name, size and SHA-256 with an absolute path: they are kept, the bytes are not there."""
    client.start_run("files")
    answer = client.log_artifact("model.pkl", b"weights")
    assert answer.status == 201
    artifact = answer.json()["artifact"]
    assert {key: artifact[key] for key in ("run_id", "runId", "name", "type", "path", "size", "checksum", "version")} == {
        "run_id": client.run_id, "runId": client.run_id, "name": "model.pkl", "type": "model", "path": "model.pkl", "size": 7,
        "checksum": hashlib.sha256(b"weights").hexdigest(), "version": 1,
    }  # fmt: skip
    client.log_artifact("model.pkl", b"better weights")
    listed = client.live.get(f"{PREFIX}/artifacts/{client.run_id}").json()
    assert [(a["name"], a["size"], a["version"]) for a in listed["artifacts"]] == [("model.pkl", 14, 2)]
    refusal(client.live.get(f"{PREFIX}/artifacts/{client.run_id}/download/model.pkl"), 404)


# -- runs --------------------------------------------------------------------------------------------------------------


def test_both_spellings_are_read(playground):
    """The name projectId is read as project_id; what is said in both, and differently, is refused."""
    answer = playground.send("POST", f"{PREFIX}/runs", {"name": "a", "projectId": "spelt", "commitHash": "abcdef1"})
    run = answer.json()["run"]
    assert (run["project_id"], run["projectId"], run["commit_hash"], run["status"]) == ("spelt", "spelt", "abcdef1", "pending")
    same = playground.send("POST", f"{PREFIX}/runs", {"name": "a", "projectId": "spelt", "project_id": "spelt"})
    assert same.status == 201
    twice = playground.send("POST", f"{PREFIX}/runs", {"name": "a", "projectId": "spelt", "project_id": "other"})
    assert refusal(twice, 400)["details"][0]["path"] == ["body.project_id"]
    assert (camel("project_id"), snake("projectId"), snake("project_id"), snake("id")) == (
        "projectId",
        "project_id",
        "project_id",
        "id",
    )


def test_a_run_that_is_over_when_it_comes(playground):
    """A run may be sent whole: hyperparameters, metadata, tags, metrics, and how it ended."""
    answer = playground.send("POST", f"{PREFIX}/runs", {
        "name": "whole", "project_id": "whole", "model_type": "LogisticRegression", "hyperparameters": {"C": 1.0, "max_iter": 9},
        "metadata": {"author": "ada"}, "tags": ["baseline", "team=cv"], "metrics": {"accuracy": 0.95}, "status": "completed",
    })  # fmt: skip
    run = answer.json()["run"]
    assert (run["status"], run["metrics"], run["metadata"]) == ("completed", {"accuracy": 0.95}, {"author": "ada"})
    assert run["config"] == run["hyperparameters"] == {"C": 1.0, "max_iter": 9, "model_type": "LogisticRegression"}
    assert (run["tags"], run["model_type"], run["modelType"]) == (
        ["baseline", "team=cv"],
        "LogisticRegression",
        "LogisticRegression",
    )
    assert playground.get(f"/runs/{run['id']}").json()["tags"] == {"baseline": None, "team": "cv"}
    found = playground.get(f"{PREFIX}/runs/{run['id']}").json()
    assert found == {"run": run, "evaluations": []}


def test_put_is_patch_and_tags_are_whole(playground):
    """Both change what they name; tags that are sent replace those that were there."""
    run = playground.send("POST", f"{PREFIX}/runs", {"name": "old", "tags": ["a", "b"]}).json()["run"]
    put = playground.send("PUT", f"{PREFIX}/runs/{run['id']}", {"name": "new", "status": "running", "tags": ["b", "c"]}).json()[
        "run"
    ]
    assert (put["name"], put["status"], sorted(put["tags"])) == ("new", "running", ["b", "c"])
    patched = playground.send("PATCH", f"{PREFIX}/runs/{run['id']}", {"description": "said"}).json()["run"]
    assert (patched["name"], patched["description"], sorted(patched["tags"])) == ("new", "said", ["b", "c"])


def test_runs_are_listed_and_filtered(playground):
    """{"runs": […]}, newest first, with the filters of ModelLab in either spelling."""
    for status, kind in (("completed", "svm"), ("running", "tree")):
        content = {"name": kind, "project_id": "listed", "status": status, "model_type": kind, "dataset_id": f"{kind}@v1"}
        assert playground.send("POST", f"{PREFIX}/runs", content).status == 201

    def names(query):
        answer = playground.get(f"{PREFIX}/{query}")
        assert list(answer.json()) == ["runs"]
        return [run["name"] for run in answer.json()["runs"]]

    assert names("runs?project_id=listed") == names("runs?projectId=listed") == names("projects/listed/runs") == ["tree", "svm"]
    assert names("runs?project_id=listed&status=completed") == ["svm"]
    assert names("runs?project_id=listed&model_type=tree") == names("runs?datasetId=tree%40v1&projectId=listed") == ["tree"]
    assert names("runs?project_id=listed&status=created") == []
    assert names("runs?project_id=listed&limit=1") == ["tree"]
    answer = playground.get(f"{PREFIX}/runs?project_id=listed&limit=1")
    assert (answer.header("x-total-count"), 'rel="next"' in answer.header("link")) == ("2", True)
    refusal(playground.get(f"{PREFIX}/runs?status=done"), 400)


def test_a_deleted_run_is_gone_for_the_client_alone(playground):
    """204, then 404 on every path of ModelLab; on ours it lies in the trash and comes back."""
    run = playground.send("POST", f"{PREFIX}/runs", {"name": "gone", "project_id": "bin"}).json()["run"]
    path = f"{PREFIX}/runs/{run['id']}"
    gone = playground.ask("DELETE", path)
    assert (gone.status, gone.body) == (204, b"")
    for answer in (
        playground.get(path), playground.ask("DELETE", path), playground.send("PUT", path, {"name": "x"}),
        playground.get(f"{PREFIX}/artifacts/{run['id']}"),
    ):  # fmt: skip
        refusal(answer, 404, message=f"no run '{run['id']}'")
    assert playground.get(f"{PREFIX}/projects/bin/runs").json() == {"runs": []}
    assert playground.ask("POST", f"/runs/{run['id']}/restore").status == 200
    assert playground.get(path).json()["run"]["name"] == "gone"


@pytest.mark.parametrize(
    ("content", "path"),
    [
        ({}, "body.name"),
        ({"name": " "}, "body.name"),
        ({"name": 1}, "body.name"),
        ({"name": "x", "colour": 1}, "body"),
        ({"name": "x", "status": "crashed"}, "status"),
        ({"name": "x", "metrics": {"a": "much"}}, "a"),
        ({"name": "x", "seed": -1}, "seed"),
        ({"name": "x", "tags": [""]}, "tag"),
        ({"name": "x", "commit_hash": "unknown"}, "commit"),
        ([], "body"),
    ],
)
def test_a_run_that_cannot_be_is_not_begun(playground, content, path):
    """400 with the part that is meant, and no run is left behind."""
    before = playground.get("/runs").header("x-total-count")
    found = refusal(playground.send("POST", f"{PREFIX}/runs", content), 400)
    assert found["details"][0]["path"] == [path]
    assert playground.get("/runs").header("x-total-count") == before


# -- projects ----------------------------------------------------------------------------------------------------------


def test_projects(playground):
    """{"project": …} and {"projects": […]} with statistics; made, changed by both methods, deleted, and gone."""
    made = playground.send("POST", f"{PREFIX}/projects", {"name": "Lab One", "description": "d"})
    project = made.json()["project"]
    assert (made.status, made.header("location")) == (201, f"{PREFIX}/projects/lab-one")
    assert {key: project[key] for key in ("id", "name", "description", "run_count", "runCount", "dataset_count")} == {
        "id": "lab-one", "name": "Lab One", "description": "d", "run_count": 0, "runCount": 0, "dataset_count": 0,
    }  # fmt: skip
    assert project["createdAt"] == project["created_at"]
    playground.send("POST", f"{PREFIX}/runs", {"name": "r", "project_id": "lab-one", "status": "completed"})
    listed = playground.get(f"{PREFIX}/projects").json()["projects"]
    (found,) = [one for one in listed if one["id"] == "lab-one"]
    assert (found["runCount"], found["runsByStatus"]) == (1, {"completed": 1})
    path = f"{PREFIX}/projects/lab-one"
    assert playground.get(path).json() == {"project": found}
    assert playground.send("PUT", path, {"name": "Lab 1"}).json()["project"]["name"] == "Lab 1"
    assert playground.send("PATCH", path, {"description": "e"}).json()["project"]["description"] == "e"
    refusal(playground.send("POST", f"{PREFIX}/projects", {"name": "lab one"}), 409)
    assert playground.ask("DELETE", path).status == 204
    for answer in (playground.get(path), playground.get(f"{path}/runs"), playground.get(f"{path}/datasets"),
                   playground.ask("DELETE", path), playground.send("PUT", path, {"name": "x"})):  # fmt: skip
        refusal(answer, 404)
    assert "lab-one" not in [one["id"] for one in playground.get(f"{PREFIX}/projects").json()["projects"]]


# -- datasets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/datasets", "/datasets/upload"])
def test_an_upload_is_a_dataset(playground, path):
    """Both paths take the form with its fields in either spelling, and answer with {"dataset": …}."""
    name = "up" + path.replace("/", "-")
    answer = upload(playground, path, CSV, name=name, description="three rows", tags="gold,small", projectId="ups")
    dataset = answer.json()["dataset"]
    assert answer.status == 201
    assert {key: dataset[key] for key in ("name", "description", "version", "checksum", "rowCount", "columns", "tags")} == {
        "name": name, "description": "three rows", "version": 1, "checksum": hashlib.sha256(CSV).hexdigest(), "rowCount": 3,
        "columns": ["feature1", "feature2", "label"], "tags": ["gold", "small"],
    }  # fmt: skip
    assert (dataset["project_id"], dataset["projectId"], dataset["fileName"], dataset["size"]) == (
        "ups",
        "ups",
        "data.csv",
        len(CSV),
    )
    assert (dataset["schema"][0]["name"], dataset["schema"][0]["type"]) == ("feature1", "integer")
    assert answer.header("location") == f"{PREFIX}/datasets/{dataset['id']}"
    assert playground.get(f"{PREFIX}/datasets/{dataset['id']}").json() == {"dataset": dataset}
    listed = playground.get(f"{PREFIX}/datasets?project_id=ups").json()["datasets"]
    assert dataset in listed
    assert listed == playground.get(f"{PREFIX}/projects/ups/datasets").json()["datasets"]
    assert playground.get(f"{PREFIX}/datasets?projectId=nothing").json() == {"datasets": []}


def test_a_dataset_is_previewed_changed_and_deleted(playground):
    """{"rows", "total", "showing"}; PUT and PATCH; 204, then 404."""
    dataset = upload(playground, "/datasets", CSV + b"7,8,1\n", name="changing").json()["dataset"]
    path = f"{PREFIX}/datasets/{dataset['id']}"
    rows = [{"feature1": 1, "feature2": 2, "label": 0}, {"feature1": 3, "feature2": 4, "label": 1}]
    assert playground.get(f"{path}/preview?limit=2").json() == {"rows": rows, "total": 4, "showing": 2}
    assert playground.get(f"{path}/preview").json()["showing"] == 4
    changed = playground.send("PUT", path, {"description": "said", "tags": ["a", "b=c"], "metadata": {"from": "field"}})
    found = changed.json()["dataset"]
    assert (found["description"], found["tags"], found["metadata"]) == ("said", ["a", "b=c"], {"from": "field"})
    assert playground.send("PATCH", path, {"projectId": "moved"}).json()["dataset"]["project_id"] == "moved"
    refusal(playground.send("PATCH", path, {"rows": 5}), 400)
    assert playground.ask("DELETE", path).status == 204
    for answer in (playground.get(path), playground.get(f"{path}/preview"), playground.ask("DELETE", path),
                   playground.send("PUT", path, {"name": "x"})):  # fmt: skip
        refusal(answer, 404)


def test_a_run_says_which_version_it_read(playground):
    """A name with a version beside it is that version, and it is in the answer."""
    upload(playground, "/datasets", CSV + b"9,9,9\n", name="versioned")
    second = upload(playground, "/datasets", CSV + b"9,9,8\n", name="versioned").json()["dataset"]
    assert second["version"] == 2
    content = {"name": "reads", "datasetId": "versioned", "datasetVersion": 1}
    run = playground.send("POST", f"{PREFIX}/runs", content).json()["run"]
    assert (run["dataset_id"], run["dataset_version"], run["datasetVersion"]) == ("versioned@v1", 1, 1)
    run = playground.send("POST", f"{PREFIX}/runs", {"name": "reads", "dataset_id": second["id"]}).json()["run"]
    assert (run["dataset_id"], run["dataset_version"]) == (second["id"], 2)


@pytest.mark.parametrize(
    ("content", "path"),
    [
        ({"dataset_id": "a" * 240, "dataset_version": "1" * 9}, "dataset_version"),
        ({"dataset_id": "a" * 251}, "dataset_id"),
        ({"dataset_id": "a", "dataset_version": "1\0"}, "dataset_version"),
        ({"dataset_version": "1\0"}, "dataset_version"),
    ],
)
def test_a_version_that_cannot_be_is_refused_where_it_stands(playground, content, path):
    """Both are kept as one text; each is told of what is its own."""
    found = refusal(playground.send("POST", f"{PREFIX}/runs", {"name": "reads"} | content), 400)
    assert found["details"][0]["path"] == [path]


def test_an_upload_that_is_none_is_refused(playground):
    """A form without a file, a file that cannot be read, and a field that is not known."""
    headers = {"Content-Type": "multipart/form-data; boundary=X"}
    body = b'--X\r\nContent-Disposition: form-data; name="name"\r\n\r\nx\r\n--X--\r\n'
    refusal(playground.ask("POST", f"{PREFIX}/datasets/upload", headers, body), 400, message="the form has no file")
    refusal(upload(playground, "/datasets", b'a,b\n"1,2\n', name="broken"), 400)
    found = refusal(upload(playground, "/datasets", CSV, name="x", colour="red"), 400)
    assert found["details"][0]["path"] == ["body.colour"]


# -- files -------------------------------------------------------------------------------------------------------------


def test_files_are_uploaded_downloaded_and_deleted(playground):
    """A form with a file, {"artifacts": […]}, the bytes as they came, 204, and no such file any more."""
    run = playground.send("POST", f"{PREFIX}/runs", {"name": "files"}).json()["run"]
    answer = upload(playground, f"/artifacts/{run['id']}", CSV, type="data", path="raw/data.csv")
    artifact = answer.json()["artifact"]
    assert (answer.status, artifact["path"], artifact["type"], artifact["size"]) == (201, "raw/data.csv", "data", len(CSV))
    assert artifact["url"] == answer.header("location") == f"{PREFIX}/artifacts/{run['id']}/download/raw/data.csv"
    assert playground.get(f"{PREFIX}/artifacts/{run['id']}").json() == {"artifacts": [artifact]}
    got = playground.get(artifact["url"])
    assert (got.status, got.body) == (200, CSV)
    assert got.header("content-disposition").startswith("attachment")
    assert playground.ask("DELETE", artifact["url"]).status == 204
    assert playground.get(f"{PREFIX}/artifacts/{run['id']}").json() == {"artifacts": []}
    refusal(playground.get(artifact["url"]), 404)


@pytest.mark.parametrize(
    ("change", "path"),
    [({"name": "../x"}, "path"), ({"name": "/etc/passwd"}, "path"), ({"size": -1}, "size"), ({"checksum": "abc"}, "sha256"),
     ({"bytes": "x"}, "body")],
)  # fmt: skip
def test_a_record_that_cannot_be_is_refused(playground, change, path):
    """A place outside of the run, a size or SHA-256 that is none, and what is not known."""
    content = {"run_id": "run-w", "name": "x.bin", "size": 1, "checksum": "0" * 64, **change}
    assert refusal(playground.send("POST", f"{PREFIX}/artifacts", content), 400)["details"][0]["path"] == [path]


# -- errors and health -------------------------------------------------------------------------------------------------


def test_errors_have_the_three_fields(server):
    """What is not there says what is near; nothing of the inside is told."""
    found = refusal(server.get(f"{PREFIX}/runs/run-q"), 404, error="not there", message="no run 'run-q'")
    (about,) = found["details"]
    assert list(about) == ["message", "path", "hint", "nearest"]
    assert len(about["nearest"]) == 3
    refusal(server.ask("POST", f"{PREFIX}/runs", body=b"{"), 400)
    refusal(server.get(f"{PREFIX}/runs?limitt=1"), 400, message="no parameter 'limitt' here")


def test_health(server):
    """Healthy, with the number of runs."""
    found = server.get("/api/health").json()
    assert list(found) == ["status", "timestamp", "environment", "version", "uptime", "database"]
    assert (found["status"], found["database"]) == ("healthy", {"status": "connected", "runs": 6})
    assert found["uptime"] >= 0


def test_metadata_that_is_no_object_is_refused(start, tmp_path):
    """A field of a form that holds another JSON value says so; nothing is kept."""
    live = start(dir=tmp_path / "lab")
    live.send("POST", "/runs", {"run_id": "r"})
    boundary = "x" * 20
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{value}\r\n'
        for name, more, value in (("metadata", "", "[1]"), ("file", '; filename="a.bin"', "bytes"))
    ]
    body = "".join([*parts, f"--{boundary}--\r\n"]).encode()
    answer = live.ask("POST", "/artifacts/r", {"Content-Type": f"multipart/form-data; boundary={boundary}"}, body)
    assert (answer.status, "metadata" in answer.text or "body" in answer.text) == (400, True)
    assert live.get("/artifacts/r").json() == []
