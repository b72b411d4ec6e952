"""What a run's dataset_id means: the content it names when the run starts, found beside the training, and never in its way."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone

import pytest
from recorded import detail, payloads

import ailab
from ailab import blobs, datasets, events, naming, queries, recorder, resolution, store, views
from ailab.actions import Actions
from ailab.bodies import DatasetFields
from ailab.errors import RejectedError
from ailab.filters import RunFilter
from ailab.journal import Writer
from ailab.views.compact import compact

CONTENTS = [b"a,b\n1,2\n", b"a,b\n3,4\n"]


def register(place, name, *contents):
    """Register contents as versions; their SHA-256."""
    lab = views.open_lab(place.path)
    found = []
    with Actions(lab, via="cli") as actions:
        for number, content in enumerate(contents):
            file = f"{place.path}-{name}-{number}.csv"
            with open(file, "wb") as given:
                given.write(content)
            incoming = blobs.Incoming(place)
            incoming.fill(file)
            made, _ = actions.add_dataset(
                incoming, datasets.examine(file, file), file=file, fields=DatasetFields(name=name)
            )  # fmt: skip
            found.append(made.sha256)
    lab.close()
    return found


@pytest.fixture
def place(store_dir):
    return store.open_store(str(store_dir), create=True)


@pytest.fixture
def iris(place):
    """The SHA-256 of iris@v1 and iris@v2."""
    return register(place, "iris", *CONTENTS)


def used(lab, run):
    """(content, dataset and version as the run's page tells, text given, role) of each content that it read."""
    return [
        (one.sha256, one.dataset_id.partition("@")[0], one.version, one.name, one.role) for one in detail(lab, run).datasets
    ]  # fmt: skip


def test_a_run_is_tied_to_the_content_that_its_text_names(iris, lab, capsys):
    """By number, as the newest, by hash and by a part of it; the text stays as given, and nothing is said."""
    one, two = iris
    meant = {
        "iris@v1": one, "iris@v2": two, "iris": two, "iris@latest": two, f"iris@sha256:{one}": one,
        f"iris@sha256:{one[:12]}": one, one: one, "Iris": two,
    }  # fmt: skip
    for text, content in meant.items():
        with ailab.start_run(dataset_id=text) as run:
            pass
        version = 1 + iris.index(content)
        assert used(lab, run) == [(content, "iris", version, text, "training")]
        assert detail(lab, run).dataset_id == text
    assert capsys.readouterr().err == ""


def test_a_text_that_names_no_dataset_stays_a_text(iris, lab, capsys):
    """Whatever it looks like: another name, a number without a name, a path, a hash that nobody registered."""
    texts = (
        "wine",
        "wine@v1",
        "v1",
        "latest",
        "s3://bucket/iris@v1/x.csv",
        "f" * 64,
        "iris@sha256:short",
        "iris@",
        "@v1",
        "iris v1",
    )
    for text in texts:
        with ailab.start_run(dataset_id=text) as run:
            pass
        found = detail(lab, run)
        assert (found.dataset_id, found.datasets) == (text, [])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("iris@v3", "'iris@v3' names no version: the newest version of 'iris' is v2"),
        ("iris@sha256:" + "0" * 12, "names no version: the newest version of 'iris' is v2"),
        ("twin", "'twin' names no version: several fit: "),
    ],
)
def test_a_name_without_such_a_version_is_said_once_and_the_run_goes_on(place, iris, capsys, text, words):
    """The dataset is there, the version is not, or nobody can tell which is meant."""
    writer = Writer(place, via="cli")
    for name in ("tulip", "rose"):  # as stores that were merged may have it
        (sha256,) = register(place, name, CONTENTS[0])
        writer.append(events.DatasetVersionChanged(dataset=name, sha256=sha256, name="twin"))
    writer.seal()
    with ailab.start_run(dataset_id=text) as run:
        run.log({"a": 1})
    said = capsys.readouterr().err
    assert said.count("ailab:") == 1
    assert words in said
    assert "it stays a text" in said
    found = ailab.get_run(run.id)
    assert (found.status, found.dataset_id, found.final_metrics, found.datasets) == ("completed", text, {"a": 1}, [])


def test_strict_raises_it_at_the_end_of_the_run(iris, lab):
    """What would be one warning is raised; by then everything of the run is recorded."""
    with (
        pytest.raises(RejectedError, match="newest version of 'iris' is v2"),
        ailab.start_run(dataset_id="iris@v3", strict=True) as run,
    ):
        run.log({"a": 1})
    assert (detail(lab, run).status, detail(lab, run).final_metrics) == ("completed", {"a": 1})


def test_the_environment_the_decorator_and_a_resumption_are_meant_too(iris, lab, monkeypatch):
    """AILAB_DATASET_ID; an argument or a returned dataset_id of @log_run; a run that goes on with another has read both."""
    one, two = iris
    monkeypatch.setenv("AILAB_DATASET_ID", "iris@v1")
    with ailab.start_run() as run:
        pass
    assert [sha256 for sha256, *_ in used(lab, run)] == [one]
    monkeypatch.delenv("AILAB_DATASET_ID")

    @ailab.log_run(id="argument")
    def train(dataset_id):
        return {"final_metrics": {"a": 1}}

    @ailab.log_run(id="returned")
    def load():
        return {"final_metrics": {"a": 1}, "dataset_id": "iris@v2"}

    train("iris@v1")
    load()
    assert [use.sha256 for use in ailab.get_run("argument").datasets] == [one]
    assert [use.sha256 for use in ailab.get_run("returned").datasets] == [two]
    with ailab.start_run(id="returned", resume="must", dataset_id="iris@v1"):
        pass
    assert [use.sha256 for use in ailab.get_run("returned").datasets] == [two, one]
    with ailab.start_run(id="returned", resume="must"):
        pass
    assert ailab.get_run("returned").dataset_id == "iris@v1"
    assert len(ailab.get_run("returned").datasets) == 2


def test_the_same_content_is_noted_once(iris, lab):
    """use_dataset of what dataset_id names adds nothing, whichever comes first; another role is another use."""
    with ailab.start_run(dataset_id="iris@v1") as run:
        ailab.use_dataset("iris@v1")
        ailab.use_dataset("iris@v1", role="test")
    assert sorted(role for *_, role in used(lab, run)) == ["test", "training"]


def test_the_newest_version_is_that_of_the_start(place, iris):
    """What is registered afterwards is not what the run was given, however late the look-up; without a time it is the newest."""
    one, two = iris
    catalogue = views.open_lab(place.path)
    first, second = (row[0] for row in catalogue.rows("SELECT created_at FROM base.dataset_table ORDER BY version"))
    catalogue.close()
    between = first + (second - first) / 2
    assert resolution.content_of(place, "iris", before=between).sha256 == one
    resolution._known.clear()
    assert resolution.content_of(place, "iris", before=second + timedelta(seconds=1)).sha256 == two
    resolution._known.clear()
    assert (
        resolution.content_of(place, "iris", before=first - timedelta(days=1)).sha256 == two
    )  # its clock is wrong: better than none


def test_the_training_does_not_wait_for_it(iris, lab, monkeypatch):
    """start_run and log return while the look-up hangs; finish waits for it."""
    import threading

    go, content_of = threading.Event(), resolution.content_of

    def slow(*given, **more):
        assert go.wait(30)
        return content_of(*given, **more)

    monkeypatch.setattr(resolution, "content_of", slow)
    run = ailab.start_run(dataset_id="iris@v1")
    run.log({"a": 1})
    assert payloads(run, "dataset.used") == []
    assert [one["values"] for one in payloads(run, "metrics.logged")] == [{"a": 1}]
    go.set()
    run.finish()
    assert used(lab, run) == [(iris[0], "iris", 1, "iris@v1", "training")]


def test_one_that_takes_too_long_is_given_up(iris, lab, monkeypatch, capsys):
    """The end of the run does not wait for ever."""
    import threading

    from ailab import runs

    go = threading.Event()
    monkeypatch.setattr(resolution, "content_of", lambda *_, **__: go.wait(30) and None)
    monkeypatch.setattr(runs, "CAPTURE_WAIT_SECONDS", 0.05)
    with ailab.start_run(dataset_id="iris@v1") as run:
        waiting = run._captured
    go.set()
    waiting.join()
    assert f"dataset of run {run.id} were not captured within 0 s" in capsys.readouterr().err
    assert detail(lab, run).status == "completed"


def test_duckdb_is_loaded_only_where_there_may_be_a_dataset(store_dir, scripts):
    """A store of runs and notes costs no import; one dataset does, from segments and from tables alike."""
    script = """
        import sys
        import ailab
        with ailab.start_run(dataset_id="iris@v1") as run:
            run.log({"a": 1})
        print("duckdb" in sys.modules)
    """
    assert scripts.run(script).stdout == "False\n"
    place = store.open_store(str(store_dir), create=False)
    catalogue = views.open_lab(place.path)
    with Actions(catalogue, via="cli") as actions:
        actions.note(naming.resolve_run(catalogue, "latest"), "a segment of no run")
    catalogue.close()
    assert scripts.run(script).stdout == "False\n"
    register(place, "iris", *CONTENTS)
    assert scripts.run(script).stdout == "True\n"
    compact(place, grace_s=0.0, orphan_s=0.0)
    assert not any(store.run_of_segment(name) is None for name in place.segment_names())
    assert scripts.run(script).stdout == "True\n"


def test_a_dataset_in_tables_is_found(place, iris, lab):
    """Compaction changes nothing; nor does a mark that lies across two blocks of a segment."""
    compact(place, grace_s=0.0, orphan_s=0.0)
    with ailab.start_run(dataset_id="iris@v1") as run:
        pass
    assert [sha256 for sha256, *_ in used(lab, run)] == [iris[0]]


def test_the_mark_is_found_across_blocks(tmp_path, monkeypatch):
    """At every offset; a file without it has none."""
    monkeypatch.setattr(resolution, "_BLOCK", 40)
    path = tmp_path / "x.jsonl"
    for before in range(90):
        path.write_bytes(b"." * before + resolution._MARK + b"." * 50)
        assert resolution._has_mark(str(path)), before
        path.write_bytes(b"." * before + resolution._MARK[:-1] + b"." * 50)
        assert not resolution._has_mark(str(path)), before


def test_what_was_found_holds_until_something_is_registered(place, iris, monkeypatch):
    """A sweep asks once; a new version, or a compaction, is seen by the next run."""
    asked = []
    monkeypatch.setattr(resolution, "_asked", lambda *given, asking=resolution._asked: asked.append(given[1]) or asking(*given))
    now = datetime.now(timezone.utc).replace(tzinfo=None)
    assert {resolution.content_of(place, "iris", before=now).sha256 for _ in range(5)} == {iris[1]}
    assert asked == ["iris"]
    (third,) = register(place, "iris", b"a,b\n5,6\n")
    later = datetime.now(timezone.utc).replace(tzinfo=None)
    assert resolution.content_of(place, "iris", before=later).sha256 == third
    compact(place, grace_s=0.0, orphan_s=0.0)
    assert resolution.content_of(place, "iris", before=later).sha256 == third
    assert asked == ["iris"] * 3


def test_a_store_that_cannot_be_read_breaks_no_training(place, iris, lab, monkeypatch, capsys):
    """A record that is damaged is asked about, and said by readers; an error on the way is said once, and the run is whole."""
    monkeypatch.setattr(resolution, "_state_of", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with ailab.start_run(dataset_id="iris@v1") as run:
        run.log({"a": 1})
    assert "Input/output error" in capsys.readouterr().err
    assert (detail(lab, run).status, detail(lab, run).datasets, detail(lab, run).final_metrics) == ("completed", [], {"a": 1})


def test_damaged_segments_beside_it_do_not_hide_the_dataset(place, iris, lab):
    """One bad file never hides the rest."""
    path = os.path.join(place.segments, "20260101T000000000000Z_host_1_00000000.jsonl")
    with open(path, "wb") as file:
        file.write(b"\x00garbage\n" * 3)
    with ailab.start_run(dataset_id="iris@v2") as run:
        pass
    os.unlink(path)
    assert [sha256 for sha256, *_ in used(lab, run)] == [iris[1]]


def test_nothing_is_asked_where_nothing_is_recorded(iris, monkeypatch):
    """A disabled run touches no store; a run without dataset_id starts no look-up."""
    monkeypatch.setattr(recorder, "_find_dataset", lambda *_: pytest.fail("it was asked"))
    with ailab.start_run(dataset_id="iris@v1", mode="disabled"):
        pass
    with ailab.start_run() as run:
        pass
    assert payloads(run, "dataset.used") == []


def test_a_forked_child_takes_nothing_of_it_along(iris, scripts):
    """A fork right after the start waits for the look-up; the child logs, and both end."""
    done = scripts.run(
        """
        import os
        import ailab
        run = ailab.start_run(id="forks", dataset_id="iris@v1")
        pid = os.fork()
        if pid == 0:
            run.log({"child": 1})
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        run.finish()
        print([use.version for use in ailab.get_run("forks").datasets], sorted(ailab.get_run("forks").final_metrics))
        """,
    )
    assert done.stdout == "[1] ['child']\n"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("iris", ["by name", "by number", "old"]), ("Iris", ["by name", "by number", "old"]),
        ("iris@v2", ["by name", "by number"]), ("iris@v1", ["old"]), ("iris@latest", ["by name", "by number"]),
        ("iris@v3", ["unknown"]), ("wine", ["text"]),
        ("iris@sha256:{two}", ["by name", "by number"]), ("{one}", ["old"]), ("iri", []), ("nothing@latest", []),
    ],
)  # fmt: skip
def test_runs_are_found_by_the_text_and_by_what_it_meant(iris, lab, text, names):
    """`dataset_id=` in lists and leaderboards: the text as given, or a content that it names; a name means all versions."""
    one, two = iris
    for name, given in {"old": one, "by name": "iris", "by number": "iris@v2", "unknown": "iris@v3", "text": "wine"}.items():
        with ailab.start_run(name, dataset_id=given, silent=True) as run:
            run.log({"accuracy": 1.0})
    asked = text.format(one=one, two=two)
    catalogue = lab()
    assert sorted(r.name for r in queries.list_runs(catalogue, RunFilter(dataset_id=asked)).rows) == names
    assert sorted(r.name for r in queries.leaderboard(catalogue, "accuracy", dataset_id=asked)) == names


def test_show_tells_the_exact_version(iris, lab):
    """The page of a run on a terminal has the text and, beside it, version and SHA-256."""
    import sys

    from click.testing import CliRunner

    from ailab import cli

    with ailab.start_run(id="shown", dataset_id="iris"):
        pass
    shown = CliRunner().invoke(cli.main, ["show", "shown"]).output
    assert f"iris@v2 (training), sha256 {iris[1]}" in shown
    assert "duckdb" in sys.modules
