"""Clocks that go back, stand still, are in another century or another zone: order and durations do not depend on them."""

from __future__ import annotations

import json

import oracle
import pytest

from ailab import checkup, history, queries, store

DAY = 86_400.0
NOW = 1_795_000_000.0
CLOCKS = {
    # name: seconds since 1970 as a function of how many seconds have truly passed (10 at every step)
    "right": "NOW + passed",
    "back an hour": "NOW + passed - (3600 if passed > 300 else 0)",
    "back and forth": "NOW + passed * (1 if passed // 70 % 2 else -1)",
    "frozen": "NOW",
    "1970": "passed * 1e-3",
    "2100": "4102444800.0 - 200 + passed",
    "9998": "253370764000.0 + passed",
    "summer time ends": "1793512800.0 - 400 + passed",
    "summer time begins": "1772953200.0 - 400 + passed",
    "leap day": "1709251200.0 - 300 + passed",
}
ZONES = ("UTC", "America/New_York", "Asia/Kathmandu", "Pacific/Kiritimati")

RUNS = """
import json, sys, time
import wrong_clock
clocks, NOW = json.loads(sys.argv[1]), float(sys.argv[2])
time.tzset()
passed, expression = 0.0, "NOW"
wrong_clock.set_clock(lambda: eval(expression))
import ailab

for n, (name, expression) in enumerate(clocks.items()):
    expression, passed = compile(expression, name, "eval"), 0.0
    with ailab.start_run(name, id=f"run-{n}", params={"n": n}, project=f"p{n}") as run:
        for step in range(60):
            passed += 10
            run.log({"accuracy": (n * 7 % 10 + step / 100) / 20, "unstepped": float(step)})
            if step % 20 == 0:
                run.note(f"note {step}")
                run.log_params({"n": n * 1000 + step})
        run.summary["best"] = n
"""


def runs_of(scripts, zone, clocks=CLOCKS):
    done = scripts.run(RUNS, json.dumps(clocks), NOW, TZ=zone)
    assert done.stderr == ""


@pytest.mark.parametrize("zone", ZONES)
def test_order_and_durations_do_not_depend_on_the_clock(store_dir, scripts, lab, zone):
    """G14: ten clocks in four zones: order exact, no duration below 0, leaderboard as with a right clock, views equal replay."""
    runs_of(scripts, zone)
    catalogue, replayed = lab(), oracle.state(store_dir)
    assert catalogue.problems == []
    assert replayed["problems"] == []
    for n, name in enumerate(CLOCKS):
        run_id = f"run-{n}"
        found, true = queries.get_run(catalogue, run_id), replayed["runs"][run_id]
        rows = history(run_id, ["unstepped"]).rows()
        assert [(row["step"], row["value"]) for row in rows] == [(step, float(step)) for step in range(60)], name
        assert [point["value"] for point in true["points"]["unstepped"]] == [float(step) for step in range(60)]
        assert found.duration_s >= 0, name
        assert found.ended_at is not None
        assert (found.status, found.note, found.params) == ("completed", "note 40", {"n": n * 1000 + 40})
        assert (true["status"], true["note"], true["params"]) == ("completed", "note 40", {"n": n * 1000 + 40})
        assert found.final_metrics["unstepped"] == 59.0
    ranked = [(row.name, row.rank) for row in queries.leaderboard(catalogue, "accuracy", top_k=20)]
    names = sorted(CLOCKS, key=lambda name: -(list(CLOCKS).index(name) * 7 % 10))
    assert ranked == [(name, place + 1) for place, name in enumerate(names)]
    assert queries.list_runs(catalogue).total == len(CLOCKS)
    now = checkup.examine(str(store_dir))
    assert now.healthy
    back = [finding.what for finding in now.findings if "clock went back" in finding.what]
    assert any("3590.000 s" in what for what in back), back


NOTE = """
import sys, time
import unprotected, wrong_clock
unprotected.apply()
host, offset, word = sys.argv[1], float(sys.argv[2]), sys.argv[3]
wrong_clock.be_host(host)
wrong_clock.set_clock(lambda: wrong_clock.real_time() + offset)
import ailab
with ailab.start_run("two hosts", id="shared", resume="allow", params={"by": word}) as run:
    for i in range(50):
        run.log({"accuracy": float(i), word: 1.0})
    run.log({"accuracy": float(len(word))})
    run.note(word)
    run.set_tags({"last": word})
"""


def told_by_two_hosts(scripts):
    """A run on a host that is ten minutes early, then on one that is ten minutes late, then on the first again."""
    for host, offset, word in (("early", 600, "one"), ("late", -600, "second"), ("early", 600, "third one")):
        scripts.run(NOTE, host, offset, word, AILAB_SILENT="1")
        yield word


def test_two_hosts_ten_minutes_apart_agree_on_what_came_last(store_dir, scripts, lab):
    """G14: whoever goes on with a run comes after what was there before, whatever the clocks say; views equal replay."""
    for word in told_by_two_hosts(scripts):
        catalogue = lab()
        found = queries.get_run(catalogue, "shared")
        said = (found.status, found.note, found.tags, found.params, found.final_metrics["accuracy"])
        assert said == ("completed", word, {"last": word}, {"by": word}, float(len(word)))
        assert found.duration_s >= 0
        true = oracle.state(store_dir)["runs"]["shared"]
        assert (true["status"], true["note"], true["params"]) == ("completed", word, {"by": word})
        values = [row["value"] for row in history("shared", ["accuracy"]).rows()]
        assert values == [point["value"] for point in true["points"]["accuracy"]]
        assert values[-1] == float(len(word))
    assert values[:51] == [*map(float, range(50)), 3.0]
    assert len(store.Store(str(store_dir)).segment_names()) == 3


def test_control_by_the_clocks_alone_the_wrong_one_is_last(store_dir, scripts, lab, monkeypatch):
    """G14, negative control: where a writer does not look at the clocks before it, the early host's word stays the last."""
    monkeypatch.setenv("UNPROTECTED", "observed")
    notes = [(word, queries.get_run(lab(), "shared").note) for word in told_by_two_hosts(scripts)]
    assert [word for word, _ in notes] != [note for _, note in notes]


def test_a_run_that_seems_to_end_before_it_began_has_no_negative_duration(store_dir, scripts, lab):
    """G14: the end an hour before the start: 0 seconds, and the run is listed where its start puts it."""
    runs_of(scripts, "UTC", {"back": "NOW - 400 * passed", "right": "NOW - 3600 + passed"})
    catalogue = lab()
    found = queries.get_run(catalogue, "run-0")
    assert found.ended_at < found.started_at
    assert found.duration_s == 0
    assert [row.run_id for row in queries.list_runs(catalogue).rows] == ["run-0", "run-1"]
    assert found.status == "completed"
