"""The code of a run: commit, uncommitted changes and small untracked files, redacted; or the script where there is no git.

Called by the recorder on a background thread. Nothing here writes to disk, takes a lock in a repository, opens a
connection or raises into training: what could not be read is a short sentence in `problems`.

Bounds: a diff 4 MiB, untracked files 100 with 256 KiB each and 2 MiB together, a call of git 10 s. git starts no pager,
prompt, file system monitor, hook, external diff or textconv and fetches nothing. The clean filters of a repository
(git-lfs) do run, as in `git status`: without them contents cannot be compared.
"""

from __future__ import annotations

import os
import sys
from _thread import allocate_lock
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from .forks import undivided
from .redaction import environment_secrets, redact_with, sentence, valid_text, without_credentials, word_list, word_set

if TYPE_CHECKING:
    import subprocess
    from types import ModuleType

DIFF_BYTES = 4 * 1024 * 1024
FILES = 100
FILE_BYTES = 256 * 1024
FILES_BYTES = 2 * 1024 * 1024
GIT_SECONDS = 10.0


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """The code that ran: a commit, what differs from it (`diff`), and the text of small untracked files (`files`).

    `dirty` says that a tracked file differs from the commit. `script` is relative to the top of the repository where it
    lies in it, else absolute. Without a repository `files` holds the script alone. Names are text: bytes that are not
    UTF-8 show as U+FFFD.
    """

    git_hash: str | None = None
    branch: str | None = None
    remote: str | None = None
    dirty: bool = False
    diff: str = ""
    files: dict[str, str] = {}
    script: str | None = None
    problems: list[str] = []


# -- the code ----------------------------------------------------------------------------------------------------------

_SECRET_FILES = word_set("""
    .env .envrc .netrc _netrc .npmrc .pypirc .pgpass .my.cnf .htpasswd .git-credentials .dockercfg .vault-token
    .token token token.json kubeconfig .s3cfg .boto .condarc id_rsa id_dsa id_ecdsa id_ed25519 secret secrets
    terraform.tfstate
""")
_SECRET_ENDINGS = word_list("""
    .env .pem .key .p12 .pfx .jks .keystore .kdbx .ppk .gpg .keytab .tfvars .secret .secrets .ovpn
    .mobileprovision
""")
_SECRET_STARTS = word_list(".env. credentials .credentials secrets. secret. client_secret service_account service-account")
_SECRET_FOLDERS = word_set(".ssh .gnupg .aws .azure .kube .docker .secrets secrets")
_SOURCE_ENDINGS = word_list("""
    .py .pyi .pyx .pxd .c .h .cc .cpp .hpp .cu .cuh .rs .go .java .kt .scala .js .jsx .mjs .ts .tsx .jl .r .m .swift
    .cs .lua
""")
_FIRST_ENDINGS = _SOURCE_ENDINGS + word_list(".sh .yaml .yml .toml .json .cfg .ini .txt .md .sql .ipynb")

_GIT_OPTIONS = (
    "--no-pager", "-c", "core.fsmonitor=false", "-c", "core.quotePath=true", "-c", "diff.relative=false",
    # GIT_OPTIONAL_LOCKS=0 does not keep `git diff` from writing the index (git 2.39); this does.
    "-c", "diff.autoRefreshIndex=false",
)  # fmt: skip
_GIT_ENVIRONMENT = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "",  # a partial clone would fetch what is missing; before git 2.44 this is what stops it
}

_importing = allocate_lock()
"""Held while GitPython is imported; a forked child has one of its own."""


class _Answer(NamedTuple):
    """What a call of git gave: `output` at most as long as asked for, `size_bytes` what there was in all."""

    status: int
    output: bytes
    size_bytes: int
    error: str
    late: bool


class _Status(NamedTuple):
    """What `git status` says: the commit, the branch, and names relative to the top of the repository."""

    commit: str | None
    branch: str | None
    changed: list[str]
    untracked: list[str]
    submodules: list[str]


class _GitFailure(Exception):  # noqa: N818
    """A call of git that gave no answer; its text is the reason, for `problems`."""


def capture_code(folder: str, script: str | None) -> Code:
    """Return commit, uncommitted changes and untracked files of the repository that `folder` lies in.

    At most six calls of git, the one that GitPython makes at import included. Outside a repository, and where git
    cannot be asked, the text of `script` is what there is.
    """
    problems: list[str] = []
    place = os.path.abspath(script) if script else None
    try:
        return _repository_code(_Git(os.path.abspath(folder)), place, problems)
    except _GitFailure as failure:
        problems.append(sentence(str(failure)))
    except (OSError, ValueError) as error:
        problems.append(sentence(f"git: {type(error).__name__}: {error}"))
    files = _script_text(place, valid_text(place), problems) if place else {}
    return Code(files=files, script=place and valid_text(place), problems=problems)


class _Git:
    """git in one folder: no prompt, no lock, no program that the repository names, and a limit of time for each call."""

    def __init__(self, folder: str, *, seconds: float = GIT_SECONDS) -> None:
        self.folder = folder
        self.seconds = seconds
        self._git = _git_module()

    def ask(self, *arguments: str, limit: int = 1024 * 1024) -> _Answer:
        """Run git and keep at most `limit` bytes of what it says; what is beyond is counted."""
        command = ["git", *_GIT_OPTIONS, "-C", self.folder, *arguments]
        try:
            with undivided():  # a child would keep the write ends of its pipes open, and `execute` wait for their end
                running = self._git.Git().execute(command, as_process=True, env=_GIT_ENVIRONMENT, shell=False)
        except self._git.GitCommandNotFound as error:
            raise _GitFailure("git is not installed") from error
        return _listen(running.proc, limit, self.seconds)  # `running` would stop it when it is collected

    def tell(self, *arguments: str, limit: int = 1024 * 1024) -> bytes:
        """Return what git says, or raise `_GitFailure` with a reason that a person can act on."""
        answer = self.ask(*arguments, limit=limit)
        if answer.status == 0 and not answer.late:
            return answer.output
        raise self.failure(answer, arguments[0])

    def failure(self, answer: _Answer, verb: str) -> _GitFailure:
        """Return why there is no answer."""
        if answer.late:
            return _GitFailure(f"git {verb} took longer than {self.seconds:g} s")
        if "dubious ownership" in answer.error or "safe.directory" in answer.error:
            return _GitFailure(f"git refuses a repository of another user (safe.directory): {self.folder}")
        if "not a git repository" in answer.error:
            return _GitFailure(f"not in a git repository: {self.folder}")
        return _GitFailure(f"git {verb} failed: {answer.error.partition(chr(10))[0] or answer.status}")


def _git_module() -> ModuleType:
    """Import GitPython. Where there is no git binary its import raises unless GIT_PYTHON_REFRESH says quiet."""
    with _importing, undivided():
        before = os.environ.get("GIT_PYTHON_REFRESH")
        if "git" not in sys.modules:
            os.environ["GIT_PYTHON_REFRESH"] = "quiet"
        try:
            import git
        except ImportError as error:
            raise _GitFailure(f"GitPython cannot be imported: {error}") from error
        finally:
            if before is None:
                os.environ.pop("GIT_PYTHON_REFRESH", None)
            else:
                os.environ["GIT_PYTHON_REFRESH"] = before
    if not hasattr(git, "GitCommandNotFound"):
        raise _GitFailure(f"the module named git is not GitPython: {getattr(git, '__file__', None)}")
    return git


def _listen(process: subprocess.Popen[bytes], limit: int, seconds: float) -> _Answer:
    """Read what a process says until it ends or its time is over; no thread is needed, and none could start at exit."""
    import selectors
    import time

    out, err = process.stdout, process.stderr
    if out is None or err is None:
        raise _GitFailure("git has no pipes")
    deadline, late, size = time.monotonic() + seconds, False, 0
    kept = {out.fileno(): bytearray(), err.fileno(): bytearray()}
    with selectors.DefaultSelector() as selector:
        for descriptor in kept:
            selector.register(descriptor, selectors.EVENT_READ)
        # A program that git started may hold stderr open for longer, so the end of stdout is the end.
        while out.fileno() in selector.get_map() and not late:
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            late = not ready
            for key, _ in ready:
                chunk = os.read(key.fd, 262144)
                size += len(chunk) if key.fd == out.fileno() else 0
                room = (limit if key.fd == out.fileno() else 16384) - len(kept[key.fd])
                kept[key.fd] += chunk[: max(0, room)]
                if not chunk:
                    selector.unregister(key.fd)
        late = _ended_late(process, deadline - time.monotonic()) or late
        if err.fileno() in selector.get_map() and any(key.fd == err.fileno() for key, _ in selector.select(0)):
            kept[err.fileno()] += os.read(err.fileno(), 16384)
    output, said = (bytes(kept[pipe.fileno()]) for pipe in (out, err))
    return _Answer(process.returncode or 0, output, size, said.decode("utf-8", "replace").strip(), late)


def _ended_late(process: subprocess.Popen[bytes], seconds: float) -> bool:
    from subprocess import TimeoutExpired

    try:
        process.wait(max(0.0, seconds))
    except TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


def _repository_code(git: _Git, script: str | None, problems: list[str]) -> Code:
    answer = git.ask("rev-parse", "--is-inside-work-tree", "--show-toplevel")
    inside, _, top = answer.output.partition(b"\n")
    if inside == b"false":
        return _bare_code(git, script, problems)
    if answer.status != 0 or answer.late:
        raise git.failure(answer, "rev-parse")
    root = os.path.normpath(os.fsdecode(top.removesuffix(b"\n")))
    status = _status(git, problems)
    files = _untracked_texts(root, status.untracked, problems)
    name = _name_in(root, script) if script else None
    if script and name and not _is_known(git, status, script, name):
        files |= _script_text(script, name, problems)
    return Code(
        git_hash=status.commit,
        branch=status.branch,
        remote=_remote(git, status.branch, problems),
        dirty=bool(status.changed),
        diff=_diff(git, status, problems),
        files=dict(sorted(files.items())),
        script=name,
        problems=problems,
    )


def _is_known(git: _Git, status: _Status, script: str, name: str) -> bool:
    """Say whether commit, diff or untracked files account for the script: not one that is ignored or lies elsewhere."""
    if name == valid_text(script):
        return False
    if name in map(valid_text, (*status.untracked, *status.changed)):
        return True
    return git.ask("ls-files", "--error-unmatch", "--", script).status == 0


def _bare_code(git: _Git, script: str | None, problems: list[str]) -> Code:
    """Describe a repository without a working tree (or the inside of a .git folder): a commit, and nothing to compare."""
    problems.append(sentence(f"no working tree here: {git.folder}"))
    answer = git.ask("rev-parse", "HEAD", "--abbrev-ref", "HEAD")
    commit, _, branch = answer.output.decode("utf-8", "replace").strip().partition("\n")
    known = answer.status == 0
    name = branch if known and branch != "HEAD" else None
    return Code(
        git_hash=commit if known else None,
        branch=name,
        remote=_remote(git, name, problems),
        files=_script_text(script, valid_text(script), problems) if script else {},
        script=script and valid_text(script),
        problems=problems,
    )


def _status(git: _Git, problems: list[str]) -> _Status:
    # --ignore-submodules=untracked: a file that a build leaves in a submodule is no change of this repository.
    command = ("status", "--porcelain=v2", "--branch", "-z", "--no-renames", "--ignore-submodules=untracked")
    limit = 8 * 1024 * 1024
    try:
        output = git.tell(*command, "--untracked-files=all", limit=limit)
    except _GitFailure as failure:
        if "took longer" not in str(failure):
            raise
        output = git.tell(*command, "--untracked-files=no", limit=limit)
        problems.append(sentence(f"untracked files left out: {failure}"))
    if len(output) == limit:
        problems.append("untracked files left out: the list is longer than 8 MiB")
    return _read_status(output)


def _read_status(output: bytes) -> _Status:
    heads: dict[bytes, str] = {}
    changed: list[str] = []
    untracked: list[str] = []
    submodules: list[str] = []
    for record in output.split(b"\0")[:-1]:
        if record.startswith(b"# "):
            _, key, value = record.split(b" ", 2)
            heads[key] = value.decode("utf-8", "replace")
        elif record.startswith(b"? "):
            untracked.append(os.fsdecode(record[2:]))
        elif record.startswith((b"1 ", b"u ")):
            fields = record.split(b" ", 8 if record.startswith(b"1") else 10)
            changed.append(os.fsdecode(fields[-1]))
            if fields[2].startswith(b"S") and fields[2][2:3] == b"M":
                submodules.append(changed[-1])
    commit, branch = heads.get(b"branch.oid"), heads.get(b"branch.head")
    return _Status(
        None if commit == "(initial)" else commit,
        None if branch == "(detached)" else branch,
        changed,
        untracked,
        submodules,
    )


def _remote(git: _Git, branch: str | None, problems: list[str]) -> str | None:
    """Return where the branch comes from, else origin, else the first remote; without credentials."""
    answer = git.ask("config", "-z", "--get-regexp", r"^(remote\..*\.url|branch\..*\.remote)$")
    if answer.status not in (0, 1) or answer.late:  # 1: none is configured
        problems.append(sentence(f"remote: {answer.error or 'git gave no answer'}"))
        return None
    settings: dict[str, str] = {}
    for entry in os.fsdecode(answer.output).split("\0")[:-1]:
        key, _, value = entry.partition("\n")
        settings.setdefault(key, value)
    own = settings.get(f"branch.{branch}.remote", "origin")
    urls = [settings.get(f"remote.{own}.url"), settings.get("remote.origin.url")]
    urls += [value for key, value in settings.items() if key.startswith("remote.")]
    return next((without_credentials(url) for url in urls if url), None)


def _diff(git: _Git, status: _Status, problems: list[str]) -> str:
    if not status.changed:
        return ""
    if status.submodules:
        problems.append(_left_out("changes inside submodules are not in the diff", status.submodules))
    secret = [name for name in status.changed if _is_secret_file(name)]
    if secret:
        problems.append(_left_out("left out of the diff, secret by name", secret))
    try:
        base = status.commit or git.tell("hash-object", "-t", "tree", "--stdin").decode().strip()
        if not status.commit:
            problems.append("no commit yet: the diff is against an empty tree")
        answer = git.ask(
            "diff", base, "--binary", "--no-ext-diff", "--no-textconv", "--no-color", "-U3", "--src-prefix=a/",
            "--dst-prefix=b/", "--submodule=short", "--ignore-submodules=untracked",
            "--", ":(top)", *(f":(top,exclude,literal){name}" for name in secret),
            limit=DIFF_BYTES,
        )  # fmt: skip
    except (_GitFailure, OSError, ValueError) as error:  # OSError: more secret names than a command line takes
        problems.append(sentence(f"diff left out: {error}"))
        return ""
    if answer.status != 0 and not answer.late:
        problems.append(sentence(f"diff left out: {answer.error}"))
        return ""
    return _diff_text(answer, problems)


def _diff_text(answer: _Answer, problems: list[str]) -> str:
    """Redact a diff and bound it; a diff that is cut ends in a line that says so."""
    text = answer.output.decode("utf-8", "replace")
    if "\ufffd" in text and "\ufffd".encode() not in answer.output:
        problems.append("the diff has bytes that are not UTF-8; they show as U+FFFD")
    cut = answer.late or answer.size_bytes > len(answer.output)
    if cut:  # the last line may be the first half of a secret
        text = text[: text.rfind("\n") + 1]
    encoded = _redact_diff(text).encode()
    if not cut and len(encoded) <= DIFF_BYTES:
        return encoded.decode()
    size = f"{'more than ' if answer.late else ''}{answer.size_bytes} bytes"
    note = f"the diff is cut: in all it has {size}, the limit is {DIFF_BYTES} bytes"
    problems.append(note)
    return encoded[: encoded.rfind(b"\n", 0, DIFF_BYTES - 256) + 1].decode() + f"[ailab: {note}]\n"


def _redact_diff(diff: str) -> str:
    """Redact a diff file by file. Binary patches stay as they are: compressed, they show no secret and must not change."""
    import re

    secrets = environment_secrets()
    starts = [match.start() for match in re.finditer(r"(?m)^diff --git ", diff)]
    pieces = []
    for start, stop in zip([0, *starts], [*starts, len(diff)], strict=True):
        section = diff[start:stop]
        code = section.partition("\n")[0].rstrip('"').lower().endswith(_SOURCE_ENDINGS)
        text, mark, patch = section.partition("\nGIT binary patch\n")
        binary = re.fullmatch(r"(?:(?:literal|delta) [0-9]++\n(?:[A-Za-z][!-~]{1,66}+\n)*+\n)*+", patch)
        if mark and not binary:
            text, mark, patch = section, "", ""
        pieces.append(redact_with(text, secrets=secrets, code=code) + mark + patch)
    return "".join(pieces)


def _untracked_texts(root: str, names: list[str], problems: list[str]) -> dict[str, str]:
    """Read small untracked text files, source files first; say in `problems` which were left out and why."""
    files: dict[str, str] = {}
    left: dict[str, list[str]] = {}
    room = FILES_BYTES
    secrets = environment_secrets()
    for number, name in enumerate(sorted(names, key=lambda name: (not name.lower().endswith(_FIRST_ENDINGS), name))):
        reason = f"more than {FILES} files" if len(files) >= FILES or number >= 10 * FILES else _unwanted(name)
        text, reason = ("", reason) if reason else _file_text(os.path.join(root, name), follow=False)
        if not reason:
            text = redact_with(text, secrets=secrets, code=name.lower().endswith(_SOURCE_ENDINGS))
            size = len(text.encode())
            reason = "" if size <= room else f"more than {FILES_BYTES} bytes together"
        if reason:
            left.setdefault(reason, []).append(name)
        else:
            files[valid_text(name)] = text
            room -= size
    problems.extend(_left_out(f"untracked files left out, {reason}", names) for reason, names in left.items())
    return files


def _unwanted(name: str) -> str:
    if _is_secret_file(name):
        return "secret by name"
    return "a repository of its own" if name.endswith("/") else ""


def _file_text(path: str, *, follow: bool) -> tuple[str, str]:
    """Return (text, "") of a small regular UTF-8 file, else ("", why not)."""
    from stat import S_ISREG

    # A link may lead out of the repository and a pipe would block.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags if follow else flags | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(descriptor, "rb") as file:
            if not S_ISREG(os.fstat(descriptor).st_mode):
                return "", "not a regular file"
            raw = file.read(FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name that holds a zero byte
        return "", f"not readable ({getattr(error, 'strerror', None) or error})"
    if len(raw) > FILE_BYTES:
        return "", f"larger than {FILE_BYTES} bytes"
    try:
        return ("", "not text") if b"\0" in raw else (raw.decode("utf-8"), "")
    except UnicodeDecodeError:
        return "", "not text"


def _script_text(script: str, name: str, problems: list[str]) -> dict[str, str]:
    text, reason = ("", "secret by name") if _is_secret_file(script) else _file_text(script, follow=True)
    if reason:
        problems.append(_left_out(f"the script is left out, {reason}", [script]))
        return {}
    return {name: redact_with(text, secrets=environment_secrets(), code=script.lower().endswith(_SOURCE_ENDINGS))}


def _name_in(root: str, script: str) -> str:
    """Return the name of a file relative to the top of its repository, with "/", else its absolute path."""
    for path in (os.path.join(os.path.realpath(os.path.dirname(script)), os.path.basename(script)), os.path.realpath(script)):
        try:
            name = os.path.relpath(path, os.path.realpath(root))
        except ValueError:  # another drive
            continue
        if name != os.pardir and not name.startswith(os.pardir + os.sep):
            return valid_text(name.replace(os.sep, "/"))
    return valid_text(script)


def _is_secret_file(name: str) -> bool:
    *folders, base = name.lower().replace("\\", "/").split("/")
    if base in _SECRET_FILES or base.startswith(_SECRET_STARTS) or not _SECRET_FOLDERS.isdisjoint(folders[-2:]):
        return True
    return base.endswith(_SECRET_ENDINGS) or (base.startswith(("id_rsa", "id_ed25519")) and not base.endswith(".pub"))


def _left_out(reason: str, names: list[str]) -> str:
    """Write a reason and the names that it holds for, the first twenty of them."""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""  # noqa: PLR2004
    return sentence(f"{reason}: {', '.join(sorted(map(valid_text, names))[:20])}{more}", length=2000)


def _after_fork() -> None:
    global _importing  # noqa: PLW0603  (a thread that is not here may hold the parent's)
    _importing = allocate_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
