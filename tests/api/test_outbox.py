"""Who trains learns what a server does not take, without ever waiting for it; and what ships behind a training ends by itself."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from live import environment, wait_for

import ailab
from ailab import background, checkup, claims, outbox, remote, store, views
from ailab.actions import Actions
from ailab.bodies import NewToken

AWAY = "http://127.0.0.1:9"
"""Nobody listens there."""
KNOWN = """
import sys, time, ailab
from ailab import outbox, store
with ailab.start_run("near", dir=sys.argv[1], capture="process") as run:
    run.log({"loss": 1.0}, step=1)
    place, until = store.Store(sys.argv[1]), time.monotonic() + 30
    while sys.argv[2] not in [one.state for one in outbox.outcomes(place)] and time.monotonic() < until:
        time.sleep(0.05)
    run.log({"loss": 0.5}, step=2)
"""
"""A training that is long enough for the outcome to be known when it ends."""
SHORT = """
import sys, ailab
with ailab.start_run("near", dir=sys.argv[1]) as run:
    run.log({"loss": 1.0})
"""
EARLY = """
import sys, ailab
from ailab import pulse
pulse.BEAT_SECONDS = pulse.TICK_SECONDS = 0.1
with ailab.start_run("near", dir=sys.argv[1]) as run:
    run.log({"loss": 1.0})
    sys.stdin.read()
"""
SHIPPING = """
import os, sys
from ailab import background, remote
background.step_back = lambda: None
remote.BEHIND_S = remote.QUIET_S = float(sys.argv[3])
remote.WAITS_S = (0.1,) * 6
remote.main(sys.argv[1], sys.argv[2])
"""
"""The process beside a training, less patient."""


@pytest.fixture
def place(tmp_path):
    """The training's store; whoever still ships it when the test ends is ended."""
    found = store.open_store(str(tmp_path / "near"), create=True)
    yield found
    for name in os.listdir(found.claims) if os.path.isdir(found.claims) else ():
        holder = claims.holder(found, name)
        if holder is not None and name.startswith("shipping-"):
            os.kill(holder.pid, signal.SIGKILL)


@pytest.fixture
def lab(start, tmp_path):
    """(a server, the text of a writer's token of it, its store)."""
    path = str(store.open_store(str(tmp_path / "lab"), create=True).path)
    opened = views.open_lab(path)
    with Actions(opened, via="cli") as actions:
        text = actions.create_token(NewToken(role="writer", name="w")).text
    opened.close()
    return start(dir=path), text, store.Store(path)


def train(source, place, *more, cwd, **env):
    """Run a training to its end: (exit code, what it said)."""
    done = subprocess.run(
        [sys.executable, "-c", source, place.path, *more], cwd=cwd, env=environment(AILAB_SILENT="0", **env),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


def lines_of(place):
    """How many events are in the store's segments."""
    return sum(outbox.lines_behind(place.segment_path(name), 0)[0] for name in place.segment_names())


# -- what a training says ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", ["0", "1"])
def test_a_refusal_is_said_when_the_run_ends(lab, place, tmp_path, strict):
    """What, where, how much and what to do, once; the training ends as it would, with AILAB_STRICT too."""
    live, _, _ = lab
    wrong = {"AILAB_API_URL": live.url, "AILAB_TOKEN": "guess", "AILAB_STRICT": strict}
    code, said = train(KNOWN, place, "refused", cwd=tmp_path, **wrong)
    assert (code, said) == (0, (
        f"ailab: {live.url} refuses: the token does not count; {lines_of(place)} events are in this store alone\n"
        "hint: AILAB_TOKEN has a token that was revoked, or is of another server; `ailab token create --role writer` at the "
        f"server makes a token, AILAB_TOKEN (or token=) shows it; then `ailab sync {live.url}` sends what is not there\n"
    ))  # fmt: skip


def test_a_server_that_is_away_is_said_when_the_run_ends(place, tmp_path):
    """In the same words."""
    code, said = train(KNOWN, place, "away", cwd=tmp_path, AILAB_API_URL=AWAY)
    assert (code, said) == (0, (
        f"ailab: {AWAY} does not answer ([Errno 111] Connection refused); {lines_of(place)} events are in this store alone\n"
        f"hint: `ailab sync {AWAY}` sends what is not there\n"
    ))  # fmt: skip


def test_where_all_is_well_nothing_is_said(lab, place, tmp_path):
    """Control: the right token; and every event is there in the end."""
    live, text, far = lab
    assert train(KNOWN, place, "sending", cwd=tmp_path, AILAB_API_URL=live.url, AILAB_TOKEN=text) == (0, "")
    (name,) = place.segment_names()
    wait_for(lambda: os.path.exists(far.segment_path(name)), 30)
    wait_for(lambda: os.path.getsize(far.segment_path(name)) == os.path.getsize(place.segment_path(name)), 30)


def test_an_outcome_that_is_not_known_is_not_waited_for(place, tmp_path):
    """The server takes the connection and never answers: the run ends, and the next one says it, once it is known."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert train(SHORT, place, cwd=tmp_path, AILAB_API_URL=url) == (0, "")
        assert outbox.outcomes(place) == []
        holder = claims.holder(place, background.shipping_claim(url))
        if holder is None:  # it has not come so far yet
            wait_for(lambda: claims.holder(place, background.shipping_claim(url)) is not None, 30)
            holder = claims.holder(place, background.shipping_claim(url))
    wait_for(lambda: [one.state for one in outbox.outcomes(place)] == ["away"], 30)
    events = lines_of(place)
    code, said = train(SHORT, place, cwd=tmp_path, AILAB_API_URL=url)
    assert code == 0
    assert said.startswith(f"ailab: before this run {url} does not answer (")
    assert f"; {events + 2} events are in this store alone\n" in said  # with its header, and that it starts


def test_a_long_training_hears_of_a_refusal_while_it_goes_on(lab, place, tmp_path):
    """Not only after ten hours."""
    live, _, _ = lab
    with subprocess.Popen(
        [sys.executable, "-c", EARLY, place.path], cwd=tmp_path, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(AILAB_SILENT="0", AILAB_API_URL=live.url, AILAB_TOKEN="guess"),
    ) as training:  # fmt: skip
        assert training.stderr.readline().startswith(f"ailab: {live.url} refuses: the token does not count; ")
        assert training.poll() is None
        training.stdin.close()
        assert "ailab:" not in training.stderr.read()
        assert training.wait(30) == 0


def test_a_server_that_was_away_for_a_moment_is_no_word_while_training_goes_on(place):
    """It is, once it was away for a minute, and when the run ends."""
    with ailab.start_run("x", dir=place.path):
        box, now = outbox.Outbox(place, AWAY), time.time()
        os.makedirs(place.cache, exist_ok=True)
        for since, early, told in ((now, True, False), (now - 61, True, True), (now, False, True)):
            outcome = {"url": AWAY, "state": "away", "said": "it is away", "at": now, "since": since}
            with open(box.path, "w") as file:
                json.dump(outcome, file)
            assert (outbox.trouble(place, AWAY, after=0.0, early=early) is not None) == told
        assert outbox.trouble(place, AWAY, after=now + 1, early=False) is None


def test_counting_what_is_unsent_ends_soon(place):
    """Whoever waits for it reads so many files, and says that there are more."""
    for _ in range(3):
        with ailab.start_run("x", dir=place.path) as run:
            run.log({"a": 1.0})
    box = outbox.Outbox(place, AWAY)
    assert str(box.unsent()) == f"{lines_of(place)} events"
    assert (
        str(box.unsent(files_most=1))
        == f"at least {outbox.lines_behind(place.segment_path(place.segment_names()[0]), 0)[0]} events"
    )
    box.note({name: os.path.getsize(place.segment_path(name)) for name in place.segment_names()})
    assert box.unsent() == outbox.Unsent()


# -- what the checkup says ---------------------------------------------------------------------------------------------


@pytest.fixture
def looked(place, monkeypatch):
    """`looked(url, token)`: what the checkup says of servers, for a store with one run: (level, what, cost, hint)."""
    with ailab.start_run("x", dir=place.path) as run:
        run.log({"a": 1.0})

    def look(url, token=None):
        for name, value in (("AILAB_API_URL", url), ("AILAB_TOKEN", token)):
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        found = checkup.examine(place.path).findings
        return [(one.level, one.what, one.cost, one.hint) for one in found if "http" in one.what or "api_url" in one.what]

    return look


def test_the_checkup_names_the_server_and_what_is_not_there(lab, looked, place):
    """Away, refusing, lacking, having all; without a server, nothing; of one that is set no more, a note."""
    live, text, _ = lab
    events = lines_of(place)
    assert looked(None) == []
    ((level, what, cost, _),) = looked(AWAY)
    assert (level, what) == ("warning", f"the server does not answer ([Errno 111] Connection refused): {AWAY}")
    assert cost == f"{events} events are in this store alone"
    ((level, what, cost, hint),) = looked(live.url, "guess")
    assert (level, what, cost) == (
        "warning", f"{live.url} refuses: the token does not count", f"{events} events are in this store alone",
    )  # fmt: skip
    assert hint.startswith("AILAB_TOKEN has a token that was revoked")
    assert looked(live.url, text) == [(
        "warning", f"{live.url} answers, and {events} events are not there", "they are in this store alone",
        f"`ailab sync {live.url}` sends them",
    )]  # fmt: skip
    remote.sync(place, live.url, text)
    assert looked(live.url, text) == [("ok", f"{live.url} answers, and has all of this store", "", "")]
    assert looked("lab:8000")[0][:2] == ("error", "api_url 'lab:8000' is not allowed")
    outbox.Outbox(place, AWAY).tell("away", "it is away", sent={})
    assert looked(None)[0][:2] == ("note", f"{events} events are not at {AWAY}, to which a training has shipped")


def test_the_checkup_counts_what_is_in_tables_alone(looked, place, lab):
    """Compaction has taken the files: `ailab sync` sends them from the tables, so they are unsent until then."""
    from ailab.views import compact, restore

    live, text, _ = lab
    events = lines_of(place)
    compact.compact(place, grace_s=0.0, orphan_s=0.0)
    assert place.segment_names() == []
    assert looked(live.url, text)[0][1] == f"{live.url} answers, and {events} events are not there"
    os.makedirs(os.path.join(place.path, "cache"), exist_ok=True)
    remote.sync(place, live.url, text, others=restore.write_segments(place, os.path.join(place.path, "cache")))
    assert looked(live.url, text)[0][0] == "ok"


# -- how long it goes on -----------------------------------------------------------------------------------------------


def ship(place, url, seconds, cwd):
    return subprocess.Popen([sys.executable, "-c", SHIPPING, place.path, url, str(seconds)], cwd=cwd, env=environment())


def tries(place):
    """When the server was last tried."""
    return max((one.at for one in outbox.outcomes(place)), default=0.0)


def test_what_ships_behind_a_training_ends_while_the_server_is_away(place, tmp_path):
    """While the run is written it goes on trying, and ends a while after; what is unsent is known, and the next one sends it."""
    with ailab.start_run("x", dir=place.path) as run:
        process = ship(place, AWAY, 1.0, tmp_path)
        wait_for(lambda: tries(place) > 0, 30)
        time.sleep(3)
        assert process.poll() is None, "a run is being written"
        run.log({"a": 1.0})
    assert process.wait(30) == 0
    assert [one.state for one in outbox.outcomes(place)] == ["away"]
    assert outbox.Outbox(place, AWAY).unsent().events == lines_of(place)
    assert claims.holder(place, background.shipping_claim(AWAY)) is None


def test_a_writer_without_a_run_holds_nobody(place, tmp_path):
    """A server or a person at a prompt that has this store open for weeks is no training."""
    opened = views.open_lab(place.path)
    with Actions(opened, via="cli") as actions:
        actions.create_token(NewToken(role="writer", name="w"))
        process = ship(place, AWAY, 0.5, tmp_path)
        assert process.wait(30) == 0
    opened.close()


def test_what_ships_ends_when_all_is_there(place, lab, tmp_path):
    """Runs of before among it; a moment after the last run."""
    live, _, far = lab
    with ailab.start_run("before", dir=place.path):
        pass
    with ailab.start_run("x", dir=place.path):
        process = ship(place, live.url, 0.5, tmp_path)
        wait_for(lambda: os.path.exists(far.segment_path(place.segment_names()[-1])), 30)
    assert process.wait(30) == 0
    for name in place.segment_names():
        assert os.path.getsize(far.segment_path(name)) == os.path.getsize(place.segment_path(name))
    assert [one.state for one in outbox.outcomes(place)] == ["there"]


def test_processes_that_have_ended_leave_no_zombies(place):
    """Each that is started takes away those before it."""
    for _ in range(3):
        background._spawn(["this"], dict(os.environ))
        (child,) = background._children
        wait_for(lambda one=child: os.waitid(os.P_PID, one, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None, 30)
    os.waitpid(child, 0)


def test_a_refusal_is_not_asked_for_again_by_every_run(place, monkeypatch):
    """A thousand short runs of a process start one process a minute; another token is tried at once."""
    started = []
    monkeypatch.setattr(background, "_spawn", lambda command, _environment: started.append(command))
    monkeypatch.setattr(background, "_shipped_at", {})
    assert background.ship(place, AWAY, "one")
    assert background.ship(place, AWAY, "one"), "it is not known yet"
    outbox.Outbox(place, AWAY).tell("refused", "no", sent={})
    assert not background.ship(place, AWAY, "one")
    assert background.ship(place, AWAY, "another")
    monkeypatch.setattr(background, "PAUSE_SECONDS", 0.0)
    assert background.ship(place, AWAY, "one")
    assert len(started) == 4
