"""What people do afterwards: one call, one event, the value before still there."""

from __future__ import annotations

import pytest

import ailab
from ailab import actions, queries
from ailab.errors import NotFoundError, RejectedError


@pytest.fixture
def desk(store_dir, lab):
    """An `Actions` on a store with one finished run, and that run's id."""
    with ailab.start_run("done", note="first") as run:
        run.log({"loss": 0.5}, step=1)
    with actions.Actions(lab(), via="cli", by="ada") as found:
        yield found, run.id


def told(desk):
    found, run_id = desk
    changes = queries.list_changes(found.lab, run_id=run_id).rows
    return [(c.kind, c.field, c.old, c.new, c.by, c.via) for c in reversed(changes)]


def test_a_note_replaces_the_one_before_and_both_are_told(desk):
    """Both versions stay, with who wrote them and what stood there."""
    found, run_id = desk
    assert found.note(run_id, "second").note == "second"
    assert found.note(run_id, "third").note == "third"
    assert told(desk) == [
        ("note.changed", "note", None, "first", None, "sdk"),
        ("note.changed", "note", "first", "second", "ada", "cli"),
        ("note.changed", "note", "second", "third", "ada", "cli"),
    ]
    versions = found.lab.con.execute('SELECT note FROM notes ORDER BY "at"').fetchall()
    assert versions == [("first",), ("second",), ("third",)]


@pytest.mark.parametrize(
    ("word", "flag"), [("publish", "PUBLISH"), ("Best", "BEST"), ("bad-run", "BAD RUN"), ("BAD RUN", "BAD RUN")]
)
def test_a_flag_sets_the_tag_and_goes_in_front_of_the_note(desk, word, flag):
    found, run_id = desk
    run = found.flag(run_id, word)
    assert (run.note, run.tags) == (f"{flag}: first", {flag: None})
    assert found.flag(run_id, word).note == f"{flag}: first"  # a second time changes nothing


def test_a_flag_without_a_note_is_the_note(desk):
    found, run_id = desk
    found.note(run_id, "")
    assert found.flag(run_id, "best").note == "BEST"


def test_another_word_is_no_flag(desk):
    found, run_id = desk
    with pytest.raises(RejectedError) as error:
        found.flag(run_id, "nice")
    assert error.value.hint == "allowed: PUBLISH, BEST, BAD RUN"


def test_tags_are_set_and_taken_away(desk):
    found, run_id = desk
    assert found.tag(run_id, {"team": "vision", "stage": None}).tags == {"stage": None, "team": "vision"}
    assert found.tag(run_id, ["good"], remove=["team"]).tags == {"good": None, "stage": None}
    assert ("tags.changed", "tags.team", "vision", None, "ada", "cli") in told(desk)


@pytest.mark.parametrize("name", ["", "   ", "x" * 251])
def test_a_tag_has_a_name_of_bounded_length(desk, name):
    found, run_id = desk
    with pytest.raises(RejectedError, match="is not allowed"):
        found.tag(run_id, {name: 1})
    assert found.tag(run_id, {"x" * 250: 1}).tags == {"x" * 250: "1"}


def test_a_note_of_more_than_a_million_characters_is_refused(desk):
    found, run_id = desk
    with pytest.raises(RejectedError, match="1000001 characters"):
        found.note(run_id, "x" * 1_000_001)
    assert queries.get_run(found.lab, run_id).note == "first"


def test_a_run_that_is_not_there_is_named_with_its_neighbours(desk):
    """Nothing is written, and the nearest id is told."""
    found, run_id = desk
    with pytest.raises(NotFoundError) as error:
        found.note(run_id[:-1] + ("a" if run_id[-1] != "a" else "b"), "lost")
    assert error.value.nearest == [run_id]
    assert len(told(desk)) == 1


def test_a_script_that_goes_on_has_the_last_word(store_dir, lab):
    """An edit is later than what its writer saw of the run, not later than everything in the store."""
    with ailab.start_run("busy") as other:
        for step in range(500):
            other.log({"loss": 1.0}, step=step)
    with ailab.start_run("live") as run:
        with actions.Actions(lab(), via="cli") as found:
            assert found.note(run.id, "from outside").note == "from outside"
        for step in range(10):
            run.log({"loss": 1.0}, step=step)
        run.note("from inside")
    assert queries.get_run(lab(), run.id).note == "from inside"
