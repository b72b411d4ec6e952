"""What a training script holds: `Run`, `start_run`, `init`, `log_run` and the module-level verbs.

It never breaks training: whatever goes wrong in here is said once on standard error and counted, and the caller's code
goes on; with `AILAB_STRICT=1` it raises instead. Each run writes its own segment through one `Writer`; nothing else is
shared between runs but the capture of environment and code, which the first run of a process does on a thread of its own
and later runs refer to. The current run is a context variable; a thread that has none uses the only open run there is.

After a crash: everything logged so far is in the segment, and readers find its writer gone. After `finish`: the segment is
sealed and on the disk. In `mode="disabled"` no file is touched.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from . import events, settings, values
from .errors import AilabError, MissingExtraError, RejectedError, StoreError
from .journal import Writer
from .store import Store, find_store, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

    from .settings import Settings

BEAT_SECONDS = 15.0
"""A writer that said nothing for so long says that it is there."""
CAPTURE_WAIT_SECONDS = 20.0
"""How long `finish` of the first run waits for the capture of environment and code at most."""
RUN_ID_MAX = 128
ROUTE_WORDS = frozenset({"compare", "leaderboard", "latest", "search"})
"""Words that stand in the place of a run's id in a route, and so cannot be one."""

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_current: ContextVar[Run | None] = ContextVar("ailab_run", default=None)
_open_runs: dict[str, Run] = {}
_said: set[str] = set()
_lock = threading.Lock()


def say(message: str, *, once: str = "", silent: bool = False) -> None:
    """Write one line to standard error, once for each `once`."""
    if once:
        if once in _said:
            return
        _said.add(once)
    if not silent and sys.stderr is not None:
        print(f"ailab: {message}", file=sys.stderr)


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
        self._outer: Run | None = None
        self._captured: threading.Thread | None = None
        self._wandb: Any = None
        self._own_wandb = False
        self._error: str | None = None
        self._writer = (
            None
            if store is None
            else Writer(store, run=run_id, durable=setting.durable, strict=setting.strict, warn=self._say)
        )
        if self._writer is not None and type(self).log is Run.log:
            self.log = self._writer.metrics_logger(run_id, self._log_slowly)  # type: ignore[method-assign]

    # -- logging -----------------------------------------------------------------------------------------------------

    def log(self, values: Mapping[str, Any], step: int | None = None, *, time: float | None = None, commit: bool | None = None) -> None:
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
        with _Edge(self):
            kept, refused = values.metrics(given)
            if time is not None:
                time = float(values.number(time, key="time"))
            try:
                at_step = values.step(step)
            except RejectedError as problem:
                at_step, refused = None, [*refused, problem]
            if kept:
                self._write(events.MetricsLogged(kept, at_step, time))
            self._refuse(refused, step=step)
            if self._wandb is not None:
                self._wandb.log(dict(kept), step=at_step)

    def log_param(self, key: str, value: Any) -> None:
        """Log one parameter."""
        self.log_params({key: value})

    def log_params(self, params: Any) -> None:
        """Log parameters: a dictionary, dataclass or namespace; values of any kind, nested ones joined with "/"."""
        with _Edge(self):
            kept, refused = values.parameters(params)
            self.config.take(kept)
            if kept:
                self._write(events.ParametersAdded(params=kept))
            self._refuse(refused)

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
        with _Edge(self):
            _one_of("goal", goal, ("max", "min"))
            _one_of("summary", summary, ("last", "min", "max", "mean"))
            self._write(events.MetricDescribed(key=key, unit=unit, goal=goal, summary=summary, step_metric=step_metric))

    def set_tag(self, key: str, value: Any = None) -> None:
        """Set one tag; without a value it is a bare word."""
        self.set_tags({key: value})

    def set_tags(self, tags: Mapping[str, Any] | Iterable[str]) -> None:
        """Set tags: a dictionary, or words."""
        with _Edge(self):
            self._write(events.TagsChanged(set=values.tags(tags)))

    def note(self, text: str) -> None:
        """Set the run's note; every version is kept."""
        with _Edge(self):
            self._write(events.NoteChanged(note=str(text)))

    # -- files -------------------------------------------------------------------------------------------------------

    def log_artifact(self, path: str | os.PathLike[str], kind: str | None = None, *, name: str | None = None) -> None:
        """Keep a file, or each file of a folder, by its hash.

        Args:
            path: the file or folder; it is copied, and may change or go afterwards.
            kind: model, checkpoint, plot, evaluation, metrics, predictions, data, log, other or any word of yours; by
                default told from the name.
            name: its place in the run, by default the path as given.
        """
        with _Edge(self):
            self._keep(os.fspath(path), kind, name)

    def log_artifacts(self, paths: Iterable[str | os.PathLike[str]] | str, kind: str | None = None) -> None:
        """Keep several files, or a folder."""
        for path in [paths] if isinstance(paths, str) else paths:
            self.log_artifact(path, kind)

    def _keep(self, logged: str, kind: str | None, name: str | None) -> None:
        from . import artifacts  # noqa: PLC0415

        if self._writer is None:
            return
        if os.path.isdir(logged):
            for inner in artifacts.files_below(logged):
                inside = os.path.relpath(inner, logged)
                self._keep(inner, kind, os.path.join(name, inside) if name else None)
            return
        self._write(artifacts.keep(self._writer.store, logged, kind=kind, name=name))

    def log_text(self, text: str, path: str) -> None:
        """Keep a text as the artifact `path`."""
        self._log_bytes(path, text.encode("utf-8", "backslashreplace"), "text", None)

    def log_dict(self, dictionary: Any, path: str) -> None:
        """Keep a dictionary or list as JSON, as the artifact `path`."""
        with _Edge(self):
            import json  # noqa: PLC0415

            self._log_bytes(path, json.dumps(dictionary, indent=2, default=str, ensure_ascii=True).encode(), "data", None)

    def log_figure(self, figure: Any, path: str = "figure.png", *, step: int | None = None) -> None:
        """Keep a matplotlib or plotly figure as the artifact `path`; its ending says the format."""
        with _Edge(self):
            from . import artifacts  # noqa: PLC0415

            self._log_bytes(path, artifacts.figure_bytes(figure, path), "figure", step)

    def log_image(self, image: Any, path: str = "image.png", *, step: int | None = None) -> None:
        """Keep an image as the artifact `path`: a PIL image, an array (height, width[, 3 or 4]), encoded bytes, or a file's path."""
        with _Edge(self):
            from . import artifacts  # noqa: PLC0415

            self._log_bytes(path, artifacts.image_bytes(image, path), "image", step)

    def log_table(self, table: Any, path: str = "table.csv", *, step: int | None = None) -> None:
        """Keep a table as the artifact `path`, CSV or JSON by its ending: {column: values}, rows as dictionaries, or a data frame."""
        with _Edge(self):
            from . import artifacts  # noqa: PLC0415

            self._log_bytes(path, artifacts.table_bytes(table, path), "table", step)

    def _log_bytes(self, path: str, content: bytes, media: str, step: int | None) -> None:
        with _Edge(self):
            from . import artifacts  # noqa: PLC0415

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
        with _Edge(self):
            ended = _one_of("status", _status(status, exit_code), ("completed", "failed", "killed")) or "completed"
            kept, refused = values.metrics(final_metrics) if final_metrics is not None else ({}, [])
            self._refuse(refused)
            self._wait_for_capture(CAPTURE_WAIT_SECONDS)
            self._finish(ended, kept, error or self._error)

    def _finish(self, status: str, final_metrics: dict[str, Any], error: str | None, *, final: bool = False) -> None:
        self.status = status
        _open_runs.pop(self.id, None)
        if _current.get() is self:
            _current.set(self._outer)
        if self._writer is not None:
            self._writer.append(events.RunFinished(status=status, final_metrics=final_metrics, error=error), final=final)
            self._writer.seal(final=final)
            if self._writer.dropped:
                self._say(f"run {self.id}: {self._writer.dropped} points could not be written")
        if self._own_wandb:
            self._wandb.finish()

    def _wait_for_capture(self, seconds: float) -> None:
        if self._captured is not None and self._captured is not threading.current_thread():
            self._captured.join(seconds)
            if self._captured.is_alive():
                self._say(f"environment and code of run {self.id} were not captured within {seconds:.0f} s")
            self._captured = None

    def __enter__(self) -> Run:  # noqa: PYI034  (a subclass is not handed out by start_run)
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        status, error = _end_of(problem)
        self.finish(status, error=error)

    def __repr__(self) -> str:
        return f"<Run {self.id} {self.name!r} {self.status}>"

    def _repr_html_(self) -> str:
        from html import escape  # noqa: PLC0415

        return f'<b>{escape(self.name)}</b> · {escape(self.status)} · <a href="{escape(self.url)}">{escape(self.id)}</a>'

    @property
    def url(self) -> str:
        """Where a server shows this run."""
        return f"{(self._setting.api_url or 'http://127.0.0.1:8000').rstrip('/')}/runs/{self.id}"

    def history(self, keys: Iterable[str] | None = None) -> Any:
        """All points logged so far as a table; see `ailab.history`."""
        from .views import history  # noqa: PLC0415

        return history(self.id, keys=keys, dir=self.store.path if self.store else None)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _write(self, event: events.Event) -> None:
        if self.status != "running":
            say(f"run {self.id} has ended; {event.kind} is not recorded", once=f"ended {self.id}", silent=self._setting.silent)
        elif self._writer is not None:
            self._writer.append(event)

    def _refuse(self, refused: list[RejectedError], *, step: Any = None) -> None:
        for problem in refused:
            if self._setting.strict:
                raise problem
            place = f" at step {step!r}" if step is not None else ""
            once = f"{self.id} {problem.key} {type(problem).__name__}"
            say(f"{problem.message}{place}; it is left out, training goes on", once=once, silent=self._setting.silent)

    def _say(self, message: str) -> None:
        say(message, silent=self._setting.silent)


class _Edge:
    """The recorder's edge: an error in here is said once and swallowed, or raised with `strict`."""

    __slots__ = ("run",)

    def __init__(self, run: Run) -> None:
        self.run = run

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> bool:
        if problem is None or not isinstance(problem, Exception) or self.run._setting.strict:  # noqa: SLF001
            return False
        text = str(problem) if isinstance(problem, AilabError) else f"{type(problem).__name__}: {problem}"
        say(f"{text}; training goes on", once=f"{self.run.id} {text}", silent=self.run._setting.silent)  # noqa: SLF001
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
        self._run.log_params({**(params or {}), **more} if more else params)

    def get(self, key: str, default: Any = None) -> Any:
        """The parameter `key`, or `default`."""
        return self._values.get(key, default)

    def keys(self) -> Iterable[str]:
        """Names of the parameters."""
        return self._values.keys()

    def items(self) -> Iterable[tuple[str, Any]]:
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
        with _Edge(self._run):
            kept: dict[str, Any] = {}
            for key, value in summary.items():
                try:
                    kept[key] = values.number(value, key=key)
                except RejectedError:
                    kept.update(values.parameters({key: value})[0])
            self._values.update(kept)
            self._run._write(events.SummarySet(values=kept))  # noqa: SLF001

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


def _one_of(what: str, value: str | None, allowed: tuple[str, ...]) -> str | None:
    if value is not None and value not in allowed:
        raise RejectedError(f"{what} {value!r} is not allowed", key=what, hint=f"allowed: {', '.join(allowed)}")
    return value


def _status(status: str | None, exit_code: int | None) -> str | None:
    """One word for an end: ours, or those that users of other trackers know."""
    if status is None:
        return None if exit_code is None else ("completed" if exit_code == 0 else "failed")
    known = {"finished": "completed", "done": "completed", "crashed": "failed", "error": "failed"}
    return known.get(status.lower(), status.lower())


def _end_of(problem: BaseException | None) -> tuple[str, str | None]:
    """(status, error text) of a block that ended with `problem`."""
    if problem is None:
        return "completed", None
    if isinstance(problem, KeyboardInterrupt):
        return "killed", "KeyboardInterrupt"
    if isinstance(problem, SystemExit):
        return ("completed", None) if problem.code in {None, 0} else ("failed", f"SystemExit: {problem.code}")
    import traceback  # noqa: PLC0415

    from . import capture  # noqa: PLC0415

    text = "".join(traceback.format_exception(type(problem), problem, problem.__traceback__))
    return "failed", capture.redact(text[-8000:])


# -- starting ----------------------------------------------------------------------------------------------------------


def start_run(  # noqa: PLR0913  (the habits of several trackers meet in this one call; all but the first are by keyword)
    name: str | None = None,
    *,
    project: str | None = None,
    project_id: str | None = None,
    id: str | None = None,  # noqa: A002
    resume: str | bool | None = None,
    config: Any = None,
    params: Any = None,
    seed: int | None = None,
    tags: Any = None,
    group: str | None = None,
    parent: Run | str | None = None,
    nested: bool | None = None,
    note: str | None = None,
    notes: str | None = None,
    description: str | None = None,
    dataset_id: str | None = None,
    mode: str | None = None,
    dir: str | os.PathLike[str] | None = None,  # noqa: A002
    strict: bool | None = None,
    silent: bool | None = None,
    durable: bool | None = None,
    capture: str = "process",
    wandb: bool = False,
) -> Run:
    """Start a run and make it the current one.

    Args:
        name: what people call it; by default the script's name.
        project: the project's name; `project_id` is accepted beside it, an unknown one is taken as a name.
        id: the run's own id, to resume it or to choose it; by default 26 characters sortable by time.
        resume: `allow` goes on with the run `id` if it is there, `must` wants it to be there, `never` wants it not to be.
        config: parameters; `params` is the same.
        seed: the random seed; by default a parameter named seed or random_state, else AILAB_SEED.
        tags: words, or a dictionary.
        group: a name that several runs share.
        parent: the run that this one belongs to; inside another run's block, that run.
        nested: False keeps a run inside another one's block from being its child.
        note: the first note; `notes` is the same.
        dataset_id: a dataset version (`iris@v2`, `iris@sha256:…`) or any text.
        mode: `on` or `disabled`, which touches no file.
        dir: the store; by default AILAB_DIR, the nearest `events/` that is a store, else `./events`.
        strict: raise what would otherwise be one warning.
        durable: flush every event to the disk before the call returns.
        capture: `process` captures environment and code once a process, `run` once a run.
        wandb: start a W&B run beside it (or join the active one) and keep its address.

    Returns:
        The run; use it in a `with` block, or call `finish`. It does not raise unless `strict`.
    """
    given = {
        "project": project if project is not None else project_id, "run_name": name, "run_id": id, "seed": seed, "group": group,
        "dataset_id": dataset_id, "mode": mode, "dir": None if dir is None else os.fspath(dir), "strict": strict,
        "silent": silent, "durable": durable,
    }  # fmt: skip
    setting = _settings(given)
    outer = active_run()
    run = _make_run(setting, resume)
    run._outer = _current.get()  # noqa: SLF001
    _current.set(run)
    with _Edge(run):
        if run._writer is None:  # noqa: SLF001
            run.config.take(values.parameters({**_mapping(config), **_mapping(params)})[0])
            return run
        kept, refused = values.parameters({**_mapping(config), **_mapping(params)})
        run.config.take(kept)
        run.seed = seed if seed is not None else _seed_among(kept, setting.seed)
        mother = parent.id if isinstance(parent, Run) else parent
        if mother is None and outer is not None and outer is not run and nested is not False:
            mother = outer.id
        known = _captured_ids(capture)
        run._wandb, run._own_wandb, wandb_url = _wandb(run, setting, kept, start=wandb)  # noqa: SLF001
        if run._wandb is not None:  # noqa: SLF001
            run.__dict__.pop("log", None)
        run._write(_first_event(run, setting, kept, group=setting.group, mother=mother, known=known, tags=tags, wandb_url=wandb_url, description=description))  # noqa: SLF001, E501
        run._refuse(refused)  # noqa: SLF001
        text = note if note is not None else notes
        if text is not None:
            run._write(events.NoteChanged(note=str(text)))  # noqa: SLF001
        _register(run)
        if known is None:
            run._captured = threading.Thread(target=_capture, args=(run, capture), name="ailab-capture", daemon=True)  # noqa: SLF001
            run._captured.start()  # noqa: SLF001
    return run


def init(project: str | None = None, **given: Any) -> Run:
    """Start a run the W&B way: like `start_run`, but the run that is current is finished first."""
    before = _current.get()
    if before is not None:
        before.finish()
    given.pop("job_type", None)
    given.pop("entity", None)
    return start_run(project=project, nested=False, **given)


def run(name: str | None = None, **given: Any) -> Run:
    """Start a run for a `with` block: the same as `start_run`."""
    return start_run(name, **given)


def _settings(given: dict[str, Any]) -> Settings:
    """The settings; a text that is not allowed is said, and everything but the arguments falls back to defaults."""
    try:
        return settings.load(**given)
    except (AilabError, OSError) as problem:
        if given["strict"] or os.environ.get("AILAB_STRICT") == "1":
            raise
        say(f"{problem}; this setting and those from files are left out, training goes on", once=str(problem))
        allowed = {k: v for k, v in given.items() if v is not None and k not in {"seed", "mode"}}
        return settings.Settings(**{"dir": os.environ.get("AILAB_DIR"), **allowed})


def _make_run(setting: Settings, resume: str | bool | None) -> Run:
    """The run's object with its store opened; a store that cannot be used gives a run that records nothing, and says so."""
    script = os.path.splitext(os.path.basename(sys.argv[0] if sys.argv and sys.argv[0] else "run"))[0] or "run"
    name = setting.run_name or script
    try:
        run_id = check_run_id(setting.run_id) if setting.run_id else new_run_id()
        store = None
        if setting.mode != "disabled":
            store = open_store(setting.dir or find_store(), create=True)
            if setting.run_id:
                _check_resume(store, run_id, resume)
        return Run(run_id, name, setting, store)
    except AilabError as problem:
        if setting.strict:
            raise
        if isinstance(problem, StoreError):
            say(f"{problem}\nailab: this run is not recorded, training goes on", once=str(problem), silent=setting.silent)
            return Run(new_run_id(), name, setting, None)
        say(f"{problem}; a new id is used, training goes on", once=str(problem), silent=setting.silent)
        return Run(new_run_id(), name, setting, open_store(setting.dir or find_store(), create=True))


def _check_resume(store: Store, run_id: str, resume: str | bool | None) -> None:
    wish = {True: "must", False: "never", None: "allow", "auto": "allow"}.get(resume, resume)
    _one_of("resume", wish, ("allow", "must", "never"))  # type: ignore[arg-type]
    there = bool(store.segments_of_run(run_id))
    if wish == "must" and not there:
        raise RejectedError(f"resume='must', but there is no run {run_id!r}", key="resume", hint="use resume='allow'")
    if wish == "never" and there:
        raise RejectedError(f"resume='never', but run {run_id!r} is there", key="resume", hint="use another id, or resume='allow'")


def _first_event(  # noqa: PLR0913
    run: Run,
    setting: Settings,
    params: dict[str, Any],
    *,
    group: str | None,
    mother: str | None,
    known: tuple[str, str] | None,
    tags: Any,
    wandb_url: str | None,
    description: str | None,
) -> events.Event:
    from . import capture  # noqa: PLC0415

    environment, code = known or (None, None)
    assert run.store is not None  # noqa: S101  (a disabled run does not come here)
    before = run.store.segments_of_run(run.id) if setting.run_id else []
    if before:
        run._writer.observe(_last_clock(run.store, before))  # type: ignore[union-attr]  # noqa: SLF001
        return events.RunResumed(command=capture.command_line(), params=params, environment=environment, code=code)
    return events.RunStarted(
        name=run.name, project=run.project, params=params, command=capture.command_line(), seed=run.seed, group=group,
        parent=mother, dataset=setting.dataset_id, environment=environment, code=code, wandb_url=wandb_url,
        tags={**values.tags(setting.tags), **values.tags(tags)}, description=description,
    )  # fmt: skip


def _last_clock(store: Store, names: list[str]) -> int:
    from .journal import scan  # noqa: PLC0415

    return max((line.clock for name in names for line in scan(store.segment_path(name), mode="salvage")), default=-1)


def _mapping(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    plain = values._as_mapping(given)  # noqa: SLF001
    if plain is None:
        raise RejectedError(f"parameters are a dictionary, not {given!r:.80}", key="config", hint='config={"lr": 0.1}')
    return {key: plain[key] for key in plain}


def _seed_among(params: Mapping[str, Any], default: int | None) -> int | None:
    for name in ("seed", "random_state"):
        value = params.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return default


def _wandb(run: Run, setting: Settings, params: dict[str, Any], *, start: bool) -> tuple[Any, bool, str | None]:
    """(the W&B run to mirror to, whether we started it, its address); an active W&B run only gives its address."""
    module = sys.modules.get("wandb")
    active = getattr(module, "run", None)
    if not start:
        return None, False, getattr(active, "url", None)
    try:
        import wandb  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415
    except ImportError:
        raise MissingExtraError("wandb=True", extra="wandb") from None
    own = active is None
    there = wandb.init(project=setting.wandb_project or run.project, name=run.name, config=params) if own else active
    return there, own, getattr(there, "url", None)


# -- capture, heartbeat, endings ---------------------------------------------------------------------------------------

_captured: dict[int, tuple[str, str]] = {}
"""What this process captured: {pid: (environment id, code id)}; a forked child captures anew."""


def _captured_ids(how: str) -> tuple[str, str] | None:
    _one_of("capture", how, ("process", "run"))
    if how == "run" or "ipykernel" in sys.modules:
        return None
    return _captured.get(os.getpid())


def _capture(run: Run, how: str) -> None:
    """Capture environment and code, keep them by their hash, and say so in the run's segment."""
    with _Edge(run):
        import msgspec  # noqa: PLC0415

        from . import blobs, capture  # noqa: PLC0415

        assert run.store is not None  # noqa: S101
        encode = msgspec.json.Encoder(order="sorted").encode
        environment = blobs.put_bytes(run.store, encode(capture.capture_environment()))
        run._write(events.EnvironmentCaptured(environment=environment))  # noqa: SLF001
        script = sys.argv[0] if sys.argv and os.path.isfile(sys.argv[0]) else None
        folder = os.path.dirname(os.path.abspath(script)) if script else os.getcwd()
        code = capture.capture_code(folder, script)
        code_id = blobs.put_bytes(run.store, encode(code))
        run._write(  # noqa: SLF001
            events.CodeCaptured(code=code_id, git_hash=code.git_hash, branch=code.branch, remote=code.remote, dirty=code.dirty)
        )
        if how == "process":
            _captured[os.getpid()] = (environment, code_id)


_prepared_in = 0


def _register(run: Run) -> None:
    """Note an open run, and see to it that the process's endings reach it."""
    global _prepared_in  # noqa: PLW0603
    _open_runs[run.id] = run
    with _lock:
        if _prepared_in == os.getpid():
            return
        first, _prepared_in = _prepared_in == 0, os.getpid()
    threading.Thread(target=_beat, name="ailab-heartbeat", daemon=True).start()
    if first:
        atexit.register(_at_exit)
        _watch_exceptions()
        _watch_signals()


def _beat() -> None:
    """Let every open writer that said nothing for `BEAT_SECONDS` say that it is there."""
    seen: dict[str, tuple[str, int]] = {}
    while True:
        time.sleep(BEAT_SECONDS)
        for run in list(_open_runs.values()):
            writer = run._writer  # noqa: SLF001
            if writer is None or run._pid != os.getpid():  # noqa: SLF001
                continue
            said = (writer.name, writer.lines())
            if seen.get(run.id) == said:
                with _Edge(run):
                    writer.beat()
                said = (writer.name, writer.lines())
            seen[run.id] = said
            writer.look()


def _at_exit() -> None:
    """End the runs that the script left open, as it ended itself."""
    for run in list(_open_runs.values()):
        if run._pid == os.getpid():  # noqa: SLF001
            run.finish("failed" if run._error else "completed")  # noqa: SLF001


def _watch_exceptions() -> None:
    before = sys.excepthook

    def hook(kind: type[BaseException], problem: BaseException, trace: TracebackType | None) -> None:
        status, error = _end_of(problem)
        for run in list(_open_runs.values()):
            if run._pid == os.getpid():  # noqa: SLF001
                run.finish(status, error=error)
        before(kind, problem, trace)

    sys.excepthook = hook


def _watch_signals() -> None:
    """On SIGTERM write the end, then do what would have been done without us: call the script's own handler, or die."""
    import signal  # noqa: PLC0415

    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGTERM"):
        return
    before = signal.getsignal(signal.SIGTERM)
    if before not in {signal.SIG_DFL, None}:
        return  # the script has a handler of its own and decides how it ends

    def handler(number: int, frame: Any) -> None:
        del frame
        for run in list(_open_runs.values()):
            if run._pid == os.getpid():  # noqa: SLF001
                with _Edge(run):
                    run._wait_for_capture(1.0)  # noqa: SLF001
                    run._finish("killed", {}, "SIGTERM", final=True)  # noqa: SLF001
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, handler)


# -- the decorator -----------------------------------------------------------------------------------------------------


def log_run(function: Callable[..., Any] | None = None, **given: Any) -> Any:
    """Record every call of a function as a run; works bare, with arguments, on sync and async functions, and nested.

    The bound arguments, defaults included, are the run's parameters. If the function returns a dictionary,
    `final_metrics`, `artifacts`, `dataset_id`, `tags` and `note` in it are recorded; a dictionary of numbers alone is taken
    as the final metrics. The return value is handed on as it is, and so is an exception, after the run has failed.

    Args:
        function: the function, where the decorator is used bare.
        given: what `start_run` takes; `name` is by default the function's name.
    """
    if function is None:
        return lambda inner: log_run(inner, **given)
    import functools  # noqa: PLC0415
    import inspect  # noqa: PLC0415

    signature = inspect.signature(function)

    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run:
        params = _bound(signature, args, kwargs)
        start = {"name": function.__name__, **given}
        start["params"] = {**_mapping(given.get("params")), **params}
        if "dataset_id" not in given and isinstance(params.get("dataset_id"), str):
            start["dataset_id"] = params["dataset_id"]
        return start_run(**start)

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            with begin(args, kwargs) as run:
                result = await function(*args, **kwargs)
                _take_result(run, result)
                return result

        return call_async

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with begin(args, kwargs) as run:
            result = function(*args, **kwargs)
            _take_result(run, result)
            return result

    return call


def _bound(signature: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, defaults included; a call that does not fit is left to the function itself to refuse."""
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:
        return dict(kwargs)
    bound.apply_defaults()
    found: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is kind.VAR_KEYWORD:
            found.update(value)
        elif name not in {"self", "cls"} and not (kind is kind.VAR_POSITIONAL and not value):
            found[name] = value
    return found


def _take_result(run: Run, result: Any) -> None:
    if not hasattr(result, "get") or run.status != "running":
        return
    with _Edge(run):
        if not {"final_metrics", "artifacts", "dataset_id", "note", "tags"} & set(result):
            if result and all(isinstance(value, int | float) or hasattr(value, "item") for value in result.values()):
                run.finish(final_metrics=result)
            return
        if result.get("dataset_id"):
            run._write(events.RunChanged(dataset=str(result["dataset_id"])))  # noqa: SLF001
        if result.get("tags"):
            run.set_tags(result["tags"])
        if result.get("note"):
            run.note(result["note"])
        run.log_artifacts(result.get("artifacts") or [])
        run.finish(final_metrics=result.get("final_metrics"))


# -- module-level verbs ------------------------------------------------------------------------------------------------


def active_run() -> Run | None:
    """The current run: of this context, else the only one that is open in this process, else None."""
    run = _current.get()
    if run is not None and run.status == "running":
        return run
    open_here = [r for r in list(_open_runs.values()) if r.status == "running"]
    return open_here[0] if len(open_here) == 1 else None


def _on_current(verb: str) -> Callable[..., None]:
    method = getattr(Run, verb)

    def act(*args: Any, **kwargs: Any) -> None:
        run = active_run()
        if run is None:
            message = f"{verb}() without a run does nothing; start one with ailab.start_run() or @ailab.log_run"
            if _settings(dict.fromkeys(("strict",))).strict:
                raise RejectedError(message, key=verb)
            say(message, once="no run")
            return
        getattr(run, verb)(*args, **kwargs)

    act.__name__ = act.__qualname__ = verb
    act.__doc__ = (method.__doc__ or "").rstrip() + "\n\n    Acts on the current run; without one it warns once, or raises if `strict`."
    act.__annotations__ = {k: v for k, v in method.__annotations__.items() if k != "self"}
    return act


log = _on_current("log")
log_metric = _on_current("log_metric")
log_metrics = _on_current("log_metrics")
log_param = _on_current("log_param")
log_params = _on_current("log_params")
log_artifact = _on_current("log_artifact")
log_artifacts = _on_current("log_artifacts")
log_dict = _on_current("log_dict")
log_text = _on_current("log_text")
log_figure = _on_current("log_figure")
log_image = _on_current("log_image")
log_table = _on_current("log_table")
define_metric = _on_current("define_metric")
set_tag = _on_current("set_tag")
set_tags = _on_current("set_tags")


def end_run(status: str | None = None) -> None:
    """Finish the current run; without one nothing happens."""
    run = active_run()
    if run is not None:
        run.finish(status)


def finish(exit_code: int | None = None) -> None:
    """Finish the current run, the W&B way."""
    run = active_run()
    if run is not None:
        run.finish(exit_code=exit_code)


def configure(**given: Any) -> None:
    """Set defaults for this process: any setting by name, such as `dir`, `project`, `strict`; they count as arguments.

    Raises:
        SettingError: there is no such setting, or its value is not allowed.
    """
    settings.configure(**given)
