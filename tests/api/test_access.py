"""Who may what: no token on loopback, none but tokens elsewhere, roles, tokens of one project, and limits; on every route."""

from __future__ import annotations

import base64
import json
import os
import shutil

import pytest
from test_guard import body_of

from ailab import settings, views
from ailab.actions import Actions
from ailab.bodies import NewToken
from ailab.store import open_store
from ailab_api.access import LIMITS, Actor, Limits, Tokens
from ailab_api.catalogue import Catalogue

CANARY = ("run-c", "run-x", "run-w", "run-big")
"""Words that only things outside of project iris have."""


@pytest.fixture(scope="module")
def tokens(store, tmp_path_factory):
    """A copy of the store of six runs, and the texts of its tokens by role."""
    copy = tmp_path_factory.mktemp("access") / "store"
    shutil.copytree(store, copy, copy_function=os.link)
    lab = views.open_lab(copy)
    with Actions(lab, via="cli") as actions:
        made = {role: actions.create_token(NewToken(role=role, name=role)) for role in ("reader", "writer", "admin")}
        for role in ("reader", "writer"):
            made[f"iris {role}"] = actions.create_token(NewToken(role=role, name=f"iris-{role}", project_id="iris"))
        made["revoked"] = actions.create_token(NewToken(role="admin", name="revoked"))
        actions.revoke_token("revoked")
    lab.close()
    return copy, {role: one.text for role, one in made.items()}


SOURCE = """
import os, signal, socket, sys, threading, uvicorn
from ailab_api.app import create_app
threading.Thread(target=lambda: (os.read(0, 1), os.kill(os.getpid(), signal.SIGTERM)), daemon=True).start()
server = create_app(sys.argv[1])
# patient
async def app(scope, receive, send):
    if scope["type"] == "http":
        scope["client"] = ("10.0.0.7", 5)
    await server(scope, receive, send)
listener = socket.create_server(("127.0.0.1", 0))
print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on")).run(sockets=[listener])
"""
"""A server all of whose clients seem to come from another machine."""
PATIENT = (
    "from ailab_api.access import Limits; server.guard.limits = Limits({'failures': 10_000, 'writes': 10_000, 'uploads': 10_000})"
)


@pytest.fixture(scope="module")
def afar(tokens, tmp_path_factory):
    """`afar(role, method, path, …)`: ask from another machine, with the token of a role, or with None."""
    from live import launch

    live = launch(tmp_path_factory.mktemp("afar"), dir=tokens[0], source=SOURCE.replace("# patient", PATIENT))

    def ask(role, method, path, headers=None, body=b""):
        shown = {} if role is None else {"Authorization": f"Bearer {tokens[1].get(role, role)}"}
        return live.ask(method, path, {**(headers or {}), **shown}, body)

    yield ask
    live.end()


@pytest.fixture
def sends(routes):
    """Every route as (method, path, template, headers, body, operation)."""
    return [(verb, path, template, *body_of(operation), operation) for verb, path, template, operation in routes]


def needs(verb, template):
    """The role that a route takes, as people expect it: to ask is to read, everything else is to write."""
    if template == "/health":
        return "none"
    return "reader" if verb == "GET" or (verb, template) in {("POST", "/compare"), ("POST", "/sql")} else "writer"


def test_every_route_needs_a_token_elsewhere(afar, sends):
    """Route enumeration: without a token, with one that was revoked or none of ours, nothing but /health answers."""
    for role in (None, "revoked", "ailab_guess", ""):
        for verb, path, template, headers, body, _ in sends[:: 1 if role is None else 6]:
            answer = afar(role, verb, path, headers, body)
            assert answer.status == (200 if template == "/health" and role is None else 401), (role, verb, template)
            if answer.status == 401:
                assert [value.split()[0] for value in answer.all("www-authenticate")] == ["Bearer", "Basic"]
                assert b"PUBLISH" not in answer.body
    assert afar(None, "GET", "/nothing").status == 401


def test_every_route_keeps_to_its_role(afar, sends):
    """A reader asks, and changes nothing; a writer does both."""
    for verb, path, template, headers, body, _ in sends:
        wanted = needs(verb, template)
        if wanted == "writer":
            assert afar("reader", verb, path, headers, body).status == 403, (verb, template)
        else:
            assert afar("reader", verb, path, headers, body).status not in {401, 403}, (verb, template)


def test_every_route_says_who_may(routes):
    """The table of each route names its role, and a route that does not is closed: nobody forgets one."""
    from ailab_api.app import create_app

    handlers = {
        (method, route.path_format): handler.opt
        for route in create_app("/nowhere").routes
        for handler in getattr(route, "route_handlers", [])
        for method in handler.http_methods
    }
    for verb, _, template, operation in routes:
        assert handlers[verb, template]["needs"] == needs(verb, template), (verb, template)
        assert {"401", "403"} <= set(operation["responses"]), template
        limited = needs(verb, template) == "writer" or (verb, template) in {("GET", "/stream"), ("POST", "/sql")}
        assert ("429" in operation["responses"]) == limited, template


def test_a_token_of_one_project_reaches_nothing_else(afar, sends):
    """Route enumeration: no answer to it has a word of another project, and what it names there is not there."""
    for verb, path, template, headers, body, _ in sends:
        if verb == "GET":
            answer = afar("iris reader", verb, path, headers, body)
            assert answer.status in {200, 403} or template in {"/runs/leaderboard", "/runs/compare"}, (verb, template)
            assert not [word for word in CANARY if word.encode() in answer.body], template
    for run in ("run-c", "run-x", "run-w", "run-big"):
        for verb, path, template, headers, body, _ in sends:
            if "{run_id}" in template:
                answer = afar("iris writer", verb, path.replace("run-a", run), headers, body)
                assert answer.status == 404, (verb, template)
    runs = afar("iris reader", "GET", "/runs").json()
    assert {"run-a", "run-b"} <= {row["run_id"] for row in runs}
    assert {row["project"] for row in runs} == {"iris"}
    assert [row["project_id"] for row in afar("iris reader", "GET", "/projects").json()] == ["iris"]
    for path in ("/runs?", "/datasets?", "/runs/leaderboard?metric_name=accuracy&"):
        assert afar("iris reader", "GET", f"{path}project_id=wine").status == 404
        assert afar("iris reader", "GET", f"{path}project_id=iris").status == 200
    assert afar("iris reader", "GET", "/projects/wine").status == 404
    json = {"Content-Type": "application/json"}
    assert afar("iris writer", "POST", "/runs", json, b'{"project": "wine"}').status == 404
    assert afar("iris writer", "PATCH", "/runs/run-a", json, b'{"project_id": "wine"}').status == 404
    assert afar("iris writer", "POST", "/runs", json, b'{"run_id": "mine"}').json()["project_id"] == "iris"
    assert afar("iris writer", "POST", "/compare", json, b'{"run_ids": ["run-a", "run-c"]}').status == 404
    assert afar("iris writer", "GET", "/runs/compare?ids=run-a&ids=run-c").status == 404
    record = b'{"run_id": "run-c", "name": "x", "size": 1, "checksum": "%s"}' % (b"0" * 64)
    assert afar("iris writer", "POST", "/api/modellab/artifacts", json, record).status == 404
    assert afar("iris writer", "POST", "/api/modellab/runs", json, b'{"name": "x", "projectId": "wine"}').status == 404
    assert afar("iris writer", "PUT", "/api/modellab/runs/run-a", json, b'{"projectId": "wine"}').status == 404
    assert afar("iris writer", "PUT", "/api/modellab/datasets/flowers", json, b'{"projectId": "wine"}').status == 404
    assert afar("iris reader", "GET", "/api/modellab/datasets?projectId=wine").status == 404
    found = afar("iris reader", "GET", "/api/modellab/runs").json()["runs"]
    assert {"run-a", "run-b"} <= {run["id"] for run in found}
    assert {run["project_id"] for run in found} == {"iris"}
    assert afar("iris reader", "GET", "/sql").status == 403
    assert afar("iris writer", "POST", "/projects", json, b'{"name": "x"}').status == 403


CSV = {"Content-Type": "text/csv"}
JSON = {"Content-Type": "application/json"}


def test_nobody_takes_the_dataset_of_another_project(afar):
    """Neither by its content nor by its name, nor one of no project; what an answer says of it is that the name is taken."""
    for name, project in (("cellar", "&project_id=wine"), ("meadow", "")):
        added = afar("admin", "POST", f"/datasets?file={name}.csv&description=secret{project}", CSV, b"a,b\n1,2\n")
        assert added.status == 201
        for content in (b"a,b\n1,2\n", b"a,b\n3,4\n"):
            for path in ("/datasets", "/api/modellab/datasets"):
                answer = afar("iris writer", "POST", f"{path}?file={name}.csv", CSV, content)
                assert (answer.status, b"is taken" in answer.body) == (409, True), (name, path)
                assert not [word for word in (b"secret", b"wine", b"sha256:") if word in answer.body]
        for text in (name, f"{name}@v1", added.json()["sha256"]):
            assert afar("iris writer", "PUT", f"/datasets/{text}", JSON, b'{"tags": ["x"]}').status == 404
            assert afar("iris writer", "GET", f"/datasets/{text}/versions").status == 404
            answer = afar("iris writer", "POST", f"/datasets?file=own.csv&validate_against={text}", CSV, b"a\n1\n")
            assert answer.status == 404
        found = afar("admin", "GET", f"/datasets/{name}/versions").json()
        assert [(row["version"], row["project_id"], row["tags"]) for row in found] == [(1, "wine" if project else None, {})]
        assert afar("admin", "POST", f"/datasets?file={name}.csv", CSV, b"a,b\n3,4\n").json()["version"] == 2
    assert afar("iris writer", "POST", "/datasets?file=own.csv", CSV, b"a\n1\n").json()["project_id"] == "iris"
    assert afar("iris writer", "POST", "/datasets?file=own.csv", CSV, b"a\n2\n").json()["version"] == 2


def test_a_run_of_one_project_names_nothing_of_another(afar):
    """No dataset, no parent, and no id that is taken beyond that it is."""
    afar("admin", "POST", "/datasets?file=barrel.csv&project_id=wine", CSV, b"a\n7\n")
    body = b'{"run_id": "%s", "dataset_id": "barrel@v1"}'
    assert afar("iris writer", "POST", "/runs", JSON, body % b"reads-1").json()["datasets"] == []
    assert afar("admin", "POST", "/runs", JSON, body % b"reads-2").json()["datasets"] != []
    assert afar("iris writer", "PATCH", "/runs/reads-1", JSON, b'{"dataset_id": "barrel"}').json()["datasets"] == []
    child = b'{"parent_run_id": "%s"}'
    assert afar("iris writer", "POST", "/runs", JSON, child % b"run-c").status == 404
    assert afar("iris writer", "POST", "/runs", JSON, child % b"run-a").status == 201
    taken = afar("iris writer", "POST", "/runs", JSON, b'{"run_id": "run-c"}').json()
    assert (taken["status"], taken["detail"], taken["hint"]) == (409, "run_id 'run-c' is taken", "leave run_id out")
    assert "change the run" in afar("iris writer", "POST", "/runs", JSON, b'{"run_id": "run-a"}').json()["hint"]


def test_undo_moves_nothing_for_a_token_of_one_project(afar):
    """What somebody moved here is not moved back by undo, run or dataset: the other project is not its own; others may."""
    assert afar("admin", "POST", "/runs", JSON, b'{"run_id": "moved-1", "project": "wine"}').status == 201
    afar("admin", "POST", "/datasets?file=moved.csv&project_id=wine", CSV, b"a\n9\n")
    moves = [
        (path, afar("admin", "PATCH", path, JSON, b'{"project_id": "iris"}')) for path in ("/runs/moved-1", "/datasets/moved")
    ]
    assert [answer.status for _, answer in moves] == [200, 200]
    changes = [row for row in afar("admin", "GET", "/changes?limit=1000").json() if row["field"] == "project"]
    events = [next(row["event"] for row in changes if row["new"] == "iris" and row[key]) for key in ("run_id", "dataset_id")]
    for event in events:
        answer = afar("iris writer", "POST", f"/changes/{event}/undo")
        assert (answer.status, b"moves nothing" in answer.body, b"wine" in answer.body) == (403, True, False)
    assert [afar("iris writer", "GET", path).json()["project_id"] for path, _ in moves] == ["iris", "iris"]
    assert [afar("admin", "POST", f"/changes/{event}/undo").status for event in events] == [200, 200]
    assert [afar("iris writer", "GET", path).status for path, _ in moves] == [404, 404]


def test_a_goal_is_that_of_a_project(afar):
    """Whether less is better is not told by another project's run where one project is asked about."""
    logged = b'{"events": [{"kind": "metrics.logged", "data": {"values": {"grade": %d}}}]}'
    for name, project, value in ((b"wine-1", b"wine", 1), (b"wine-2", b"wine", 2)):
        afar("admin", "POST", "/runs", JSON, b'{"run_id": "%s", "project": "%s"}' % (name, project))
        afar("admin", "POST", f"/runs/{name.decode()}/events", JSON, logged % value)
    goal = b'{"events": [{"kind": "metric.described", "data": {"key": "grade", "goal": "min"}}, %s' % (logged % 5)[12:]
    assert afar("iris writer", "POST", "/runs", JSON, b'{"run_id": "iris-goal"}').status == 201
    assert afar("iris writer", "POST", "/runs/iris-goal/events", JSON, goal).json() == {"added": 2}
    board = "/runs/leaderboard?metric_name=grade"
    assert [row["run_id"] for row in afar("admin", "GET", f"{board}&project_id=wine").json()] == ["wine-2", "wine-1"]
    assert [row["run_id"] for row in afar("admin", "GET", board).json()] == ["wine-1", "wine-2", "iris-goal"]


def test_runs_that_read_a_dataset_are_counted_in_ones_own_project(afar):
    """Another project's runs that read it are none for its token."""
    afar("admin", "POST", "/datasets?file=shared.csv&project_id=iris", CSV, b"a\n11\n")
    for project in (b"iris", b"wine"):
        afar("admin", "POST", "/runs", JSON, b'{"dataset_id": "shared", "project": "%s"}' % project)
    counts = [afar(role, "GET", "/datasets/shared").json()["run_count"] for role in ("iris reader", "reader")]
    assert counts == [1, 2]


def test_what_is_near_is_told_to_none_of_one_project(afar):
    """What is not there reads as what is another project's."""
    for path in ("/runs/run-d", "/runs/run-c", "/datasets/cella", "/changes/none:1/undo", "/runs/compare?ids=run-d"):
        verb = "POST" if path.endswith("undo") else "GET"
        found = afar("iris writer", verb, path).json()
        assert (found["status"], found["nearest"], found["hint"]) == (404, [], None), path
    afar("admin", "POST", "/datasets?file=vats.csv&project_id=wine", CSV, b"a\n8\n")
    texts = [afar("iris writer", "GET", f"/datasets/{text}").json()["detail"] for text in ("vats@v9", "nobody@v9")]
    assert texts == ["no dataset 'vats@v9'", "no dataset 'nobody@v9'"]
    assert afar("reader", "GET", "/datasets/vats@v9").json()["detail"] == "no version 'vats@v9'"
    assert afar("reader", "GET", "/runs/run-d").json()["nearest"]


def test_basic_is_for_browsers(afar, tokens):
    """The token as the password, whoever the user is said to be."""
    shown = base64.b64encode(f"anybody:{tokens[1]['reader']}".encode()).decode()
    assert afar(None, "GET", "/whoami", {"Authorization": f"Basic {shown}"}).json()["by"] == "reader"
    for bad in ("Basic !!!", "Basic", "Digest x", "Bearer", f"Token {tokens[1]['reader']}"):
        assert afar(None, "GET", "/whoami", {"Authorization": bad}).status == 401, bad


def test_whoami(afar, server):
    """Who one is to the server, on loopback and elsewhere."""
    assert server.get("/whoami").json() == {
        "by": None, "token": None, "role": "admin", "project_id": None, "address": "127.0.0.1", "anonymous": True,
    }  # fmt: skip
    found = afar("iris writer", "GET", "/whoami").json()
    assert (found["by"], found["role"], found["project_id"], found["anonymous"]) == ("iris-writer", "writer", "iris", False)


def test_changes_carry_the_name_of_the_token(afar):
    """Who did what."""
    afar("writer", "PATCH", "/runs/run-b/note", {"Content-Type": "application/json"}, b'{"note": "seen"}')
    assert afar("reader", "GET", "/runs/run-b/changes").json()[0]["by"] == "writer"


@pytest.mark.parametrize(
    "name", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via", "X-Forwarded-Host", "X-Forwarded-Proto", "CF-Connecting-IP"]
)
def test_what_a_proxy_passes_on_is_not_local(server, name):
    """A proxy on this machine makes nobody anonymous."""
    assert server.ask("GET", "/runs", {name: "10.0.0.7"}).status == 401
    assert server.ask("GET", "/runs").status == 200


def test_a_name_of_the_lab_is_not_local(start, tmp_path):
    """A Host besides loopback needs a token also from this machine."""
    live = start(dir=tmp_path / "lab", AILAB_ALLOWED_HOSTS="lab.example")
    assert live.ask("GET", "/runs", host="lab.example").status == 401
    assert live.ask("GET", "/runs").status == 200


def test_a_server_for_others_needs_a_token(tokens, tmp_path):
    """`serve --host` off loopback begins only with a token; what was in a file works, and is nowhere else."""
    from ailab.errors import RefusedError, SettingError
    from ailab_api.app import _has_token, serve

    with pytest.raises(RefusedError, match="everybody needs a token"):
        serve(host="0.0.0.0", dir=tmp_path / "lab")
    assert not (tmp_path / "lab").exists()
    assert _has_token(str(tokens[0]))
    for content in ("short", "two words of which each is long", ""):
        (tmp_path / "token").write_text(content)
        with pytest.raises(SettingError, match="holds no token"):
            serve(host="0.0.0.0", dir=tmp_path / "lab", token_file=tmp_path / "token")
    with pytest.raises(SettingError, match="cannot be read"):
        serve(dir=tmp_path / "lab", token_file=tmp_path / "nothing")


# -- tokens that come and go -------------------------------------------------------------------------------------------


@pytest.fixture
def looked_up(tmp_path):
    """(a server's hold on a store, the text of a token of it, a way to revoke that as another process does)."""
    place = str(tmp_path / "lab")
    with Actions(views.open_lab(open_store(place, create=True).path), via="cli") as actions:
        text = actions.create_token(NewToken(role="writer", name="ci")).text
    catalogue = Catalogue(settings.Settings(dir=place))

    def revoke():
        with Actions(views.open_lab(place), via="cli") as actions:
            actions.revoke_token("ci")

    yield catalogue, text, revoke
    catalogue.close()


@pytest.mark.parametrize("deaf", [False, True])
def test_a_revoked_token_counts_no_more(looked_up, monkeypatch, deaf):
    """Once the moment is over in which it is not asked for anew. Control: who does not see that segments grew, lets it in."""
    catalogue, text, revoke = looked_up
    monkeypatch.setattr("ailab_api.access.KNOWN_S", 0.0)
    monkeypatch.setattr("ailab_api.catalogue.MAX_AGE_S", 0.0)
    tokens = Tokens(catalogue.lab, None, (lambda: ()) if deaf else catalogue.marks_of_tokens)
    assert tokens.find(text, "10.0.0.7").by == "ci"
    revoke()
    assert (tokens.find(text, "10.0.0.7") is None) is not deaf


def test_a_token_that_is_shown_with_every_range_costs_no_look_at_the_store(tmp_path, looked_up):
    """Shipping is as fast with a token as without: what has come is taken into the views when somebody asks for it."""
    from live import launch
    from test_shipping import forged, line

    catalogue, text, _ = looked_up
    live = launch(tmp_path, dir=catalogue.store.path)

    def refreshes():
        found = live.get("/metrics").text
        return int(next(row for row in found.splitlines() if row.startswith("ailab_view_refresh_seconds_count")).split()[1])

    name, body, crc = forged("evil")
    head = {"Authorization": f"Bearer {text}", "Content-Type": "application/octet-stream"}
    before, at = refreshes(), 0
    for seq in range(1, 61):
        assert live.ask("PUT", f"/journal/{name}?offset={at}", head, body).status == 200
        at += len(body)
        body, crc = line(seq, "metrics.logged", {"values": {"x": seq}}, crc, run="evil")
    assert refreshes() - before < 30
    live.end()


# -- limits ------------------------------------------------------------------------------------------------------------


def test_limits_count_in_windows():
    """So many of a kind for each token and address; the seconds that are left are told; a window ends."""
    now = [0.0]
    limits = Limits({"writes": 3}, clock=lambda: now[0])
    one, other = Actor(role="writer", token="a", address="10.0.0.7"), Actor(role="writer", token="b", address="10.0.0.7")
    assert [limits.take(one, "writes") for _ in range(3)] == [None] * 3
    now[0] = 100.0
    assert limits.take(one, "writes") == 800.0
    assert limits.take(other, "writes") is None
    assert limits.take(one, "uploads") is None
    now[0] = 900.0
    assert limits.take(one, "writes") is None
    admin = Actor(role="admin", token="c", address="10.0.0.7")
    assert [limits.take(admin, "writes") for _ in range(31)][-2:] == [None, 900.0]


def test_too_many_writes_are_told_when_to_come_again(tokens, tmp_path):
    """429 with Retry-After, a problem like all others; reading goes on; loopback has no limit."""
    from live import launch

    live = launch(tmp_path, dir=tokens[0], source=SOURCE)
    head = {"Authorization": f"Bearer {tokens[1]['writer']}", "Content-Type": "application/json"}
    seen = [live.ask("PATCH", "/runs/run-a/note", head, b'{"note": "x"}').status for _ in range(LIMITS["writes"] + 2)]
    assert (seen.count(200), seen[-2:]) == (LIMITS["writes"], [429, 429])
    answer = live.ask("PATCH", "/runs/run-a/note", head, b'{"note": "x"}')
    assert 0 < int(answer.header("retry-after")) <= 900
    problem = answer.json()
    assert (problem["title"], problem["detail"]) == (
        "too many requests",
        "too many changes: 100 are allowed in a quarter of an hour",
    )
    assert "POST /runs/{run_id}/events" in problem["hint"]
    assert live.ask("GET", "/runs", head).status == 200
    live.end()


def test_many_events_in_one_request_are_one_change(tokens, tmp_path):
    """What the 429 advises helps: 5,000 points in five requests leave 95 changes; a request for each of 100 leaves none."""
    from live import launch

    live = launch(tmp_path, dir=tokens[0], source=SOURCE)
    head = {"Authorization": f"Bearer {tokens[1]['writer']}", "Content-Type": "application/json"}

    def send(steps):
        points = [{"kind": "metrics.logged", "data": {"values": {"loss": 1.0}, "step": step}} for step in steps]
        return live.ask("POST", "/runs/run-w/events", head, json.dumps({"events": points}).encode()).status

    assert {send(range(at, at + 1000)) for at in range(0, 5000, 1000)} == {201}
    assert [send([step]) for step in range(96)][-2:] == [201, 429]
    live.end()


def test_guessing_ends_soon(tokens, tmp_path):
    """After so many tokens that are none, an address waits, also with a right one that it never showed."""
    from live import launch

    live = launch(tmp_path, dir=tokens[0], source=SOURCE)

    def status(token):
        return live.ask("GET", "/runs", {"Authorization": f"Bearer {token}"}).status

    assert status(tokens[1]["writer"]) == 200
    seen = [status(f"guess{i}") for i in range(LIMITS["failures"] + 1)]
    assert (set(seen[:-1]), seen[-1]) == ({401}, 429)
    assert [status(tokens[1]["reader"]), status("guess0"), status(tokens[1]["writer"])] == [429, 401, 200]
    assert live.ask("GET", "/health").status == 200
    live.end()


def test_a_stale_token_shuts_nobody_out(tokens, tmp_path):
    """A program that shows the same wrong token again and again, as one does that nobody told of a new one, counts once."""
    from live import launch

    live = launch(tmp_path, dir=tokens[0], source=SOURCE)
    stale, right = ({"Authorization": f"Bearer {token}"} for token in ("stale", tokens[1]["reader"]))
    assert {live.ask("GET", "/runs", stale).status for _ in range(3 * LIMITS["failures"])} == {401}
    assert live.ask("GET", "/runs", right).status == 200
    live.end()
