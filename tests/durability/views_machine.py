"""A store that all kinds of things happen to, and the catalogue compared with a full replay of it.

`Machine` is a Hypothesis state machine over a real folder. Its writers are written by hand (`handmade.Pen`), its compactions and
catalogues are the package's, and what they are compared with is `oracle`, which shares no code with either.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import oracle
from handmade import Pen
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from ailab import store, views
from ailab.views import compact as compaction

RUNS = ("r1", "r2", "r3")
PROJECTS = ("iris", " Größe\u2003x ", "a/b")
DATASETS = ("Iris", " iris ", "Größe/2")  # two names of one dataset, whose id is a project's too
CONTENTS = ("11" * 32, "22" * 32)
LONG_AGO = 7200.0
OPEN = ("pending", "running")
RARE_TIMES = (None, 1795255200.25, -1.5, 1e20)

number = st.one_of(
    st.floats(-1e6, 1e6, width=32),
    st.integers(-(2**70), 2**70),
    st.sampled_from(
        ["NaN", "Infinity", "-Infinity", "0.10000000000000000001", "1E+3", "2.5", True, False, 0.1, -0.0, 10**30, 2**53 + 1]
    ),
    st.sampled_from([None, "nan", " 1", "1_0", "x", [1], {"a": 1}, "Infinity ", ""]),
)
text = st.sampled_from(["", "x", 'a "q"\n\t\u0001 ü', "\x7f\u2028é", "0", "null"])
anything = st.one_of(number, text, st.sampled_from([{"b": [None, 1.5]}, [], 3]))
names = st.sampled_from(["loss", "acc", "a/b", "q\"'~", ""])
step = st.one_of(st.none(), st.integers(-3, 40), st.sampled_from([2**63 - 1, -(2**63)]))


def given(**fields):
    """A strategy of payloads: fields whose value is None are left out."""
    return st.fixed_dictionaries(fields).map(lambda data: {key: value for key, value in data.items() if value is not None})


maybe = st.none() | text
params = st.dictionaries(names, anything, max_size=3)
project = st.sampled_from([None, None, *PROJECTS])
PAYLOADS = {
    "run.started": given(name=text, project=project, params=params, group=maybe, seed=st.none() | st.integers(0, 9),
                         parent=maybe, dataset=maybe, tags=st.dictionaries(names, anything, max_size=2), description=maybe,
                         status=st.sampled_from([None, "pending", "running"])),
    "run.resumed": given(params=params),
    "run.changed": given(name=maybe, description=maybe, status=st.sampled_from([None, None, "running", "failed"]), group=maybe,
                         project=project, dataset=maybe),
    "parameters.added": given(params=params),
    "metrics.logged": given(values=st.dictionaries(names, number, max_size=3), step=step, time=st.sampled_from(RARE_TIMES),
                            color=st.sampled_from([None, None, {"a": None}, "é"])),
    "summary.set": given(values=st.dictionaries(names, anything, max_size=2)),
    "artifact.added": given(path=st.sampled_from(["m/x.pt", "y"]), logged=text, type=maybe, size=st.integers(0, 9),
                            sha256=st.just("ab" * 32)),
    "artifact.trashed": given(path=st.sampled_from(["m/x.pt", "y", "z"])),
    "artifact.restored": given(path=st.sampled_from(["m/x.pt", "y"])),
    "run.finished": given(status=st.sampled_from(["completed", "failed", "killed"]), error=maybe,
                          final_metrics=st.dictionaries(names, number, max_size=2)),
    "note.changed": given(note=text),
    "tags.changed": given(set=st.dictionaries(names, anything, max_size=2), removed=st.lists(names, max_size=2)),
    "run.flagged": given(flag=st.sampled_from(["BEST", "PUBLISH"]), note=text),
    "run.renamed": given(name=text),
    "run.trashed": given(), "run.restored": given(), "run.protected": given(), "heartbeat.sent": given(),
    "writes.dropped": given(count=st.integers(1, 5), error=text, first=st.just("2026-11-24T09:00:00Z"),
                            last=st.just("2026-11-24T09:00:00Z")),
    "dataset.used": given(sha256=st.sampled_from(CONTENTS), dataset=st.sampled_from([None, "iris"]),
                          name=st.sampled_from([None, "iris@v2"]), role=st.sampled_from([None, "training", "test", ""])),
    "system_metrics.logged": given(values=st.dictionaries(names, number, max_size=3)),
    "console_lines.logged": given(stream=st.sampled_from(["stdout", "stderr"]), lines=st.lists(text, max_size=3),
                                  dropped=st.none() | st.integers(0, 5)),
    "later.kind": given(what=anything),
}  # fmt: skip
MISFITS = st.sampled_from([
    ("run.started", {"name": 5}), ("run.started", {"project": "iris", "seed": "1"}), ("note.changed", {}),
    ("metrics.logged", {"values": {"loss": 1}, "step": "2"}), ("metrics.logged", {"values": {"loss": 1}, "step": 1.5}),
    ("metrics.logged", {"values": {"loss": 1}, "step": 2**63}), ("metrics.logged", {"values": {"loss": 2}, "time": "now"}),
    ("run.finished", {"status": 1}), ("tags.changed", {"removed": "x"}), ("run.purged", {"reason": 1}),
    ("dataset.used", {"sha256": CONTENTS[0], "role": 1}), ("system_metrics.logged", {"values": [1]}),
    ("console_lines.logged", {"stream": "stdout", "lines": ["x", 1]}), ("change.undone", {"event": 5}), ("change.undone", {}),
])  # fmt: skip
event = st.one_of(
    *(
        st.sampled_from(kinds).flatmap(lambda kind: st.tuples(st.just(kind), PAYLOADS[kind]))
        for kinds in (
            sorted(PAYLOADS),
            ["run.started", "metrics.logged"],
            sorted(PAYLOADS.keys() & oracle.UNDOABLE),
            ["dataset.used", "system_metrics.logged", "console_lines.logged"],
        )
    ),
    MISFITS,
)
of_project = st.sampled_from(["created", "changed", "trashed", "restored"]).flatmap(
    lambda what: st.tuples(
        st.just(f"project.{what}"),
        given(
            project=st.sampled_from([oracle.project_id(name) for name in PROJECTS]),
            **({"name": text if what == "created" else maybe, "description": maybe} if what in ("created", "changed") else {}),
        ),
    )
)

of_version = st.tuples(
    st.sampled_from(["registered", "registered", "changed", "changed", "trashed", "restored"]),
    st.sampled_from(DATASETS),
    st.sampled_from(CONTENTS),
).flatmap(
    lambda said: st.tuples(
        st.just(f"dataset_version.{said[0]}"),
        given(dataset=st.just(oracle.project_id(said[1])), sha256=st.just(said[2]), **version_fields(*said[:2])),
    )
)
OF_VERSION_MISFITS = st.sampled_from([
    ("dataset_version.registered", {"dataset": "iris", "name": "Iris", "sha256": CONTENTS[0], "size": "9"}),
    ("dataset_version.changed", {"dataset": "iris", "sha256": CONTENTS[0], "tags": [], "name": "no", "project": "no"}),
    ("dataset_version.trashed", {"dataset": "iris"}),
])  # fmt: skip


def version_fields(what, name):
    """Strategies of what else an event about a dataset version says."""
    objects = st.none() | st.dictionaries(names, anything, max_size=2)
    fields = {"description": maybe, "tags": objects, "metadata": objects, "project": st.sampled_from([None, None, "", *PROJECTS])}
    if what == "changed":
        return {"name": maybe, **fields}
    columns = st.sampled_from([None, {"columns": [{"name": 'ä"', "type": "double"}, 1.5]}, {"columns": []}])
    first = {"name": st.just(name), "size": st.integers(0, 9), "format": st.sampled_from(["csv", "parquet"])}
    first |= {"rows": st.integers(0, 9), "schema": columns, "file": st.sampled_from([None, "iris.csv"])}
    return {**first, "parent": st.sampled_from([None, *CONTENTS]), **fields} if what == "registered" else {}


@dataclass
class Said:
    """A line of a writer, as far as others speak of it."""

    segment: str
    seq: int
    kind: str
    run: str | None
    clock: int
    data: dict

    @property
    def about(self):
        """What an undoing of it is about: (member or field, name); None where that is not clear or nothing."""
        names = {"project": ("project",), "dataset_version": ("dataset",), "change": ("project", "dataset")}
        fields = names.get(self.kind.split(".")[0], ())
        if not fields or (fields == names["change"] and self.run):
            return ("run", self.run) if self.run else None
        found = [(field, self.data[field]) for field in fields if field in self.data]
        return found[0] if found and not self.run else None


def compact_json(value):
    """JSON without white space, in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class Author:
    """A writer of one segment: a pen, and what it said."""

    def __init__(self, folder, run, number, clock):
        self.pen = Pen(folder, run, number=number)
        self.run, self.clock, self.said = run, clock, []

    def say(self, kind, data, *, run=None, by=None, second=0, more=1):
        """Append one line."""
        self.clock += more
        run = run or self.run
        members = f'"kind":{compact_json(kind)}'
        members += f',"run":{compact_json(run)}' if run else ""
        members += f',"by":{compact_json(by)}' if by else ""
        self.said.append(Said(self.pen.name, self.pen.seq, kind, run, self.clock, data))
        at = f"2026-11-24T09:00:{second:02}.00000{second % 10}Z"
        self.pen.line(f'{members},"data":{compact_json(data)}', clock=self.clock, at=at)

    def end(self, how):
        """Seal the segment, or leave it as a killed writer does, perhaps with a torn end."""
        if how == "sealed":
            self.pen.seal()
        elif how == "torn":
            self.pen.raw(b'{"seq":')
        if how != "sealed":
            age(self.pen.path)


def age(path):
    """Let a file have last been changed long ago, so that its writer is taken as gone."""
    moment = time.time() - LONG_AGO
    os.utime(path, (moment, moment))


# ------------------------------------------------------------------------------------------------------------- compare


def same(value):
    """A value as it is compared: NaN equals itself, and there is one zero."""
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else value + 0.0
    if isinstance(value, dict):
        return {key: same(inner) for key, inner in value.items()}
    return [same(inner) for inner in value] if isinstance(value, list | tuple) else value


def parsed(value, expected):
    """The text that a view shows of a value of any type, as that value; a text where a text or nothing is expected."""
    return value if isinstance(expected, str | None) else json.loads(value)


def version_row(row, tags):
    """A row of the view of dataset versions with its objects read; the texts of tags are values as `parsed` says."""
    schema, found, metadata = (json.loads(row[place]) for place in (8, 10, 11))
    found = {key: parsed(value, tags.get(key)) for key, value in found.items()}
    return (*row[:8], schema, row[9], found, metadata, *row[12:])


QUERIES = {
    "runs": 'SELECT run_id, name, project_id, project, status, started_at, ended_at, "user", host, seed, "group", parent_run_id, '
    "dataset_id, git_hash, note, params::VARCHAR, metrics, trashed FROM runs",
    "params": "SELECT run_id, key, value FROM params",
    "metrics": "SELECT run_id, key, step, time, value, exact, seq FROM metrics",
    "metric_summary": "SELECT run_id, key, first, last, min, max, count, last_step FROM metric_summary",
    "metric_means": "SELECT run_id, key, mean FROM metric_summary",
    "tags": 'SELECT run_id, key, value, "at", "by" FROM tags',
    "notes": 'SELECT run_id, event, "at", "by", via, note FROM notes',
    "artifacts": 'SELECT run_id, path, kind, name, size, sha256, version, "at", trashed FROM artifacts',
    "projects": "SELECT project_id, name, description, created_at, trashed FROM projects",
    "datasets": 'SELECT dataset_id, dataset, name, version, sha256, size, "format", "rows", "schema"::VARCHAR, description, '
    "tags::VARCHAR, metadata::VARCHAR, project_id, project, parent_id, file, created_at, trashed FROM datasets",
    "dataset_uses": 'SELECT run_id, dataset_id, sha256, role, name, "at" FROM dataset_uses',
    "system_metrics": 'SELECT run_id, key, "time", value FROM system_metrics',
    "console": 'SELECT run_id, "time", stream, line FROM console',
    "events": 'SELECT event, segment, seq, "at", clock, kind, run_id, "by", via, data::VARCHAR FROM events',
}


def expected_tables(folder):
    """The rows of the views by a full replay, as they are compared."""
    rows = oracle.tables(oracle.state(folder))
    return {name: sorted((same(row) for row in listed), key=oracle.sort_key) for name, listed in rows.items()}


def tables_of(lab, expected):
    """The rows of a catalogue's views; a crashed run has the status that its events say, as far as that is open."""
    status = {row[0]: row[4] for row in expected["runs"]}
    rows = {}
    for name, query in QUERIES.items():
        found = lab.con.execute(query).fetchall()
        if name == "runs":
            found = [list(row) for row in found]
            for row in found:
                row[15] = json.loads(row[15])
                if row[4] == "crashed" and status.get(row[0]) in OPEN:
                    row[4], row[6] = status[row[0]], None
        elif name == "events":
            found = [(*row[:-1], json.loads(row[-1])) for row in found]
        elif name in ("params", "tags"):
            known = {row[:2]: row[2] for row in map(tuple, expected[name])}
            found = [(*row[:2], parsed(row[2], known.get(row[:2])), *row[3:]) for row in found]
        elif name == "datasets":
            known = {row[0]: row[10] for row in expected[name]}
            found = [version_row(row, known.get(row[0], {})) for row in found]
        rows[name] = sorted((same(row) for row in found), key=oracle.sort_key)
    return rows


def compare(lab, folder, who):
    """Fail unless every view of a catalogue equals the full replay of the folder."""
    expected = expected_tables(folder)
    lab.prepare()
    found = tables_of(lab, expected)
    for name, rows in expected.items():
        if name == "metric_means":
            assert [row[:2] for row in found[name]] == [row[:2] for row in rows], f"{who}: {name}"
            for got, wanted in zip(found[name], rows, strict=True):
                equal = got[2] == wanted[2] or (
                    isinstance(got[2], float)
                    and isinstance(wanted[2], float)
                    and math.isclose(got[2], wanted[2], rel_tol=1e-9, abs_tol=1e-6)
                )
                assert equal, f"{who}: {name}: {got} is not {wanted}"
            continue
        extra = [row for row in found[name] if row not in rows]
        lacking = [row for row in rows if row not in found[name]]
        assert found[name] == rows, f"{who}: {name}: has {extra}, lacks {lacking}"


# ------------------------------------------------------------------------------------------------------------- machine


class Machine(RuleBasedStateMachine):
    """One store, its writers, a long-lived catalogue, sometimes a copy apart; what a replay says is what is right."""

    def __init__(self):
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="machine-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
        self.folder = self.root / "store"
        self.place = store.open_store(str(self.folder), create=True)
        self.apart = None
        self.authors, self.ended, self.late, self.elsewhere = [], [], [], []
        self.number = 0
        self.gone, self.purged = set(), set()
        self.lab = None
        self.reopen()

    def teardown(self):
        """Compare once more, then let go."""
        try:
            self.look()
            self.look_again()
            self.give_back()
        finally:
            self.lab.close()
            shutil.rmtree(self.root)

    def open_lab(self):
        """A catalogue of the store, up to date."""
        lab = views.Lab(store.open_store(str(self.folder), create=False))
        lab.refresh()
        return lab

    def reopen(self):
        """Begin with another long-lived catalogue."""
        if self.lab is not None:
            self.lab.close()
        self.lab = self.open_lab()

    def new_author(self, run, clock, folder=None):
        """A writer of a new segment."""
        self.number += 1
        return Author(folder or self.folder, run, self.number, clock)

    def one(self, authors, index):
        """One of some writers."""
        return authors[index % len(authors)]

    # -- writing

    @initialize(said=st.lists(event, max_size=3))
    def begin(self, said):
        """A run and a writer without one are there."""
        for run in ("r1", None):
            self.authors.append(self.new_author(run, 0))
        self.authors[0].say("run.started", {"name": "first", "project": "iris"})
        for kind, data in said:
            self.authors[0].say(kind, data)

    @rule(run=st.sampled_from([*RUNS, None]), clock=st.integers(0, 60))
    def open_writer(self, run, clock):
        if len(self.authors) < 6:
            self.authors.append(self.new_author(run, clock))

    @precondition(lambda self: self.authors)
    @rule(index=st.integers(0, 9), said=st.lists(event, min_size=1, max_size=5), about=st.sampled_from(RUNS),
          by=st.sampled_from([None, None, "ada"]), second=st.integers(0, 59), more=st.integers(1, 20))  # fmt: skip
    def append(self, *, index, said, about, by, second, more):
        author = self.one(self.authors, index)
        for kind, data in said:
            if kind == "run.purged" and author.run is None:
                continue
            author.say(kind, data, run=None if author.run else about, by=by, second=second, more=more)

    @precondition(lambda self: self.authors)
    @rule(
        index=st.integers(0, 9),
        about=st.sampled_from(RUNS),
        count=st.integers(1, 9),
        shape=st.integers(0, 3),
        values=st.lists(number, min_size=2, max_size=2),
    )
    def train(self, index, about, count, shape, values):
        """Points of one shape, so many that they get columns."""
        author = self.one(self.authors, index)
        for i in range(count):
            logged = [{"loss": i / 7, "acc": i}, {"loss": values[0]}, {"loss": i * 0.1, "acc": values[1]}, {"acc": i}][shape]
            data = {
                "values": logged,
                **({"step": i} if shape != 3 else {}),
                **({"time": 1795255200.25 + i} if shape == 0 else {}),
            }
            author.say("metrics.logged", data, run=None if author.run else about, second=i)

    @precondition(lambda self: any(author.run is None for author in self.authors))
    @rule(said=of_project, second=st.integers(0, 59), more=st.integers(1, 30))
    def speak_of_projects(self, said, second, more):
        next(author for author in self.authors if author.run is None).say(*said, second=second, more=more)

    @precondition(lambda self: self.authors)
    @rule(index=st.integers(0, 9), said=st.lists(of_version, min_size=1, max_size=4), misfit=st.none() | OF_VERSION_MISFITS,
          second=st.integers(0, 59), more=st.integers(1, 20))  # fmt: skip
    def speak_of_datasets(self, *, index, said, misfit, second, more):
        for kind, data in [*said, *([misfit] if misfit else [])]:
            self.one(self.authors, index).say(kind, data, second=second, more=more)

    def everything_said(self):
        """All lines so far, those too that are not here yet, by their clocks."""
        everyone = [*self.authors, *self.ended, *self.late, *self.elsewhere]
        lines = (said for author in everyone for said in author.said)
        return sorted(lines, key=lambda said: (said.clock, said.segment, said.seq))

    @precondition(lambda self: self.authors)
    @rule(
        which=st.integers(-6, 99),
        index=st.integers(0, 9),
        of=st.sampled_from(["changes", "changes", "changes", "undoings", "anything"]),
        wrong=st.sampled_from([*[None] * 9, "subject", "field", "id"]),
        after=st.sampled_from([True, True, True, False]),
        again=st.sampled_from([0, 0, 0, 1, 2]),
    )
    def undo(self, *, which, index, of, wrong, after, again):
        """Take a change back, perhaps the undoing of it too; sometimes one of another kind or subject, or a later one."""
        kinds = {"changes": oracle.UNDOABLE - {"change.undone"}, "undoings": {"change.undone"}}.get(of)
        told = [said for said in self.everything_said() if said.about and (kinds is None or said.kind in kinds)]
        if not told:
            return
        said = told[which % len(told)]
        what, name = said.about
        writers = [author for author in self.authors if author.run is None or (what == "run" and author.run == name)]
        if wrong == "subject":
            others = {"run": RUNS, "project": map(oracle.project_id, PROJECTS), "dataset": map(oracle.project_id, DATASETS)}[what]
            name = next(other for other in others if other != name)
            writers = [author for author in writers if author.run in (None, name)]
        elif wrong == "field" and what != "run":
            what = {"project": "dataset", "dataset": "project"}[what]
        if not writers:
            return
        writer = self.one(writers, index)
        event = f"{said.segment}:{said.seq + 1000 * (wrong == 'id')}"
        for _ in range(1 + again):
            data = {"event": event} | ({what: name} if what != "run" else {})
            more = max(1, said.clock + 1 - writer.clock) if after else 1
            writer.say("change.undone", data, run=name if what == "run" else None, more=more)
            event = f"{writer.pen.name}:{writer.said[-1].seq}"

    @precondition(lambda self: any(author.run is None for author in self.authors))
    @rule(
        index=st.integers(0, 99),
        by=st.sampled_from([None, "token", "other token"]),
        offset=st.sampled_from([None, 0, 100]),
        more=st.integers(1, 30),
    )
    def accept(self, index, by, offset, more):
        """A server took bytes of a segment that is here, or comes later, or not."""
        segments = [author.pen.name for author in [*self.authors, *self.ended, *self.late, *self.elsewhere]] + ["nowhere"]
        data = {"segment": segments[index % len(segments)], "offset": offset, "token": "t1", "by": by}
        writer = next(author for author in self.authors if author.run is None)
        writer.say("segment.accepted", {key: value for key, value in data.items() if value is not None}, more=more)

    @precondition(lambda self: self.authors)
    @rule(index=st.integers(0, 9), piece=st.sampled_from([b'{"seq":1,"at"', b"", b"\xff\x00"]))
    def tear(self, index, piece):
        self.one(self.authors, index).pen.torn(piece)

    @precondition(lambda self: self.authors)
    @rule(index=st.integers(0, 9), how=st.sampled_from(["sealed", "sealed", "killed", "torn"]), on=st.booleans())
    def end(self, index, how, on):
        """A writer ends, is killed, or goes on in another segment."""
        author = self.one(self.authors, index)
        author.end(how)
        self.authors.remove(author)
        self.ended.append(author)
        if on:
            self.authors.append(self.new_author(author.run, author.clock))

    @rule(
        run=st.sampled_from([*RUNS, None]),
        clock=st.integers(0, 60),
        said=st.lists(event, max_size=4),
        about=st.sampled_from(RUNS),
    )
    def write_far_away(self, run, clock, said, about):
        """A segment that comes here only later."""
        (self.root / "far").mkdir(exist_ok=True)
        author = self.new_author(run, clock, self.root / "far")
        for kind, data in said:
            author.say(kind, data, run=None if run else about)
        author.end("sealed")
        self.late.append(author)

    @precondition(lambda self: self.late)
    @rule()
    def arrive(self):
        author = self.late.pop(0)
        path = self.folder / "segments" / author.pen.path.name
        author.pen.path = author.pen.path.rename(path)
        self.ended.append(author)

    # -- removing

    @precondition(
        lambda self: any(author.run is None for author in self.authors) and any(a.said for a in self.authors + self.ended)
    )
    @rule(index=st.integers(0, 99), which=st.integers(0, 99), fits=st.sampled_from([True, True, True, False]))
    def redact(self, index, which, fits):
        """The data of an event are to go; sometimes who says so gives no number."""
        author = self.one([author for author in self.authors + self.ended if author.said], index)
        said = author.said[which % len(author.said)]
        writer = next(author for author in self.authors if author.run is None)
        writer.say("event.redacted", {"segment": said.segment, "seq": said.seq if fits else str(said.seq)})
        if fits and said.kind not in ("event.redacted", "run.purged"):
            self.gone.add((said.segment, said.seq))

    @precondition(lambda self: any(author.run is None for author in self.authors) and not self.purged)
    @rule(run=st.sampled_from(RUNS[1:]), really=st.sampled_from([True, False, False]))
    def purge(self, run, really):
        if really:
            next(author for author in self.authors if author.run is None).say("run.purged", {"reason": "asked for"}, run=run)
            self.purged.add(run)

    # -- compaction

    @rule(grace_s=st.sampled_from([0.0, 3600.0]), merge=st.sampled_from([2, 100]), fold=st.booleans())
    def compact(self, grace_s, merge, fold):
        compaction.compact(self.place, grace_s=grace_s, orphan_s=0.0, merge_records=merge, fold=fold)

    @rule(what=st.sampled_from(["table", "record"]))
    def die_in_compaction(self, what):
        """Leave tables without a record, or a record with a table that lacks a byte."""
        before = set(self.place.commit_names())
        kept = self.root / "kept"
        shutil.copytree(self.folder, kept, ignore=shutil.ignore_patterns("cache", "claims"))
        compaction.compact(self.place, fold=False, merge_records=100)
        for name in set(self.place.commit_names()) - before:
            path = Path(self.place.commit_path(name))
            table = self.folder / "compacted" / json.loads(path.read_bytes())["files"][0]["name"]
            if what == "table":
                path.unlink()
            else:
                table.write_bytes(table.read_bytes()[:-1])
        for path in kept.rglob("*.*"):  # nothing that had data that are to go was removed yet
            there = self.folder / path.relative_to(kept)
            if path.is_file() and not there.exists():
                there.parent.mkdir(exist_ok=True)
                shutil.copy2(path, there)
        shutil.rmtree(kept)

    @precondition(lambda self: self.ended)
    @rule(index=st.integers(0, 99))
    def drop_replaced(self, index):
        """Remove a file all of whose lines are in tables."""
        author = self.one(self.ended, index)
        records, _ = oracle.commit_records(self.folder, [])
        position = 0
        while best := oracle.best_span(records, author.pen.name, position):
            position = best[1]["end"]
        if position == author.pen.content.rfind(b"\n") + 1 and author.pen.path.exists():
            author.pen.path.unlink()

    # -- copies

    @precondition(lambda self: self.ended)
    @rule(index=st.integers(0, 99), name=st.sampled_from(["0copy", "zcopy"]))
    def copy_a_segment(self, index, name):
        """The same bytes under another name."""
        path = self.one(self.ended, index).pen.path
        if path.exists():
            shutil.copy2(path, path.with_name(f"{name}.jsonl"))

    @precondition(lambda self: self.apart is None)
    @rule(run=st.sampled_from(RUNS), said=st.lists(event, max_size=4), gone=st.booleans())
    def copy_the_store(self, run, said, gone):
        """A copy of the store lives on its own, where the writers of this one look dead, or not."""
        self.apart = self.root / "apart"
        shutil.copytree(self.folder, self.apart, ignore=shutil.ignore_patterns("claims", "cache"))
        for path in (self.apart / "segments").glob("*.jsonl") if gone else ():
            age(path)
        author = self.new_author(run, 5, self.apart)
        for kind, data in said:
            author.say(kind, data)
        author.end("sealed")
        self.elsewhere.append(author)

    @precondition(lambda self: self.apart is not None)
    @rule(grace_s=st.sampled_from([0.0, 3600.0]), merge=st.sampled_from([2, 100]))
    def compact_apart(self, grace_s, merge):
        place = store.open_store(str(self.apart), create=False)
        compaction.compact(place, grace_s=grace_s, orphan_s=0.0, merge_records=merge, fold=False)

    @precondition(lambda self: self.apart is not None)
    @rule()
    def join(self):
        """Copy the files of the copy back; of a file that both have, the longer one stays."""
        for sub in ("segments", "compacted"):
            (self.folder / sub).mkdir(exist_ok=True)
            for path in sorted((self.apart / sub).iterdir()) if (self.apart / sub).is_dir() else ():
                there = self.folder / sub / path.name
                if not there.exists():
                    shutil.copy2(path, there)
        for author in self.elsewhere:
            author.pen.path = self.folder / "segments" / author.pen.path.name
        self.ended += self.elsewhere
        self.elsewhere = []
        shutil.rmtree(self.apart)
        self.apart = None

    # -- looking

    @rule()
    def delete_cache(self):
        shutil.rmtree(self.folder / "cache", ignore_errors=True)

    @rule()
    def refresh(self):
        self.lab.refresh()

    @rule()
    def look(self):
        """A fresh catalogue equals the replay."""
        lab = self.open_lab()
        try:
            compare(lab, self.folder, "a fresh catalogue")
        finally:
            lab.close()

    @rule(anew=st.sampled_from([False, False, False, True]))
    def look_again(self, anew=False):  # noqa: FBT002
        """A catalogue that was opened long ago equals the replay."""
        self.lab.refresh()
        compare(self.lab, self.folder, "the long-lived catalogue")
        if anew:
            self.reopen()

    @rule()
    def give_back(self):
        """Files and tables give every line's bytes, but for the data that are to go."""
        found = oracle.restore(self.folder)
        for author in self.authors + self.ended:
            content = author.pen.content[: author.pen.content.rfind(b"\n") + 1]
            got = found[author.pen.name]
            if got == content:
                continue
            for line, original in zip(got.split(b"\n"), content.split(b"\n"), strict=True):
                said = json.loads(original) if line != original else None
                assert said is None or (author.pen.name, said["seq"]) in self.gone or said.get("run") in self.purged
