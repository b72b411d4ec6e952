"""Projects, datasets, tokens, trash and undo: what actions change, and what the questions answer, also from nothing."""

from __future__ import annotations

import hashlib
import os

import msgspec
import pytest
from click.testing import CliRunner

import ailab
from ailab import artifacts, blobs, cli, datasets, events, inventory, journal, queries, store, views
from ailab.actions import Actions
from ailab.bodies import DatasetFields, LoggedEvent, NewProject, NewRun, NewToken, ProjectChange, RunChange
from ailab.errors import ConflictError, FilterError, NotFoundError, RejectedError
from ailab.filters import RunFilter
from ailab.inventory import DatasetFilter
from ailab.views import compact


@pytest.fixture
def place(store_dir):
    return store.open_store(str(store_dir), create=True)


@pytest.fixture
def actions(place):
    """Actions on an empty store."""
    lab = views.open_lab(place.path)
    with Actions(lab, via="http", by="ada") as opened:
        yield opened
    lab.close()


def add(actions, content, file="iris.csv", **fields):
    """Register bytes as a version."""
    path = os.path.join(actions.lab.store.path, "..", "given")
    with open(path, "wb") as given:
        given.write(content)
    contents = datasets.examine(path, file)
    incoming = blobs.Incoming(actions.lab.store)
    try:
        incoming.fill(path)
        return actions.add_dataset(incoming, contents, file=file, fields=DatasetFields(**fields))
    finally:
        incoming.discard()


def again(actions):
    """A fresh catalogue of the same store, once from segments and once from tables: both must say the same."""
    fresh = views.open_lab(actions.lab.store.path)
    said = everything(fresh)
    fresh.close()
    actions.close()
    compact.compact(actions.lab.store, grace_s=0.0, orphan_s=0.0)
    fresh = views.open_lab(actions.lab.store.path)
    assert everything(fresh) == said
    fresh.close()
    return said


def everything(lab):
    """What the questions answer, as JSON."""
    found = {
        "projects": [inventory.list_projects(lab, trashed=trashed).rows for trashed in (False, True)],
        "datasets": [inventory.list_datasets(lab, DatasetFilter(all_versions=True, trashed=t)).rows for t in (False, True)],
        "runs": [queries.list_runs(lab, RunFilter(trashed=trashed)).rows for trashed in (False, True)],
        "details": queries.get_runs_by_ids(lab, [row.run_id for row in queries.list_runs(lab).rows]),
        "changes": queries.list_changes(lab).rows,
        "tokens": inventory.list_tokens(lab),
    }
    return msgspec.json.decode(msgspec.json.encode(found))


# -- projects ----------------------------------------------------------------------------------------------------------


def test_a_project_counts_what_is_in_it(actions):
    """Datasets, runs by status, bytes and the last sign of life; the trash does not count."""
    made = actions.create_project(NewProject(name="Iris Flowers", description="by Fisher"))
    assert (made.project_id, made.dataset_count, made.run_count, made.runs_by_status) == ("iris-flowers", 0, 0, {})
    for status in ("completed", "completed", "failed"):
        run = actions.create_run(NewRun(project="iris flowers"))
        actions.change_run(run.run_id, RunChange(status=status))
    gone = actions.create_run(NewRun(project_id="iris-flowers"))
    actions.trash_run(gone.run_id)
    add(actions, b"a\n1\n", project_id="iris-flowers")
    add(actions, b"a\n1\n2\n", project_id="iris-flowers")
    add(actions, b"b\n1\n", "wine.csv")
    (found,) = inventory.list_projects(actions.lab).rows
    assert (found.dataset_count, found.run_count, found.total_dataset_bytes) == (1, 3, 10)
    assert found.runs_by_status == {"completed": 2, "failed": 1}
    assert found.last_activity > found.created_at
    assert inventory.get_project(actions.lab, "iris-flowers") == found
    assert inventory.find_project(actions.lab, "IRIS flowers") == "iris-flowers"
    assert inventory.list_projects(actions.lab, q="fisher").total == 1
    assert inventory.list_projects(actions.lab, q="wine").total == 0
    again(actions)


def test_a_project_that_is_there_is_not_made_again(actions):
    """By whatever spelling, and in the trash too; a run's project is there as well."""
    actions.create_run(NewRun(project="Iris"))
    for name in ("Iris", "IRIS", " iris "):
        with pytest.raises(ConflictError, match="is there"):
            actions.create_project(NewProject(name=name))
    actions.trash_project("iris")
    with pytest.raises(ConflictError, match="is in the trash\nhint: restore it"):
        actions.create_project(NewProject(name="iris"))
    with pytest.raises(ConflictError, match="in the trash"):
        actions.create_run(NewRun(project="iris"))
    with pytest.raises(NotFoundError, match="no project 'irsi'"):
        actions.trash_project("irsi")
    for bad in ("", "   ", "x" * 251, "a\x00"):
        with pytest.raises(RejectedError):
            actions.create_project(NewProject(name=bad))


def test_restoring_a_project_brings_back_exactly_what_went_with_it(actions):
    """A run and a dataset that were in the trash before stay there; what is protected keeps its project out."""
    kept, gone = (actions.create_run(NewRun(project="iris")).run_id for _ in range(2))
    other = actions.create_run(NewRun(project="wine")).run_id
    first, _ = add(actions, b"a\n1\n", project_id="iris")
    second, _ = add(actions, b"a\n2\n", project_id="iris")
    actions.trash_run(gone)
    actions.trash_dataset(first.dataset_id)
    actions.protect_run(kept)
    with pytest.raises(ConflictError, match=f"protected runs: {kept}"):
        actions.trash_project("iris")
    with pytest.raises(ConflictError, match="is protected"):
        actions.trash_run(kept)
    actions.protect_run(kept, on=False)
    assert actions.trash_project("iris").trashed
    assert [row.run_id for row in queries.list_runs(actions.lab).rows] == [other]
    assert inventory.list_datasets(actions.lab).rows == []
    with pytest.raises(ConflictError, match="project 'iris' is in the trash"):
        actions.restore_run(kept)
    with pytest.raises(ConflictError, match="project 'iris' is in the trash"):
        actions.trash_dataset(second.dataset_id, on=False)
    assert not actions.restore_project("iris").trashed
    assert {row.run_id for row in queries.list_runs(actions.lab).rows} == {other, kept}
    assert [row.dataset_id for row in inventory.list_datasets(actions.lab).rows] == [second.dataset_id]
    assert [row.run_id for row in queries.list_runs(actions.lab, RunFilter(trashed=True)).rows] == [gone]
    again(actions)


def test_a_project_keeps_its_id_under_another_label(actions):
    """Runs and datasets show the new label; the old spelling still means it."""
    run = actions.create_run(NewRun(project="iris")).run_id
    actions.change_project("iris", ProjectChange(name="Flowers", description="d"))
    assert queries.get_run(actions.lab, run).project == "Flowers"
    assert actions.create_run(NewRun(project_id="iris")).project == "Flowers"
    found = inventory.get_project(actions.lab, "iris")
    assert (found.name, found.description, found.run_count) == ("Flowers", "d", 2)
    again(actions)


# -- datasets ----------------------------------------------------------------------------------------------------------


def test_versions_of_a_dataset(actions):
    """The same content is the same version, new content the next one, with its parent and how the columns differ."""
    first, is_new = add(actions, b"a,b\n1,x\n", description="one", tags=["gold"], metadata={"n": [1]})
    assert (is_new, first.version, first.parent_id, first.schema_changes) == (True, 1, None, [])
    same, is_new = add(actions, b"a,b\n1,x\n", tags={"gold": None, "small": "yes"})
    assert (is_new, same.version, same.description, same.tags) == (False, 1, "one", {"gold": None, "small": "yes"})
    second, is_new = add(actions, b"a,c\n1.5,2\n,3\n")
    assert (is_new, second.version, second.parent_id, second.versions) == (True, 2, first.dataset_id, 2)
    assert [(c.column, c.change, c.old, c.new) for c in second.schema_changes] == [
        ("b", "removed", "string", None), ("a", "type", "integer", "float"), ("c", "added", None, "integer"),
    ]  # fmt: skip
    digest = hashlib.sha256(b"a,b\n1,x\n").hexdigest()
    assert first.dataset_id == f"iris@sha256:{digest}"
    for text in ("iris@v1", first.dataset_id, f"iris@sha256:{digest[:8]}", digest, f"sha256:{digest}"):
        assert inventory.find_dataset(actions.lab, text) == first.dataset_id
    for text in ("iris", "iris@latest", "iris@v2"):
        assert inventory.find_dataset(actions.lab, text) == second.dataset_id
    for text in ("iris@v3", "iris@sha256:00000000"):
        with pytest.raises(NotFoundError, match=f"no version '{text}'\nhint: the newest version of 'iris' is v2$") as absent:
            inventory.get_dataset(actions.lab, text)
        assert absent.value.nearest == ["iris@v2"]
    for text in ("wine", "0" * 64):
        with pytest.raises(NotFoundError):
            inventory.find_dataset(actions.lab, text)
    with pytest.raises(FilterError):
        inventory.find_dataset(actions.lab, "v1")
    assert [row.version for row in inventory.list_versions(actions.lab, "iris")] == [2, 1]
    assert [row.version for row in inventory.list_datasets(actions.lab).rows] == [2]
    assert inventory.list_datasets(actions.lab, DatasetFilter(all_versions=True, tag="small=yes")).rows[0].version == 1
    preview = inventory.preview_dataset(actions.lab, "iris@v2", limit=1)
    assert (preview.rows, preview.total, preview.showing) == ([{"a": 1.5, "c": 2}], 2, 1)
    with inventory.open_dataset(actions.lab, "iris@v1")[1] as file:
        assert file.read() == b"a,b\n1,x\n"
    again(actions)


def test_a_trashed_version_comes_back_when_it_is_added_again(actions):
    """Its number stays; a name means the newest version that is there."""
    first, _ = add(actions, b"a\n1\n")
    second, _ = add(actions, b"a\n2\n")
    assert actions.trash_dataset(second.dataset_id).trashed
    assert inventory.find_dataset(actions.lab, "iris") == first.dataset_id
    assert inventory.find_dataset(actions.lab, "iris@v2") == second.dataset_id
    third, _ = add(actions, b"a\n3\n")
    assert (third.version, third.parent_id) == (3, first.dataset_id)
    back, is_new = add(actions, b"a\n2\n")
    assert (is_new, back.version, back.trashed) == (False, 2, False)
    for number in (1, 2, 3):
        actions.trash_dataset(f"iris@v{number}")
    with pytest.raises(NotFoundError, match="no version 'iris'\nhint: the newest version of 'iris' is v3, in the trash"):
        inventory.get_dataset(actions.lab, "iris")
    again(actions)


def test_a_name_alone_is_restored_as_it_was_trashed(actions):
    """Trashing by name takes the newest version, restoring by name the newest in the trash; with one version too."""
    add(actions, b"a\n1\n")
    add(actions, b"a\n2\n")
    assert actions.trash_dataset("iris").version == 2
    back = actions.trash_dataset("iris", on=False)
    assert (back.version, back.trashed) == (2, False)
    assert [actions.trash_dataset("iris").version for _ in range(2)] == [2, 1]
    assert [actions.trash_dataset("iris", on=False).version for _ in range(2)] == [2, 1]
    assert inventory.list_datasets(actions.lab, DatasetFilter(all_versions=True, trashed=True)).rows == []


def test_two_projects_have_no_one_name(actions):
    """A project is not renamed to what another one is called, in whatever spelling; to its own name it is."""
    actions.create_project(NewProject(name="Iris"))
    actions.create_project(NewProject(name="Wine"))
    actions.change_project("wine", ProjectChange(name="Red Wine"))
    for name in ("iris", "IRIS", "Iris"):
        with pytest.raises(ConflictError, match="is taken"):
            actions.change_project("wine", ProjectChange(name=name))
    assert actions.change_project("wine", ProjectChange(name="Wine")).name == "Wine"


def test_what_is_said_of_a_dataset_changes(actions):
    """Each field whole; the name is that of all versions, the id stays."""
    first, _ = add(actions, b"a\n1\n", tags=["x"])
    add(actions, b"a\n2\n")
    found = actions.change_dataset("iris@v1", DatasetFields(name="Flowers", description="d", tags=["y"], metadata={"k": 1}))
    assert (found.dataset_id, found.name, found.description) == (first.dataset_id, "Flowers", "d")
    assert (found.tags, found.metadata) == ({"y": None}, {"k": 1})
    assert {row.name for row in inventory.list_versions(actions.lab, "Flowers")} == {"Flowers"}
    assert inventory.find_dataset(actions.lab, "Flowers@v1") == inventory.find_dataset(actions.lab, "iris@v1")
    with pytest.raises(RejectedError, match="@ separates"):
        add(actions, b"a\n3\n", "a@v1.csv")
    again(actions)


def test_a_dataset_is_not_called_what_another_one_is(actions):
    """By a new label, a new dataset or an undoing, in whatever spelling, the other in the trash or not; to its own name it is."""
    _, rose = add(actions, b"a\n1\n", "rose.csv"), add(actions, b"a\n2\n", "tulip.csv")[0]
    actions.change_dataset("rose", DatasetFields(name="Red Rose"))
    for name in ("Red Rose", "red rose", "ROSE", "rose"):
        with pytest.raises(ConflictError, match="is taken") as problem:
            actions.change_dataset("tulip", DatasetFields(name=name))
        assert problem.value.where == "name"
    with pytest.raises(ConflictError, match="is taken"):
        add(actions, b"a\n3\n", "x.csv", name="RED ROSE")
    actions.trash_dataset("rose")
    with pytest.raises(ConflictError, match="is taken"):
        actions.acting("ci", only="alpha").change_dataset("tulip", DatasetFields(name="rose"))
    actions.change_dataset("tulip", DatasetFields(name="first"))
    actions.change_dataset("tulip", DatasetFields(name="second"))
    event = latest(actions).event
    actions.change_dataset("rose@v1", DatasetFields(name="First"))
    with pytest.raises(ConflictError, match="the name 'first' is taken") as problem:
        actions.undo(event)
    assert problem.value.where == "event"
    actions.change_dataset("rose@v1", DatasetFields(name="Rose"))
    actions.undo(event)
    assert inventory.get_dataset(actions.lab, "first").dataset_id == rose.dataset_id
    assert actions.change_dataset("tulip", DatasetFields(name="Tulip")).name == "Tulip"
    again(actions)


def test_an_id_comes_before_a_label(actions):
    """Stores that were merged may have a dataset labelled as another one's id: the name is the other's, in the trash too."""
    tulip, rose = add(actions, b"a\n1\n", "tulip.csv")[0], add(actions, b"a\n2\n", "rose.csv")[0]
    run = actions.create_run(NewRun(dataset_id=rose.sha256)).run_id
    add(actions, b"a\n3\n", "tulip.csv")
    actions._writer.append(events.DatasetVersionChanged(dataset="tulip", sha256=tulip.sha256, name="rose"), by="ada")
    actions.lab.refresh()

    def runs(text):
        return [row.run_id for row in queries.list_runs(actions.lab, RunFilter(dataset_id=text)).rows]

    assert (runs("rose"), runs("rose@v1"), runs("rose@latest"), runs("rose@v2"), runs("tulip")) == ([run], [run], [run], [], [])
    for text in ("rose", "rose@v1", "rose@latest"):
        assert inventory.get_dataset(actions.lab, text).dataset_id == rose.dataset_id
    actions.trash_dataset("rose")
    for text in ("rose", "rose@latest", "rose@v2"):
        with pytest.raises(NotFoundError, match="version"):
            inventory.get_dataset(actions.lab, text)
    assert inventory.get_dataset(actions.lab, "rose@v1").dataset_id == rose.dataset_id


def test_a_new_version_belongs_where_its_dataset_does(actions):
    """Project and description are taken over, tags and metadata are said of one content; to another project goes all of it."""
    first, _ = add(actions, b"a\n1\n", project_id="Iris Flowers", description="one", tags=["gold"], metadata={"k": 1})
    second, _ = add(actions, b"a\n2\n")
    assert (second.project_id, second.description, second.tags, second.metadata) == ("iris-flowers", "one", {}, {})
    assert inventory.get_project(actions.lab, "iris-flowers").dataset_count == 1
    third, _ = add(actions, b"a\n3\n", description="three", project_id="iris-flowers")
    assert (third.parent_id, third.description) == (second.dataset_id, "three")
    for content in (b"a\n1\n", b"a\n4\n"):
        with pytest.raises(ConflictError, match="dataset 'iris' belongs to project 'iris-flowers'") as problem:
            add(actions, content, project_id="wine")
        assert first.dataset_id.partition("@")[0] in problem.value.hint
    assert {row.project_id for row in inventory.list_versions(actions.lab, "iris")} == {"iris-flowers"}
    assert actions.change_dataset("iris@v2", DatasetFields(project_id="wine", tags=["x"])).project_id == "wine"
    versions = inventory.list_versions(actions.lab, "iris")
    assert [(row.version, row.project_id, list(row.tags)) for row in versions] == [
        (3, "wine", []), (2, "wine", ["x"]), (1, "wine", ["gold"]),
    ]  # fmt: skip
    assert add(actions, b"a\n4\n", project_id="wine")[0].version == 4
    again(actions)


def test_a_dataset_comes_back_as_a_whole(actions):
    """Undoing the move of any version takes all of them back, as does undoing that; what was in another project stays there."""
    first, _ = add(actions, b"a\n1\n", project_id="iris")
    actions.change_dataset("iris", DatasetFields(project_id="beer"))
    add(actions, b"a\n2\n")
    add(actions, b"a\n3\n", tags=["x"])
    apart = events.DatasetVersionChanged(dataset="iris", sha256=first.sha256, project="cellar")
    actions._writer.append(apart, by="ada")

    def projects():
        return [row.project_id for row in inventory.list_versions(actions.lab, "iris")]

    actions.change_dataset("iris@v2", DatasetFields(project_id="wine", description="moved"))
    assert projects() == ["wine", "wine", "cellar"]
    moves = [row.event for row in queries.list_changes(actions.lab).rows if row.field == "project" and row.new == "wine"]
    event = moves[0]
    for i in range(4):
        undone = actions.undo(event)
        assert projects() == ["beer", "beer", "cellar"]
        assert sorted(row.field for row in undone) == ["description", "project", "project"]
        with pytest.raises(ConflictError, match="undone already"):
            actions.undo(moves[0])
        event = actions.undo(undone[i % 2].event)[i % 2].event
        assert (projects(), inventory.get_dataset(actions.lab, "iris@v2").description) == (["wine", "wine", "cellar"], "moved")
    actions.change_dataset("iris@v3", DatasetFields(description="later"))
    later = events.DatasetVersionChanged(
        dataset="iris", sha256=inventory.get_dataset(actions.lab, "iris@v3").sha256, project="cellar"
    )
    actions._writer.append(later, by="ada")
    actions.lab.refresh()
    with pytest.raises(ConflictError, match="project was changed again since"):
        actions.undo(event)
    assert projects() == ["cellar", "wine", "cellar"]


def test_a_dataset_of_no_project_is_taken_in_by_one(actions):
    """Whoever adds to it says which; then it is that project's, with what was there before."""
    add(actions, b"a\n1\n")
    assert add(actions, b"a\n1\n", project_id="iris") == (inventory.get_dataset(actions.lab, "iris@v1"), False)
    assert inventory.get_dataset(actions.lab, "iris@v1").project_id == "iris"
    before = queries.list_changes(actions.lab).total
    assert not add(actions, b"a\n1\n")[1]
    assert queries.list_changes(actions.lab).total == before


def test_nothing_is_added_to_a_dataset_whose_project_is_in_the_trash(actions):
    """It would be in the trash with it, and nobody would see."""
    add(actions, b"a\n1\n", project_id="iris")
    actions.trash_project("iris")
    for content in (b"a\n1\n", b"a\n2\n"):
        with pytest.raises(ConflictError, match="project 'iris' is in the trash"):
            add(actions, content)
    actions.restore_project("iris")
    assert add(actions, b"a\n2\n")[0].project_id == "iris"


def test_whoever_reaches_one_project_is_shown_its_versions_alone(actions):
    """Stores that were merged may have versions of one name in two projects; neither learns of the other's, or adds to them."""
    first, _ = add(actions, b"a\n1\n", project_id="iris", description="one")
    second, _ = add(actions, b"a,b\n2,2\n")
    moved = events.DatasetVersionChanged(dataset="iris", sha256=second.sha256, project="wine")
    actions._writer.append(moved, by="ada")
    actions.lab.refresh()
    assert inventory.get_dataset(actions.lab, "iris").parent_id == first.dataset_id
    found = inventory.get_dataset(actions.lab, "iris", only="wine")
    assert (found.version, found.parent_id, found.schema_changes) == (2, None, [])
    for only, there in (("iris", [1]), ("wine", [2])):
        assert [row.version for row in inventory.list_versions(actions.lab, "iris", only=only)] == there
        assert inventory.list_datasets(actions.lab, DatasetFilter(project_id=only)).rows[0].parent_id is None
    confined = actions.acting("ci", only="wine")
    for content, fields in ((b"a\n1\n", {"project_id": "wine"}), (b"a\n3\n", {})):
        with pytest.raises(ConflictError, match="the name 'iris' is taken"):
            add(confined, content, **fields)
    with pytest.raises(ConflictError, match="outside of the project"):
        confined.change_dataset(second.dataset_id, DatasetFields(name="Mine"))
    assert confined.change_dataset(second.dataset_id, DatasetFields(description="d")).description == "d"
    for text in ("iris@v1", first.dataset_id, first.sha256):
        with pytest.raises(NotFoundError):
            inventory.get_dataset(actions.lab, text, only="wine")
    again(actions)


def test_a_run_reads_an_exact_version(actions):
    """A name is resolved when the run begins; a filter finds the run by any name of that content."""
    first, _ = add(actions, b"a\n1\n")
    run = actions.create_run(NewRun(dataset_id="iris"))
    add(actions, b"a\n2\n")
    (used,) = queries.get_run(actions.lab, run.run_id).datasets
    assert (used.dataset_id, used.name, used.version, used.role) == (first.dataset_id, "iris", 1, "training")
    for text in ("iris", "iris@v1", first.dataset_id):
        assert [row.run_id for row in queries.list_runs(actions.lab, RunFilter(dataset_id=text)).rows] == [run.run_id]
    assert queries.list_runs(actions.lab, RunFilter(dataset_id="iris@v2")).rows == []
    other = actions.create_run(NewRun(dataset_id="nothing@v7"))
    assert (other.dataset_id, other.datasets) == ("nothing@v7", [])
    actions.use_dataset(other.run_id, "iris@v2", role="test")
    assert queries.get_run(actions.lab, other.run_id).datasets[0].version == 2
    assert inventory.get_dataset(actions.lab, "iris@v1").run_count == 1
    again(actions)


# -- runs of clients without the library -------------------------------------------------------------------------------


def test_a_run_by_hand(actions):
    """What a client says is there; a seed is drawn, the commit is the client's, and nobody to lose makes no crash."""
    run = actions.create_run(
        NewRun(name="svm", params={"opt": {"lr": 0.1}}, tags=["a"], commit="ABCDEF12", group="g", description="d")
    )
    assert (run.status, run.params, run.tags, run.git_hash) == ("running", {"opt/lr": 0.1}, {"a": None}, "abcdef12")
    assert isinstance(run.seed, int)
    assert actions.create_run(NewRun(seed=7, status="pending")).seed == 7
    added = actions.log_events(run.run_id, [
        LoggedEvent(kind="metrics.logged", data={"values": {"loss": 0.5, "n": 10**30}, "step": 3}),
        LoggedEvent(kind="metrics.logged", data={"values": {"loss": "NaN"}}),
        LoggedEvent(kind="summary.set", data={"values": {"best": 1}}),
        LoggedEvent(kind="system_metrics.logged", data={"values": {"cpu": 12.5}}),
        LoggedEvent(kind="console_lines.logged", data={"stream": "stdout", "lines": ["one", "two"]}),
    ])  # fmt: skip
    assert added == 5
    points = {(p.key, p.step): (p.value, p.exact) for p in queries.metric_points(actions.lab, run.run_id).rows}
    assert points == {("loss", 3): (0.5, None), ("loss", 1): ("NaN", None), ("n", 3): (1e30, str(10**30))}
    assert queries.run_sql(actions.lab, "select key, value from system_metrics").rows == [["cpu", 12.5]]
    assert queries.run_sql(actions.lab, "select line from console order by n").rows == [["one"], ["two"]]
    done = actions.change_run(run.run_id, RunChange(status="completed", metrics={"acc": 0.9}, params={"opt/lr": 0.2, "new": 1}))
    assert (done.status, done.final_metrics["acc"], done.params) == ("completed", 0.9, {"new": 1, "opt/lr": 0.2})
    assert done.ended_at is not None
    again(actions)


@pytest.mark.parametrize(
    ("new", "where"),
    [
        ({"run_id": "a b"}, "run_id"), ({"run_id": "compare"}, "run_id"), ({"status": "completed"}, "status"),
        ({"seed": -1}, "seed"),
        ({"commit": "xyz"}, "commit"), ({"name": "x" * 251}, "name"), ({"tags": {"": 1}}, "tag"),
        ({"project": " "}, "project"), ({"project_id": " "}, "project_id"),
    ],
)  # fmt: skip
def test_a_run_that_cannot_be_begun_leaves_nothing(actions, new, where):
    """A wrong field is named, and no event is written."""
    actions.lab.refresh()
    with pytest.raises(RejectedError) as refused:
        actions.create_run(NewRun(**new))
    assert refused.value.key == where or where in str(refused.value).replace(" ", "_")
    assert queries.list_runs(actions.lab).rows == []


def test_a_batch_is_added_whole_or_not_at_all(actions):
    """One bad event among good ones: it is named, and none is written."""
    run = actions.create_run(NewRun()).run_id
    good = LoggedEvent(kind="metrics.logged", data={"values": {"loss": 1}})
    bad = [
        LoggedEvent(kind="run.trashed"), LoggedEvent(kind="nothing"),
        LoggedEvent(kind="metrics.logged", data={"values": {"a": "x"}}),
        LoggedEvent(kind="metrics.logged", data={}), LoggedEvent(kind="metrics.logged", data={"values": {}, "step": 1.5}),
        LoggedEvent(kind="run.finished", data={"status": "crashed"}), LoggedEvent(kind="tags.changed", data={"set": {"": 1}}),
    ]  # fmt: skip
    for one in bad:
        with pytest.raises(RejectedError) as refused:
            actions.log_events(run, [good, one, good])
        assert refused.value.key.startswith("events[1]")
    assert queries.metric_points(actions.lab, run).total == 0


# -- undo --------------------------------------------------------------------------------------------------------------


def latest(actions):
    return queries.list_changes(actions.lab, limit=1).rows[0]


def test_every_change_can_be_undone(actions):
    """Each kind of change of a run, project and dataset: undone, all reads as before; undone again, as after."""
    run = actions.create_run(NewRun(project="iris", params={"lr": 1}, tags={"t": "1"})).run_id
    actions.note(run, "first")
    actions.add_artifact(run, "a.bin", sha256=blobs.put_bytes(actions.lab.store, b"x"), size=1)
    add(actions, b"a\n1\n", tags=["x"])
    changes = {
        "note": lambda: actions.note(run, "second"),
        "tag": lambda: actions.tag(run, {"t": "2", "new": None}),
        "untag": lambda: actions.tag(run, remove=["t"]),
        "flag": lambda: actions.flag(run, "best"),
        "name": lambda: actions.rename_run(run, "other"),
        "params": lambda: actions.change_run(run, RunChange(params={"lr": 2, "added": True})),
        "fields": lambda: actions.change_run(run, RunChange(description="d", group="g", status="failed", project_id="wine")),
        "what it read": lambda: actions.change_run(run, RunChange(dataset_id="iris@v1")),
        "protect": lambda: actions.protect_run(run),
        "trash": lambda: actions.trash_run(run),
        "file": lambda: actions.trash_artifact(run, "a.bin"),
        "project": lambda: actions.change_project("iris", ProjectChange(name="Iris", description="d")),
        "project trash": lambda: actions.trash_project("iris"),
        "dataset": lambda: actions.change_dataset(
            "iris@v1", DatasetFields(name="n", description="d", tags=["y"], metadata={"k": 1})
        ),
        "dataset trash": lambda: actions.trash_dataset("iris@v1"),
    }
    for what, change in changes.items():
        before = visible(actions.lab, run)
        change()
        after, event = visible(actions.lab, run), latest(actions).event
        assert after != before, what
        undone = actions.undo(event)
        assert {one.kind for one in undone} == {"change.undone"}, what
        assert visible(actions.lab, run) == before, what
        with pytest.raises(ConflictError, match=f"undone already, by event {undone[0].event}\nhint: undo {undone[0].event} to"):
            actions.undo(event)
        actions.undo(undone[0].event)
        assert visible(actions.lab, run) == after, what
        actions.undo(latest(actions).event)
        assert visible(actions.lab, run) == before, what
    again(actions)


def test_a_project_is_found_by_its_id_and_by_its_name_as_it_reads(actions):
    """In lists of runs and datasets and in leaderboards; an id comes before a name, and one that is not there is told."""
    run = actions.create_run(NewRun(project="Big House")).run_id
    actions.log_events(run, [LoggedEvent(kind="metrics.logged", data={"values": {"loss": 1.0}})])
    add(actions, b"a\n1\n", project_id="Big House")
    actions.create_run(NewRun(project="other"))
    actions.change_project("big-house", ProjectChange(name="Häuser"))
    lab = actions.lab
    for text in ("big-house", "Big House", "Häuser"):
        assert [row.run_id for row in queries.list_runs(lab, RunFilter(project_id=text), strict=True).rows] == [run], text
        assert [row.run_id for row in queries.leaderboard(lab, "loss", project_id=text, strict=True)] == [run], text
        assert len(inventory.list_datasets(lab, inventory.DatasetFilter(project_id=text)).rows) == 1, text
    actions.change_project("other", ProjectChange(name="label"))
    actions.create_run(NewRun(project="third"))
    for ask in (lambda: queries.list_runs(lab, RunFilter(project_id="big-hose"), strict=True),
                lambda: queries.leaderboard(lab, "loss", project_id="big-hose", strict=True)):  # fmt: skip
        with pytest.raises(FilterError, match="no project 'big-hose'\nhint: nearest: big-house"):
            ask()
    assert queries.list_runs(lab, RunFilter(project_id="big-hose")).rows == []


def visible(lab, run):
    """All that reads differently after a change."""
    found = everything(lab) | {"run": msgspec.to_builtins(queries.get_run(lab, run))}
    found.pop("changes")
    found["projects"] = [[{k: v for k, v in one.items() if k != "last_activity"} for one in part if one["project_id"] == "iris"]
                         for part in found["projects"]]  # fmt: skip
    return found


def test_what_was_changed_again_is_not_undone(actions):
    """The later change is named; once that is undone, the earlier one can be."""
    run = actions.create_run(NewRun()).run_id
    actions.note(run, "one")
    first = latest(actions).event
    actions.note(run, "two")
    second = latest(actions).event
    with pytest.raises(ConflictError) as refused:
        actions.undo(first)
    assert refused.value.nearest == [second]
    actions.undo(second)
    assert queries.get_run(actions.lab, run).note == "one"
    with pytest.raises(ConflictError, match="undone already"):
        actions.undo(second)
    actions.note(run, "three")
    with pytest.raises(ConflictError, match="undone already"):
        actions.undo(second)
    with pytest.raises(NotFoundError, match="no change"):
        actions.undo("nothing:1")


def test_undo_keeps_to_the_rules_of_the_trash(actions):
    """What is protected does not go into the trash by undoing that it came out of it."""
    run = actions.create_run(NewRun(project="iris")).run_id
    actions.trash_run(run)
    actions.restore_run(run)
    event = latest(actions).event
    actions.add_artifact(run, "a.bin", sha256=blobs.put_bytes(actions.lab.store, b"x"), size=1)
    actions.trash_artifact(run, "a.bin")
    actions.trash_artifact(run, "a.bin", on=False)
    back = latest(actions).event
    actions.protect_run(run)
    for act in (lambda: actions.undo(event), lambda: actions.undo(back), lambda: actions.trash_artifact(run, "a.bin")):
        with pytest.raises(ConflictError, match="is protected"):
            act()
    actions.note(run, "trashed")
    actions.note(run, "a word like any other")
    assert actions.undo(latest(actions).event)[0].new == "trashed"
    actions.protect_run(run, on=False)
    actions.undo(back)
    assert queries.list_artifacts(actions.lab, run)[0].trashed


def test_the_next_version_of_a_file_is_of_the_kind_of_the_one_before(actions):
    """Unless another is given; the kind that a name tells is for the first one."""
    run, sha256 = actions.create_run(NewRun()).run_id, blobs.put_bytes(actions.lab.store, b"x")
    kinds = [actions.add_artifact(run, "m.bin", sha256=sha256, size=1, kind=kind).kind for kind in (None, "checkpoint", None)]
    assert kinds == ["other", "checkpoint", "checkpoint"]
    (added,) = artifacts.keep(actions.lab.store, __file__, name="m.bin")
    assert [actions.add_kept(run, [added], kind=kind)[0].kind for kind in (None, "log", None)] == ["checkpoint", "log", "log"]


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_a_token_is_shown_once_and_kept_as_a_hash(actions, place):
    """Nothing in the store has its text; it counts until it is revoked, for good."""
    actions.create_project(NewProject(name="iris"))
    made = actions.create_token(NewToken(role="reader", name="ci", project_id="Iris"))
    assert (made.token.role, made.token.name, made.token.project_id, made.token.by) == ("reader", "ci", "iris", "ada")
    assert made.text.startswith("ailab_")
    for folder, _, names in os.walk(place.path):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                assert made.text.encode() not in file.read()
    digest = hashlib.sha256(made.text.encode()).hexdigest()
    assert inventory.token_of(actions.lab, digest) == made.token
    assert inventory.token_of(actions.lab, "0" * 64) is None
    assert actions.revoke_token("ci").revoked_at is not None
    assert inventory.token_of(actions.lab, digest) is None
    with pytest.raises(RejectedError):
        actions.create_token(NewToken(role="root"))
    with pytest.raises(RejectedError, match="not limited"):
        actions.create_token(NewToken(role="admin", project_id="iris"))
    with pytest.raises(NotFoundError):
        actions.revoke_token("nobody")
    again(actions)


def test_who_brought_a_segment_is_who_told_it(place):
    """What a server noted of a segment counts above what its own lines say."""
    with ailab.start_run("far", id="r1", dir=place.path) as run:
        run.log({"a": 1})
    writer = journal.Writer(place, run=None, via="sdk", by="somebody")
    writer.append(events.NoteChanged(note="hello"), run="r1")
    name = writer.name
    writer.seal()
    lab = views.open_lab(place.path)
    assert queries.list_changes(lab).rows[0].by == "somebody"
    with Actions(lab, via="http", by="ci") as actions:
        actions.accept_segment(name, offset=0, token="abc", address="10.0.0.7")
    lab.refresh()
    assert queries.list_changes(lab).rows[0].by == "ci"
    assert queries.run_sql(lab, 'select "by" from notes').rows == [["ci"]]
    lab.close()


def test_who_did_it_stands_at_every_change(actions):
    """One writer, several people."""
    run = actions.create_run(NewRun()).run_id
    actions.note(run, "one")
    actions.acting("bob").note(run, "two")
    actions.acting(None).note(run, "three")
    assert [(c.by, c.via, c.new) for c in queries.list_changes(actions.lab).rows][:3] == [
        (None, "http", "three"), ("bob", "http", "two"), ("ada", "http", "one"),
    ]  # fmt: skip


def test_a_run_notes_the_content_that_it_read(actions, place):
    """`use_dataset` gives the bytes of a version, and ties the run to exactly these, by whatever name it was asked."""
    first, _ = add(actions, b"a,b\n1,2\n", name="petals")
    add(actions, b"a,b\n1,2\n3,4\n", name="petals")
    with ailab.start_run(id="reader"):
        used = ailab.use_dataset("petals@v1")
        newest = ailab.use_dataset("petals", role="validation")
        with open(used) as file:
            assert file.read() == "a,b\n1,2\n"
    assert ailab.use_dataset("petals@v2").sha256 == newest.sha256  # no run is open: nothing is noted
    assert (used.dataset_id, used.version, newest.version) == (first.dataset_id, 1, 2)
    for _ in range(2):
        found = ailab.get_run("reader").datasets
        assert [(use.dataset_id, use.name, use.version, use.role) for use in found] == [
            (used.dataset_id, "petals@v1", 1, "training"), (newest.dataset_id, "petals", 2, "validation"),
        ]  # fmt: skip
        assert [run.run_id for run in ailab.list_runs(dataset_id=used.dataset_id)] == ["reader"]
        actions.close()
        compact.compact(place, grace_s=0.0, orphan_s=0.0)


def test_a_dataset_that_is_not_there_is_said_and_nothing_noted(actions, place):
    """A wrong name, and a version whose bytes are in another store."""
    only, _ = add(actions, b"a,b\n1,2\n", name="petals")
    with ailab.start_run(id="reader"):
        for name in ("petals@v7", "roses", "f" * 64):
            with pytest.raises(NotFoundError):
                ailab.use_dataset(name)
        os.unlink(place.blob_path(only.sha256))
        with pytest.raises(NotFoundError, match="bytes"):
            ailab.use_dataset("petals")
    assert ailab.get_run("reader").datasets == []


def test_a_content_without_a_name_is_noted_by_its_hash(store_dir):
    """What is no SHA-256 is refused."""
    digest = hashlib.sha256(b"x").hexdigest()
    with ailab.start_run(id="reader", strict=True) as run:
        run.use_content(digest, name="x.bin", role="test")
        with pytest.raises(RejectedError, match="SHA-256"):
            run.use_content("abc")
    assert [(use.sha256, use.name, use.version, use.role) for use in ailab.get_run("reader").datasets] == [
        (digest, "x.bin", None, "test")
    ]


# -- files on the command line -----------------------------------------------------------------------------------------


def told(*words, code=0):
    """What a verb prints on (standard output, standard error)."""
    result = CliRunner().invoke(cli.main, list(words))
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def test_files_are_drawn_as_a_tree(store_dir, tmp_path):
    """Folders first, with the size of what is in them; each file in its newest version; where references lie; the ratio."""
    for path in ("out/a.txt", "out/deep/b.txt", "big.bin"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("same bytes")
    with ailab.start_run(id="drawn") as run:
        for _ in range(2):
            run.log_artifact("out")
        run.log_artifact("big.bin", reference=True, kind="data")
    digest = hashlib.sha256(b"same bytes").hexdigest()
    place = f"file://{os.uname().nodename}{tmp_path}/big.bin"
    lines = [line.split() for line in told("artifacts", "drawn")[0].splitlines()]
    assert lines == [
        ["path", "kind", "size", "version", "reference", "to", "sha256"],
        ["├──", "out/", "20", "B"],
        ["│", "├──", "deep/", "10", "B"],
        ["│", "│", "└──", "b.txt", "data", "10", "B", "v2", digest],
        ["│", "└──", "a.txt", "data", "10", "B", "v2", digest],
        ["└──", "big.bin", "data", "10", "B", "v1", place, digest],
        ["40", "B", "in", "5", "versions,", "10", "B", "kept:", "4.0", "×", "deduplicated"],
    ]
    told("trash", "drawn", "--artifact", "out/a.txt")
    assert "v2 (trash)" in told("artifacts", "drawn")[0]


def test_a_tree_is_as_deep_as_its_paths(store_dir):
    """No limit of the interpreter is met; a file and a folder of one name stand beside each other."""
    deep = "/".join(["a"] * 1500)
    with ailab.start_run(id="deep") as run:
        run.log_text("x", deep)
        run.log_text("x", "a/b")
        run.log_text("x", "c")
        run.log_text("x", "c/d")
    lines = told("artifacts", "deep")[0].splitlines()
    names = [line.split("── ")[1].split()[0] for line in lines if "── " in line]
    assert names == ["a/"] * 1499 + ["a", "b", "c/", "d", "c"]


def test_files_and_folders_are_added_on_the_command_line(store_dir, tmp_path):
    """A folder under its own name, its files each the next version; what is left out is said; JSON is what the server answers."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.txt").write_text("a")
    (tmp_path / "out" / "away").symlink_to("/etc/hostname")
    with ailab.start_run(id="added"):
        pass
    out, err = told("artifacts", "added", "--add", "out", "--json")
    assert [(file["path"], file["version"], file["reference"]) for file in msgspec.json.decode(out)] == [("out/a.txt", 1, False)]
    assert "left out 'away' (a link out of the folder)" in err
    out, _ = told("artifacts", "added", "--add", "out/a.txt", "--path", "out/a.txt", "--reference", "--kind", "mine", "--json")
    file = msgspec.json.decode(out)
    assert (file["path"], file["version"], file["reference"], file["kind"]) == ("out/a.txt", 2, True, "mine")
    _, err = told("artifacts", "added", "--get", "out/a.txt", "-o", "-", code=1)
    assert f"it is a reference: its bytes lay at {file['location']} when it was logged" in err
    assert "there is no such file" in told("artifacts", "added", "--add", "nothing", code=1)[1]
