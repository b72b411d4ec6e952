"""A claim has one holder; whoever is gone or silent loses it, to one other."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import pytest

from ailab import claims, store


@pytest.fixture
def place(tmp_path):
    return store.open_store(str(tmp_path / "store"), create=True)


def silent(path, seconds):
    moment = time.time() - seconds
    os.utime(path, (moment, moment))


def as_of(path, **other):
    """Rewrite a claim as if another process had made it."""
    holder = msgspec.json.decode(Path(path).read_bytes(), type=claims.Holder)
    Path(path).write_bytes(msgspec.json.encode(msgspec.structs.replace(holder, **other)))


def test_one_holder(place):
    """A second taker gets nothing and learns who holds it; afterwards it is free, and the folder empty."""
    with claims.take(place, "x") as claim:
        assert claim.held()
        assert claims.take(place, "x") is None
        assert claims.holder(place, "x").pid == os.getpid()
        with claims.take(place, "y") as other:
            assert other.held()
    assert not claim.held()
    assert claims.holder(place, "x") is None
    assert os.listdir(place.claims) == []
    with claims.take(place, "x"):
        pass


def test_a_claim_of_a_dead_process_is_taken_over(place, scripts):
    """At once on this machine, however fresh its mtime."""
    source = """
        import os, sys
        from ailab import claims, store
        assert claims.take(store.Store(sys.argv[1]), "x") is not None
        os._exit(0)
    """
    scripts.run(source, place.path)
    assert os.listdir(place.claims) == ["x"]
    assert claims.holder(place, "x") is None
    with claims.take(place, "x") as claim:
        assert claim.held()
    assert os.listdir(place.claims) == []


def test_a_claim_of_another_machine_is_taken_over_after_five_silent_minutes(place):
    """Not a second sooner by the clock of the folder; and the former holder knows when it asks."""
    first = claims.take(place, "x")
    as_of(first.path, host="elsewhere")
    silent(first.path, claims.STALE_SECONDS - 5)
    assert claims.take(place, "x") is None
    assert claims.holder(place, "x").host == "elsewhere"
    silent(first.path, claims.STALE_SECONDS + 1)
    assert claims.holder(place, "x") is None
    second = claims.take(place, "x")
    assert (first.held(), second.held()) == (False, True)
    first.release()
    assert second.held()
    second.release()
    assert os.listdir(place.claims) == []


def test_a_beat_keeps_a_claim(place, monkeypatch):
    """Touched at most once in so many seconds, and what was silent for long is fresh again."""
    claim = claims.take(place, "x")
    as_of(claim.path, host="elsewhere")
    silent(claim.path, claims.STALE_SECONDS + 1)
    assert claim.beat()
    assert claims.holder(place, "x") is None
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.0)
    assert claim.beat()
    assert claims.holder(place, "x") is not None
    claim.release()
    assert not claim.beat()


def test_a_wrong_clock_of_this_machine_does_not_matter(place, monkeypatch):
    """Silence is measured against a file that was just touched in the same folder, not against our own clock."""
    claim = claims.take(place, "x")
    as_of(claim.path, host="elsewhere")
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert claims.take(place, "x") is None
    claim.release()


def test_a_claim_that_says_nothing_goes_by_its_age(place):
    """As one is left where hard links cannot be made and the maker was killed in between."""
    os.makedirs(place.claims)
    path = Path(place.claims, "x")
    path.write_bytes(b"")
    assert claims.take(place, "x") is None
    assert claims.holder(place, "x") == claims.Holder(host="unknown", pid=0)
    silent(path, claims.STALE_SECONDS + 1)
    with claims.take(place, "x") as claim:
        assert claim.held()


def test_without_hard_links(place, monkeypatch):
    """Exclusive creation alone has the same one winner."""

    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with claims.take(place, "x") as claim:
        assert claim.held()
        assert claims.take(place, "x") is None
        assert os.listdir(place.claims) == ["x"]
    assert os.listdir(place.claims) == []


def test_what_killed_takers_left_is_swept(place):
    """Files beside the claims go when they are old; claims do not."""
    claim = claims.take(place, "x")
    for name in (".new-x-1-a", ".now-x-1-a", ".stale-x-1-a"):
        Path(place.claims, name).touch()
    assert claims.sweep(place, 60) == 0
    for name in os.listdir(place.claims):
        silent(os.path.join(place.claims, name), 61)
    assert claims.sweep(place, 60) == 3
    assert os.listdir(place.claims) == ["x"]
    claim.release()


RACE = """
import os, sys, time
from ailab import claims, store
place, me, until = store.Store(sys.argv[1]), sys.argv[2], time.monotonic() + float(sys.argv[3])
inside = os.path.join(place.path, "inside")
won = 0
while time.monotonic() < until:
    claim = claims.take(place, "x")
    if claim is None:
        continue
    if not claim.held():
        continue
    fd = os.open(inside, os.O_CREAT | os.O_EXCL | os.O_WRONLY)   # fails where two are in at once
    won += 1
    os.close(fd)
    os.unlink(inside)
    claim.release()
    if won % 7 == 0:
        os.spawnv(os.P_WAIT, sys.executable, [sys.executable, sys.argv[4], place.path])  # takes it, maybe, and dies
print(won)
"""
LEAVE = """
import os, sys
from ailab import claims, store
claims.take(store.Store(sys.argv[1]), "x")
os._exit(0)
"""


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.long)])
def test_four_processes_race_for_one_claim(place, scripts, seconds, figure):
    """Nobody is ever in while another is: every holder makes a file exclusively, and none fails."""
    leave = scripts.command(LEAVE)[-1]
    racing = [scripts.start(RACE, place.path, i, seconds, leave) for i in range(4)]
    won = []
    for process in racing:
        out, err = process.communicate(timeout=seconds + 30)
        assert process.returncode == 0, err
        won.append(int(out))
    figure(f"{sum(won)} times held, by {won}")
    assert sum(won) > 20


TAKE = """
import sys, time
from ailab import claims, store
if sys.argv[2] == "unlocked":
    claims.fcntl = None
print("trying", flush=True)
claim = claims.take(store.Store(sys.argv[1]), "x")
print("got it" if claim is not None and claim.held() else "nothing", flush=True)
"""


@pytest.mark.parametrize("way", ["locked", "unlocked"])
def test_nobody_takes_over_between_another_ones_judging_and_renaming(place, scripts, monkeypatch, way):
    """One of two gets it, and never by renaming what the other made; without the lock that happens, and is put right."""
    scripts.run(LEAVE, place.path)
    rename, second, renamed, said = os.rename, [], [], None

    def slowly(source, target):
        nonlocal said
        if ".stale-" in target and not second:
            second.append(scripts.start(TAKE, place.path, way))
            assert second[0].stdout.readline() == "trying\n"
            said = second[0].stdout.readline() if way == "unlocked" else time.sleep(0.5)
            renamed.append(msgspec.json.decode(Path(source).read_bytes(), type=claims.Holder).pid)
        rename(source, target)

    monkeypatch.setattr(os, "rename", slowly)
    if way == "unlocked":
        monkeypatch.setattr(claims, "fcntl", None)
    claim = claims.take(place, "x")
    out, err = second[0].communicate(timeout=30)
    out = said or out
    assert (out, err) == ("nothing\n" if claim is not None else "got it\n", "")
    assert (renamed == [second[0].pid]) == (way == "unlocked")


def test_one_of_many_takes_over_a_stale_claim(place, scripts):
    """Eight processes that find the same dead holder at the same moment: one gets it, 20 times out of 20."""
    source = """
        import os, sys, time
        from ailab import claims, store
        place, begin = store.Store(sys.argv[1]), float(sys.argv[2])
        for trial in range(20):
            name = f"t{trial}"
            if os.path.exists(os.path.join(place.claims, name)):
                while time.time() < begin + trial * 0.1:
                    pass
                got = claims.take(place, name)
                print(trial, flush=True) if got is not None and got.held() else None
        time.sleep(max(0, begin + 6 - time.time()))  # a holder that has ended may be taken over
    """
    for trial in range(20):
        claim = claims.take(place, f"t{trial}")
        as_of(claim.path, pid=2**22 + 1)
    begin = time.time() + 2
    racing = [scripts.start(source, place.path, begin) for _ in range(8)]
    lines = []
    for process in racing:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        lines += out.split()
    assert sorted(map(int, lines)) == list(range(20))
