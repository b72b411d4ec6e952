"""One run while it is being written: `Run`, its `config` and `summary`, its id, and the recorder's edge.

Whatever goes wrong in a logging call is said once on standard error and swallowed here, at `Edge`, and nowhere else; with
`strict` it is raised. A run owns one `Writer`, so one segment at a time; its methods may be called from any thread. The
fast path of `log` is the writer's own function; everything it cannot write comes to `_log_slowly`.
"""

from __future__ import annotations

import os
import sys
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from . import background, blobs, events, values
from .errors import AilabError, RejectedError, is_from_signal_handler
from .journal import Writer

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

    from .pulse import Pulse
    from .settings import Settings
    from .store import Store

CAPTURE_WAIT_SECONDS = 20.0
"""How long `finish` waits for what is captured beside the training at most: environment and code, and what a dataset_id means."""
RUN_ID_MAX = 128
ROUTE_WORDS = frozenset({"compare", "leaderboard", "latest", "search"})
"""Words that stand in the place of a run's id in a route, and so cannot be one."""

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
current: ContextVar[Run | None] = ContextVar("ailab_run", default=None)
open_runs: dict[str, Run] = {}
_said: set[str] = set()
_T = TypeVar("_T")


def say(message: str, *, once: str = "", silent: bool = False) -> None:
    """Write one line to standard error, once for each `once`."""
    if once:
        if once in _said:
            return
        _said.add(once)
    if not silent and sys.stderr is not None:
        try:
            sys.stderr.write(f"ailab: {message}\n")
        except (OSError, ValueError):  # closed, or a pipe that nobody reads: there is no one to tell, and training goes on
            return


def told(problem: Exception, outcome: str) -> str:
    """What went wrong and what becomes of it, with the hint on a line of its own."""
    if not isinstance(problem, AilabError):
        return f"{type(problem).__name__}: {problem}; {outcome}"
    return f"{problem.message}; {outcome}" + (f"\nhint: {problem.hint}" if problem.hint else "")


def new_run_id(now: float | None = None) -> str:
    """26 characters, sortable by time: 48 bits of milliseconds and 80 random bits in Crockford's base 32."""
    number = int((time.time() if now is None else now) * 1000) << 80 | int.from_bytes(os.urandom(10), "big")
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def check_run_id(run_id: str) -> str:
    """A caller's own id, if it may be one.

    Raises:
        RejectedError: it has other characters than letters, digits, `.`, `_`, `-`, is too long, or is a word of a route.
    """
    allowed = run_id[:1].isalnum() and all(c.isalnum() or c in "._-" for c in run_id) and run_id.isascii()
    if not allowed or len(run_id) > RUN_ID_MAX or run_id in ROUTE_WORDS:
        raise RejectedError(
            f"run id {run_id[:200]!r} is not allowed",
            key="id",
            hint=f"letters, digits, '.', '_' and '-', at most {RUN_ID_MAX}, and none of {', '.join(sorted(ROUTE_WORDS))}",
        )
    return run_id


# -- the run -----------------------------------------------------------------------------------------------------------


class Run:
    """One run, while it is being written. Made by `start_run`, `init` or `log_run`; ended by `finish` or its `with` block.

    Attributes:
        id: the run's id.
        name: its name.
        project: the project's name, or None.
        seed: the seed given or found among the parameters, or None.
        config: the parameters; setting a key logs it.
        summary: values set by hand; numbers among them are final metrics.
        mode: `on` or `disabled`.
    """

    def __init__(self, run_id: str, name: str, setting: Settings, store: Store | None) -> None:
        self.id = run_id
        self.name = name
        self.project = setting.project
        self.seed = setting.seed
        self.mode = "on" if store is not None else "disabled"
        self.store = store
        self.status = "running"
        self.config = Config(self)
        self.summary = Summary(self)
        self._setting = setting
        self._pid = os.getpid()
        self._began_at = time.time()
        self._outer: Run | None = None
        self._captured: threading.Thread | None = None
        self._owed: list[Callable[[], None]] = []
        self._pulse: Pulse | None = None
        self._unresolved: RejectedError | None = None
        self._wandb_url: str | None = None
        self._wandb: Any = None
        self._own_wandb = False
        self._writer = (
            None if store is None else Writer(store, run=run_id, durable=setting.durable, strict=setting.strict, warn=self._say)
        )
        if self._writer is not None and type(self).log is Run.log:
            self.log = self._writer.metrics_logger(run_id, self._log_slowly)  # type: ignore[method-assign]

    # -- logging -----------------------------------------------------------------------------------------------------

    def log(
        self, values: Mapping[str, Any], step: int | None = None, *, time: float | None = None, commit: bool | None = None
    ) -> None:
        """Log metrics: a dictionary of numbers, nested ones joined with "/".

        Args:
            values: metric names and their values; NaN and the infinities are kept.
            step: a whole number, in any order; without it the views count.
            time: the caller's own time in seconds since 1970, where it is not now.
            commit: accepted for the habit's sake; every call is written at once.
        """
        del commit
        self._log_slowly(values, step, time)

    def log_metric(self, key: str, value: Any, step: int | None = None, *, time: float | None = None) -> None:
        """Log one metric."""
        self.log({key: value}, step, time=time)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None, *, time: float | None = None) -> None:
        """Log metrics; the same as `log`."""
        self.log(metrics, step, time=time)

    def _log_slowly(self, given: Any, step: Any = None, time: Any = None) -> None:
        """What the fast path leaves: scalars of array libraries, nested values, NaN, and everything that is wrong."""
        with Edge(self):
            kept, refused = values.metrics(given)
            misplaced: list[RejectedError] = []
            at_step = _unless_refused(values.step, step, misplaced)
            at_time = _unless_refused(values.moment, time, misplaced)
            if kept:
                self._write(events.MetricsLogged(kept, at_step, at_time))
            self._refuse(refused, step=step)
            self._refuse(misplaced, step=step, outcome="the points are kept without it")
            if self._wandb is not None:
                self._wandb.log(dict(kept), step=at_step)

    def log_param(self, key: str, value: Any) -> None:
        """Log one parameter."""
        self.log_params({key: value})

    def log_params(self, params: Any) -> None:
        """Log parameters: a dictionary, dataclass or namespace; values of any kind, nested ones joined with "/"."""
        with Edge(self):
            kept, refused = values.parameters(params)
            self.config.take(kept)
            if kept:
                self._write(events.ParametersAdded(params=kept))
            self._refuse(refused, outcome="training goes on")

    def define_metric(
        self,
        key: str,
        *,
        unit: str | None = None,
        goal: str | None = None,
        summary: str | None = None,
        step_metric: str | None = None,
    ) -> None:
        """Say what a metric means: `goal` is max or min, `summary` one of last, min, max, mean."""
        with Edge(self):
            one_of("goal", goal, events.GOALS)
            one_of("summary", summary, events.SUMMARIES)
            self._write(events.MetricDescribed(key=key, unit=unit, goal=goal, summary=summary, step_metric=step_metric))

    def set_tag(self, key: str, value: Any = None) -> None:
        """Set one tag; without a value it is a bare word."""
        self.set_tags({key: value})

    def set_tags(self, tags: Mapping[str, Any] | Iterable[str]) -> None:
        """Set tags: a dictionary, or words."""
        with Edge(self):
            self._write(events.TagsChanged(set=values.tags(tags)))

    def note(self, text: str) -> None:
        """Set the run's note; every version is kept."""
        with Edge(self):
            self._write(events.NoteChanged(note=str(text)))

    def use_content(self, sha256: str, *, name: str = "", dataset: str | None = None, role: str = "training") -> None:
        """Note that the run read a content; `ailab.use_dataset` does so with one that it finds by a name.

        Args:
            sha256: of its bytes, 64 hexadecimal digits.
            name: what it goes by.
            dataset: the id of a dataset that it is a version of.
            role: what for: training, validation, test, or any word.
        """
        with Edge(self):
            if not blobs.is_digest(sha256):
                raise RejectedError(f"{sha256[:100]!r} is no SHA-256", key="sha256", hint="64 hexadecimal digits, in lower case")
            self._write(events.DatasetUsed(sha256=sha256, dataset=dataset, name=name, role=role))

    # -- files -------------------------------------------------------------------------------------------------------

    def log_artifact(
        self,
        path: str | os.PathLike[str],
        kind: str | None = None,
        *,
        name: str | None = None,
        artifact_path: str | None = None,
        type: str | None = None,  # noqa: A002
        reference: bool = False,
    ) -> None:
        """Keep a file, or each file of a folder, by its hash; the same place again is its next version.

        Args:
            path: the file or folder; it is copied, and may change or go afterwards. Of a folder, links that lead out of it, links
                to folders and whatever is no regular file are left out, and named.
            kind: model, checkpoint, plot, evaluation, metrics, predictions, data, log, other or any word of yours; by
                default told from the name.
            name: its place in the run, by default the path as given.
            artifact_path: the folder of the run to put it in; `name` is then by default the last part of the path.
            type: the same as kind.
            reference: copy nothing: note size, SHA-256 and where the file lies.
        """
        with Edge(self):
            logged = os.fspath(path)
            if artifact_path is not None:
                name = os.path.join(artifact_path, name or os.path.basename(logged.rstrip("/\\")))
            self._keep(logged, kind or type, name, reference=reference)

    def log_artifacts(
        self,
        paths: Iterable[str | os.PathLike[str]] | str | os.PathLike[str],
        kind: str | None = None,
        *,
        artifact_path: str | None = None,
        type: str | None = None,  # noqa: A002
        reference: bool = False,
    ) -> None:
        """Keep several files, or a folder; with `artifact_path` a folder's contents are put directly into that folder of the run.

        The other arguments are those of `log_artifact`.
        """
        with Edge(self):
            if isinstance(paths, str | os.PathLike) and artifact_path is not None and os.path.isdir(paths):
                self._keep(os.fspath(paths), kind or type, artifact_path, reference=reference)
                return
            for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
                self.log_artifact(path, kind, artifact_path=artifact_path, type=type, reference=reference)

    def _keep(self, logged: str, kind: str | None, name: str | None, *, reference: bool) -> None:
        """Keep a file, or what is in a folder, at a place of the run; see `artifacts.keep`."""
        from . import artifacts

        if self._writer is None:
            return
        for said in artifacts.keep(self._writer.store, logged, kind=kind, name=name, reference=reference):
            if not isinstance(said, RejectedError):
                self._write(said)
            elif self._setting.strict:
                raise said
            else:
                say(told(said, "training goes on"), once=f"{self.id} {said.message}", silent=self._setting.silent)

    def log_text(self, text: str, path: str) -> None:
        """Keep a text as the artifact `path`."""
        with Edge(self):
            self._log_bytes(path, text.encode("utf-8", "backslashreplace"), "text", None)

    def log_dict(self, dictionary: Any, path: str) -> None:
        """Keep a dictionary or list as JSON, as the artifact `path`."""
        with Edge(self):
            import json

            self._log_bytes(path, json.dumps(dictionary, indent=2, default=str, ensure_ascii=True).encode(), "data", None)

    def log_figure(self, figure: Any, path: str = "figure.png", *, step: int | None = None) -> None:
        """Keep a matplotlib or plotly figure as the artifact `path`; its ending says the format."""
        with Edge(self):
            from . import artifacts

            self._log_bytes(path, artifacts.figure_bytes(figure, path), "figure", step)

    def log_image(self, image: Any, path: str = "image.png", *, step: int | None = None) -> None:
        """Keep an image as an artifact: a PIL image, an array (height, width[, 3 or 4]), encoded bytes, or a file's path."""
        with Edge(self):
            from . import artifacts

            self._log_bytes(path, artifacts.image_bytes(image, path), "image", step)

    def log_table(self, table: Any, path: str = "table.csv", *, step: int | None = None) -> None:
        """Keep a table as an artifact, CSV or JSON by its ending: {column: values}, rows as dictionaries, or a data frame."""
        with Edge(self):
            from . import artifacts

            self._log_bytes(path, artifacts.table_bytes(table, path), "table", step)

    def _log_bytes(self, path: str, content: bytes, media: str, step: int | None) -> None:
        with Edge(self):
            from . import artifacts

            if self._writer is None:
                return
            kept = artifacts.keep_bytes(self._writer.store, content, path)
            self._write(kept)
            if media != "data":
                self._write(events.MediaLogged(key=path, type=media, path=kept.path, sha256=kept.sha256, step=values.step(step)))

    # -- its life ----------------------------------------------------------------------------------------------------

    def finish(
        self,
        status: str | None = None,
        *,
        final_metrics: Any = None,
        error: str | None = None,
        exit_code: int | None = None,
    ) -> None:
        """End the run: write what is left, wait for the capture of its environment, seal its segment.

        Args:
            status: completed (default), failed or killed.
            final_metrics: numbers that count above `summary` and above the last logged values.
            error: the text of what went wrong.
            exit_code: another way to say it: 0 is completed, anything else failed.
        """
        if self.status != "running":
            return
        with Edge(self):
            ended = one_of("status", _status(status, exit_code), ("completed", "failed", "killed")) or "completed"
            kept, refused = values.metrics(final_metrics) if final_metrics is not None else ({}, [])
            self._refuse(refused)
            self._wait_for_capture(CAPTURE_WAIT_SECONDS)
            self._finish(ended, kept, error)
            if self._unresolved is not None:
                raise self._unresolved

    def _finish(self, status: str, final_metrics: dict[str, Any], error: str | None, *, final: bool = False) -> None:
        if self._pulse is not None:
            self._pulse.leave(self, final=final)
        self.status = status
        open_runs.pop(self.id, None)
        if current.get() is self:
            current.set(self._outer)
        if self._writer is not None:
            self._writer.append(events.RunFinished(status=status, final_metrics=final_metrics, error=error), final=final)
            self._writer.seal(final=final)
            if self._writer.dropped:
                self._say(f"run {self.id}: {self._writer.dropped} points could not be written")
            if not final:
                with Edge(self, strict=False):  # what becomes of the network fails no run
                    self._tell_of_shipping()
            if self._setting.auto_compact and not final:
                self._compact_in_time(self._writer.store)
        if self._own_wandb:
            self._wandb.finish()

    def _compact_in_time(self, store: Store) -> None:
        """Have a process of its own compact the store when that is due; where that cannot be, say so and let it be."""
        try:
            background.after_run(store)
        except OSError as problem:
            if is_from_signal_handler(problem):
                raise
            text = told(problem, "segments are not compacted until `ailab compact` is called")
            say(text, once=text, silent=self._setting.silent)

    def _tell_of_shipping(self, *, before: bool = False, early: bool = False) -> None:
        """Say, once a process, that a server does not take what is shipped, as far as that is known now; nobody is waited for.

        Args:
            before: the run begins: what is known is of earlier ones.
            early: it goes on, so a server that was away for a moment is not worth a word.
        """
        url = self._setting.api_url
        once = f"not shipped to {url}"
        if not url or self.store is None or once in _said:
            return
        from . import outbox

        text = outbox.trouble(self.store, url, after=0.0 if before else self._began_at, early=early)
        if text:
            say(
                f"before this run {text}" if before else text,
                once=f"before, {once}" if before else once,
                silent=self._setting.silent,
            )

    def _wait_for_capture(self, seconds: float) -> None:
        if self._captured is not None:
            self._captured.join(seconds)
            if self._captured.is_alive():
                self._say(f"environment, code or dataset of run {self.id} were not captured within {seconds:.0f} s")
            self._captured = None
        if self._pid != os.getpid():  # the thread that would do it stayed in the process that forked this one
            while self._owed:
                self._owed.pop(0)()

    def __enter__(self) -> Run:  # noqa: PYI034  (a subclass is not handed out by start_run)
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        if self._pid != os.getpid() and self._is_open_elsewhere():
            return
        status, error = end_of(problem)
        self.finish(status, error=error)

    def _is_open_elsewhere(self) -> bool:
        """Whether a forked child has left the block of a run that goes on in the process that started it."""
        from . import capture

        if capture.process_start(self._pid) is None:  # it is gone, as when a script becomes a daemon
            return False
        if self._writer is not None:
            self._writer.seal()
        return True

    def __repr__(self) -> str:
        return f"<Run {self.id} {self.name!r} {self.status}>"

    def _repr_html_(self) -> str:
        from html import escape

        return f'<b>{escape(self.name)}</b> · {escape(self.status)} · <a href="{escape(self.url)}">{escape(self.id)}</a>'

    @property
    def url(self) -> str:
        """Where a server shows this run."""
        server = (self._setting.api_url or "http://127.0.0.1:8000").rstrip("/").removesuffix("/api/modellab").rstrip("/")
        return f"{server}/runs/{self.id}"

    def history(self, keys: Iterable[str] | None = None) -> Any:
        """All points logged so far as a table; see `ailab.history`."""
        from .views import history

        return history(self.id, keys=keys, dir=self.store.path if self.store else None)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _write(self, event: events.Event) -> None:
        if self.status != "running":
            say(f"run {self.id} has ended; {event.kind} is not recorded", once=f"ended {self.id}", silent=self._setting.silent)
        elif self._writer is not None:
            self._writer.append(event)

    def _refuse(
        self, refused: list[RejectedError], *, step: Any = None, outcome: str = "it is left out, training goes on"
    ) -> None:
        for problem in refused:
            if self._setting.strict:
                raise problem
            place = f" at step {step!r}" if isinstance(step, int) else ""
            once = f"{self.id} {problem.key} {type(problem).__name__}"
            say(f"{problem.message}{place}; {outcome}", once=once, silent=self._setting.silent)

    def _say(self, message: str) -> None:
        say(message, silent=self._setting.silent)


class Edge:
    """The recorder's edge: an error in here is said once and swallowed, or raised with `strict`.

    Args:
        run: the run whose caller is spared.
        strict: whether to raise; by default as the run is set.
    """

    __slots__ = ("run", "strict")

    def __init__(self, run: Run, *, strict: bool | None = None) -> None:
        self.run = run
        self.strict = run._setting.strict if strict is None else strict

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> bool:
        if not isinstance(problem, Exception) or self.strict or is_from_signal_handler(problem):
            return False
        text = told(problem, "training goes on")
        say(text, once=f"{self.run.id} {text}", silent=self.run._setting.silent)
        return True


class Config:
    """A run's parameters as the script sees them; setting one logs it."""

    __slots__ = ("_run", "_values")

    def __init__(self, run: Run) -> None:
        object.__setattr__(self, "_run", run)
        object.__setattr__(self, "_values", {})

    def take(self, known: Mapping[str, Any]) -> None:
        """Remember parameters that were logged."""
        self._values.update(known)

    def update(self, params: Any = None, **more: Any) -> None:
        """Log parameters."""
        if params is not None:
            self._run.log_params(params)
        if more:
            self._run.log_params(more)

    def get(self, key: str, default: Any = None) -> Any:
        """The parameter `key`, or `default`."""
        return self._values.get(key, default)

    def keys(self) -> Any:
        """Names of the parameters."""
        return self._values.keys()

    def items(self) -> Any:
        """(name, value) pairs."""
        return self._values.items()

    def as_dict(self) -> dict[str, Any]:
        """A copy of the parameters."""
        return dict(self._values)

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._run.log_params({key: value})

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Any:
        return iter(self._values)

    def __getattr__(self, key: str) -> Any:
        try:
            return self._values[key]
        except KeyError:
            raise AttributeError(f"no parameter {key!r}") from None

    def __setattr__(self, key: str, value: Any) -> None:
        self._run.log_params({key: value})

    def __repr__(self) -> str:
        return repr(self._values)


class Summary:
    """Values set by hand: `run.summary["best"] = 0.9`. Numbers among them are final metrics, above the last logged ones."""

    __slots__ = ("_run", "_values")

    def __init__(self, run: Run) -> None:
        self._run = run
        self._values: dict[str, Any] = {}

    def update(self, summary: Mapping[str, Any]) -> None:
        """Set several values."""
        with Edge(self._run):
            kept: dict[str, Any] = {}
            for key, value in summary.items():
                try:
                    number = values.number(value, key=key)
                    # the digits of a Decimal would read as a text: in a summary it is the nearest double
                    kept[key] = float(number) if isinstance(number, str) and number[-1:].isdigit() else number
                except RejectedError:
                    text, refused = values.parameters({key: value})
                    kept.update(text)
                    self._run._refuse(refused, outcome="training goes on")
            self._values.update(kept)
            self._run._write(events.SummarySet(values=kept))

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def get(self, key: str, default: Any = None) -> Any:
        """The value `key`, or `default`."""
        return self._values.get(key, default)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __repr__(self) -> str:
        return repr(self._values)


def _unless_refused(read: Callable[[Any], _T], value: Any, refused: list[RejectedError]) -> _T | None:
    """What `read` makes of a value; None where it refuses, and the refusal among `refused`."""
    try:
        return read(value)
    except RejectedError as problem:
        refused.append(problem)
        return None


def one_of(what: str, value: str | None, allowed: tuple[str, ...]) -> str | None:
    """`value`, if it is absent or one of `allowed`.

    Raises:
        RejectedError: it is something else; says what is allowed.
    """
    if value is not None and value not in allowed:
        raise RejectedError(f"{what} {value!r} is not allowed", key=what, hint=f"allowed: {', '.join(allowed)}")
    return value


def _status(status: str | None, exit_code: int | None) -> str | None:
    """One word for an end: ours, or those that users of other trackers know."""
    if status is None:
        return None if exit_code is None else ("completed" if exit_code == 0 else "failed")
    known = {"finished": "completed", "done": "completed", "crashed": "failed", "error": "failed"}
    return known.get(status.lower(), status.lower())


def end_of(problem: BaseException | None) -> tuple[str, str | None]:
    """(status, error text) of a block that ended with `problem`."""
    if problem is None:
        return "completed", None
    if isinstance(problem, KeyboardInterrupt):
        return "killed", "KeyboardInterrupt"
    if getattr(problem, "ailab_signal", None):
        return "killed", problem.ailab_signal  # type: ignore[attr-defined]
    if isinstance(problem, GeneratorExit):  # whoever took a generator's values had enough of them
        return "completed", None
    if isinstance(problem, SystemExit):
        return ("completed", None) if problem.code is None or problem.code == 0 else ("failed", f"SystemExit: {problem.code}")
    import traceback

    from . import redaction

    text = "".join(traceback.format_exception(type(problem), problem, problem.__traceback__))
    return "failed", redaction.redact(text[-8000:])
