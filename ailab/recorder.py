"""What a training script calls: `start_run`, `init`, `log_run` and the module-level verbs.

It never breaks training: whatever goes wrong in here is said once on standard error and counted, and the caller's code
goes on; with `AILAB_STRICT=1` it raises instead. Each run writes its own segment through one `Writer`; nothing else is
shared between runs but the capture of environment and code, which the first run of a process does on a thread of its own
and later runs refer to. What a run's dataset_id means is looked up on such a thread too. The current run is a context
variable; a thread that has none uses the only open run there is.

After a crash: everything logged so far is in the segment, and readers find its writer gone. After `finish`: the segment is
sealed and on the disk. In `mode="disabled"` no file is touched.
"""

from __future__ import annotations

import atexit
import os
import sys
from _thread import allocate_lock
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from . import events, forks, settings, values
from .errors import AilabError, MissingExtraError, RejectedError
from .runs import Edge, Run, check_run_id, current, end_of, new_run_id, one_of, open_runs, say, told
from .store import Store, find_store, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from .pulse import Pulse
    from .segments import Span
    from .settings import Settings

_lock = allocate_lock()


# -- starting ----------------------------------------------------------------------------------------------------------


def start_run(  # the habits of several trackers meet in this one call; all but the first are by keyword
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
        project: the project's name.
        project_id: accepted beside it; an unknown one is taken as a name.
        id: the run's own id, to resume it or to choose it; by default 26 characters sortable by time.
        resume: `allow` goes on with the run `id` if it is there, `must` wants it to be there, `never` wants it not to be.
        config: parameters.
        params: the same.
        seed: the random seed; by default a parameter named seed or random_state, else AILAB_SEED.
        tags: words, or a dictionary.
        group: a name that several runs share.
        parent: the run that this one belongs to; inside another run's block, that run.
        nested: False keeps a run inside another one's block from being its child.
        note: the first note.
        notes: the same.
        description: what the run is about.
        dataset_id: a version of a registered dataset (`iris@v2`, `iris@sha256:…`, `iris` for the newest), to whose content the
            run is then tied, or any text.
        mode: `on` or `disabled`, which touches no file.
        dir: the store; by default AILAB_DIR, the nearest `events/` that is a store, else `./events`.
        strict: raise what would otherwise be one warning.
        silent: say nothing on standard error.
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
    run = _make_run(setting, resume=resume)
    kept = _parameters(run, config, params)
    if run._writer is not None:
        run.seed = setting.seed if seed is not None else _seed_among(kept, setting.seed)
        mother = parent.id if isinstance(parent, Run) else None if parent is None else str(parent)
        if mother is None and outer is not None and nested is not False:
            mother = outer.id
        with Edge(run):
            run._wandb, run._own_wandb, run._wandb_url = _wandb(run, setting, kept, start=wandb)
            if run._wandb is not None:
                run.__dict__.pop("log", None)
        with Edge(run):
            one_of("capture", capture, ("process", "run"))
        words: dict[str, Any] = {}
        with Edge(run):
            words = values.tags(tags)
        known = _captured_ids(run, capture)
        with Edge(run):
            _begin(run, kept, mother=mother, known=known, tags=words, description=description)
        with Edge(run):
            if note is not None or notes is not None:
                run._write(events.NoteChanged(note=str(note if note is not None else notes)))
        if setting.api_url and run.store is not None:
            with Edge(run, strict=False):
                run._tell_of_shipping(before=True)
            with Edge(run):
                _ship(run.store, setting)
        _register(run)
        if known is None:
            _beside(run, _capture, capture)
        if setting.dataset_id:
            _beside(run, _find_dataset, setting.dataset_id, datetime.now(timezone.utc))
    run._outer = current.get()
    current.set(run)
    return run


def _ship(store: Store, setting: Settings) -> None:
    """Have a process of its own send the server what is written here; where that cannot be, say so and let it be."""
    from . import background

    try:
        background.ship(store, setting.api_url or "", setting.token)
    except (AilabError, OSError) as problem:
        text = told(problem, "nothing is sent to the server until `ailab sync` is called")
        say(text, once=text, silent=setting.silent)


def _parameters(run: Run, *given: Any) -> dict[str, Any]:
    """The parameters given, as they are kept; what cannot be kept whole is said, or raised before anything is written."""
    kept: dict[str, Any] = {}
    for each in given:
        with Edge(run):
            if each is not None:
                more, refused = values.parameters(each)
                run._refuse(refused, outcome="training goes on")
                kept.update(more)
    run.config.take(kept)
    return kept


def init(project: str | None = None, **given: Any) -> Run:
    """Start a run the W&B way: like `start_run`, but the run that is current is finished first."""
    before = current.get()
    if before is not None:
        before.finish()
    given.pop("job_type", None)
    given.pop("entity", None)
    return start_run(project=project, nested=False, **given)


def run(name: str | None = None, **given: Any) -> Run:
    """Start a run for a `with` block: the same as `start_run`."""
    return start_run(name, **given)


def _settings(given: dict[str, Any]) -> Settings:
    """The settings; one that is not allowed is said and left out, or raised if the others say `strict`."""
    problems: list[Exception] = []
    setting = settings.load(problems=problems, **given)
    if problems and setting.strict:
        raise problems[0]
    for problem in problems:
        say(told(problem, "it is left out, training goes on"), once=str(problem), silent=setting.silent)
    return setting


def _make_run(setting: Settings, *, resume: str | bool | None) -> Run:
    """The run's object with its store opened; a store that cannot be used gives a run that records nothing, and says so."""
    script = os.path.splitext(os.path.basename(sys.argv[0] if sys.argv and sys.argv[0] else "run"))[0] or "run"
    name = setting.run_name or script
    if setting.mode == "disabled":
        return Run(setting.run_id or new_run_id(), name, setting, None)
    try:
        store = open_store(setting.dir or find_store(), create=True)
        return Run(_run_id(store, setting, resume=resume), name, setting, store)
    except (AilabError, OSError) as problem:
        if setting.strict:
            raise
        say(told(problem, "this run is not recorded, training goes on"), once=str(problem), silent=setting.silent)
        return Run(new_run_id(), name, setting, None)


def _run_id(store: Store, setting: Settings, *, resume: str | bool | None) -> str:
    """The id asked for, or a new one where none is asked for or that one may not be had."""
    if setting.run_id is None:
        return new_run_id()
    try:
        _check_resume(store, check_run_id(setting.run_id), resume=resume)
    except RejectedError as problem:
        if setting.strict:
            raise
        say(told(problem, "a new id is used, training goes on"), once=str(problem), silent=setting.silent)
        return new_run_id()
    return setting.run_id


def _check_resume(store: Store, run_id: str, *, resume: str | bool | None) -> None:
    wish = {True: "must", False: "never", None: "allow", "auto": "allow"}.get(resume, resume)
    one_of("resume", wish, ("allow", "must", "never"))  # type: ignore[arg-type]
    there = bool(store.segments_of_run(run_id)) or bool(_compacted(store, run_id))
    if there and resume is None:
        say(f"run {run_id!r} is there and is taken up again; say resume='allow' if that is meant", once=f"again {run_id}")
    if wish == "must" and not there:
        raise RejectedError(f"resume='must', but there is no run {run_id!r}", key="resume", hint="use resume='allow'")
    if wish == "never" and there:
        raise RejectedError(
            f"resume='never', but run {run_id!r} is there", key="resume", hint="use another id, or resume='allow'"
        )


def _begin(
    run: Run,
    params: dict[str, Any],
    *,
    mother: str | None,
    known: tuple[str, str] | None,
    tags: dict[str, Any],
    description: Any,
) -> None:
    """Write the run's first event: that it started, or that it goes on, and then what was given besides."""
    from . import capture

    assert run.store is not None  # noqa: S101  (a disabled run does not come here)
    assert run._writer is not None  # noqa: S101
    setting, about = run._setting, None if description is None else str(description)
    environment, code = known or (None, None)
    before = run.store.segments_of_run(run.id) if setting.run_id else []
    spans = _compacted(run.store, run.id) if setting.run_id else []
    if not before and not spans:
        run._write(
            events.RunStarted(
                name=run.name, project=run.project, params=params, command=capture.command_line(), seed=run.seed,
                group=setting.group, parent=mother, dataset=setting.dataset_id, environment=environment, code=code,
                wandb_url=run._wandb_url, tags={**values.tags(setting.tags), **tags}, description=about,
            )
        )  # fmt: skip
        return
    run._writer.observe(max(_last_clock(run.store, before), *(span.clock for span in spans), -1))
    run._write(events.RunResumed(command=capture.command_line(), params=params, environment=environment, code=code))
    if setting.group or setting.dataset_id or about or run._wandb_url:
        changed = events.RunChanged(group=setting.group, dataset=setting.dataset_id, description=about, wandb_url=run._wandb_url)
        run._write(changed)
    if tags:
        run._write(events.TagsChanged(set=tags))


def _compacted(store: Store, run_id: str) -> list[Span]:
    """What tables have of a run."""
    from .commits import spans_of_run

    return spans_of_run(store, run_id)


def _last_clock(store: Store, names: list[str]) -> int:
    from .journal import scan

    last = -1
    for name in names:
        try:
            last = max(last, *(line.clock for line in scan(store.segment_path(name), mode="salvage")), -1)
        except FileNotFoundError:  # rewritten as tables since it was listed: its span tells
            continue
    return last


def _seed_among(params: Mapping[str, Any], default: int | None) -> int | None:
    for name in ("seed", "random_state"):
        value = params.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < events.SEED_BITS:
            return value
    return default


def _wandb(run: Run, setting: Settings, params: dict[str, Any], *, start: bool) -> tuple[Any, bool, str | None]:
    """(the W&B run to mirror to, whether we started it, its address); an active W&B run only gives its address."""
    module = sys.modules.get("wandb")
    active = getattr(module, "run", None)
    if not start:
        return None, False, getattr(active, "url", None)
    try:
        import wandb  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise MissingExtraError("wandb=True", extra="wandb") from None
    own = active is None
    there = wandb.init(project=setting.wandb_project or run.project, name=run.name, config=params) if own else active
    return there, own, getattr(there, "url", None)


# -- capture, heartbeat, endings ---------------------------------------------------------------------------------------

_captured: dict[tuple[int, str], tuple[str, str]] = {}
"""What this process captured: {(pid, store): (environment id, code id)}. A forked child captures anew, and so does the first
run in another store, which must have the blobs that its runs refer to."""


def _captured_ids(run: Run, how: str) -> tuple[str, str] | None:
    if how == "run" or "ipykernel" in sys.modules:
        return None
    assert run.store is not None  # noqa: S101  (a disabled run does not come here)
    return _captured.get((os.getpid(), run.store.path))


def _beside(run: Run, task: Callable[..., None], *given: Any) -> None:
    """Do something for a run on a thread of its own, after what is done so already; `finish` waits for it."""
    import threading

    before, owed = run._captured, partial(task, run, *given)

    def work() -> None:
        if before is not None:
            before.join()
        try:
            owed()
        finally:
            run._owed.remove(owed)

    run._owed.append(owed)
    run._captured = threading.Thread(target=work, name="ailab-capture", daemon=True)
    run._captured.start()


def _find_dataset(run: Run, text: str, at: datetime) -> None:
    """Tie the run to the content that its dataset_id meant when it started; a text that names no dataset is a text."""
    with Edge(run):
        with forks.undivided():
            from . import resolution

        assert run.store is not None  # noqa: S101
        try:
            used = resolution.content_of(run.store, text, before=at.replace(tzinfo=None))
        except RejectedError as problem:
            if run._setting.strict:  # nobody catches what is raised here: finish raises it
                run._unresolved = problem
            else:
                run._refuse([problem], outcome="it stays a text, training goes on")
        else:
            if used is not None:
                run._write(used)


def _capture(run: Run, how: str) -> None:
    """Capture environment and code, keep them by their hash, and say so in the run's segment."""
    with Edge(run):
        with forks.undivided():
            import msgspec

            from . import blobs, capture, repository

        assert run.store is not None  # noqa: S101
        encode = msgspec.json.Encoder(order="sorted").encode
        environment = blobs.put_bytes(run.store, encode(capture.capture_environment()))
        run._write(events.EnvironmentCaptured(environment=environment))
        script = sys.argv[0] if sys.argv and os.path.isfile(sys.argv[0]) else None
        folder = os.path.dirname(os.path.abspath(script)) if script else os.getcwd()
        code = repository.capture_code(folder, script)
        code_id = blobs.put_bytes(run.store, encode(code))
        run._write(
            events.CodeCaptured(code=code_id, git_hash=code.git_hash, branch=code.branch, remote=code.remote, dirty=code.dirty)
        )
        if how != "run":
            _captured[os.getpid(), run.store.path] = (environment, code_id)


_prepared_in = 0
_pulse: Pulse | None = None
"""What works beside the training in this process, once a run was begun."""
_exit: dict[str, str | None] = {}
"""How the process ends, once that is known: `status` and `error` of the runs still open then."""


def _register(run: Run) -> None:
    """Note an open run, and see to it that the process's endings reach it."""
    global _prepared_in, _pulse  # noqa: PLW0603  (once a process)
    open_runs[run.id] = run
    with _lock:
        first, again = _prepared_in == 0, _prepared_in != os.getpid()
        if again:
            _prepared_in = os.getpid()
            if _pulse is None:
                from .pulse import Pulse

                _pulse = Pulse()
            with Edge(run):
                _pulse.start()
        if first:
            atexit.register(_at_exit)
            if hasattr(os, "register_at_fork"):
                import logging  # noqa: F401  (it has such hooks too; were it imported beside a fork, half of them would be called)

                os.register_at_fork(before=forks.hold, after_in_parent=forks.release, after_in_child=_after_fork)
            _watch_exceptions()
            _watch_signals()
    assert _pulse is not None  # noqa: S101  (it was made above, at the latest now)
    _pulse.join(run)


def _after_fork() -> None:
    """In a forked child: a lock of its own, since another thread may have held the parent's, and no thread of the parent's."""
    global _lock  # noqa: PLW0603  (its only other user is _register)
    forks.renew()
    _lock = allocate_lock()
    if _pulse is not None:
        _pulse.forked()


def _at_exit() -> None:
    """End the runs that the script left open; an exception has ended them before, in the hook."""
    for run in list(open_runs.values()):
        if run._pid == os.getpid():
            run.finish(_exit.get("status"), error=_exit.get("error"))
    if _pulse is not None and _pulse.pid == os.getpid():
        _pulse.stop()


class _Leaving:
    """Goes with a SystemExit, and dies with it: in some code that has caught it, or, without a caller, as the process ends."""

    __slots__ = ("end",)

    def __init__(self, problem: SystemExit) -> None:
        self.end = end_of(problem)

    def __del__(self) -> None:
        if sys._getframe().f_back is None:
            _exit["status"], _exit["error"] = self.end


def _watch_exceptions() -> None:
    """Learn how the script ends: by an exception, or by `sys.exit` with a code, which nothing tells at exit."""
    before, leave = sys.excepthook, sys.exit

    def exit_(code: Any = None, /) -> Any:
        try:
            leave(code)
        except SystemExit as problem:
            problem.ailab_leaving = _Leaving(problem)  # type: ignore[attr-defined]
            raise

    sys.exit = exit_

    def hook(kind: type[BaseException], problem: BaseException, trace: TracebackType | None) -> None:
        status, error = end_of(problem)
        for run in list(open_runs.values()):
            if run._pid == os.getpid():
                run.finish(status, error=error)
        before(kind, problem, trace)

    sys.excepthook = hook


def _watch_signals() -> None:
    """On SIGTERM write the end of the runs, then do what would have been done without us.

    Where the script has a handler of its own, that handler decides: if it ends the process, the runs are killed; if it
    returns, training goes on. Otherwise the process dies of the signal, as it would have.
    """
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():
        return
    before = signal.getsignal(signal.SIGTERM)
    if before is signal.SIG_IGN or before is None:
        return

    def handler(number: int, frame: Any) -> None:
        if callable(before):
            try:
                before(number, frame)
            except SystemExit as ending:
                ending.ailab_signal = "SIGTERM"  # type: ignore[attr-defined]  # read by end_of
                ending.ailab_leaving = _Leaving(ending)  # type: ignore[attr-defined]
                raise
            return
        for run in list(open_runs.values()):
            if run._pid == os.getpid():
                with Edge(run):
                    run._wait_for_capture(1.0)
                    run._finish("killed", {}, "SIGTERM", final=True)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, handler)


# -- the decorator -----------------------------------------------------------------------------------------------------


def log_run(function: Callable[..., Any] | None = None, **given: Any) -> Any:
    """Record every call of a function as a run; works bare, with arguments, on sync and async functions and generators, nested.

    The bound arguments, defaults included, are the run's parameters. If the function returns a dictionary,
    `final_metrics`, `artifacts`, `dataset_id`, `tags` and `note` in it are recorded; a dictionary of numbers alone is taken
    as the final metrics. The return value is handed on as it is, and so is an exception, after the run has failed.

    Args:
        function: the function, where the decorator is used bare.
        given: what `start_run` takes; `name` is by default the function's name.
    """
    if function is None:
        return lambda inner: log_run(inner, **given)
    import inspect

    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a function of an extension module that does not tell
        signature = inspect.Signature([inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)])
    name = getattr(function, "__name__", type(function).__name__)

    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run:
        bound = _bound(signature, args, kwargs)
        start = {"name": name, **given}
        own = values._as_mapping(given.get("params"))
        if own is None and given.get("params") is not None:
            start.setdefault("config", given["params"])  # no dictionary: start_run says so
        start["params"] = {**(own or {}), **bound}
        if "dataset_id" not in given and isinstance(bound.get("dataset_id"), str):
            start["dataset_id"] = bound["dataset_id"]
        return start_run(**start)

    import functools

    return functools.wraps(function)(_within_run(function, begin))


def _within_run(function: Callable[..., Any], begin: Callable[[tuple[Any, ...], dict[str, Any]], Run]) -> Callable[..., Any]:
    """`function` in the block of a run that `begin` starts at every call; of the same sort as `function`."""
    import inspect

    def call(*args: Any, **kwargs: Any) -> Any:
        with begin(args, kwargs) as run:
            result = function(*args, **kwargs)
            _take_result(run, result)
            return result

    async def call_async(*args: Any, **kwargs: Any) -> Any:
        with begin(args, kwargs) as run:
            result = await function(*args, **kwargs)
            _take_result(run, result)
            return result

    def generate(*args: Any, **kwargs: Any) -> Any:
        with begin(args, kwargs) as run:
            result = yield from function(*args, **kwargs)
            _take_result(run, result)
            return result

    async def generate_async(*args: Any, **kwargs: Any) -> Any:
        with begin(args, kwargs):
            async for value in function(*args, **kwargs):
                yield value

    if inspect.isasyncgenfunction(function):
        return generate_async
    if inspect.isgeneratorfunction(function):
        return generate
    return call_async if inspect.iscoroutinefunction(function) else call


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
    with Edge(run):
        if not {"final_metrics", "artifacts", "dataset_id", "note", "tags"} & set(result):
            if result and all(isinstance(value, int | float) or hasattr(value, "item") for value in result.values()):
                run.finish(final_metrics=result)
            return
        if result.get("dataset_id") is not None:
            text = str(result["dataset_id"])
            run._write(events.RunChanged(dataset=text))
            if run._writer is not None:
                _beside(run, _find_dataset, text, datetime.now(timezone.utc))
        if result.get("tags") is not None:
            run.set_tags(result["tags"])
        if result.get("note") is not None:
            run.note(result["note"])
        if result.get("artifacts") is not None:
            run.log_artifacts(result["artifacts"])
        run.finish(final_metrics=result.get("final_metrics"))


# -- module-level verbs ------------------------------------------------------------------------------------------------


def active_run() -> Run | None:
    """The current run: of this context, else the only one that is open in this process, else None."""
    run = current.get()
    if run is not None and run.status == "running":
        return run
    open_here = [r for r in list(open_runs.values()) if r.status == "running"]
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
    act.__doc__ = (
        method.__doc__ or ""
    ).rstrip() + "\n\n    Acts on the current run; without one it warns once, or raises if `strict`."
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


def finish(exit_code: int | None = None, *, final_metrics: Any = None) -> None:
    """Finish the current run, the W&B way; `final_metrics` as for `Run.finish`."""
    run = active_run()
    if run is not None:
        run.finish(exit_code=exit_code, final_metrics=final_metrics)


def configure(**given: Any) -> None:
    """Set defaults for this process: any setting by name, such as `dir`, `project`, `strict`; they count as arguments.

    Raises:
        SettingError: there is no such setting, or its value is not allowed.
    """
    settings.configure(**given)
