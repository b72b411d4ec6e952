"""SQL of strangers: what is let through, and what becomes of a query that takes too long, too much, or that nobody waits for."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter

import duckdb
import psutil
import pytest

import ailab
from ailab import store
from ailab.errors import FilterError
from ailab.sandbox import Head, Sandbox, Tail, collect
from ailab.views.questions import check


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A store with one run, whose note is a secret that no query about something else may show."""
    path = tmp_path_factory.mktemp("sql") / "store"
    with ailab.start_run("first", id="r1", dir=path, config={"lr": 0.1}) as run:
        run.log({"loss": 0.5})
        run.log({"loss": float("nan")})
    return path


@pytest.fixture(scope="module")
def box(place):
    """A process that answers."""
    opened = Sandbox(store.open_store(str(place), create=False).path)
    yield opened
    opened.close()


def rows(box, sql, limit=100, **more):
    """The rows of an answer."""
    return collect(box.ask(sql, limit=limit, **more))[1]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select run_id, name from runs", [["r1", "first"]]),
        ("SELECT value FROM metrics ORDER BY seq", [[0.5], ["NaN"]]),
        ("with a as (select 1 as x) select x from a", [[1]]),
        ('with "a" as (select run_id from runs) select r.run_id from a r', [["r1"]]),
        ("from range(2)", [[0], [1]]),
        ("select unnest([1, 2])", [[1], [2]]),
        ("values (1), (null)", [[1], [None]]),
        ("select count(*) from wide where lr > 0;", [[1]]),
        ("select (select max(value) from metrics where key = 'loss' and not isnan(value))", [[0.5]]),
        ("with recursive r(n) as (select 1 union all select n + 1 from r where n < 3) select n from r", [[1], [2], [3]]),
        ("with a as (select 1 as x), b as (select x + 1 as x from a) (from b) union all (from a) order by x", [[1], [2]]),
        ("with a as (select 1 as x) select (select max(x) from a) from (with b as (from a) from b, a) order by (from a)", [[1]]),
        ("with A as materialized (select 1 as x) from (with c as (with b as (from a) from b) from c)", [[1]]),
        ("with runs as (select 1 as x) from runs", [[1]]),
        (
            "with recursive r as (with s as (select 1 n) from s union all (with t as (from r) select 2 from t where n<2)) from r",
            [[1], [2]],
        ),
        ("with duckdb_views as (select 1 as x) from duckdb_views", [[1]]),
        ("select count(*) from main.runs, memory.main.wide", [[1]]),
        ("select x from (select 1 as x) union all select 2", [[1], [2]]),
        ("select timestamp '2026-01-02'", [["2026-01-02T00:00:00.000000Z"]]),
    ],
)
def test_a_select_over_views_is_answered(box, sql, expected):
    """What reads views, or makes rows of nothing, passes."""
    assert rows(box, sql) == expected


def test_show_tables_names_the_views_alone(box):
    """Tables that views stand on are not for readers."""
    names = [row[0] for row in rows(box, "SHOW TABLES;")]
    assert {"runs", "wide", "metrics", "datasets", "events"} <= set(names)
    assert not [name for name in names if name.endswith(("_table", "_now", "_all"))]
    assert [row[0] for row in rows(box, "describe tags")] == ["run_id", "key", "value", "at", "by"]


FORBIDDEN = [
    "",
    ";",
    "\x00",
    *"""\
select * from read_csv('/etc/passwd')
select * from read_text('/etc/passwd')
select * from '/etc/passwd'
select * from 'x.parquet'
select * from "x.csv"
select * from read_parquet('*')
select * from glob('/*')
select * from sniff_csv('/etc/passwd')
select * from parquet_metadata('x')
select * from read_blob('/etc/passwd')
select * from read_json('/etc/passwd')
select * from duckdb_settings()
select * from duckdb_databases()
select * from duckdb_secrets()
select * from duckdb_tables()
select * from pragma_database_list
select * from query('select 1')
select * from query_table(['base.run_table'])
select getenv('HOME')
select GETENV('HOME')
select "getenv"('HOME')
select current_setting('temp_directory')
select getvariable('x')
select * from base.token_table
select * from token_table
select * from more.state_table
select * from memory.main.event_table
select * from run_now
select * from event_all
select * from information_schema.tables
select * from pg_catalog.pg_class
select * from (with "/etc/passwd" as (select 1) select 1), '/etc/passwd'
select * from (with duckdb_views as (select 1) from duckdb_views) a, duckdb_views
(with duckdb_views as (select 1) from duckdb_views) union all (from duckdb_views)
with duckdb_views as (from duckdb_views) from duckdb_views
with recursive duckdb_views as (from duckdb_views) from duckdb_views
with recursive duckdb_views as (from duckdb_views union all from duckdb_views) from duckdb_views
with recursive r as (with s as (from r) from s union all from r) from r
with a as (from duckdb_views), duckdb_views as (select 1) from a
with a as (with duckdb_views as (select 1) from duckdb_views) from a, duckdb_views
with duckdb_views as (select 1) from main.duckdb_views
with duckdb_views as (select 1) from memory.main.duckdb_views
with duckdb_views as (select 1) from system.main.duckdb_views
with "duc\N{KELVIN SIGN}db_views" as (select 1) from duckdb_views
select (with duckdb_views as (select 1) from duckdb_views), (select count(*) from duckdb_views)
explain select * from (with duckdb_views as (select 1) from duckdb_views) a, duckdb_views
describe (from (with duckdb_views as (select 1) from duckdb_views) a, duckdb_views)
summarize (with duckdb_views as (from duckdb_views) from duckdb_views)
select * from runs where exists (select * from read_csv('/etc/passwd'))
select (select count(*) from glob('/etc/*'))
select * from runs order by (select max(content) from read_text('/etc/passwd'))
with a as (from read_csv('/etc/passwd')) select * from a
select * from runs, lateral (select * from glob(run_id))
select list_transform(['/etc/passwd'], lambda x: (select content from read_text(x)))
show databases
show all tables
delete from runs
insert into runs values (1)
drop view runs
create table x (a int)
attach 'x.db'
copy runs to 'x'
copy (select 1) to '/tmp/x'
export database 'x'
install httpfs
load httpfs
set memory_limit = '1GB'
reset threads
pragma database_list
call duckdb_settings()
checkpoint
use base
prepare p as select 1
execute p
set variable x = 1
create macro f() as 1
vacuum
begin
select 1; select 2
select 1; drop view runs
explain analyze select 1
explain delete from runs
pivot runs on status using count(*)
-- nothing
select
json_execute_serialized_sql('x')
from json_execute_serialized_sql('{}')
select write_log('x')
summarize '/etc/passwd'
describe '/etc/passwd'
select * from sqlite_scan('x', 'y')
select nextval('x')
update runs set name = 'x'
""".splitlines(),
]


@pytest.mark.parametrize("sql", FORBIDDEN)
def test_everything_else_is_refused(box, sql):
    """No file, setting, inner table or second statement is reached, by whichever way to write it."""
    with pytest.raises(FilterError) as refused:
        rows(box, sql)
    assert refused.value.where == "sql"
    assert "root:" not in str(refused.value)


def test_what_a_with_makes_counts_where_the_engine_finds_it():
    """Of queries with nested, recursive and shadowing WITHs none passes in which a name means a table that is there already."""
    seen, con = Counter(), duckdb.connect()

    def some(draw, depth):
        """A query, or a name alone."""
        kind = draw.choice(["name", "name", "with", "recursive", "union", "sub", "both"]) if depth else "name"
        if kind == "name":
            return f"(select x from {draw.choice('abc')})" if draw.random() < 0.8 else "(select 1 as x)"
        one, two, three = (some(draw, depth - 1) for _ in range(3))
        name, other = draw.choice("abc"), draw.choice("abc")
        return {
            "with": f"(with {name} as {one}, {other}_ as {two}, d as {two} select x from d, {three} y(z))",
            "recursive": f"(with recursive {name} as (with e as {one} from e union all select x from {two}) from {name})",
            "union": f"({one} union all {two})", "sub": f"(select x from {one} where exists {two})",
            "both": f"(with {name} as (select 1 as x) select x from {name}, {one} y(z))",
        }[kind]  # fmt: skip

    for seed in range(1500):
        query = some(random.Random(seed), 4)
        try:
            check(con, query, frozenset())
        except FilterError:
            seen["refused"] += 1
            continue
        con.execute(f"EXPLAIN {query}")  # no table is there: that it is bound means that each name was made by a WITH
        seen["passed"] += 1
    assert min(seen.values()) > 100, seen


def test_control_without_the_check_a_file_is_read(tmp_path):
    """DuckDB itself answers such queries, so the refusals above are ours."""
    (tmp_path / "x.csv").write_text("a\n1\n")
    assert duckdb.connect().execute(f"select * from '{tmp_path}/x.csv'").fetchall() == [(1,)]
    assert duckdb.connect().execute("select current_setting('threads') > 0").fetchall() == [(True,)]


@pytest.mark.parametrize(
    ("sql", "verdict"),
    [
        (
            "select count(*) from range(1000000000) a, range(1000) b where a.range * b.range % 7 = 3",
            "took longer than 1.5 s",
        ),
        ("select max(len(repeat('a', 1000000000 + i::int % 2))) from range(1000) t(i)", "took longer than 1.5 s|MB of memory"),
        ("select list_sum(range(0, 200000000))", "took longer than 1.5 s|MB of memory"),
    ],
)
def test_a_query_that_costs_too_much_is_killed(box, sql, verdict):
    """At its deadline or memory limit, also inside of one vector operation; and the next query is answered."""
    began = time.monotonic()
    with pytest.raises(FilterError, match=verdict):
        rows(box, sql, seconds=1.5)
    assert time.monotonic() - began < 4
    assert rows(box, "select 1") == [[1]]


def test_a_memory_limit_holds(place):
    """Twice of what the engine was told to keep to is not possible."""
    small = Sandbox(str(place), memory=400 << 20)
    try:
        with pytest.raises(FilterError, match="more than 400 MB of memory"):
            rows(small, "select list_sum(range(0, 400000000))", seconds=30)
        assert rows(small, "select 1") == [[1]]
    finally:
        small.close()


def test_rows_and_bytes_are_bounded(box):
    """More rows or bytes than wanted are left out, and that is said."""
    _, some, truncated = collect(box.ask("from range(1000)", limit=10))
    assert (len(some), truncated) == (10, True)
    _, some, truncated = collect(box.ask("select repeat('x', 1000) from range(1000)", limit=1000, size=10_000))
    assert (len(some), truncated) == (9, True)
    _, some, truncated = collect(box.ask("from range(10)", limit=10))
    assert (len(some), truncated) == (10, False)


def test_one_process_answers_until_a_query_takes_it_along(place):
    """Whoever leaves at the tail, asks nonsense or gets a first part leaves the process to the next; a limit does not."""
    mine = Sandbox(str(place))
    seen = []
    try:
        for sql in ("select 1", "selec", "select error('x') from metrics", "from range(1000)", "select nothing"):
            parts = mine.ask(sql, limit=10)
            with contextlib.suppress(FilterError):
                next(part for part in parts if isinstance(part, Tail))
            parts.close()  # as a server does
            seen.append(mine._process.pid)
        assert (len(set(seen)), mine.killed, mine.is_running) == (1, 0, True)
        with pytest.raises(FilterError, match="took longer"):
            rows(mine, "select count(*) from range(1000000000) a, range(1000) b where a.range * b.range % 7 = 3", seconds=0.2)
        assert (mine.killed, mine.is_running) == (1, False)
        next(parts := mine.ask("from range(100000000)", limit=10**9))
        parts.close()
        assert (mine.killed, mine.is_running) == (2, False)
    finally:
        mine.close()


def test_rows_come_before_the_last_is_found(box):
    """The first rows of an endless answer are there at once; whoever stops ends it."""
    parts = box.ask("select i from range(100000000) t(i) where i % 2 = 0", limit=10**9, size=1 << 40, seconds=20)
    began = time.monotonic()
    assert isinstance(next(parts), Head)
    assert [next(parts) for _ in range(3)] == [b"[0]", b"[2]", b"[4]"]
    parts.close()
    assert time.monotonic() - began < 10
    assert rows(box, "select 1") == [[1]]


def test_a_query_that_nobody_waits_for_ends(box):
    """Another thread gives it up: the process dies, whoever waits behind it is answered soon."""
    given_up, failed = threading.Event(), []

    def wait():
        try:
            rows(box, "select count(*) from range(1000000000) a, range(1000000000) b", seconds=60, given_up=given_up)
        except FilterError as problem:
            failed.append(problem)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.5)
    began = time.monotonic()
    given_up.set()
    assert rows(box, "select 1") == [[1]]
    thread.join(5)
    assert (time.monotonic() - began < 5, len(failed)) == (True, 1)


def test_what_is_new_is_seen(tmp_path):
    """Each query sees what was written before it."""
    box = Sandbox(store.open_store(str(tmp_path), create=True).path)
    for found in ([], [["r1"]], [["r1"], ["r2"]]):
        if found:
            ailab.start_run(id=found[-1][0], dir=tmp_path).finish()
        assert rows(box, "select run_id from runs order by 1") == found
    box.close()


def test_the_process_ends_with_its_box(place):
    """Closing leaves no process behind."""
    mine = Sandbox(str(place))
    rows(mine, "select 1")
    (process,) = [
        p for p in psutil.Process().children() if "ailab.views.sandbox" in " ".join(p.cmdline()) and p.pid == mine._process.pid
    ]
    mine.close()
    assert not process.is_running()


def test_nothing_stays_beside_a_box(place, tmp_path, monkeypatch):
    """What a process keeps in the temporary folder goes with it: when it is killed at a limit, and when its box closes."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with contextlib.closing(Sandbox(str(place))) as box:
        assert rows(box, "select 1") == [[1]]
        (folder,) = tmp_path.iterdir()
        assert list(folder.iterdir())
        with pytest.raises(FilterError):
            rows(box, "select count(*) from range(10000000000) a, range(10000000000) b", seconds=0.2)
        assert list(tmp_path.iterdir()) == []
        assert rows(box, "select 1") == [[1]]
    assert list(tmp_path.iterdir()) == []
