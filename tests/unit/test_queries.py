"""All one may ask: each filter alone and together, orders, leaderboards, comparisons, points; and questions that are wrong."""

from __future__ import annotations

import json
import math

import pytest

import ailab
from ailab import events, filters, journal, naming, queries
from ailab.errors import FilterError, NotFoundError
from ailab.views import compact

RUNS = {
    "svm": {"config": {"model": "svm", "lr": 0.1, "n": 10}, "project": "Iris", "dataset_id": "iris@v1", "tags": {"team": "a"}},
    "tree": {"config": {"model": "tree", "lr": 0.01}, "project": "Iris", "dataset_id": "wine@v1", "tags": ["baseline"]},
    "net": {"config": {"model": "net", "lr": 1, "opt": {"name": "sgd"}}, "project": "Digits"},
}
FINAL = {"svm": {"acc": 0.9, "loss": 0.3}, "tree": {"acc": 0.8, "loss": 0.5}, "net": {"acc": math.nan, "loss": 0.1}}


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A catalogue with three runs, oldest first svm, tree, net; net failed, tree has an artifact and a note."""
    from ailab import views

    path = tmp_path_factory.mktemp("queries") / "store"
    for name, start in RUNS.items():
        run = ailab.start_run(name, dir=path, **start)
        for step, value in enumerate((0.2, 0.9, 0.4)):
            run.log({"curve": value}, step=step)
        if name == "tree":
            run.log_text("x", "a/tree.txt")
            run.note("PUBLISH: the tree")
        run.finish("failed" if name == "net" else None, final_metrics=FINAL[name])
    gone = ailab.start_run("gone", dir=path, config={"model": "svm"})
    gone.finish(final_metrics={"acc": 1.0})
    writer = journal.Writer(gone.store, via="cli")
    writer.append(events.RunTrashed(), run=gone.id)
    writer.seal()
    lab = views.open_lab(path)
    yield lab
    lab.close()


def names(lab, **filters):
    page = queries.list_runs(lab, queries.RunFilter.parse([(k.replace("params_", "params."), v) for k, v in filters.items()]))
    assert page.total == len(page.rows) or "limit" in filters
    return [run.name for run in page.rows]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["net", "tree", "svm"]),
        ({"dataset_id": "wine@v1"}, ["tree"]),
        ({"project_id": "iris"}, ["tree", "svm"]),
        ({"status": "failed"}, ["net"]),
        ({"status": "crashed"}, []),
        ({"note_substring": "publish"}, ["tree"]),
        ({"command_substring": "100%_"}, []),
        ({"has_artifacts": "true"}, ["tree"]),
        ({"has_artifacts": "false"}, ["net", "svm"]),
        ({"metric_name": "acc"}, ["net", "tree", "svm"]),
        ({"metric_name": "acc", "metric_min": "0.85"}, ["svm"]),
        ({"metric_name": "acc", "metric_max": "0.85"}, ["tree"]),
        ({"metric_name": "loss", "metric_min": "0.2", "metric_max": "0.4"}, ["svm"]),
        ({"metric_name": "nothing"}, []),
        ({"tag": "baseline"}, ["tree"]),
        ({"tag": "team=a"}, ["svm"]),
        ({"tag": "team=b"}, []),
        ({"params_model": "svm"}, ["svm"]),
        ({"params_lr": "0.01"}, ["tree"]),
        ({"params_opt/name": "sgd"}, ["net"]),
        ({"params_model": "svm", "params_lr": "0.01"}, []),
        ({"q": "TREE"}, ["tree"]),
        ({"q": "iris@v1"}, ["svm"]),
        ({"from_timestamp": "2020-01-01", "to_timestamp": "2020-12-31"}, []),
        ({"from_timestamp": "2020-01-01T00:00:00Z"}, ["net", "tree", "svm"]),
        ({"sort": "started_at"}, ["svm", "tree", "net"]),
        ({"sort": "name"}, ["net", "svm", "tree"]),
        ({"sort": "-name"}, ["tree", "svm", "net"]),
        ({"sort": "metrics.acc"}, ["tree", "svm", "net"]),
        ({"sort": "-metrics.acc"}, ["svm", "tree", "net"]),
        ({"sort": "params.lr"}, ["tree", "svm", "net"]),
        ({"sort": "-params.n"}, ["svm", "net", "tree"]),
        ({"limit": "1"}, ["net"]),
        ({"project_id": "iris", "has_artifacts": "false", "metric_name": "acc", "metric_min": "0.5", "q": "svm"}, ["svm"]),
    ],
)
def test_a_filter_keeps_what_it_says(asked, filters, expected):
    """Every filter alone, and several together; runs in the trash are never there, NaN passes no bound and sorts last."""
    assert names(asked, **filters) == expected


def test_a_part_of_the_command_is_found_whatever_its_case(asked):
    part = queries.list_runs(asked).rows[0].command[:6]
    assert names(asked, command_substring=part.upper()) == names(asked, command_substring=part.lower()) == ["net", "tree", "svm"]


def test_a_bare_date_is_midnight_and_to_has_its_whole_day(asked):
    day = queries.list_runs(asked).rows[0].timestamp[:10]
    assert names(asked, from_timestamp=day, to_timestamp=day) == ["net", "tree", "svm"]
    assert names(asked, to_timestamp=f"{day}T00:00:00Z") == []
    assert names(asked, from_timestamp="2020-01-01T02:00:00+02:00", to_timestamp=f"{day}") == ["net", "tree", "svm"]


@pytest.mark.parametrize(
    ("filters", "where"),
    [
        ({"colour": "red"}, "colour"),
        ({"status": "happy"}, "status"),
        ({"metric_min": "0.5"}, "metric_min"),
        ({"metric_max": "0.5"}, "metric_max"),
        ({"metric_name": "acc", "metric_min": "high"}, "metric_min"),
        ({"metric_name": "acc", "metric_min": "nan"}, "metric_min"),
        ({"has_artifacts": "maybe"}, "has_artifacts"),
        ({"from_timestamp": "yesterday"}, "from_timestamp"),
        ({"to_timestamp": "2026-13-01"}, "to_timestamp"),
        ({"sort": "colour"}, "sort"),
        ({"sort": "metrics."}, "sort"),
        ({"sort": "name; DROP TABLE run_table"}, "sort"),
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"limit": "-1"}, "limit"),
        ({"limit": "9" * 30}, "limit"),
        ({"limit": "²"}, "limit"),
    ],
)
def test_a_filter_that_does_not_parse_says_where(asked, filters, where):
    with pytest.raises(FilterError) as error:
        names(asked, **filters)
    assert error.value.where == where
    assert error.value.hint


def test_a_filter_given_twice_is_refused():
    with pytest.raises(FilterError, match="status is given twice"):
        queries.RunFilter.parse([("status", "failed"), ("status", "completed")])


@pytest.mark.parametrize("text", ["'; DROP TABLE run_table; --", "%", "_%_", "\\", "\x00", "é" * 1000])
def test_text_of_a_filter_is_never_sql(asked, text):
    for name in ("q", "note_substring", "command_substring", "dataset_id", "tag", "params_model", "metric_name"):
        assert names(asked, **{name: text}) == []
    assert len(names(asked)) == 3


def ranks(lab, metric, **options):
    return [(row.rank, row.name, row.value) for row in queries.leaderboard(lab, metric, **options)]


def test_a_leaderboard_has_the_best_first_and_nan_last(asked):
    """Greatest first, but smallest where the metric's name speaks of loss; trashed runs are not ranked."""
    assert ranks(asked, "acc") == [(1, "svm", 0.9), (2, "tree", 0.8), (3, "net", "NaN")]
    assert ranks(asked, "acc", order="asc") == [(1, "tree", 0.8), (2, "svm", 0.9), (3, "net", "NaN")]
    assert ranks(asked, "loss") == [(1, "net", 0.1), (2, "svm", 0.3), (3, "tree", 0.5)]
    assert ranks(asked, "acc", top_k=1, dataset_id="wine@v1") == [(1, "tree", 0.8)]
    assert ranks(asked, "acc", has_artifacts=True, project_id="iris") == [(1, "tree", 0.8)]
    assert ranks(asked, "nothing") == []


@pytest.mark.parametrize(("of", "value"), [("last", 0.4), ("min", 0.2), ("max", 0.9), ("mean", 0.5)])
def test_a_leaderboard_of_something_else_than_the_end(asked, of, value):
    assert [v for _, _, v in ranks(asked, "curve", of=of)] == [pytest.approx(value)] * 3


def test_a_goal_that_was_described_counts(store_dir, lab):
    for value in (1.0, 2.0):
        with ailab.start_run(str(value)) as run:
            run.define_metric("score", goal="min")
            run.log({"score": value})
    assert [v for _, _, v in ranks(lab(), "score")] == [1.0, 2.0]


@pytest.mark.parametrize(("option", "where"), [({"order": "up"}, "order"), ({"of": "median"}, "of")])
def test_a_leaderboard_that_cannot_be(asked, option, where):
    with pytest.raises(FilterError) as error:
        queries.leaderboard(asked, "acc", **option)
    assert error.value.where == where


def test_a_comparison_has_every_key_and_each_run_once_in_the_order_asked(asked):
    ids = {run.name: run.run_id for run in queries.list_runs(asked).rows}
    found = queries.compare_runs(asked, [ids["tree"], ids["svm"], ids["tree"]])
    assert [run.name for run in found.runs] == ["tree", "svm"]
    assert found.metric_keys == ["acc", "curve", "loss"]
    assert found.param_keys == ["lr", "model", "n"]
    with pytest.raises(NotFoundError) as error:
        queries.compare_runs(asked, [ids["tree"], "nobody"])
    assert error.value.name == "nobody"
    with pytest.raises(FilterError):
        queries.compare_runs(asked, [])


def test_everything_about_a_run(asked):
    """The fourteen fields of the manifest say the same as the view."""
    run = queries.get_run(asked, naming.resolve_run(asked, queries.list_runs(asked).rows[1].run_id))
    asked.prepare()
    row = asked.con.execute("SELECT * FROM manifests WHERE run_id = ?", [run.run_id]).fetchone()
    fields = (
        "run_id",
        "timestamp",
        "git_hash",
        "git_diff",
        "command",
        "python_version",
        "pip_freeze",
        "device_info",
        "dataset_id",
    )
    assert tuple(getattr(run, name) for name in fields) == row[:9]
    assert (run.params, run.final_metrics) == ({"lr": 0.01, "model": "tree"}, {"acc": 0.8, "curve": 0.4, "loss": 0.5})
    assert (run.artifacts, run.note, run.project, run.tags) == (["a/tree.txt"], "PUBLISH: the tree", "Iris", {"baseline": None})
    (file,) = run.artifact_files
    assert (file.path, file.kind, file.size, file.version, file.url) == (
        "a/tree.txt", "data", 1, 1, f"/artifacts/{run.run_id}/download/a/tree.txt",
    )  # fmt: skip
    assert "msgspec==" in run.pip_freeze


def test_a_run_is_found_by_a_start_or_an_end_that_no_other_shares(asked):
    run_id = queries.list_runs(asked).rows[0].run_id
    assert (
        naming.resolve_run(asked, run_id)
        == naming.resolve_run(asked, run_id[-8:])
        == naming.resolve_run(asked, "latest")
        == run_id
    )
    with pytest.raises(NotFoundError, match="several runs fit"):
        naming.resolve_run(asked, run_id[:4])
    with pytest.raises(NotFoundError) as error:
        queries.get_run(asked, run_id[:-1])
    assert error.value.nearest[0] == run_id


def test_points_raw_and_downsampled_keep_minimum_and_maximum(store_dir, lab):
    """However few points are asked for, the smallest and the greatest of each stretch are among them."""
    with ailab.start_run("curve") as run:
        for step in range(1000):
            run.log({"y": 100.0 if step == 777 else -50.0 if step == 333 else math.sin(step / 50), "z": 1.0}, step=step)
    found = lab()
    raw = queries.metric_points(found, run.id, keys=["y"])
    assert (raw.total, len(raw.rows), [p.step for p in raw.rows[:3]]) == (1000, 1000, [0, 1, 2])
    few = queries.metric_points(found, run.id, keys=["y"], max_points=20)
    assert few.total == 1000
    assert len(few.rows) <= 20
    assert {(p.step, p.value) for p in few.rows} >= {(777, 100.0), (333, -50.0)}
    assert [p.step for p in few.rows] == sorted(p.step for p in few.rows)
    assert {p.key for p in queries.metric_points(found, run.id).rows} == {"y", "z"}
    with pytest.raises(NotFoundError):
        queries.metric_points(found, "nobody")


@pytest.mark.parametrize("stepped", [True, False])
def test_points_after_a_cursor_are_those_that_came_since(store_dir, lab, stepped):
    """Pages by cursor give every point once, with the steps that the whole answer gives; also from before a compaction."""
    seen, cursor = [], None
    with ailab.start_run("curve") as run:
        found = lab()
        for part in range(4):
            for step in range(part * 5, part * 5 + 5):
                run.log({"y": step / 7, "z": -step}, **({"step": step} if stepped else {}))
            found.refresh()
            page = queries.metric_points(found, run.id, keys=["y"], since=cursor, cursor=True)
            seen += page.rows
            cursor = page.next
            assert (len(page.rows), page.total) == (5, 5)
    assert seen == queries.metric_points(found, run.id, keys=["y"]).rows
    compact.compact(found.store)
    fresh = lab()
    again = queries.metric_points(fresh, run.id, keys=["y"], since=cursor)
    assert (again.rows, again.next) == ([], cursor)


def test_a_cursor_of_points_is_checked(store_dir, lab):
    """What is no cursor of points is refused, and so is one beside max_points."""
    with ailab.start_run("curve") as run:
        run.log({"y": 1.0})
    found = lab()
    cursor = queries.metric_points(found, run.id, cursor=True).next
    for wrong in ("", "x", "!!!", cursor[:-2], filters.cursor_of("other", [{}]), filters.cursor_of("points", [{"s": "x"}])):
        with pytest.raises(FilterError, match="since"):
            queries.metric_points(found, run.id, since=wrong)
    with pytest.raises(FilterError, match="max_points"):
        queries.metric_points(found, run.id, since=cursor, max_points=5)


def test_a_files_bytes_are_those_of_its_newest_version(store_dir, lab):
    with ailab.start_run("files") as run:
        run.log_text("old", "a.txt")
        run.log_text("new", "a.txt")
    file, content = queries.open_artifact(lab(), run.id, "a.txt")
    with content:
        assert (file.version, content.read()) == (2, b"new")
    for path in ("b.txt", "../a.txt", "/a.txt", "a.txt\x00", ""):
        with pytest.raises(NotFoundError):
            queries.open_artifact(lab(), run.id, path)


def test_values_of_sql_are_json(asked):
    found = queries.run_sql(
        asked, "SELECT 'NaN'::DOUBLE, DATE '2026-01-02', 1::HUGEINT, [1, 2], {'a': 'b'}, NULL, 2.5::DECIMAL(4,2)"
    )
    assert found.rows == [["NaN", "2026-01-02", 1, [1, 2], {"a": "b"}, None, "2.50"]]
    many = queries.run_sql(asked, "SELECT * FROM range(50)", limit=10)
    assert (len(many.rows), many.truncated) == (10, True)


def test_every_column_that_may_be_sorted_by_sorts(asked):
    """Each of them, both ways, gives every run once."""
    for column in filters._SORTABLE:
        for way in ("", "-"):
            found = queries.list_runs(asked, queries.RunFilter(sort=way + column)).rows
            assert sorted(run.name for run in found) == ["net", "svm", "tree"], (way, column)


@pytest.mark.parametrize("count", [0, -1, 1001, 10**12])
def test_a_count_that_cannot_be_is_an_error_of_ours(asked, count):
    with pytest.raises(FilterError, match="top_k"):
        queries.leaderboard(asked, "acc", top_k=count)
    with pytest.raises(FilterError, match="limit"):
        queries.list_runs(asked, queries.RunFilter(limit=count))


def test_a_parameter_of_any_kind_can_be_filtered_by(store_dir, lab):
    """Truth values, absent values, lists and odd names compare as the view `params` shows them."""
    with ailab.start_run("x", config={"flag": True, "none": None, "list": [1, 2], "f": 0.5, "": 7, "n\0l": 8, "q'\"": "a=b"}):
        pass
    catalogue = lab()
    shown = dict(catalogue.con.execute("SELECT key, value FROM params").fetchall())
    assert shown.pop("none") is None
    assert shown == {"flag": "true", "list": "[1,2]", "f": "0.5", "": "7", "n\0l": "8", "q'\"": "a=b"}
    for key, value in shown.items():
        assert queries.list_runs(catalogue, queries.RunFilter.parse([(f"params.{key}", value)])).total == 1
        assert queries.list_runs(catalogue, queries.RunFilter.parse([(f"params.{key}", value + "x")])).total == 0


def test_the_manifests_artifacts_are_those_of_the_answer_in_the_same_order(store_dir, lab):
    with ailab.start_run("x") as run:
        for name in ("z.txt", "a.txt", "m.txt", "z.txt", "b.txt", "a.txt"):
            run.log_text(name, name)
    catalogue = lab()
    (text,) = catalogue.con.execute("SELECT artifacts_json FROM manifests").fetchone()
    assert json.loads(text) == queries.get_run(catalogue, run.id).artifacts == ["z.txt", "a.txt", "m.txt", "b.txt"]


def test_search_runs_says_what_is_wrong_with_a_condition(store_dir):
    with ailab.start_run("x", config={"lr": 0.1}):
        pass
    assert len(ailab.search_runs("lr < 0.5", "lr DESC")) == 1
    for where, order in (("nothing = 1", None), ("lr <", None), (None, "nothing")):
        with pytest.raises(FilterError) as error:
            ailab.search_runs(where, order)
        assert error.value.where == "where"


def test_a_metric_that_no_run_has_is_named_with_the_nearest(asked):
    """Asked for, sorted by or ranked by, where that is wanted; what filters leave out, or the trash has, is no mistake."""
    name = naming.known_metrics(asked)[0]
    wrong = name[:-1] + "x"
    for ask in (
        lambda: queries.leaderboard(asked, wrong, strict=True),
        lambda: queries.list_runs(asked, queries.RunFilter(metric_name=wrong), strict=True),
        lambda: queries.list_runs(asked, queries.RunFilter(where=f"status = 'failed' and metrics.{wrong} > 0"), strict=True),
        lambda: queries.list_runs(asked, queries.RunFilter(sort=f"-metrics.{wrong}"), strict=True),
        lambda: queries.metric_points(asked, queries.leaderboard(asked, name)[0].run_id, keys=[wrong], strict=True),
    ):
        with pytest.raises(FilterError, match=f"no metric {wrong!r}") as found:
            ask()
        assert name in found.value.nearest
    assert queries.leaderboard(asked, name, dataset_id="nothing", strict=True) == []
    assert queries.list_runs(asked, queries.RunFilter(metric_name=name, status="pending"), strict=True).rows == []
    assert queries.list_runs(asked, queries.RunFilter(metric_name=wrong, trashed=True), strict=True).rows == []
    assert (queries.leaderboard(asked, wrong), queries.list_runs(asked, queries.RunFilter(metric_name=wrong)).rows) == ([], [])


def test_a_parameter_that_no_run_has_is_named_with_the_nearest(store_dir, lab):
    """Where a condition finds nothing; what finds something, though a part of it never can, is no mistake."""
    with ailab.start_run(config={"opt": {"lr": 0.1}}) as run:
        run.log({"loss": 1.0})
    for asked in (
        {"where": "params.opt.lr < 1"}, {"where": "PARAM.`opt.lr` < 1 or metrics.loss > 5"}, {"params": {"opt.lr": "0.1"}},
    ):  # fmt: skip
        with pytest.raises(FilterError, match=r"no parameter 'opt\.lr'") as found:
            queries.list_runs(lab(), queries.RunFilter(**asked), strict=True)
        assert found.value.nearest == ["opt/lr"]
        assert queries.list_runs(lab(), queries.RunFilter(**asked)).rows == []
    for where in ("params.opt.lr is null", "metrics.loss = 1 or params.opt.lr < 1", "not params.opt.lr < 1"):
        assert queries.list_runs(lab(), queries.RunFilter(where=where), strict=True).total == 1
    for where in ("params.`opt/lr` > 5", "tags.nobody = 'x'", "params.`opt/lr` = 'no text'"):
        assert queries.list_runs(lab(), queries.RunFilter(where=where), strict=True).total == 0


def test_before_the_first_metric_nothing_is_misspelt(store_dir, lab):
    """A page that asks before the first run logs gets nothing, and what a run that goes on has not logged yet is awaited."""
    with ailab.start_run("first", id="r1") as run:
        assert queries.leaderboard(lab(), "accuracy", strict=True) == []
        assert queries.list_runs(lab(), queries.RunFilter(sort="-metrics.accuracy"), strict=True).total == 1
        run.log({"loss": 1.0}, step=0)
        assert queries.metric_points(lab(), "r1", keys=["accuracy"], strict=True).rows == []
    with pytest.raises(FilterError, match="nearest: loss"):
        queries.metric_points(lab(), "r1", keys=["los"], strict=True)
    assert queries.metric_points(lab(), "r1", keys=["los", "loss"], strict=True).total == 1
    first = queries.position(lab())
    with ailab.start_run("second") as run:
        run.log({"accuracy": 1.0}, step=0)
    assert queries.runs_as_of(lab(), first, queries.RunFilter(metric_name="accuracy")).rows == []


def test_names_of_other_projects_are_not_told(store_dir, lab):
    """Who asks within a project learns what is in it, and nothing of what is in others."""
    for project, metric in (("iris", "loss"), ("secret", "loss_of_canary")):
        with ailab.start_run(project=project) as run:
            run.log({metric: 1.0}, step=0)
    for ask in (
        lambda: queries.leaderboard(lab(), "loss_of_canary", project_id="iris", strict=True),
        lambda: queries.list_runs(lab(), queries.RunFilter(project_id="iris", sort="metrics.loss_of_canary"), strict=True),
    ):
        with pytest.raises(FilterError) as found:
            ask()
        assert found.value.nearest == ["loss"]
    assert naming.known_metrics(lab(), "iris") == ["loss"]
