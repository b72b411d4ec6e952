"""A condition on runs as people write it: `metrics.accuracy > 0.9 and (params.model = 'svm' or tags.baseline is not null)`.

    condition  = either, { "or", either }
    either     = one, { "and", one }
    one        = "not", one | "(", condition, ")" | name, test
    test       = operator, value | ["not"], ("in", values | ("like" | "ilike"), text) | "is", ["not"], "null"
    values     = "(", value, { ",", value }, ")"
    operator   = "=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">=" | "~" | "!~"
    name       = column | ("metrics" | "params" | "tags" | "attributes" | "dataset") "." key

MLflow's filter language is a part of it. Words are read in any case; a key that is no plain word stands in backticks or double
quotes; a text stands in single quotes (or, as a value, in double ones). A metric compares as a number, and NaN with nothing; a
parameter as a number where the value is one, else as text; a tag as text. What a run does not have compares with nothing, and
only `is null` is true of it, or a `not` in front of a whole test. `~` looks for a regular expression (RE2) anywhere in the text.
Nothing of the text reaches SQL but as a bound value.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import FilterError

if TYPE_CHECKING:
    from collections.abc import Callable

LENGTH_MAX = 20_000
DIGITS_MAX = 38
"""Digits of a whole number that DuckDB takes; one with more compares as a double."""
TESTS_MAX = 500
DEPTH_MAX = 50
Sql = tuple[str, list[Any]]
"""A piece of SQL and its bound values."""

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![\w.]))
    | (?P<text>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")*"|`[^`]*`)
    | (?P<word>[^\W\d][\w/-]*)
    | (?P<sign><>|<=|>=|==|!=|!~|[=<>~(),.])
    )""",
    re.VERBOSE,
)
_PLAIN = re.compile(r"[^\W\d][\w/-]*")
_SIGNS = {"=": "=", "==": "=", "!=": "<>", "<>": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_WORDS = frozenset({"and", "or", "not", "in", "like", "ilike", "is", "null", "true", "false"})


class Token(NamedTuple):
    """A piece of the condition; `at` is where it begins, from 1."""

    kind: str
    text: str
    at: int


class Value(NamedTuple):
    """A value: its text as written, without quotes; its number where it was written as one; and at which character."""

    text: str
    number: int | float | None
    at: int


class Operand(NamedTuple):
    """What a name means: SQL of its value as text, of its value as a number where it has one, and of whether it is there.

    `convert` makes a bound value of one that was written; None where only texts and numbers compare as they are. `alias` is SQL
    of another name for the value, which patterns may fit as well. `among` is SQL of a list: any `one` of it may fit, as `text`
    says.
    """

    text: Sql
    number: Sql | None
    there: Sql
    convert: Callable[[Value], Any] | None = None
    alias: str | None = None
    among: str | None = None


def half_character(text: str) -> int | None:
    """Where a text has half a character of Unicode, which nothing can store; None where it has none."""
    try:
        text.encode()
    except UnicodeEncodeError as problem:
        return problem.start
    return None


def compile_where(text: str, resolve: Callable[[str, str | None], Operand | None], is_pattern: Callable[[str], bool]) -> Sql:
    """SQL of a condition.

    Args:
        text: the condition.
        resolve: (table, key) or (column, None) to what it means; None where there is no such thing.
        is_pattern: whether a text is a regular expression, to the engine that will use it.

    Raises:
        FilterError: it does not parse, or names what is not there; says where.
    """
    if len(text) > LENGTH_MAX:
        raise FilterError(f"a condition of {len(text)} characters", where="where", hint=f"at most {LENGTH_MAX}")
    if (half := half_character(text)) is not None:
        raise FilterError(f"half a character of Unicode at character {half + 1}", where="where", hint="text that UTF-8 can write")
    parser = _Parser(text, resolve, is_pattern)
    found = parser.condition(0)
    parser.end()
    return found


class _Parser:
    def __init__(
        self, text: str, resolve: Callable[[str, str | None], Operand | None], is_pattern: Callable[[str], bool]
    ) -> None:
        self._is_pattern = is_pattern
        self._tokens = _tokens(text)
        self._at = 0
        self._resolve = resolve
        self._tests = 0

    # -- the grammar -------------------------------------------------------------------------------------------------

    def condition(self, depth: int) -> Sql:
        """Either of several."""
        return self._joined("or", lambda: self._joined("and", lambda: self._one(depth)))

    def _joined(self, word: str, part: Callable[[], Sql]) -> Sql:
        parts = [part()]
        while self._word(word):
            parts.append(part())
        if len(parts) == 1:
            return parts[0]
        return f" {word.upper()} ".join(f"({one})" for one, _ in parts), [value for _, some in parts for value in some]

    def _one(self, depth: int) -> Sql:
        if depth > DEPTH_MAX:
            raise self._error("nested too deeply")
        if self._word("not"):
            inner, bound = self._one(depth + 1)
            return f"NOT coalesce(({inner}), false)", bound
        if self._sign("("):
            found = self.condition(depth + 1)
            self._need(")")
            return found
        self._tests += 1
        if self._tests > TESTS_MAX:
            raise self._error(f"more than {TESTS_MAX} tests")
        return self._test(*self._name())

    def _name(self) -> tuple[Operand, str]:
        token = self._take("word", "quoted")
        if token is None or (token.kind == "word" and token.text.lower() in _WORDS):
            raise self._error("a name is wanted", back=token is not None)
        table, key = _unquoted(token), None
        while (part := self._part()) is not None:
            key = part if key is None else f"{key}.{part}"
        found = self._resolve(table, key)
        if found is None:
            said = table if key is None else f"{table}.{key}"
            hint = "a column such as status, or metrics.NAME, params.NAME, tags.NAME"
            if key is None:
                plain = table if _PLAIN.fullmatch(table) else f"`{table[:60]}`"
                hint = f"metrics.{plain}, params.{plain} or tags.{plain}, or a column such as status"
            raise FilterError(f"no name {said[:60]!r}, at character {token.at}", where="where", hint=hint)
        return found, table if key is None else f"{table}.{key}"

    def _part(self) -> str | None:
        """The part of a name behind a dot, if one follows; `.5` is a number to whoever reads tokens, and such a part here."""
        if self._next().startswith(".") and (digits := self._take("number")):
            return digits.text[1:]
        if not self._sign("."):
            return None
        more = self._take("word", "quoted", "number")
        if more is None:
            raise self._error("a name is wanted behind the dot")
        return _unquoted(more)

    def _test(self, operand: Operand, name: str) -> Sql:
        if self._word("is"):
            absent = not self._word("not")
            if not self._word("null"):
                raise self._error("null is wanted")
            there, bound = operand.there
            return (f"NOT coalesce({there}, false)" if absent else f"coalesce({there}, false)"), bound
        negated = self._word("not")
        if self._word("in"):
            found = self._in(operand, name)
        elif (word := self._word("like")) or self._word("ilike"):
            text, bound = operand.text
            pattern = self._value().text
            way = "LIKE" if word else "ILIKE"
            found = f"CAST({text} AS VARCHAR) {way} ?", [*bound, pattern]
            if operand.alias:
                found = f"{found[0]} OR {operand.alias} {way} ?", [*found[1], pattern]
        elif negated:
            raise self._error("in or like is wanted behind not")
        else:
            found = self._compared(operand, name)
        if operand.among is not None:
            found = f"len(list_filter({operand.among}, lambda one: {found[0]})) > 0", found[1]
        return (f"NOT ({found[0]})", found[1]) if negated else found

    def _in(self, operand: Operand, name: str) -> Sql:
        self._need("(")
        sides = [self._sides(operand, name, self._value())]
        while self._sign(","):
            if self._next() == ")":
                break
            sides.append(self._sides(operand, name, self._value()))
        self._need(")")
        by_term: dict[str, tuple[list[Any], list[Any]]] = {}
        for (term, bound), value in sides:
            by_term.setdefault(term, (bound, []))[1].append(value)
        tests = [f"({term} IN ({', '.join('?' * len(values))}))" for term, (_, values) in by_term.items()]
        return " OR ".join(tests), [value for bound, values in by_term.values() for value in (*bound, *values)]

    def _compared(self, operand: Operand, name: str) -> Sql:
        token = self._take("sign")
        if token is not None and token.text in {"~", "!~"}:
            pattern = self._value().text
            if not self._is_pattern(pattern):
                raise self._error(f"the regular expression {pattern[:40]!r} does not parse", back=True)
            text, bound = operand.text
            found = f"regexp_matches(CAST({text} AS VARCHAR), ?)"
            return (found if token.text == "~" else f"NOT {found}"), [*bound, pattern]
        if token is None or token.text not in _SIGNS:
            raise self._error("an operator is wanted", back=token is not None)
        (term, bound), value = self._sides(operand, name, self._value())
        return f"{term} {_SIGNS[token.text]} ?", [*bound, value]

    def _sides(self, operand: Operand, name: str, value: Value) -> tuple[Sql, Any]:
        """What is compared with what: a number with a number where both may be, else a text with a text."""
        if operand.convert is not None:
            try:
                return operand.text, operand.convert(value)
            except FilterError as problem:
                raise FilterError(f"{problem.message}, at character {value.at}", where="where", hint=problem.hint) from None
        if value.number is not None and operand.number is not None:
            return operand.number, value.number
        if operand.number is not None and operand.text == operand.number:
            said = f"{name} compares with a number, not {value.text[:40]!r}, at character {value.at}"
            raise FilterError(said, where="where", hint=f"{name} > 0.9")
        return operand.text, value.text

    def _value(self) -> Value:
        token = self._take("number", "text", "quoted", "word")
        if token is None or token.text[0] == "`":
            raise self._error("a value is wanted", back=token is not None)
        if token.kind == "number":
            whole = not any(c in token.text for c in ".eE") and len(token.text) <= DIGITS_MAX
            return Value(token.text, int(token.text) if whole else float(token.text), token.at)
        if token.kind == "word":
            if token.text.lower() in {"true", "false"}:
                return Value(token.text.lower(), None, token.at)
            raise self._error(f"the text {token.text[:40]!r} stands in quotes", back=True)
        return Value(_unquoted(token), None, token.at)

    # -- pieces ------------------------------------------------------------------------------------------------------

    def _take(self, *kinds: str) -> Token | None:
        if self._at < len(self._tokens) and self._tokens[self._at].kind in kinds:
            self._at += 1
            return self._tokens[self._at - 1]
        return None

    def _next(self) -> str:
        """The next token as it stands; empty at the end."""
        return self._tokens[self._at].text if self._at < len(self._tokens) else ""

    def _word(self, word: str) -> bool:
        token = self._take("word")
        if token is not None and token.text.lower() == word:
            return True
        self._at -= token is not None
        return False

    def _sign(self, sign: str) -> bool:
        token = self._take("sign")
        if token is not None and token.text == sign:
            return True
        self._at -= token is not None
        return False

    def _need(self, sign: str) -> None:
        if not self._sign(sign):
            raise self._error(f"{sign} is wanted")

    def end(self) -> None:
        """Make sure that nothing stands behind the condition."""
        if self._at < len(self._tokens):
            raise self._error("and, or, or the end is wanted")

    def _error(self, what: str, *, back: bool = False) -> FilterError:
        i = self._at - back
        place = f"at character {self._tokens[i].at}" if i < len(self._tokens) else "at the end"
        return FilterError(f"{what} {place}", where="where", hint="metrics.accuracy > 0.9 and params.model = 'svm'")


def _tokens(text: str) -> list[Token]:
    found: list[Token] = []
    at, end = 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            place = len(text) - len(text[at:].lstrip())
            hint = "a text stands in single quotes, a name that is no plain word in backticks"
            raise FilterError(
                f"{text[place : place + 20]!r} at character {place + 1} is not understood", where="where", hint=hint
            )
        kind = match.lastgroup or ""
        found.append(Token(kind, match[kind], match.start(kind) + 1))
        at = match.end()
    if not found:
        raise FilterError("the condition is empty", where="where", hint="metrics.accuracy > 0.9")
    return found


def _unquoted(token: Token) -> str:
    if token.kind == "text":
        return token.text[1:-1].replace("''", "'")
    if token.kind == "quoted":
        return token.text[1:-1].replace('""', '"') if token.text[0] == '"' else token.text[1:-1]
    return token.text
