"""What a run ran on: interpreter, packages, device, host, commit, uncommitted changes, command; redacted.

Called by the recorder (on a background thread where it costs) and by the journal for the header of a segment. Nothing
here writes to disk, takes a lock in a repository, opens a connection or raises into training: what could not be read
is a short sentence in `problems`, and the rest is there all the same.

Never in a result: values that a name, a known shape, a URL or the environment marks as secret (`redact`), files that are
secrets by name, environment variables outside `_VARIABLES`. Redaction works by rules, so a secret without a telling name
or shape, for example in prose or as the default of a command line option, stays; and it keeps the number of lines and
the first character of each line, so a redacted diff still applies wherever nothing was redacted.

An `Environment` holds nothing that changes from run to run on one machine with the same packages (no times, no free
memory, no job ids), because its SHA-256 is its identity. torch is never asked for device names: that would open a device
context in the training process, or make the answer depend on what was imported before.

Bounds: a diff 4 MiB, untracked files 100 with 256 KiB each and 2 MiB together, a command 64 KiB, a call of git 10 s.
git starts no pager, prompt, file system monitor, hook, external diff or textconv and fetches nothing. The clean filters
of a repository (git-lfs) do run, as in `git status`: without them contents cannot be compared.
"""

from __future__ import annotations

import os
import sys
from _thread import allocate_lock
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

if TYPE_CHECKING:
    import re
    import subprocess
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import ModuleType

REDACTED = "[redacted]"
DIFF_BYTES = 4 * 1024 * 1024
FILES = 100
FILE_BYTES = 256 * 1024
FILES_BYTES = 2 * 1024 * 1024
COMMAND_CHARACTERS = 64 * 1024
GIT_SECONDS = 10.0

_T = TypeVar("_T")


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU of the machine; None where the driver does not tell."""

    name: str
    memory_bytes: int | None = None
    driver: str | None = None


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """The machine as its operating system describes it; None where it does not tell."""

    system: str
    release: str
    machine: str
    cpu: str
    cores_physical: int | None = None
    cores_logical: int | None = None
    memory_bytes: int | None = None
    gpus: list[Gpu] = []


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """Interpreter, packages, machine and the environment variables that change results. Stored once per content.

    `packages` are sorted lines as `pip freeze` writes them: `name==version`, `name @ url`, `-e path  # name==version`.
    """

    python_version: str
    implementation: str
    packages: list[str]
    device: Device
    host: str
    variables: dict[str, str] = {}
    problems: list[str] = []


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


# -- who and where -----------------------------------------------------------------------------------------------------


def host_name() -> str:
    """Return the name of this machine, or of this container."""
    if hasattr(os, "uname"):
        return _valid(os.uname().nodename)
    import platform

    return _valid(platform.node())


def user_name() -> str:
    """Return the login name of this process: from the environment, the user database, else `uid-NUMBER`.

    A container often runs under a number that no user database knows; that is not an error.
    """
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        if os.environ.get(name):
            return _valid(os.environ[name])
    try:
        import pwd  # not on Windows

        return _valid(pwd.getpwuid(os.getuid()).pw_name)
    except (ImportError, LookupError, OSError):
        return f"uid-{os.getuid()}" if hasattr(os, "getuid") else "unknown"


@cache
def boot_id() -> str:
    """Return a text that is the same until this machine starts anew; empty where the system does not tell."""
    if sys.platform == "darwin":
        return _sysctl("kern.bootsessionuuid") or _sysctl("kern.boottime").partition("}")[0]
    try:
        return _head("/proc/sys/kernel/random/boot_id", 128).decode("ascii", "replace").strip()
    except OSError:
        return ""


def process_start(pid: int) -> float | None:
    """Return when the process started (Linux: clock ticks since boot; elsewhere: seconds since 1970).

    With the pid it names a process for as long as the machine runs. None when there is no such process; a zombie is
    none, because it will never write again, and neither is one that this user may not see.
    """
    if pid <= 0:
        return None
    if sys.platform != "linux":
        return _process_start_by_psutil(pid)
    try:
        stat = _head(f"/proc/{pid}/stat", 4096)
    except OSError:
        return None
    # The second field is the name in brackets and may hold blanks and brackets itself; what follows is field 3 onwards.
    fields = stat.rpartition(b")")[2].split()
    if len(fields) < 20 or fields[0] in (b"Z", b"X"):  # noqa: PLR2004
        return None
    return float(fields[19])


def _process_start_by_psutil(pid: int) -> float | None:
    from importlib import import_module

    try:
        psutil = import_module("psutil")
    except ImportError:
        return None
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except (psutil.Error, OSError):
        return None


def command_line(argv: Sequence[str] | None = None) -> str:
    """Return the command as launched, quoted for a shell and redacted.

    Without `argv` it is `sys.orig_argv`, which has the interpreter, its options and `-m module`. In a child of
    multiprocessing or joblib that is only the call that starts the child, and `sys.argv`, copied from the parent, says more.
    """
    import shlex

    if argv is None:
        own = getattr(sys, "argv", [])
        child = any(arg == "--multiprocessing-fork" or "loky.backend.popen_loky" in arg for arg in sys.orig_argv)
        argv = own if child and own else sys.orig_argv or own
    command = shlex.join(redact_argv(argv))
    if len(command) > COMMAND_CHARACTERS:
        return f"{command[:COMMAND_CHARACTERS]} [cut: {len(command)} characters in all]"
    return command


# -- redaction: names --------------------------------------------------------------------------------------------------


def _list(words: str) -> tuple[str, ...]:
    return tuple(words.split())


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# A name is judged by its last words: "db.master_password" by "password", "max_tokens" by "tokens".
_TRIGGERS = _list("pass pwd secret token key cred auth cookie jwt bearer webhook _pat -pat")
_ALONE = _set("""password passwords passwd passphrase passphrases passcode pwd secret secrets authorization cookie jwt
    bearer credential credentials creds webhook""")
_ENDINGS = _list("password passwords passwd passphrase secret apikey apikeys authorization")
_JOINED = _set("""accesskey secretkey privatekey authkey signingkey encryptionkey masterkey accountkey accesskeyid
    accesstoken apitoken authtoken bearertoken bottoken csrftoken hftoken hubtoken idtoken refreshtoken sessiontoken
    userpass dbpass sshpass""")
# What must stand before the last word.
_OWNERS: dict[str, frozenset[str]] = {
    "key": _set("""api access secret private encryption decryption signing auth account master ssh deploy storage session
        shared service subscription admin app application consumer license licence write functions root openai anthropic
        azure aws gcp google gemini cohere groq mistral replicate huggingface hf wandb comet neptune stripe github gitlab
        slack datadog sentry"""),
    "keys": _set("api access secret private encryption signing auth"),
    "pass": _set("""db database user usr admin root mail email smtp imap ftp sftp ssh redis mysql postgres pg mongo rabbit
        proxy http basic auth login my git service"""),
    "tokens": _set("auth access api refresh bearer secret session hub hf huggingface github gitlab bot user"),
    "auth": _set("basic http proxy registry docker npm git"),
    "pat": _set("github gh gitlab azure devops ext"),
    "url": _set("webhook"),
}
# What stands before "token" in language models and in paging: a piece of text or a place in a list, not a secret.
_PIECES = _set("""max min num n per pad padding eos bos unk mask sep cls special next prev previous last first start end
    stop begin image img audio video vision class current cur new old single input output prompt text word sub decoder
    encoder space speaker register lookahead extra added delimiter separator placeholder answer think target source
    generated sampled draft head tail blank newline boundary global query latent distillation dist split control language
    lang task suffix prefix middle fim tool continuation page total count expected gold each all""")
_NOT_FIRST = _set("no not num n max min is has show hide skip without count len total")
# Names that are secrets only as parameters of a URL.
_QUERY_NAMES = _set("sig signature auth x-amz-signature x-amz-credential x-goog-signature x-goog-credential")


def is_secret_name(name: str) -> bool:
    """Say whether a variable, option, field or header of this name holds a secret.

    >>> [is_secret_name(name) for name in ("HF_TOKEN", "--api-key", "clientSecret", "max_tokens", "tokenizer", "key")]
    [True, True, True, False, False, False]
    """
    return _is_secret_name(name[-128:])


@lru_cache(maxsize=4096)
def _is_secret_name(name: str) -> bool:
    lowered = name.lower()
    if not any(trigger in lowered for trigger in _TRIGGERS) or name in ("PWD", "OLDPWD"):  # the working folder
        return False
    words = [word.lower() for word in _words().findall(name)]
    while words and (words[-1].isdigit() or words[-1] == "value"):
        words.pop()
    if not words or (len(words) > 1 and words[0] in _NOT_FIRST):
        return False
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if last == "token":
        return before not in _PIECES
    if last in _ALONE or last in _JOINED or last.endswith(_ENDINGS):
        return True
    return before in _OWNERS.get(last, ()) or words == ["pass"] or words[-3:] == ["access", "key", "id"]


@cache
def _words() -> re.Pattern[str]:
    import re

    return re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


# -- redaction: texts --------------------------------------------------------------------------------------------------

_NAME_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.$-"
_TAILS = """passwords?|passwd|passphrases?|passcode|pass|pwd|secrets?|tokens?|keys?|key[_-]?id|credentials?|creds|auth
    |authorization|cookie|jwt|bearer|webhook(?:_?url)?|pat|sig|signature"""
_TYPES = """str|bytes|int|float|bool|object|Any|None|string|SecretStr|SecretBytes|Path|Optional|Union|Literal|Annotated
    |list|dict|tuple|Callable"""
_NOT_AFTER_NAME = r"(?![\w.$+/@!%&*^~-])"
_CONSTANTS = frozenset(("", "none", "null", "nil", "true", "false", "undefined", "~", REDACTED))

# Shapes of tokens: what they begin with, the characters that may not stand before, the rest.
_ANY, _WORD, _DASHED = "A-Za-z0-9", "A-Za-z0-9_", "A-Za-z0-9_-"
_SHAPES: tuple[tuple[str, str, str], ...] = (
    ("hf_", _ANY, r"[A-Za-z0-9]{16,}"),
    ("sk-", _DASHED, r"(?:ant|proj|svcacct|admin|or|lf)-[\w-]{8,}"),
    ("sk-", _DASHED, r"(?:[A-Za-z0-9]{20,}|(?=[A-Za-z_-]*+[0-9])[\w-]{20,})[\w-]*"),
    ("sk_live_", _ANY, r"[A-Za-z0-9]{10,}"),
    ("rk_live_", _ANY, r"[A-Za-z0-9]{10,}"),
    *((f"gh{kind}_", _ANY, r"[A-Za-z0-9]{16,}") for kind in "pousr"),
    ("github_pat_", _WORD, r"\w{16,}"),
    *((f"gl{kind}-", _DASHED, r"[\w-]{16,}") for kind in ("pat", "dt", "rt", "cbt", "ptt")),
    ("AKIA", _ANY, r"[A-Z0-9]{16}(?![A-Za-z0-9])"),
    ("ASIA", _ANY, r"[A-Z0-9]{16}(?![A-Za-z0-9])"),
    ("xox", _DASHED, r"[abeprs](?:\.[a-z]+)?-[A-Za-z0-9-]{8,}"),
    ("xapp-", _DASHED, r"[A-Za-z0-9-]{8,}"),
    ("hooks.slack.com/services/", _ANY, r"[\w/-]{8,}"),
    ("eyJ", _DASHED, r"[\w-]{4,}+\.[\w-]{4,}+(?:\.[\w-]*+)*+"),
    ("AIza", _DASHED, r"[\w-]{30,}"),
    ("ya29.", _DASHED, r"[\w-]{20,}"),
    ("npm_", _ANY, r"[A-Za-z0-9]{20,}"),
    ("pypi-", _DASHED, r"(?=[a-z_-]*+[A-Z0-9])[\w-]{16,}"),
    ("dckr_pat_", _DASHED, r"[\w-]{16,}"),
    ("nvapi-", _DASHED, r"[\w-]{20,}"),
    ("gsk_", _ANY, r"[A-Za-z0-9]{20,}"),
    ("r8_", _ANY, r"[A-Za-z0-9]{20,}"),
    ("lsv2_", _WORD, r"\w{20,}"),
    ("wandb_v1_", _WORD, r"\w{20,}"),
    ("dapi", _ANY, r"[0-9a-f]{32}(?![A-Za-z0-9])"),
    ("SG.", _DASHED, r"[\w-]{16,}+\.[\w-]{16,}+"),
    *((begin, _DASHED, r"(?=[A-Za-z._~+/=-]*+[0-9])[A-Za-z0-9._~+/=-]{12,}") for begin in ("Bearer ", "bearer ")),
)
_KEPT = ("hooks.slack.com/services/", "Bearer ", "bearer ")  # beginnings that are no part of the secret


class _Rules(NamedTuple):
    """The patterns of redaction, compiled on first use (10 ms).

    Each of them starts where its own run of characters cannot go on, or consumes what it has read, or is bounded, so
    that the work grows with the length of a text and not with its square.
    """

    assignment: re.Pattern[str]  # the end of a name, what closes it, what gives it a value; on text in lower case
    annotation: re.Pattern[str]  # a type between name and value
    block: re.Pattern[str]  # YAML: the value is in the indented lines that follow
    opener: re.Pattern[str]  # a bracket or a continued line before quoted values
    between: re.Pattern[str]  # what stands between two quoted values in brackets
    quote: re.Pattern[str]
    quoted: dict[str, re.Pattern[str]]  # by the quote: what stands up to the next of its kind on the line
    escaped: dict[str, re.Pattern[str]]  # the same where the quote is written with backslashes, by both
    word: re.Pattern[str]
    parameter: re.Pattern[str]  # a value in a URL
    header: re.Pattern[str]
    line: re.Pattern[str]  # up to a comment or the end
    kept: re.Pattern[str]  # a structure, a place to fill in, a statement, `[redacted]`
    computed: re.Pattern[str]  # a call, a look-up, an attribute of what usually holds settings
    reference: re.Pattern[str]  # in source code: a name, or a short number
    placeholder: re.Pattern[str]
    scheme: re.Pattern[str]
    content: re.Pattern[str]  # of each line: sign of a diff and indentation, then the rest
    userinfo: re.Pattern[str]
    key_mark: re.Pattern[str]
    key_lines: re.Pattern[str]


@cache
def _rules() -> _Rules:
    import re

    tails, types = ("".join(names.split()) for names in (_TAILS, _TYPES))
    word = r"(?:[a-z_]{3,64}|(?:[A-Z][a-z]{1,20}){1,5}|[a-z]{1,2}(?=\.))"  # how functions and modules are called
    return _Rules(
        assignment=re.compile(
            rf"((?:{tails})(?:_?value)?[_-]?[0-9]{{0,4}})(?![a-z0-9_.$-])(\\{{0,3}}[\"'`]?[\])]{{0,2}})"
            r"([ \t]{0,32}(?:[:!?+]?={1,3}>?|:(?!:|//)|,)[ \t]{0,32}|[ \t]{1,32})"
        ),
        annotation=re.compile(
            rf"(?:t\.|typing\.)?(?:{types})\b(?=[ \t]{{0,32}}(?:[\[|,)=\r\n#;]|\Z))"
            r"(?:\[[^\]\n]{0,80}\]|[^=\n\"'(){},\[])*+(?P<given>=(?!=)[ \t]{0,32})?"
        ),
        block=re.compile(r"[|>][+-]?[0-9]?[ \t]{0,32}\r?\n"),
        opener=re.compile(r"(?:[(\[]{1,2}|\\(?=\r?\n))(?:[ \t]{0,32}\r?\n[+\- ]?)?[ \t]{0,64}"),
        between=re.compile(r"[ \t]{0,32},?(?:[ \t]{0,32}\r?\n[+\- ]?)?[ \t]{0,64}"),
        quote=re.compile(r"[rRbBuUfF]{0,2}((\\{0,3})(\"{3}|'{3}|[\"'`]))"),
        quoted={mark: re.compile(rf"(?:[^{mark}\\\r\n]|\\[^\r\n])*+") for mark in "\"'`"},
        escaped={
            "\\" * depth + mark: re.compile(rf"(?:[^{mark}\\\r\n]|\\{{{depth + 1},}}{mark}?|\\{{1,{depth}}}(?![{mark}\\]))*+")
            for mark in "\"'`"
            for depth in (1, 2, 3)
        },
        word=re.compile(r"[^\s\"'`]+"),
        parameter=re.compile(r"[^\s\"'`&#<>]+"),
        header=re.compile(r"[^\"'`\r\n]+"),
        line=re.compile(r"(?:[^\r\n#]|(?<![ \t])#)*+"),
        kept=re.compile(
            re.escape(REDACTED) + r"(?=[\s\"'`,;)\]}&<#\\]|\Z)"
            r"|\$\{[^}\n]{0,200}\}|\$\([^)\n]{0,200}\)|\{\{[^}\n]{0,200}\}\}|\{(?=[\s\"'}])"
            r"|[(\[][ \t]{0,32}(?:[)\]](?=[\s,;:)\]}]|\Z)|\r?\n|\Z)"
            r"|\{[A-Za-z_][\w.!:\[\]()]{0,64}\}+(?=[\s\"'`&,;:/)\]]|\Z)"
            r"|(?:return|raise|continue|break|yield|await|not|lambda|pass)(?!\S)"
        ),
        computed=re.compile(
            rf"{word}(?:\.[A-Za-z_]{{1,64}}){{0,8}}(?:\((?=[)\"'A-Za-z_{{\[*]|\r?\n|\Z)|\[(?=[\"'A-Za-z_0-9:-]))"
            r"(?=[^\n]{0,200}[)\]]|\r?\n|\Z)"
            r"|(?:self|cls|args|opts?|cfg|config|conf|settings|[hH]?params|flags|FLAGS|env|os)(?:\.[A-Za-z_]{1,64}){1,8}+"
            + _NOT_AFTER_NAME
        ),
        reference=re.compile(rf"(?:[A-Za-z_]{{1,64}}(?:\.[A-Za-z_]{{1,64}}){{0,8}}+|[0-9]{{1,5}}){_NOT_AFTER_NAME}"),
        placeholder=re.compile(
            r"(?:\$?\{{1,3}[\w .:!\[\]()-]*\}{1,3}[:_/. -]?)+|\$[A-Z_][A-Z0-9_]*|\$\([^()\n]*\)"
            r"|%(?:\([^()\n]*\))?[sdr]|<[A-Za-z][\w .-]*>|\*+"
        ),
        scheme=re.compile(r"[A-Za-z][A-Za-z0-9-]{2,30}[ \t]+"),
        content=re.compile(r"(?m)^([+\- ]?+[ \t]*+)([^\s][^\r\n]*)"),
        userinfo=re.compile(r":(?:\\?/){2}([^\s/?#\"'`<>\\]*)@"),
        key_mark=re.compile(r"-----(BEGIN|END) [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"),
        key_lines=re.compile(r"(?:\\[nr])*+(?:[A-Za-z0-9+/=]{16,}+)?(?:\r?\n[+\- ]?[ \t]{0,64}[A-Za-z0-9+/=]{16,}+)*+"),
    )


@cache
def _shapes() -> tuple[tuple[str, re.Pattern[str]], ...]:
    # The boundary stands behind the beginning, so that the search for the beginning runs at full speed. A shape may
    # follow a \n that is written out (JSON, source text) or a percent-encoded character.
    import re

    def shape(literal: str, boundary: str, rest: str) -> re.Pattern[str]:
        begin = re.escape(literal)
        free = rf"(?<![{boundary}]{begin})|(?<=\\[nrt]{begin})|(?<=%[0-9A-Fa-f][0-9A-Fa-f]{begin})"
        return re.compile(rf"{begin}(?:{free})(?a:{rest})")

    return tuple((literal, shape(literal, boundary, rest)) for literal, boundary, rest in _SHAPES)


def redact(text: str) -> str:
    """Replace what is secret in a text by `[redacted]`, keeping the number of lines and the start of each.

    Secret are: values given to a secret name (`is_secret_name`) as assignment, field, option, header or URL parameter;
    credentials in URLs; known shapes of tokens; private keys; and the values of environment variables of a secret name.
    """
    return _redact(text, secrets=_environment_secrets(), code=False)


def redact_argv(argv: Sequence[str]) -> list[str]:
    """Redact the arguments of a command, each by itself and by the option before it; as many come back as went in."""
    secrets = _environment_secrets()
    done: list[str] = []
    waiting = ""  # the secret option whose value comes next
    for argument in map(_valid, argv):
        is_option = (argument.startswith("--") and argument[2:3].isalpha()) or (argument[:1] == "-" and len(argument) == 2)  # noqa: PLR2004
        if waiting and not is_option:
            done.append(argument if _is_plain(argument) else REDACTED)
            waiting = waiting if waiting.endswith(("keys", "tokens", "words", "secrets")) else ""
            continue
        name, equals, value = argument.partition("=")
        waiting = argument.lower() if argument.startswith("-") and not equals and is_secret_name(argument) else ""
        if equals and name.split() == [name] and is_secret_name(name):
            done.append(argument if _is_plain(value) else f"{name}={REDACTED}")
        else:
            done.append(_redact(argument, secrets=secrets, code=False))
    return done


def _redact(text: str, *, secrets: list[str], code: bool) -> str:
    """Redact a text; in source `code` a value without quotes that reads as a name is a reference and stays."""
    for secret in secrets:
        if not is_secret_name(secret):  # a value that is itself such a name ("password") would hide it from the rules
            text = text.replace(secret, REDACTED)
    if "-----BEGIN " in text:
        text = _redact_private_keys(text)
    if "@" in text:
        text = _rules().userinfo.sub(_redact_userinfo, text)
    lowered = text.lower()
    if any(trigger in lowered for trigger in (*_TRIGGERS, "sig")):
        text = _redact_assignments(text, code=code)
    if any(literal in text for literal, _, _ in _SHAPES):
        for literal, pattern in _shapes():
            if literal in text:
                text = pattern.sub(_redact_shape, text)
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    return text


def _environment_secrets() -> list[str]:
    """Return the lines of the secret environment variables, longest first; shorter than 8 would hit ordinary words."""
    found: set[str] = set()
    for name in list(os.environ):
        if is_secret_name(name):
            lines = map(str.strip, os.environ.get(name, "").splitlines())
            found.update(line for line in lines if len(line) >= 8 and line not in REDACTED)  # noqa: PLR2004
    return sorted(found, key=lambda value: (-len(value), value))


def _redact_shape(match: re.Match[str]) -> str:
    return next((kept + REDACTED for kept in _KEPT if match[0].startswith(kept)), REDACTED)


def _redact_userinfo(match: re.Match[str]) -> str:
    user, colon, password = match[1].partition(":")
    scheme = match.string[max(0, match.start() - 8) : match.start()].lower()
    # Without a password only web addresses carry a token here; ssh://git@… and abfss://container@… name no secret.
    secret = password if colon else user if scheme.endswith(("http", "https", "ftp", "ftps")) else ""
    return match[0] if _is_plain(secret) else match[0][: match.start(1) - match.start()] + REDACTED + "@"


def _redact_private_keys(text: str) -> str:
    """Redact what stands between BEGIN and END, line by line; without an END, the lines of the alphabet of keys."""
    rules = _rules()
    marks = list(rules.key_mark.finditer(text))
    pieces: list[str] = []
    done = 0
    for number, mark in enumerate(marks):
        if mark[1] == "END":
            continue
        following = marks[number + 1] if number + 1 < len(marks) else None
        stop = following.start() if following and following[1] == "END" else 0
        if not stop and (lines := rules.key_lines.match(text, mark.end())):
            stop = lines.end()
        first, newline, rest = text[mark.end() : stop].partition("\n")
        pieces += text[done : mark.end()], REDACTED if first.strip() else first, newline
        pieces.append(rules.content.sub(rf"\1{REDACTED}", rest))
        done = stop
    return "".join([*pieces, text[done:]])


class _Found(NamedTuple):
    """A secret name in a text: where it begins, what gives it a value, and where that value begins."""

    start: int
    sep: str
    value: int
    in_query: bool
    authorization: bool  # the value has a scheme in front that is not secret: "Bearer …"


def _redact_assignments(text: str, *, code: bool) -> str:
    search = _rules().assignment.search
    lowered = text.replace("\u0130", "I").lower()  # the one letter that becomes longer
    pieces: list[str] = []
    done = position = 0
    while match := search(lowered, position):
        position = match.end()
        if found := _found(text, match):
            for start, stop in _values(text, found, code=code):
                pieces += text[done:start], REDACTED
                done = stop
            position = max(position, done)
    return "".join([*pieces, text[done:]])


def _found(text: str, match: re.Match[str]) -> _Found | None:
    """Read a match of the rule `assignment`; None where it gives nothing to a secret name."""
    end = match.end(1)
    run = text[max(0, end - 128) : end]
    name = run[len(run.rstrip(_NAME_CHARACTERS)) :]
    start = end - len(name)
    before = text[start - 1 : start]
    if before == "\\" and name[0] in "nrt":  # a \n that is written out
        name, start = name[1:], start + 1
    sep = match[3].strip()
    in_query = sep == "=" and before in ("?", "&", ";")
    if not (is_secret_name(name) or (in_query and name.lower() in _QUERY_NAMES)):
        return None
    if sep == "," and not (match[2] and (name.startswith("-") or name.isupper())):
        return None  # a list of words
    if not sep and not (name.startswith("--") or (name.startswith("-") and before not in ("", "\n"))):
        return None  # prose, or a removed line of a diff
    return _Found(start, sep, match.end(), in_query, name[-13:].lower() == "authorization")


def _values(text: str, found: _Found, *, code: bool) -> Iterable[tuple[int, int]]:
    """Return the parts of a text that are the value of a secret name."""
    rules, start = _rules(), found.value
    if found.sep == ":":
        annotation = rules.annotation.match(text, start)
        if annotation:
            if not annotation["given"]:
                return ()
            start = annotation.end()
        elif block := rules.block.match(text, start):
            return _block_lines(text, found, block.end())
    first = text[start : start + 1]
    if first in "\"'`\\rRbBuUfF" and rules.quote.match(text, start):
        return _quoted_values(text, found, start, several=False)
    if first in ("(", "[", "\\") and not text.startswith(REDACTED, start):
        opener = rules.opener.match(text, start)
        if opener and rules.quote.match(text, opener.end()):
            return _quoted_values(text, found, opener.end(), several=True)
        if code:
            return ()
    return () if found.sep == "," else _bare_value(text, found, start, code=code)


def _block_lines(text: str, found: _Found, position: int) -> Iterator[tuple[int, int]]:
    """Yield the lines of a YAML block (`password: |`): those that are indented deeper than the name."""
    content = _rules().content
    line = text.rfind("\n", max(0, found.start - 200), found.start) + 1
    own = content.match(text, line)
    depth = len(own[1]) if own else 0
    while (deeper := content.match(text, position)) and len(deeper[1]) > depth:
        yield deeper.span(2)
        position = text.find("\n", deeper.end()) + 1 or len(text)


def _quoted_values(text: str, found: _Found, position: int, *, several: bool) -> Iterator[tuple[int, int]]:
    """Yield what stands between quotes: of a word that the shell puts together, or of all values in brackets."""
    rules = _rules()
    while quote := rules.quote.match(text, position):
        stop = _closing_quote(text, quote)
        yield from _inside_quotes(text, found, quote.end(), stop)
        position = min(stop + len(quote[1]), len(text))
        if several and (following := rules.between.match(text, position)):
            position = following.end()


def _closing_quote(text: str, quote: re.Match[str]) -> int:
    """Return where a quoted value ends; at the end of the line where nothing closes it."""
    start, mark = quote.end(), quote[3]
    if len(mark) > 1:
        stop = text.find(mark, start, start + 65536)
        if stop >= 0:
            return stop
    body = (_rules().escaped[quote[2] + mark[0]] if quote[2] else _rules().quoted[mark[0]]).match(text, start)
    return body.end() if body else start


def _inside_quotes(text: str, found: _Found, start: int, stop: int) -> Iterable[tuple[int, int]]:
    newline = text.find("\n", start, stop)
    if newline >= 0:
        lines = [line.span(2) for line in _rules().content.finditer(text, newline + 1, stop)]
        return [(start, newline), *lines] if text[start:newline].strip() else lines
    if found.sep == "," and text.startswith("-", start):  # the next option, not a value
        return ()
    return _unless_plain(text, found, start, stop)


def _bare_value(text: str, found: _Found, start: int, *, code: bool) -> Iterable[tuple[int, int]]:
    """Return a value without quotes: a word, or the rest of a line that holds one name and its value (YAML, ini)."""
    rules = _rules()
    alone = not code and bool(found.sep) and _is_first_on_line(text, found.start)
    spaced = text[start - 1] in " \t"
    in_shell = alone and found.sep == "=" and not spaced  # nothing is called or looked up there
    if rules.kept.match(text, start) or (not in_shell and rules.computed.match(text, start)):
        return ()
    if (code and rules.reference.match(text, start)) or (not found.sep and text.startswith("-", start)):
        return ()
    rule = rules.header if found.authorization else rules.parameter if found.in_query else rules.word
    run = rule.match(text, start)
    if run is None:
        return ()
    stop = run.end()
    if alone and (spaced or found.authorization) and (line := rules.line.match(text, start)):
        stop = max(stop, line.end())
    value = text[start:stop].rstrip()
    value = value if found.in_query else value.rstrip(",;" if found.authorization else ",;)]}")
    return _unless_plain(text, found, start, start + len(value))


def _is_first_on_line(text: str, start: int) -> bool:
    reach = max(0, start - 200)
    line = text.rfind("\n", reach, start) + 1
    return (line > 0 or reach == 0) and not text[line:start].replace("export ", "").strip(" \t+-")


def _unless_plain(text: str, found: _Found, start: int, stop: int) -> tuple[tuple[int, int], ...]:
    if found.authorization:
        scheme = _rules().scheme.match(text, start, stop)
        start = scheme.end() if scheme else start
    return () if start >= stop or _is_plain(text[start:stop]) else ((start, stop),)


def _is_plain(value: str) -> bool:
    """Say whether a value stands for nothing, for a place to fill in, or is itself only the name of a secret."""
    if len(value) > 200:  # noqa: PLR2004
        return False
    if value.strip().lower() in _CONSTANTS or (value[:1] in "${%<*" and _rules().placeholder.fullmatch(value)):
        return True
    return value.replace("_", "").replace("-", "").isalpha() and is_secret_name(value)


# -- the environment ---------------------------------------------------------------------------------------------------

# Variables that change what a program computes or which devices it sees. Neither job ids nor lists of nodes: those change
# from run to run.
_VARIABLES = _set("""
    ACCELERATE_MIXED_PRECISION BLIS_NUM_THREADS CONDA_DEFAULT_ENV CUBLAS_WORKSPACE_CONFIG CUDA_DEVICE_ORDER
    CUDA_LAUNCH_BLOCKING CUDA_VISIBLE_DEVICES FLAX_PROFILE GOTO_NUM_THREADS HF_DATASETS_OFFLINE HF_HUB_OFFLINE
    HIP_VISIBLE_DEVICES HSA_OVERRIDE_GFX_VERSION JAX_DEFAULT_MATMUL_PRECISION JAX_ENABLE_X64 JAX_PLATFORMS
    JAX_DISABLE_JIT KERAS_BACKEND KMP_AFFINITY KMP_BLOCKTIME LANG LC_ALL LD_PRELOAD LOCAL_RANK LOCAL_WORLD_SIZE
    MALLOC_CONF MKL_CBWR MKL_DYNAMIC MKL_NUM_THREADS MKL_THREADING_LAYER NCCL_ALGO NCCL_IB_DISABLE NCCL_P2P_DISABLE
    NCCL_PROTO NODE_RANK NPY_DISABLE_CPU_FEATURES NUMBA_DISABLE_JIT NUMBA_NUM_THREADS NUMEXPR_NUM_THREADS
    NVIDIA_TF32_OVERRIDE NVIDIA_VISIBLE_DEVICES OMP_DYNAMIC OMP_NUM_THREADS OMP_PLACES OMP_PROC_BIND
    OPENBLAS_CORETYPE OPENBLAS_NUM_THREADS POLARS_MAX_THREADS PYTHONHASHSEED PYTHONOPTIMIZE PYTHONUTF8
    PYTORCH_CUDA_ALLOC_CONF PYTORCH_ENABLE_MPS_FALLBACK RANK RAYON_NUM_THREADS ROCR_VISIBLE_DEVICES
    SLURM_CPUS_PER_TASK SLURM_GPUS_ON_NODE SLURM_LOCALID SLURM_NNODES SLURM_NODEID SLURM_NTASKS
    SLURM_NTASKS_PER_NODE SLURM_PROCID TF_CUDNN_DETERMINISTIC TF_DETERMINISTIC_OPS TF_ENABLE_ONEDNN_OPTS
    TF_FORCE_GPU_ALLOW_GROWTH TF_GPU_ALLOCATOR TF_XLA_FLAGS TOKENIZERS_PARALLELISM TORCHDYNAMO_DISABLE
    TORCH_COMPILE_DISABLE TORCH_CUDNN_V8_API_DISABLED TORCH_CUDA_ARCH_LIST TRANSFORMERS_OFFLINE TZ
    VECLIB_MAXIMUM_THREADS VIRTUAL_ENV WORLD_SIZE XLA_FLAGS XLA_PYTHON_CLIENT_ALLOCATOR
    XLA_PYTHON_CLIENT_MEM_FRACTION XLA_PYTHON_CLIENT_PREALLOCATE
""")


class _Vcs(msgspec.Struct):
    vcs: str
    commit_id: str


class _Archive(msgspec.Struct):
    hash: str | None = None


class _Folder(msgspec.Struct):
    editable: bool = False


class _DirectUrl(msgspec.Struct):
    """`direct_url.json` of an installed package (PEP 610)."""

    url: str
    vcs_info: _Vcs | None = None
    archive_info: _Archive | None = None
    dir_info: _Folder | None = None
    subdirectory: str | None = None


def capture_environment() -> Environment:
    """Return what the current process runs on; takes some ten milliseconds, most of it reading package folders."""
    import platform

    problems: list[str] = []
    nothing: list[str] = []
    packages = _part(problems, "packages", lambda: _packages(sys.path, problems), nothing)
    device = Device(
        system=platform.system(),
        release=platform.release(),
        machine=platform.machine(),
        cpu=_part(problems, "cpu", _cpu, ""),
        cores_physical=_part(problems, "cores", _physical_cores, None),
        cores_logical=os.cpu_count(),
        memory_bytes=_part(problems, "memory", _memory_bytes, None),
        gpus=_part(problems, "gpus", lambda: _gpus(problems), []),
    )
    return Environment(
        python_version=platform.python_version(),
        implementation=platform.python_implementation(),
        packages=packages,
        device=device,
        host=host_name(),
        variables=_variables(os.environ),
        problems=problems,
    )


def _part(problems: list[str], what: str, read: Callable[[], _T], otherwise: _T) -> _T:
    """Return what `read` returns; where that part cannot be read, say so in `problems` and go on."""
    try:
        return read()
    except (OSError, ValueError, ImportError, LookupError) as error:
        problems.append(_sentence(f"{what}: {type(error).__name__}: {error}"))
        return otherwise


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: redact(_valid(environment[name])) for name in sorted(_VARIABLES) if name in environment}


def _packages(folders: Iterable[str], problems: list[str]) -> list[str]:
    found: dict[str, str] = {}
    for folder in dict.fromkeys(os.fspath(folder) or os.curdir for folder in folders):
        here: dict[str, str] = {}
        for name, line in _distributions(folder, problems):
            if here.setdefault(_normal(name), line) != line:
                problems.append(_sentence(f"packages: {name} is there twice in {folder}"))
        found = here | found
    return sorted(found.values(), key=lambda line: (line.casefold(), line))


def _normal(name: str) -> str:
    return "-".join(part for part in name.lower().replace("_", "-").replace(".", "-").split("-") if part)


def _distributions(folder: str, problems: list[str]) -> Iterator[tuple[str, str]]:
    """Yield name and line of each distribution in a folder (or zip file) of sys.path.

    Only the head of each METADATA is read: name and version stand in its first lines, the description behind them is
    long. `importlib.metadata` reads and parses all of it.
    """
    if os.path.isfile(folder):
        from importlib.metadata import distributions

        yield from ((dist.name, f"{dist.name}=={dist.version}") for dist in distributions(path=[folder]) if dist.name)
        return
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name.endswith((".dist-info", ".egg-info")))
    except OSError:  # a folder of sys.path that is not there holds no packages
        return
    for entry in names:
        if entry.startswith(("~", "-")):  # what an interrupted pip leaves behind
            continue
        try:
            found = _distribution(os.path.join(folder, entry))
        except (OSError, ValueError) as error:
            problems.append(_sentence(f"packages: {error}"))
            continue
        yield found


def _distribution(path: str) -> tuple[str, str]:
    file = os.path.join(path, "METADATA" if path.endswith(".dist-info") else "PKG-INFO")
    if path.endswith(".egg-info") and not os.path.isdir(path):
        file = path
    name, version = _name_and_version(_head(file, 2048))
    if not (name and version):
        name, version = _name_and_version(_head(file, 256 * 1024))
    if not (name and version):
        raise ValueError(f"no name and version in {file}")
    try:
        origin = msgspec.json.decode(_head(os.path.join(path, "direct_url.json"), 64 * 1024), type=_DirectUrl)
    except (FileNotFoundError, NotADirectoryError):
        return name, f"{name}=={version}"
    return name, _direct(name, version, origin)


def _name_and_version(head: bytes) -> tuple[str, str]:
    found = {b"name": "", b"version": ""}
    for line in head.split(b"\n"):
        if not line.strip():
            break
        key, _, value = line.partition(b":")
        if key.lower() in found and not found[key.lower()]:
            found[key.lower()] = value.decode("utf-8", "replace").strip()
    return found[b"name"], found[b"version"]


def _direct(name: str, version: str, origin: _DirectUrl) -> str:
    """Write a distribution that did not come from an index as `pip freeze` does, without credentials."""
    url = _without_credentials(origin.url)
    if origin.dir_info is not None and origin.dir_info.editable:
        from urllib.parse import unquote

        place = unquote(url.removeprefix("file://")) if url.startswith("file://") else url
        return f"-e {_valid(place)}  # {name}=={version}"
    if origin.vcs_info is not None:
        url = f"{origin.vcs_info.vcs}+{url}@{origin.vcs_info.commit_id}"
    checksum = origin.archive_info.hash if origin.archive_info else None
    fragments = [part for part in (checksum, origin.subdirectory and f"subdirectory={origin.subdirectory}") if part]
    return f"{name} @ {url}" + (f"#{'&'.join(fragments)}" if fragments else "")


def _without_credentials(url: str) -> str:
    """Take user and password out of a URL (of ssh only the password: its user is part of the address) and redact the rest."""
    scheme, mark, rest = url.partition("://")
    if mark:
        place, slash, path = rest.partition("/")
        if "@" not in place and "@" in path and not place.partition(":")[2].isdigit() and ":" in place:
            place, slash, path = rest.rpartition("@")[2].partition("/")  # a password with an unescaped slash
        user, at, host = place.rpartition("@")
        keep = user.partition(":")[0] + at if scheme.endswith("ssh") else ""
        url = f"{scheme}://{keep}{host}{slash}{path}"
    return redact(_valid(url))


def _cpu() -> str:
    import platform

    if sys.platform == "darwin":
        return _sysctl("machdep.cpu.brand_string")
    if sys.platform == "linux":
        # ARM kernels give no model name; the head suffices, the whole file takes long on machines with many cores.
        for line in _head("/proc/cpuinfo", 4096).decode("utf-8", "replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return _valid(platform.processor() if sys.platform == "win32" else platform.machine())


def _physical_cores() -> int | None:
    if sys.platform == "linux":
        cores = set()
        for number in range(os.cpu_count() or 0):
            topology = f"/sys/devices/system/cpu/cpu{number}/topology"
            try:
                cores.add((_head(f"{topology}/physical_package_id", 64), _head(f"{topology}/core_id", 64)))
            except OSError:  # a core that is switched off, or a system without this description
                continue
        return len(cores) or None
    from importlib import import_module

    count = import_module("psutil").cpu_count(logical=False)
    return count if isinstance(count, int) else None


def _memory_bytes() -> int:
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    from importlib import import_module

    return int(import_module("psutil").virtual_memory().total)


def _gpus(problems: list[str]) -> list[Gpu]:
    """Ask NVIDIA's library where it is installed, else what the driver says under /proc (no memory sizes there)."""
    if not any(map(os.path.exists, ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/nvidia0"))):
        return []
    from importlib import import_module

    try:
        nvml = import_module("pynvml")
    except ImportError:
        return _gpus_of_driver("/proc/driver/nvidia/gpus", "/sys/module/nvidia/version")
    try:
        return _gpus_of_nvml(nvml)
    except nvml.NVMLError as error:
        problems.append(_sentence(f"gpus: {error}"))
        return _gpus_of_driver("/proc/driver/nvidia/gpus", "/sys/module/nvidia/version")


def _gpus_of_nvml(nvml: Any) -> list[Gpu]:
    nvml.nvmlInit()
    try:
        driver = _text(nvml.nvmlSystemGetDriverVersion())
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        return [
            Gpu(
                name=_text(nvml.nvmlDeviceGetName(handle)),
                memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
                driver=driver,
            )
            for handle in handles
        ]
    finally:
        nvml.nvmlShutdown()


def _gpus_of_driver(folder: str, version_file: str) -> list[Gpu]:
    if not os.path.isdir(folder):
        return []
    driver = _text(_head(version_file, 64)).strip() if os.path.exists(version_file) else None
    gpus = []
    for slot in sorted(os.listdir(folder)):
        for line in _text(_head(os.path.join(folder, slot, "information"), 4096)).splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "Model":
                gpus.append(Gpu(name=value.strip(), driver=driver))
    return gpus


# -- the code ----------------------------------------------------------------------------------------------------------

_SECRET_FILES = _set("""
    .env .envrc .netrc _netrc .npmrc .pypirc .pgpass .my.cnf .htpasswd .git-credentials .dockercfg .vault-token
    .token token token.json kubeconfig .s3cfg .boto .condarc id_rsa id_dsa id_ecdsa id_ed25519 secret secrets
    terraform.tfstate
""")
_SECRET_ENDINGS = _list("""
    .env .pem .key .p12 .pfx .jks .keystore .kdbx .ppk .gpg .keytab .tfvars .secret .secrets .ovpn
    .mobileprovision
""")
_SECRET_STARTS = _list(".env. credentials .credentials secrets. secret. client_secret service_account service-account")
_SECRET_FOLDERS = _set(".ssh .gnupg .aws .azure .kube .docker .secrets secrets")
_SOURCE_ENDINGS = _list("""
    .py .pyi .pyx .pxd .c .h .cc .cpp .hpp .cu .cuh .rs .go .java .kt .scala .js .jsx .mjs .ts .tsx .jl .r .m .swift
    .cs .lua
""")
_FIRST_ENDINGS = _SOURCE_ENDINGS + _list(".sh .yaml .yml .toml .json .cfg .ini .txt .md .sql .ipynb")

_GIT_OPTIONS = (
    "--no-pager", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.quotePath=true",
    "-c", "core.safecrlf=false", "-c", "color.ui=false", "-c", "diff.noprefix=false", "-c", "diff.mnemonicPrefix=false",
    "-c", "diff.relative=false", "-c", "submodule.recurse=false",
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
        problems.append(_sentence(str(failure)))
    except (OSError, ValueError) as error:
        problems.append(_sentence(f"git: {type(error).__name__}: {error}"))
    files = _script_text(place, _valid(place), problems) if place else {}
    return Code(files=files, script=place and _valid(place), problems=problems)


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
    with _importing:
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
    if name == _valid(script):
        return False
    if name in map(_valid, (*status.untracked, *status.changed)):
        return True
    return git.ask("ls-files", "--error-unmatch", "--", script).status == 0


def _bare_code(git: _Git, script: str | None, problems: list[str]) -> Code:
    """Describe a repository without a working tree (or the inside of a .git folder): a commit, and nothing to compare."""
    problems.append(_sentence(f"no working tree here: {git.folder}"))
    answer = git.ask("rev-parse", "HEAD", "--abbrev-ref", "HEAD")
    commit, _, branch = answer.output.decode("utf-8", "replace").strip().partition("\n")
    known = answer.status == 0
    name = branch if known and branch != "HEAD" else None
    return Code(
        git_hash=commit if known else None,
        branch=name,
        remote=_remote(git, name, problems),
        files=_script_text(script, _valid(script), problems) if script else {},
        script=script and _valid(script),
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
        problems.append(_sentence(f"untracked files left out: {failure}"))
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
        problems.append(_sentence(f"remote: {answer.error or 'git gave no answer'}"))
        return None
    settings: dict[str, str] = {}
    for entry in os.fsdecode(answer.output).split("\0")[:-1]:
        key, _, value = entry.partition("\n")
        settings.setdefault(key, value)
    own = settings.get(f"branch.{branch}.remote", "origin")
    urls = [settings.get(f"remote.{own}.url"), settings.get("remote.origin.url")]
    urls += [value for key, value in settings.items() if key.startswith("remote.")]
    return next((_without_credentials(url) for url in urls if url), None)


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
        problems.append(_sentence(f"diff left out: {error}"))
        return ""
    if answer.status != 0 and not answer.late:
        problems.append(_sentence(f"diff left out: {answer.error}"))
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

    secrets = _environment_secrets()
    starts = [match.start() for match in re.finditer(r"(?m)^diff --git ", diff)]
    pieces = []
    for start, stop in zip([0, *starts], [*starts, len(diff)], strict=True):
        section = diff[start:stop]
        code = section.partition("\n")[0].rstrip('"').lower().endswith(_SOURCE_ENDINGS)
        text, mark, patch = section.partition("\nGIT binary patch\n")
        binary = re.fullmatch(r"(?:(?:literal|delta) [0-9]++\n(?:[A-Za-z][!-~]{1,66}+\n)*+\n)*+", patch)
        if mark and not binary:
            text, mark, patch = section, "", ""
        pieces.append(_redact(text, secrets=secrets, code=code) + mark + patch)
    return "".join(pieces)


def _untracked_texts(root: str, names: list[str], problems: list[str]) -> dict[str, str]:
    """Read small untracked text files, source files first; say in `problems` which were left out and why."""
    files: dict[str, str] = {}
    left: dict[str, list[str]] = {}
    room = FILES_BYTES
    secrets = _environment_secrets()
    for number, name in enumerate(sorted(names, key=lambda name: (not name.lower().endswith(_FIRST_ENDINGS), name))):
        reason = f"more than {FILES} files" if len(files) >= FILES or number >= 10 * FILES else _unwanted(name)
        text, reason = ("", reason) if reason else _file_text(os.path.join(root, name), follow=False)
        if not reason:
            text = _redact(text, secrets=secrets, code=name.lower().endswith(_SOURCE_ENDINGS))
            size = len(text.encode())
            reason = "" if size <= room else f"more than {FILES_BYTES} bytes together"
        if reason:
            left.setdefault(reason, []).append(name)
        else:
            files[_valid(name)] = text
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
    return {name: _redact(text, secrets=_environment_secrets(), code=script.lower().endswith(_SOURCE_ENDINGS))}


def _name_in(root: str, script: str) -> str:
    """Return the name of a file relative to the top of its repository, with "/", else its absolute path."""
    for path in (os.path.join(os.path.realpath(os.path.dirname(script)), os.path.basename(script)), os.path.realpath(script)):
        try:
            name = os.path.relpath(path, os.path.realpath(root))
        except ValueError:  # another drive
            continue
        if name != os.pardir and not name.startswith(os.pardir + os.sep):
            return _valid(name.replace(os.sep, "/"))
    return _valid(script)


def _is_secret_file(name: str) -> bool:
    *folders, base = name.lower().replace("\\", "/").split("/")
    if base in _SECRET_FILES or base.startswith(_SECRET_STARTS) or not _SECRET_FOLDERS.isdisjoint(folders[-2:]):
        return True
    return base.endswith(_SECRET_ENDINGS) or (base.startswith(("id_rsa", "id_ed25519")) and not base.endswith(".pub"))


def _left_out(reason: str, names: list[str]) -> str:
    """Write a reason and the names that it holds for, the first twenty of them."""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""  # noqa: PLR2004
    return _sentence(f"{reason}: {', '.join(sorted(map(_valid, names))[:20])}{more}", length=2000)


# -- texts and small files ---------------------------------------------------------------------------------------------


def _valid(text: str) -> str:
    """Return text that UTF-8 can carry: names and arguments from the system may hold other bytes."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else _valid(str(value))


def _sentence(text: str, *, length: int = 300) -> str:
    """Bound a reason, keep it on one line and redact it."""
    line = redact(" ".join(_valid(text).split()))
    return line if len(line) <= length else f"{line[:length]}…"


def _head(path: str, size: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read(size)


def _sysctl(name: str) -> str:
    """Ask macOS for one of its settings; empty where it does not know it."""
    import subprocess

    try:
        answer = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.decode("utf-8", "replace").strip() if answer.returncode == 0 else ""
