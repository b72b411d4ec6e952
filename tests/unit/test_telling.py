"""What the verbs tell people: `latest` means what they think, nothing is told as done that was not, and nothing is silent."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

import ailab
from ailab import cli, events, journal, store

NOTHING = "nothing is changed\n"


@pytest.fixture
def told(store_dir):
    """`told("trash latest")`: (standard output, standard error) of a verb on a store of three runs, which must end well."""
    for name in ("a", "b", "c"):
        with ailab.start_run(name, id=f"run-{name}", project="iris", tags=["old"]) as run:
            run.log({"accuracy": 0.5}, step=1)

    def call(line, *, code=0):
        done = CliRunner().invoke(cli.main, line.split())
        assert done.exit_code == code, done.output
        return done.stdout, done.stderr

    return call


def one(told, line):
    """The run that a verb acted on."""
    return json.loads(told(line + " --json")[0])["run_id"]


# -- the trash ---------------------------------------------------------------------------------------------------------


def test_latest_is_restored_as_it_was_trashed(told):
    """The last one in is the first one out, whichever is the newest run; and then there is none."""
    assert [one(told, "trash latest"), one(told, "trash run-a"), one(told, "trash latest")] == ["run-c", "run-a", "run-b"]
    assert [one(told, "restore latest") for _ in range(3)] == ["run-b", "run-a", "run-c"]
    assert "no run was put in the trash" in told("restore latest", code=1)[1]


def test_what_was_undone_into_the_trash_went_there_last(told):
    """A restoring that is undone puts a run there as well; one that went with its project is not meant."""
    told("trash run-a")
    told("restore run-a")
    told("trash run-b")
    event = next(row["event"] for row in json.loads(told("changes --json")[0]) if row["kind"] == "run.restored")
    told(f"undo {event}")
    told("trash --project iris")
    told("restore --project iris")
    assert [one(told, "restore latest"), one(told, "restore latest")] == ["run-a", "run-b"]


@pytest.mark.parametrize(
    ("first", "said", "again"),
    [
        ("trash run-a", "in the trash; `ailab restore run-a` takes it out again\n", f"it was in the trash before; {NOTHING}"),
        ("trash --project iris", "`ailab restore --project iris` takes it out", f"it was in the trash before; {NOTHING}"),
        ("protect run-a", "protected\n", f"it was protected before; {NOTHING}"),
    ],
)
def test_what_was_so_before_is_not_told_as_done(told, first, said, again):
    """The first time it is done, the second time it is not, and no event is written for it."""
    assert said in told(first)[1]
    before = told("changes --json")
    assert told(first)[1] == again
    assert told("changes --json") == before


@pytest.mark.parametrize("line", ["restore run-a", "restore --project iris", "protect run-a --off"])
def test_what_is_not_so_is_not_taken_back(told, line):
    """Nothing was to be done, and that is what is said."""
    said = told(line)[1]
    assert said in {f"it is not in the trash; {NOTHING}", f"it was not protected before; {NOTHING}"}


def test_files_and_datasets_too(told, tmp_path):
    """The other things that go in the trash are told of in the same words."""
    (tmp_path / "f.csv").write_text("a\n1\n")
    told("artifacts run-a --add f.csv")
    told("datasets add f.csv")
    for what, again in (("run-a --artifact f.csv", "run-a --artifact f.csv"), ("--dataset f", "--dataset f@v1")):
        assert f"`ailab restore {again}` takes" in told(f"trash {what}")[1]
        assert told(f"trash {again}")[1] == f"it was in the trash before; {NOTHING}"
        assert told(f"restore {again}")[1] == "out of the trash\n"
        assert told(f"restore {again}")[1] == f"it is not in the trash; {NOTHING}"


def test_a_tag_that_is_not_there_is_not_removed(told, store_dir):
    """A misspelt name is said, with those that are there; the others are removed."""
    told("tag run-a new")
    assert told("tag run-a --remove odl --remove new")[1] == "note: no tag 'odl' to remove; the run has new, old\n"
    assert told("tag run-a --remove old")[1] == ""
    written = list(store_dir.glob("segments/*.jsonl"))
    told("tag run-a --remove old")
    (new,) = set(store_dir.glob("segments/*.jsonl")) - set(written) or {None}
    assert new is None or "tags.changed" not in new.read_text()


# -- tokens ------------------------------------------------------------------------------------------------------------


def created(told, line):
    """The id of a token that a verb made."""
    return json.loads(told(f"token create {line} --json")[0])["token"]["token"]


def test_a_name_is_of_one_token(told):
    """A second one of the name is refused with the id of the first; once that counts no more, the name is free."""
    first = created(told, "--role writer --name ci")
    said = told("token create --role reader --name ci", code=1)
    assert said == ("", f"error: name 'ci' is taken by a token\nhint: choose another name, or revoke the token {first} first\n")
    assert told("token revoke ci")[1] == "revoked\n"
    assert told("token revoke ci")[1] == f"it was revoked before; {NOTHING}"
    second = created(told, "--role writer --name ci")
    assert told("token revoke ci --json")[0].startswith(f'{{"token":"{second}"')
    assert told("token revoke cli", code=1)[1] == "error: no token 'cli'\nhint: no token counts\n"
    created(told, "--role reader")
    created(told, "--role reader")


def test_tokens_of_one_name_are_revoked_by_their_ids(told, store_dir):
    """A store of before has two of a name: the name alone says whose ids are to be told apart, and each id does."""
    writer = journal.Writer(store.open_store(str(store_dir), create=False), via="cli", strict=True)
    for token in ("0a0a0a0a0a0a", "0b0b0b0b0b0b"):
        writer.append(events.TokenCreated(token=token, sha256=token[:2] * 32, role="writer", name="ci"))
    writer.seal()
    said, _, ids = told("token revoke ci", code=1)[1].strip().partition("\nhint: revoke one by its id: ")
    assert (said, sorted(ids.split(", "))) == ("error: 2 tokens have the name 'ci'", ["0a0a0a0a0a0a", "0b0b0b0b0b0b"])
    assert told("token revoke 0b0b0b0b0b0b")[1] == "revoked\n"
    assert json.loads(told("token revoke ci --json")[0])["token"] == "0a0a0a0a0a0a"


# -- undo --------------------------------------------------------------------------------------------------------------


def test_an_event_is_typed_as_it_is_listed(told):
    """The last column of the changes names one for `undo`, also of a segment that carries its run; a second time it is said."""
    told("note run-a first")
    listed = told("changes run-a")[0].splitlines()[1].split()
    assert told(f"undo {listed[-1]}")[0].splitlines()[1].split()[-4:-1] == ["note", "first", "-"]
    assert "it is undone already, by event" in told(f"undo {listed[-1]}", code=1)[1]
    with ailab.start_run("later", id="run-d") as run:
        run.note("by the script")
    event = json.loads(told("changes run-d --json")[0])[0]["event"]
    short = told("changes run-d")[0].split()[-1]
    assert (event.endswith("_run-d:" + short.partition(":")[2]), len(short.partition(":")[0])) == (True, 8)
    assert json.loads(told(f"undo {short} --json")[0])[0]["run_id"] == "run-d"
    assert told("undo 0badcafe:3", code=1)[1].endswith("hint: `ailab changes` lists those that can be undone\n")


def test_somebody_elses_change_is_not_undone_by_the_way(told, store_dir):
    """Without an event the newest change is meant, if it is one's own; with its event it is undone, whoever made it."""
    from ailab import views
    from ailab.actions import Actions

    told("note run-a mine")
    assert json.loads(told("undo --json")[0])[0]["old"] == "mine"
    lab = views.open_lab(store_dir)
    with Actions(lab, via="http", by="bob") as actions:
        actions.note("run-a", "of bob")
    lab.close()
    said = told("undo", code=1)[1]
    assert said.startswith("error: the newest change is by 'bob'\nhint: ailab undo ")
    assert json.loads(told(f"undo {said.split()[10]} --json")[0])[0]["old"] == "of bob"


# -- nothing -----------------------------------------------------------------------------------------------------------


def test_where_there_is_nothing_that_is_said(told):
    """No header without rows, and no title alone."""
    ailab.start_run(id="run-e").finish()
    assert told("artifacts run-e") == ("", "no files\n")
    assert told("artifacts run-e --json")[0] == "[]\n"
    assert told("show run-e --metrics")[1] == "no metrics were logged\n"
    assert told("show run-a --metrics")[1] == ""
    assert told("top accuracy --dataset none")[1] == "no runs that the filters keep have this metric\n"
