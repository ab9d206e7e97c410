"""Capability expressions: `memory_mb >= 4000 and cpu contains "Cortex"`, read into small objects
that are asked whether a device's facts fulfil them. Knows no device, and evaluates no code.

    expression := all ("or" all)*          all := each ("and" each)*
    each       := "not" each | "(" expression ")" | name [operator value]
    operator   := = | == | != | < | <= | > | >= | contains
    value      := number | "text" | word

A name is dotted: `labels.room`, `runtimes.onnxruntime.version`. Alone it holds where the fact is
known and not empty. What is unknown fulfils no comparison, `!=` included.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

MOST_CHARACTERS = 500
MOST_DEPTH = 20

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>[-+]?\d+(?:\.\d+)?(?![\w.:-]))
      | (?P<text>"[^"]*"|'[^']*')
      | (?P<word>\w[\w.:-]*)
      | (?P<sign><=|>=|!=|==|[=<>()])
    )""",
    re.VERBOSE,
)
_ORDERS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_OPERATORS = {"=", "==", "!=", "contains", *_ORDERS}
_RESERVED = {"and", "or", "not", "contains"}

Facts = Mapping[str, Any]


class Expression(Protocol):
    """What a device may be asked."""

    def holds(self, facts: Facts) -> bool:
        """Whether these facts fulfil it."""
        ...


@dataclass(frozen=True)
class Known:
    """The fact is there, and is not empty, zero or false."""

    name: str

    def holds(self, facts: Facts) -> bool:
        return bool(look_up(facts, self.name))


@dataclass(frozen=True)
class Compared:
    """The fact compared with a value; false where it is unknown."""

    name: str
    sign: str
    value: float | str

    def holds(self, facts: Facts) -> bool:
        found = look_up(facts, self.name)
        if found is None:
            return False
        if self.sign == "contains":
            return _contains(found, self.value)
        if self.sign not in _ORDERS:
            return _equal(found, self.value) is (self.sign != "!=")
        left, right = _number(found), _number(self.value)
        return left is not None and right is not None and _ORDERS[self.sign](left, right)


@dataclass(frozen=True)
class Not:
    """The opposite."""

    inner: Expression

    def holds(self, facts: Facts) -> bool:
        return not self.inner.holds(facts)


@dataclass(frozen=True)
class All:
    """Every part holds."""

    parts: tuple[Expression, ...]

    def holds(self, facts: Facts) -> bool:
        return all(part.holds(facts) for part in self.parts)


@dataclass(frozen=True)
class Some:
    """At least one part holds."""

    parts: tuple[Expression, ...]

    def holds(self, facts: Facts) -> bool:
        return any(part.holds(facts) for part in self.parts)


def parse(text: str) -> Expression:
    """Reads an expression.

    Raises:
        ValueError: it is none; says what was expected at which character, the first being 1.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"must be at most {MOST_CHARACTERS} characters, but got {len(text)}")
    reader = _Reader(text)
    found = reader.expression()
    if not reader.at_end:
        raise reader.wanted("and, or, or the end")
    return found


def look_up(facts: Any, name: str) -> Any:
    """The fact with this dotted name, None where there is none; keys may hold dots themselves."""
    if not isinstance(facts, Mapping):
        return None
    if name in facts:
        return facts[name]
    for place, character in enumerate(name):
        if character == "." and name[:place] in facts:
            found = look_up(facts[name[:place]], name[place + 1 :])
            if found is not None:
                return found
    return None


class _Reader:
    """Recursive descent over the tokens of a text."""

    def __init__(self, text: str) -> None:
        self._text, self._place, self._depth = text, 0, 0
        self._kind, self._token = "", ""
        self._next()

    @property
    def at_end(self) -> bool:
        return self._kind == ""

    def expression(self) -> Expression:
        return self._several("or", lambda: self._several("and", self._each, All), Some)

    def wanted(self, what: str) -> ValueError:
        got = "the end" if self.at_end else repr(self._token)
        place = self._place - len(self._token) + 1
        return ValueError(f"must have {what} at character {place}, but got {got}")

    def _several(
        self,
        word: str,
        read: Callable[[], Expression],
        join: Callable[[tuple[Expression, ...]], Expression],
    ) -> Expression:
        parts = [read()]
        while self._takes(word):
            parts.append(read())
        return parts[0] if len(parts) == 1 else join(tuple(parts))

    def _each(self) -> Expression:
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise ValueError(f"must be nested at most {MOST_DEPTH} deep, but is deeper")
        found = self._nested()
        self._depth -= 1
        return found

    def _nested(self) -> Expression:
        if self._takes("not"):
            return Not(self._each())
        if self._takes("("):
            inner = self.expression()
            if not self._takes(")"):
                raise self.wanted("and, or, or a closing parenthesis")
            return inner
        return self._test()

    def _test(self) -> Expression:
        if self._kind != "word" or self._token in _RESERVED:
            raise self.wanted("a name, not or an opening parenthesis")
        name = self._take()
        if self._token not in _OPERATORS or self._kind == "text":
            return Known(name)
        sign = self._take()
        if self._kind not in ("number", "text", "word"):
            raise self.wanted("a number, a text or a word")
        kind, value = self._kind, self._take()
        if kind == "number":
            return Compared(name, sign, float(value))
        return Compared(name, sign, value[1:-1] if kind == "text" else value)

    def _takes(self, token: str) -> bool:
        if self._token != token or self._kind == "text":
            return False
        self._next()
        return True

    def _take(self) -> str:
        token = self._token
        self._next()
        return token

    def _next(self) -> None:
        rest = self._text[self._place :]
        match = _TOKEN.match(rest)
        if match is not None and match.lastgroup is not None:
            self._kind, self._token = match.lastgroup, match[match.lastgroup]
            self._place += match.end()
            return
        self._kind, self._token = "", ""
        self._place = len(self._text) - len(rest.lstrip())
        if rest.strip():
            self._token = rest.strip()[0]
            raise ValueError(
                f"must have a name, a value or a sign at character {self._place + 1}, "
                f"but got {self._token!r}"
            )


def _number(value: object) -> float | None:
    """The number, also of a label that spells one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _equal(found: object, wanted: float | str) -> bool:
    if isinstance(found, bool):
        return str(found).lower() == str(wanted).lower()
    if isinstance(wanted, float):
        return _number(found) == wanted
    return str(found) == wanted


def _contains(found: object, wanted: float | str) -> bool:
    if isinstance(found, str):
        return isinstance(wanted, str) and wanted in found
    return isinstance(found, Mapping | list | tuple) and wanted in found
