"""The limit of questions: plain DuckDB tables and prepared statements, laid out as the questions want them.

Runs lie newest first, because a top-N over rows that lie oldest first is the worst case and no limit; their id is a UUID, and
ids rise with time, so that one run is found without an index. It keeps what the questions ask for and nothing else: no
history of changes, no tags, notes, artifacts, and no way to take in what is new.
"""

# ruff: noqa: ARG002  (signatures and class attributes are those of kit.Adapter)

from __future__ import annotations

import time
import uuid

from kit import FILTER_MIN, FILTER_PARAM, Adapter, run_record

CHUNK = 50_000
STATEMENTS = {
    "newest50": "SELECT * FROM runs ORDER BY started DESC LIMIT 50",
    "filter50": f"SELECT * FROM runs WHERE m0 >= {FILTER_MIN} AND p0 = '{FILTER_PARAM}' ORDER BY started DESC LIMIT 50",
    "top10": "SELECT * FROM runs ORDER BY m0 DESC LIMIT 10",
    "detail": "SELECT * FROM runs WHERE id = $1",
}


class A(Adapter):
    """One database file."""

    PACKAGE, IMPORT = "duckdb", "import duckdb"
    SKIP = dict.fromkeys(("import", "runs", "log", "kill", "parallel"), "its limit is limit_raw")

    def __init__(self, root):
        super().__init__(root)
        import duckdb

        self.con = duckdb.connect(str(self.store / "limit.duckdb"))

    # -- points: (run, metric, step, value) sorted, as a materialised view would lie

    def open_run(self, name, params):
        self.con.execute("CREATE TABLE IF NOT EXISTS points(run VARCHAR, metric VARCHAR, step BIGINT, value DOUBLE)")
        return name

    def fill(self, run, curves, n, deadline):
        import pyarrow

        for key, values in curves.items():
            floats = pyarrow.array([values[i % len(values)] for i in range(n)], pyarrow.float64())
            table = pyarrow.table({"step": range(n), "value": floats})
            self.con.register("given", table)
            self.con.execute("INSERT INTO points SELECT $1, $2, step, value FROM given", [run, key])
            self.con.unregister("given")
        return n

    def close_run(self, run, summary=None):
        self.con.execute("CHECKPOINT")

    def history(self, name, metric):
        found = self.con.execute(
            "SELECT step, value FROM points WHERE run = $1 AND metric = $2 ORDER BY step", [name, metric]
        ).fetchnumpy()
        return found["step"], found["value"]

    def buckets(self, name: str, metric: str, n: int) -> int:
        """Smallest and greatest value of `n` equal stretches of a metric."""
        rows = self.con.execute(
            "SELECT step * $3 // (SELECT count(*) FROM points WHERE run = $1 AND metric = $2) AS b, min(step), max(step), "
            "min(value), max(value) FROM points WHERE run = $1 AND metric = $2 GROUP BY b ORDER BY b",
            [name, metric, n],
        ).fetchall()
        return len(rows)

    # -- runs

    def populate(self, n, deadline, ids=None):
        """Lay `n` runs newest first; `ids` gives run i its 128 bits, rising with i."""
        import pyarrow

        for end in range(n, 0, -CHUNK):
            rows = []
            for i in range(end - 1, max(0, end - CHUNK) - 1, -1):
                name, params, metrics = run_record(i)
                ident = uuid.UUID(int=ids[i] if ids is not None else (1_700_000_000_000 + i) << 80 | i)
                rows.append({"id": str(ident), "name": name, "started": 1.7e9 + i, **params, **metrics})
            self.con.register("given", pyarrow.Table.from_pylist(rows))
            what = "CREATE TABLE runs AS" if end == n else "INSERT INTO runs"
            self.con.execute(f"{what} SELECT * REPLACE (CAST(id AS UUID) AS id) FROM given")
            self.con.unregister("given")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{n - end} of {n} rows were laid in time")
        self.con.execute("CHECKPOINT")
        self.remember("n", n)
        return n

    def ask(self, question: str, ident: str = "") -> int:
        """Answer one question; `ident` is the run that `detail` asks for, as a UUID's text."""
        given = f"('{ident}')" if question == "detail" else ""
        return len(self.con.execute(f"EXECUTE {question}{given}").fetchall())

    def prepare(self) -> None:
        """Make the statements ready."""
        for name, statement in STATEMENTS.items():
            self.con.execute(f"PREPARE {name} AS {statement}")

    def questions(self, n):
        self.prepare()
        middle = str(uuid.UUID(int=(1_700_000_000_000 + n // 2) << 80 | n // 2))
        return {name: (lambda name=name: self.ask(name, middle)) for name in STATEMENTS}
