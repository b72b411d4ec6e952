"""Secrets taken out of texts before the first byte is written.

Secret is what a name, a known shape, a URL or the environment marks as such. Redaction works by rules, so a secret without
a telling name or shape, for example in prose or as the default of a command line option, stays; and it keeps the number
of lines and the first character of each line, so a redacted diff still applies wherever nothing was redacted. The work
grows with the length of a text, not with its square, whatever the text. Nothing here reads or writes a file.
"""

from __future__ import annotations

import os
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import re
    from collections.abc import Iterable, Iterator, Sequence

REDACTED = "[redacted]"

# -- redaction: names --------------------------------------------------------------------------------------------------


def word_list(words: str) -> tuple[str, ...]:
    """Split words at white space."""
    return tuple(words.split())


def word_set(words: str) -> frozenset[str]:
    """Split words at white space, for looking up."""
    return frozenset(words.split())


# A name is judged by its last words: "db.master_password" by "password", "max_tokens" by "tokens".
_TRIGGERS = word_list("pass pwd secret token key cred auth cookie jwt bearer webhook _pat -pat")
_ALONE = word_set("""password passwords passwd passphrase passphrases passcode pwd secret secrets authorization cookie jwt
    bearer credential credentials creds webhook""")
_ENDINGS = word_list("password passwords passwd passphrase secret apikey apikeys authorization")
_JOINED = word_set("""accesskey secretkey privatekey authkey signingkey encryptionkey masterkey accountkey accesskeyid
    accesstoken apitoken authtoken bearertoken bottoken csrftoken hftoken hubtoken idtoken refreshtoken sessiontoken
    userpass dbpass sshpass""")
# What must stand before the last word.
_OWNERS: dict[str, frozenset[str]] = {
    "key": word_set("""api access secret private encryption decryption signing auth account master ssh deploy storage session
        shared service subscription admin app application consumer license licence write functions root openai anthropic
        azure aws gcp google gemini cohere groq mistral replicate huggingface hf wandb comet neptune stripe github gitlab
        slack datadog sentry"""),
    "keys": word_set("api access secret private encryption signing auth"),
    "pass": word_set("""db database user usr admin root mail email smtp imap ftp sftp ssh redis mysql postgres pg mongo rabbit
        proxy http basic auth login my git service"""),
    "tokens": word_set("auth access api refresh bearer secret session hub hf huggingface github gitlab bot user"),
    "auth": word_set("basic http proxy registry docker npm git"),
    "pat": word_set("github gh gitlab azure devops ext"),
    "url": word_set("webhook"),
}
# What stands before "token" in language models and in paging: a piece of text or a place in a list, not a secret.
_PIECES = word_set("""max min num n per pad padding eos bos unk mask sep cls special next prev previous last first start end
    stop begin image img audio video vision class current cur new old single input output prompt text word sub decoder
    encoder space speaker register lookahead extra added delimiter separator placeholder answer think target source
    generated sampled draft head tail blank newline boundary global query latent distillation dist split control language
    lang task suffix prefix middle fim tool continuation page total count expected gold each all""")
_NOT_FIRST = word_set("no not num n max min is has show hide skip without count len total")
# Names that are secrets only as parameters of a URL.
_QUERY_NAMES = word_set("sig signature auth x-amz-signature x-amz-credential x-goog-signature x-goog-credential")


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
    return redact_with(text, secrets=environment_secrets(), code=False)


def redact_argv(argv: Sequence[str]) -> list[str]:
    """Redact the arguments of a command, each by itself and by the option before it; as many come back as went in."""
    secrets = environment_secrets()
    done: list[str] = []
    waiting = ""  # the secret option whose value comes next
    for argument in map(valid_text, argv):
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
            done.append(redact_with(argument, secrets=secrets, code=False))
    return done


def redact_with(text: str, *, secrets: list[str], code: bool) -> str:
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


def environment_secrets() -> list[str]:
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


def without_credentials(url: str) -> str:
    """Take user and password out of a URL (of ssh only the password: its user is part of the address) and redact the rest."""
    scheme, mark, rest = url.partition("://")
    if mark:
        place, slash, path = rest.partition("/")
        if "@" not in place and "@" in path and not place.partition(":")[2].isdigit() and ":" in place:
            place, slash, path = rest.rpartition("@")[2].partition("/")  # a password with an unescaped slash
        user, at, host = place.rpartition("@")
        keep = user.partition(":")[0] + at if scheme.endswith("ssh") else ""
        url = f"{scheme}://{keep}{host}{slash}{path}"
    return redact(valid_text(url))


# -- texts ----------------------------------------------------------------------------------------------------------------


def valid_text(text: str) -> str:
    """Return text that UTF-8 can carry: names and arguments from the system may hold other bytes."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def plain_text(value: Any) -> str:
    """Return what a library gave as text: bytes are read as UTF-8."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else valid_text(str(value))


def sentence(text: str, *, length: int = 300) -> str:
    """Bound a reason, keep it on one line and redact it."""
    line = redact(" ".join(valid_text(text).split()))
    return line if len(line) <= length else f"{line[:length]}…"
