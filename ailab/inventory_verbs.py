"""The verbs for projects, datasets, files and tokens, and those that put things in the trash, name, protect and undo.

Who uses it: `cli`, which adds `VERBS` to its own. What holds: a verb answers with the same Struct as the route of the server;
what is put in the trash is never asked about, because it can be taken out again.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click
from msgspec import UNSET

from .calling import Call, Noun, Verb, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from .actions import Actions
    from .queries import RunDetail

VERBS: list[click.Command] = []
"""In the order of the help."""
LIMIT_MAX = 1000
_RUN = "RUN is an id, a start or an end of one that no other run shares, or `latest`."


def _verb(
    *examples: str, calls: str, of: click.Group | None = None, **attributes: Any
) -> Callable[[Callable[..., None]], click.Command]:
    def add(function: Callable[..., None]) -> click.Command:
        command = click.command(cls=Verb, calls=calls, examples=examples, **attributes)(function)
        VERBS.append(command) if of is None else of.add_command(command)
        return command

    return add


def _noun(*examples: str, calls: str, **attributes: Any) -> Callable[[Callable[..., None]], Any]:
    def add(function: Callable[..., None]) -> click.Command:
        command = click.group(cls=Noun, calls=calls, examples=examples, **attributes)(function)
        VERBS.append(command)
        return command

    return add


def _acting(call: Call, *, create: bool = False) -> AbstractContextManager[Actions]:
    """The actions of the store; it is made where that is wanted and there is none."""
    from contextlib import contextmanager

    from .actions import Actions
    from .capture import user_name

    @contextmanager
    def opened() -> Iterator[Actions]:
        with call.lab(create=create) as lab, Actions(lab, via="cli", by=user_name()) as actions:
            yield actions

    return opened()


def _run(actions: Actions, run: str) -> str:
    from . import naming

    return naming.resolve_run(actions.lab, run)


def _answer_run(call: Call, found: RunDetail) -> None:
    call.answer(found, lambda terminal, screen: terminal.acted(screen, found))


# -- projects ----------------------------------------------------------------------------------------------------------


@_noun(
    "ailab projects", "ailab projects add Iris --description flowers", "ailab projects show iris", calls="inventory.list_projects"
)
@click.option("--q", metavar="TEXT", help="With this text in id, name or description.")
@click.option("--trashed", is_flag=True, help="Those in the trash.")
@click.option("--limit", type=click.IntRange(1, LIMIT_MAX), default=100, show_default=True, help="How many at most.")
@click.pass_context
def projects(ctx: click.Context, q: str | None, trashed: bool, limit: int) -> None:  # noqa: FBT001
    """List projects, or add or show one."""
    if ctx.invoked_subcommand is not None:
        return
    from . import inventory, inventory_drawn

    call = ctx.ensure_object(Call)
    with call.lab() as lab:
        page = inventory.list_projects(lab, q=q, trashed=trashed, limit=limit)
    if page.rows or call.json:
        call.answer(page.rows, lambda _terminal, screen: inventory_drawn.projects(screen, page.rows))
    else:
        say("no projects")


@_verb(
    'ailab projects add "Iris flowers" --description "Fisher\'s"', calls="actions.Actions.create_project", of=projects, name="add"
)
@click.argument("name")
@click.option("--description", help="What it is about.")
@click.pass_obj
def add_project(call: Call, name: str, description: str | None) -> None:
    """Make a project; its id comes from its name."""
    from . import inventory_drawn
    from .bodies import NewProject

    with _acting(call, create=True) as actions:
        found = actions.create_project(NewProject(name=name, description=description))
    call.answer(found, lambda _terminal, screen: inventory_drawn.projects(screen, [found]))


@_verb("ailab projects show iris", calls="inventory.get_project, inventory.list_datasets", of=projects, name="show")
@click.argument("project")
@click.pass_obj
def show_project(call: Call, project: str) -> None:
    """Show one project, by its name or id."""
    from . import inventory, inventory_drawn
    from .inventory import DatasetFilter

    with call.lab() as lab:
        found = inventory.get_project(lab, inventory.find_project(lab, project))
        rows = inventory.list_datasets(lab, DatasetFilter(project_id=found.project_id)).rows
    call.answer(found, lambda _terminal, screen: inventory_drawn.project(screen, found, rows))


# -- datasets ----------------------------------------------------------------------------------------------------------


@_noun(
    "ailab datasets --project iris", "ailab datasets add iris.csv --tag gold", "ailab datasets show iris@v2",
    "ailab datasets preview iris --limit 5", calls="inventory.list_datasets",
)  # fmt: skip
@click.option("--project", help="Of this project: its name or id.")
@click.option("--q", metavar="TEXT", help="With this text in name, description, file, tags or metadata.")
@click.option("--tag", metavar="KEY[=VALUE]", help="With this tag.")
@click.option("--all-versions", is_flag=True, help="Older versions too.")
@click.option("--trashed", is_flag=True, help="What is in the trash.")
@click.option("--limit", type=click.IntRange(1, LIMIT_MAX), default=100, show_default=True, help="How many at most.")
@click.pass_context
def datasets(ctx: click.Context, /, project: str | None, **given: Any) -> None:
    """List datasets, or add, show or get one."""
    if ctx.invoked_subcommand is not None:
        return
    from . import inventory, inventory_drawn
    from .inventory import DatasetFilter

    call = ctx.ensure_object(Call)
    with call.lab() as lab:
        page = inventory.list_datasets(lab, DatasetFilter(project_id=project, **given))
    if page.rows or call.json:
        call.answer(page.rows, lambda _terminal, screen: inventory_drawn.datasets(screen, page.rows))
    else:
        say("no datasets")


@_verb(
    "ailab datasets add iris.csv", "ailab datasets add new.csv --name iris --tag gold --project iris --validate-against iris@v1",
    calls="datasets.examine, actions.Actions.add_dataset", of=datasets, name="add",
)  # fmt: skip
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--name", help="The dataset's name. [default: the file's, without its ending]")
@click.option("--description", help="What it is.")
@click.option("--tag", "tags", multiple=True, metavar="KEY[=VALUE]", help="A tag; may be given again.")
@click.option("--meta", "metadata", multiple=True, metavar="KEY=VALUE", help="Something else about it; may be given again.")
@click.option("--project", help="The project that it belongs to.")
@click.option(
    "--format", "file_format", type=click.Choice(["csv", "json", "ndjson", "parquet"]), help="Where its name does not tell."
)
@click.option("--encoding", help="Of text that is neither UTF-8 nor marked.")
@click.option("--validate-against", metavar="DATASET", help="A version whose columns it must have.")
@click.pass_obj
def add_dataset(call: Call, /, file: str, **given: Any) -> None:
    """Add a file: the next version of its dataset, unless the dataset has that content."""
    from . import blobs, datasets, inventory, inventory_drawn
    from .bodies import DatasetFields

    contents = datasets.examine(file, os.path.basename(file), format=given["file_format"], encoding=given["encoding"])
    fields = DatasetFields(
        name=given["name"] or UNSET, description=given["description"] or UNSET, tags=list(given["tags"]) or UNSET,
        metadata=_pairs(given["metadata"]) or UNSET, project_id=given["project"] or UNSET,
    )  # fmt: skip
    with _acting(call, create=True) as actions:
        if given["validate_against"]:
            inventory.check_fits(inventory.get_dataset(actions.lab, given["validate_against"]), contents)
        incoming = blobs.Incoming(actions.lab.store)
        try:
            incoming.fill(file)
            found, is_new = actions.add_dataset(incoming, contents, file=file, fields=fields)
        finally:
            incoming.discard()
    call.answer(found, lambda _terminal, screen: inventory_drawn.dataset(screen, found))
    if not is_new:
        say(f"{found.name}@v{found.version} has this content already")


def _pairs(texts: tuple[str, ...]) -> dict[str, Any]:
    pairs = (text.partition("=") for text in texts)
    return {key: value if equals else None for key, equals, value in pairs}


def _of_dataset(name: str, *examples: str, calls: str) -> Callable[[Callable[..., None]], click.Command]:
    def add(function: Callable[..., None]) -> click.Command:
        return _verb(*examples, calls=calls, of=datasets, name=name)(click.argument("dataset")(click.pass_obj(function)))

    return add


@_of_dataset("show", "ailab datasets show iris", "ailab datasets show iris@v1 --json", calls="inventory.get_dataset")
def show_dataset(call: Call, dataset: str) -> None:
    """Show a version: its columns, and how they differ from the version before.

    DATASET is NAME for the newest, NAME@v2, NAME@sha256:… or an id.
    """
    from . import inventory, inventory_drawn

    with call.lab() as lab:
        found = inventory.get_dataset(lab, dataset)
    call.answer(found, lambda _terminal, screen: inventory_drawn.dataset(screen, found))


@_of_dataset("versions", "ailab datasets versions iris", calls="inventory.list_versions")
def dataset_versions(call: Call, dataset: str) -> None:
    """List all versions of a dataset, newest first."""
    from . import inventory, inventory_drawn

    with call.lab() as lab:
        rows = inventory.list_versions(lab, dataset)
    call.answer(rows, lambda _terminal, screen: inventory_drawn.datasets(screen, rows))


@_of_dataset("preview", "ailab datasets preview iris@v1 --limit 5", calls="inventory.preview_dataset")
@click.option("--limit", type=click.IntRange(1, 100), default=10, show_default=True, help="How many rows at most.")
def preview_dataset(call: Call, dataset: str, limit: int) -> None:
    """Show the first rows of a version."""
    from . import inventory, inventory_drawn

    with call.lab() as lab:
        found = inventory.preview_dataset(lab, dataset, limit=limit)
    call.answer(found, lambda _terminal, screen: inventory_drawn.preview(screen, found))
    if found.total > found.showing:
        say(f"{found.showing:,} of {found.total:,} rows")


@_of_dataset("get", "ailab datasets get iris@v1 -o iris.csv", calls="inventory.open_dataset")
@click.option("-o", "--output", metavar="FILE", help="Where to write it. [default: its own name, here; - for standard output]")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def get_dataset(call: Call, dataset: str, output: str | None, *, force: bool) -> None:
    """Write the bytes of a version to a file."""
    from . import inventory

    with call.lab() as lab:
        found, content = inventory.open_dataset(lab, dataset)
        with content:
            _write(content, output or os.path.basename(found.file) or f"{found.name}.{found.format}", force=force)


def _write(content: Any, path: str, *, force: bool) -> None:
    import shutil

    if path == "-":
        shutil.copyfileobj(content, sys.stdout.buffer)
        return
    try:
        with open(path, "wb" if force else "xb") as file:
            shutil.copyfileobj(content, file)
    except FileExistsError:
        raise click.UsageError(f"{path} is there; --force replaces it, -o FILE names another") from None
    say(f"written to {path}")


# -- files of runs -----------------------------------------------------------------------------------------------------


@_verb(
    "ailab artifacts latest", "ailab artifacts latest --add model.joblib", "ailab artifacts latest --get model.joblib",
    calls="queries.list_artifacts; with --add actions.Actions.add_artifact, with --get queries.open_artifact",
)  # fmt: skip
@click.argument("run")
@click.option("--add", "added", metavar="FILE", help="Add this file, or what is in this folder.")
@click.option("--path", help="Its place in the run. [default: its name]")
@click.option("--kind", help="Files of this kind; with --add what it is. [default: as its name tells]")
@click.option("--reference", is_flag=True, help="With --add: note size, SHA-256 and where it lies; keep no bytes.")
@click.option("--get", "wanted", metavar="PATH", help="Write this file to the working folder.")
@click.option("-o", "--output", metavar="FILE", help="With --get: where to; - for standard output.")
@click.option("--force", is_flag=True, help="With --get: replace a file that is there.")
@click.pass_obj
def artifacts(call: Call, /, run: str, added: str | None, wanted: str | None, **given: Any) -> None:
    """Show the files of a run, add or get one."""
    from . import inventory_drawn, naming, queries

    if added is not None:
        _add_artifact(call, run, added, **given)
        return
    with call.lab() as lab:
        run_id = naming.resolve_run(lab, run)
        if wanted is not None:
            found, content = queries.open_artifact(lab, run_id, wanted)
            with content:
                _write(content, given["output"] or found.name, force=given["force"])
            return
        files = [file for file in queries.list_artifacts(lab, run_id) if given["kind"] in {None, file.kind}]
    if files or call.json:
        call.answer(files, lambda _terminal, screen: inventory_drawn.tree(screen, files))
    else:
        say("no files")


def _add_artifact(call: Call, run: str, file: str, *, path: str | None, kind: str | None, reference: bool, **_: Any) -> None:
    from . import artifacts
    from .errors import RejectedError

    with _acting(call) as actions:
        run_id = _run(actions, run)
        place = path or os.path.basename(os.path.abspath(file))
        said = artifacts.keep(actions.lab.store, file, kind=kind, name=place, reference=reference)
        added, doubts = [], []
        for one in said:
            doubts.append(one) if isinstance(one, RejectedError) else added.append(one)
        found = actions.add_kept(run_id, added, kind=kind)
    call.answer(found if os.path.isdir(file) else found[0], lambda terminal, screen: terminal.artifacts(screen, found))
    for doubt in doubts:
        say(f"{doubt.message}\nhint: {doubt.hint}" if doubt.hint else doubt.message)


# -- trash, protection, names ------------------------------------------------------------------------------------------


def _what(function: Callable[..., None]) -> Callable[..., None]:
    """The options that say what a verb is about: a run, a file of it, a project or a dataset."""
    for option in (
        click.option("--dataset", metavar="DATASET", help="A version of a dataset: NAME@v2, or NAME for the newest."),
        click.option("--project", metavar="PROJECT", help="A project: its name or id."),
        click.option("--artifact", metavar="PATH", help="A file of the run."),
        click.argument("run", required=False),
    ):
        function = option(function)
    return function


def _put(call: Call, *, on: bool, run: str | None, artifact: str | None, project: str | None, dataset: str | None) -> None:
    from . import inventory, inventory_drawn

    if sum(given is not None for given in (run, project, dataset)) != 1 or (artifact is not None and run is None):
        raise click.UsageError("one thing is wanted: RUN, RUN --artifact PATH, --project PROJECT or --dataset DATASET")
    with _acting(call) as actions:
        found: Any
        if project is not None:
            project_id = inventory.find_project(actions.lab, project)
            found = actions.trash_project(project_id) if on else actions.restore_project(project_id)
            call.answer(found, lambda _terminal, screen: inventory_drawn.projects(screen, [found]))
        elif dataset is not None:
            found = actions.trash_dataset(dataset, on=on)
            call.answer(found, lambda _terminal, screen: inventory_drawn.datasets(screen, [found]))
        elif artifact is not None:
            found = actions.trash_artifact(_run(actions, str(run)), artifact, on=on)
            call.answer(found, lambda terminal, screen: terminal.artifacts(screen, [found]))
        else:
            wanted = str(run)
            found = actions.trash_run(_run(actions, wanted)) if on else actions.restore_run(_trashed(actions, wanted))
            _answer_run(call, found)
        is_new = actions.appended.total() > 0
    if on:
        named = _named_again(found, run=run, artifact=artifact, project=project, dataset=dataset)
        say(
            f"in the trash; `ailab restore {named}` takes it out again"
            if is_new
            else "it was in the trash before; nothing is changed"
        )
    else:
        say("out of the trash" if is_new else "it is not in the trash; nothing is changed")


def _trashed(actions: Actions, run: str) -> str:
    from . import naming

    return naming.resolve_trashed_run(actions.lab, run)


def _named_again(found: Any, *, run: str | None, artifact: str | None, project: str | None, dataset: str | None) -> str:
    """The words that name to `ailab restore` what was put in the trash; `latest` would mean another run then."""
    import shlex

    if project is not None:
        return f"--project {shlex.quote(found.project_id)}"
    if dataset is not None:
        return f"--dataset {shlex.quote(f'{found.name}@v{found.version}')}"
    return f"{run} --artifact {shlex.quote(artifact)}" if artifact is not None else str(found.run_id)


@_verb("ailab trash latest", "ailab trash latest --artifact model.joblib", "ailab trash --project iris",
       "ailab trash --dataset iris@v1",
       calls="actions.Actions.trash_run, trash_artifact, trash_project, trash_dataset")  # fmt: skip
@_what
@click.pass_obj
def trash(call: Call, /, **what: Any) -> None:
    """Put something in the trash; nothing is lost.

    RUN is an id, a start or an end of one that no other run shares, or `latest`: the newest that is not there yet.
    """
    _put(call, on=True, **what)


@_verb("ailab restore latest", "ailab restore 9y3kf2ab", "ailab restore --project iris",
       calls="actions.Actions.restore_run, trash_artifact, restore_project, trash_dataset")  # fmt: skip
@_what
@click.pass_obj
def restore(call: Call, /, **what: Any) -> None:
    """Take something out of the trash.

    RUN is an id, a start or an end of one that no other run shares, or `latest`: the one that was put there last.
    """
    _put(call, on=False, **what)


@_verb("ailab protect latest", "ailab protect latest --off", calls="actions.Actions.protect_run")
@click.argument("run")
@click.option("--off", is_flag=True, help="Take the protection back.")
@click.pass_obj
def protect(call: Call, run: str, off: bool) -> None:  # noqa: FBT001
    """Keep a run, and its project, out of the trash."""
    with _acting(call) as actions:
        found = actions.protect_run(_run(actions, run), on=not off)
        is_new = actions.appended.total() > 0
    _answer_run(call, found)
    if is_new:
        say("not protected any more" if off else "protected")
    else:
        say(f"it was {'not ' if off else ''}protected before; nothing is changed")


@_verb('ailab rename latest "svm, scaled"', 'ailab rename --project iris "Iris flowers"',
       'ailab rename --dataset iris "iris-raw"', calls="actions.Actions.rename_run, change_project, change_dataset")  # fmt: skip
@click.argument("words", nargs=-1, required=True, metavar="[RUN] NAME")
@click.option("--project", metavar="PROJECT", help="Rename this project; its id stays.")
@click.option("--dataset", metavar="DATASET", help="Rename this dataset, all its versions.")
@click.pass_obj
def rename(call: Call, words: tuple[str, ...], project: str | None, dataset: str | None) -> None:
    """Give a run, project or dataset a new name."""
    from . import inventory, inventory_drawn
    from .bodies import DatasetFields, ProjectChange

    of_run = project is None and dataset is None
    if len(words) != 1 + of_run or (project is not None and dataset is not None):
        raise click.UsageError("RUN NAME, --project PROJECT NAME or --dataset DATASET NAME is wanted; a name of words in quotes")
    found: Any
    with _acting(call) as actions:
        if project is not None:
            found = actions.change_project(inventory.find_project(actions.lab, project), ProjectChange(name=words[0]))
            call.answer(found, lambda _terminal, screen: inventory_drawn.projects(screen, [found]))
        elif dataset is not None:
            found = actions.change_dataset(dataset, DatasetFields(name=words[0]))
            call.answer(found, lambda _terminal, screen: inventory_drawn.datasets(screen, [found]))
        else:
            found = actions.rename_run(_run(actions, words[0]), words[1])
            _answer_run(call, found)


@_verb("ailab undo", "ailab undo 0badcafe:3", calls="actions.Actions.undo")
@click.argument("event", required=False)
@click.pass_obj
def undo(call: Call, event: str | None) -> None:
    """Take a change back: what it changed reads as before.

    EVENT is what `ailab changes` lists; without it the newest change of all, unless that is somebody else's. An undoing can be
    undone.
    """
    from . import inventory_drawn, naming

    with _acting(call) as actions:
        event = _newest_change(actions) if event is None else naming.resolve_change(actions.lab, event)
        rows = actions.undo(event)
    call.answer(rows, lambda _terminal, screen: inventory_drawn.changes(screen, rows))


def _newest_change(actions: Actions) -> str:
    """The event of the newest change; a change of somebody else is not taken back by the way."""
    from . import naming, queries
    from .capture import user_name
    from .errors import ConflictError, NotFoundError

    rows = queries.list_changes(actions.lab, limit=1).rows
    if not rows:
        raise NotFoundError("change", naming.LATEST, hint="nothing was changed")
    newest: queries.Change = rows[0]
    if newest.by not in {None, user_name()}:
        short = naming.short_event(newest.event)
        hint = f"ailab undo {short} takes it back all the same; `ailab changes` lists others"
        raise ConflictError(f"the newest change is by {newest.by!r}", where="event", nearest=[newest.event], hint=hint)
    return newest.event


@_verb("ailab sync http://lab:8000", "ailab sync https://lab.example", calls="remote.sync")
@click.argument("url", required=False)
@click.pass_obj
def sync(call: Call, url: str | None) -> None:
    """Send a server what it lacks of this store.

    URL is the server's address, by default AILAB_API_URL. Segments go byte for byte, files by their SHA-256; the server is asked
    what it has, that is not sent again, and both sides compare the whole. AILAB_TOKEN is shown where it is set.
    """
    import tempfile

    from . import inventory_drawn, remote, settings
    from .checkup import store_path
    from .store import open_store
    from .views import restore

    setting = settings.load(dir=call.dir)
    address = url or setting.api_url
    if address is None:
        raise click.UsageError("no URL is given, and AILAB_API_URL is not set")
    store = open_store(store_path(call.dir), create=False)
    with tempfile.TemporaryDirectory() as folder:
        others = restore.write_segments(store, folder)
        found = remote.sync(store, address, setting.token, others=others)
    call.answer(found, lambda _terminal, screen: inventory_drawn.shipped(screen, found))
    if found.refused:
        raise click.exceptions.Exit(1)


# -- tokens ------------------------------------------------------------------------------------------------------------


@_noun("ailab token", "ailab token create --role writer --name ci", "ailab token revoke ci", calls="inventory.list_tokens")
@click.pass_context
def token(ctx: click.Context) -> None:
    """List access tokens, or create or revoke one."""
    if ctx.invoked_subcommand is not None:
        return
    from . import inventory, inventory_drawn

    call = ctx.ensure_object(Call)
    with call.lab() as lab:
        rows = inventory.list_tokens(lab)
    if rows or call.json:
        call.answer(rows, lambda _terminal, screen: inventory_drawn.tokens(screen, rows))
    else:
        say("no tokens; on loopback none is needed")


@_verb("ailab token create --role writer --name ci", "ailab token create --role reader --project iris",
       calls="actions.Actions.create_token", of=token, name="create")  # fmt: skip
@click.option("--role", type=click.Choice(["reader", "writer", "admin"]), required=True, help="What it may.")
@click.option("--name", default="", help="Who has it, no two at once; changes made with it carry this name.")
@click.option("--project", help="The only project that it reaches.")
@click.pass_obj
def create_token(call: Call, role: str, name: str, project: str | None) -> None:
    """Make an access token. It is shown this once, and kept nowhere."""
    from . import inventory_drawn
    from .bodies import NewToken

    with _acting(call, create=True) as actions:
        made = actions.create_token(NewToken(role=role, name=name, project_id=project))
    call.answer(made, lambda _terminal, screen: inventory_drawn.created_token(screen, made))


@_verb("ailab token revoke ci", calls="actions.Actions.revoke_token", of=token, name="revoke")
@click.argument("name", metavar="TOKEN")
@click.pass_obj
def revoke_token(call: Call, name: str) -> None:
    """Let an access token count no more, for good; TOKEN is its name, or its id, which `ailab token` lists."""
    from . import inventory_drawn

    with _acting(call) as actions:
        found = actions.revoke_token(name)
        is_new = actions.appended.total() > 0
    call.answer(found, lambda _terminal, screen: inventory_drawn.tokens(screen, [found]))
    say("revoked" if is_new else "it was revoked before; nothing is changed")
