"""What every verb of the command line stands in: its options, its answer, and errors as words and exit statuses.

Who uses it: `cli` and `upkeep`, whose functions are the verbs. What holds: data goes to standard output, everything else to
standard error; an error that a person can mend is one line `error: …` and one line `hint: …`, with `--json` one problem object of
the same fields as the server's; a closed pipe ends silently.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
import msgspec

from . import problems
from .errors import AilabError
from .problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .terminal import Screen
    from .views import Lab

EXIT_INTERRUPTED = 130
EXIT_PIPE = 141


# -- problems ----------------------------------------------------------------------------------------------------------


def problem_of(error: Exception, *, verb: str) -> Problem:
    """An error as the object that `--json` prints."""
    instance = f"urn:ailab:cli:{verb}"
    found = problems.problem_of(error, error.message, instance=instance) if isinstance(error, AilabError) else None
    if found is not None:
        return found
    message, hint = _words(error)
    slug, title, status = _USAGE if isinstance(error, click.UsageError) else _UNFORESEEN
    return Problem(type=problems.type_of(slug), title=title, status=status, detail=message, instance=instance, hint=hint or None)


_USAGE = ("usage", "the command line does not parse", 400)
_UNFORESEEN = ("internal-server-error", "internal server error", 500)


def _words(error: Exception) -> tuple[str, str]:
    """(what happened, what to do next) of an error."""
    if isinstance(error, AilabError):
        return error.message, error.hint
    if isinstance(error, click.UsageError):
        ctx = error.ctx
        return error.format_message(), f"{ctx.command_path} --help" if ctx is not None else ""
    if isinstance(error, OSError):
        refused = error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}
        hint = (
            "see who may do that there, and whether the disk is read-only; a copy of a store is a store as well"
            if refused
            else ""
        )
        return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""), hint
    return str(error), ""


# -- the frame that every verb stands in -------------------------------------------------------------------------------


class Call:
    """What a command line asks for besides its verb's own options.

    Attributes:
        dir: the store, or None for the one that `start_run` would find.
        json: whether the answer is to be JSON.
    """

    def __init__(self) -> None:
        self.dir: str | None = None
        self.json = False

    @contextmanager
    def lab(self, *, create: bool = False) -> Iterator[Lab]:
        """The catalogue of the store, up to date, made where that is wanted; what could not be read is said in one line."""
        from .views import open_lab

        lab = open_lab(self.dir, create=create)
        try:
            if lab.problems:
                say(f"note: {counted(len(lab.problems), 'place')} in this store could not be read; `ailab doctor` says where")
            yield lab
        finally:
            lab.close()

    def answer(self, value: Any, draw: Callable[[Any, Screen], None] | None = None) -> None:
        """Print an answer: as JSON where that is wanted, else drawn by `draw(terminal, screen)`."""
        if self.json or draw is None:
            click.echo(msgspec.json.encode(value))
            return
        from . import terminal

        draw(terminal, terminal.Screen())


class Verb(click.Command):
    """A verb: has `--dir` and `--json` beside its own options, and says in its help what it calls.

    Args:
        calls: the query or action behind it.
        examples: command lines that work.
    """

    def __init__(self, *args: Any, calls: str, examples: Sequence[str], **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.calls = calls
        self.examples = examples
        self.params.append(dir_option())
        self.params.append(
            click.Option(
                ["--json", "as_json"], is_flag=True, expose_value=False, callback=_keep_json, help="Print the answer as JSON."
            )
        )

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, and what the verb calls."""
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"  {example}\n")
        formatter.write(f"\ncalls: {self.calls}\n")
        super().format_epilog(ctx, formatter)


class Noun(Verb, click.Group):
    """A verb with verbs of its own: without one of them it lists what there is.

    Args:
        calls: the query behind the list.
        examples: command lines that work.
    """

    command_class = Verb

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, invoke_without_command=True, no_args_is_help=False, subcommand_metavar="[VERB ...]", **attributes)


class Verbs(click.Group):
    """All verbs, in the order of this file; the one place where errors become words and exit statuses."""

    command_class = Verb

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all verbs."""
        del ctx
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Note whether JSON is wanted before anything can go wrong; make every text one that UTF-8 can hold."""
        ctx.meta["ailab.json"] = "--json" in args
        clean = [arg if before == "--dir" else _valid(arg) for before, arg in zip(["", *args], args, strict=False)]
        return super().parse_args(ctx, clean)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; end with 1 after an error, 2 where the command line is wrong, 130 after Ctrl-C."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(EXIT_PIPE)
        except KeyboardInterrupt:
            say("")
            ctx.exit(EXIT_INTERRUPTED)
        except click.UsageError as error:
            if not ctx.meta["ailab.json"]:
                raise
            _complain(ctx, error)
            ctx.exit(2)
        except (AilabError, OSError) as error:
            _complain(ctx, error)
            ctx.exit(1)
        return result


def _complain(ctx: click.Context, error: Exception) -> None:
    if ctx.meta["ailab.json"]:
        click.echo(msgspec.json.encode(problem_of(error, verb=ctx.invoked_subcommand or "")), err=True)
        return
    from .terminal import plain

    message, hint = _words(error)
    say(plain(f"error: {message}" + (f"\nhint: {hint}" if hint else ""), lines=True))


def _keep_dir(ctx: click.Context, _option: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(Call).dir = value


def _keep_json(ctx: click.Context, _option: click.Parameter, value: bool) -> None:  # noqa: FBT001  (click hands it over so)
    ctx.ensure_object(Call).json = value


def dir_option() -> click.Option:
    """The option that names the store."""
    return click.Option(
        ["--dir"],
        metavar="STORE",
        expose_value=False,
        callback=_keep_dir,
        help="The store. [default: AILAB_DIR, else the nearest events/, else ./events]",
    )


def say(text: str) -> None:
    """Print a line on standard error."""
    click.echo(text, err=True)


def _valid(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def counted(number: int, noun: str) -> str:
    """A number with its noun, such as `2 runs`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
