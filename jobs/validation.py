"""Turns what pydantic says about a bad document into sentences such as `budget.ratio must be > 0,
but got -1`."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ValidationError
from pydantic_core import from_json

from jobs.errors import FieldProblem, SpecError

M = TypeVar("M", bound=BaseModel)
DOCUMENT = "document"
MAX_PROBLEMS = 50
# Every bad entry costs pydantic about 1 kB and 5 us. A transformer's configuration with 1000 named
# classes has 4000 keys and values.
MAX_VALUES = 20_000
UNSTORABLE = "must be text without NUL characters and lone surrogates"

_SURROGATES = re.compile("[\ud800-\udfff]")

_RULES: Mapping[str, str] = {
    "greater_than": "must be > {gt}",
    "greater_than_equal": "must be >= {ge}",
    "less_than": "must be < {lt}",
    "less_than_equal": "must be <= {le}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "finite_number": "must be a finite number",
    "string_type": "must be a text",
    "int_type": "must be an integer",
    "int_parsing": "must be an integer",
    "int_from_float": "must be an integer",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
}


def validate(kind: type[M], data: Any) -> M:
    """Reads a parsed document.

    Raises:
        SpecError: with one problem per field.
    """
    return _translated(lambda: kind.model_validate(data))


def validate_json(kind: type[M], text: str | bytes) -> M:
    """Reads a document's JSON text; raises SpecError as `validate` and `read_json` do."""
    return validate(kind, read_json(text))


def read_json(text: str | bytes) -> Any:
    """Parses JSON that a database can hold and that is not too much to look through.

    Raises:
        SpecError: it is no JSON, has more than 20 000 values, or holds text with NUL characters
            or halves of surrogate pairs, keys included.
    """
    if isinstance(text, str) and not is_storable(text):
        raise SpecError([FieldProblem(DOCUMENT, f"{DOCUMENT} {UNSTORABLE}")])
    try:
        document = from_json(_without_mark(text))
    except ValueError as error:
        message = f"{DOCUMENT} must be JSON, but got {error}"
        raise SpecError([FieldProblem(DOCUMENT, message)]) from None
    for count, (field, value) in enumerate(_values(document)):
        if count >= MAX_VALUES:
            message = f"{DOCUMENT} must hold at most {MAX_VALUES} values, but holds more"
            raise SpecError([FieldProblem(DOCUMENT, message)])
        if isinstance(value, str) and not is_storable(value):
            name = field or DOCUMENT
            message = f"{name} {UNSTORABLE}, but got {reprlib.repr(value)}"
            raise SpecError([FieldProblem(name, message)])
    return document


def _without_mark(text: str | bytes) -> str | bytes:
    """Without the byte order mark that some editors write first."""
    if isinstance(text, str):
        return text.removeprefix("\ufeff")
    return text.removeprefix(b"\xef\xbb\xbf")


def _values(document: Any) -> Iterator[tuple[str, Any]]:
    """Every value in a document with its dotted path, and every key."""
    waiting: list[tuple[str, Any]] = [("", document)]
    while waiting:
        field, value = waiting.pop()
        yield field, value
        parts: Iterable[tuple[Any, Any]] = ()
        if isinstance(value, dict):
            parts = value.items()
            yield from ((field, key) for key in value)
        elif isinstance(value, list):
            parts = enumerate(value)
        waiting += [(f"{field}.{name}".lstrip("."), part) for name, part in parts]


def is_storable(text: str) -> bool:
    """Whether it is free of NUL, which PostgreSQL refuses, and of halves of surrogate pairs,
    which UTF-8 has no bytes for."""
    return "\0" not in text and (text.isascii() or not _SURROGATES.search(text))


def within_utc(moment: datetime) -> datetime:
    """The time in UTC; one without a zone is read as UTC.

    Raises:
        ValueError: there it lies outside of the years 1 to 9999.
    """
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError(
            f"must be between the years 1 and 9999 in UTC, but got {moment.isoformat()}"
        ) from None


UtcMoment = Annotated[datetime, AfterValidator(within_utc)]


def problems(errors: Iterable[Mapping[str, Any]]) -> tuple[FieldProblem, ...]:
    """One sentence for each of the first errors of `ValidationError.errors()`."""
    return tuple(_problem(error) for error in islice(errors, MAX_PROBLEMS))


def _translated(read: Callable[[], M]) -> M:
    try:
        return read()
    except ValidationError as error:
        raise SpecError(problems(error.errors(include_url=False))) from error


def _problem(error: Mapping[str, Any]) -> FieldProblem:
    field = ".".join(str(part) for part in error["loc"]) or DOCUMENT
    return FieldProblem(field, f"{field} {_sentence(error)}")


def _sentence(error: Mapping[str, Any]) -> str:
    kind = str(error["type"])
    context = {name: _short(value) for name, value in error.get("ctx", {}).items()}
    if kind == "missing":
        return "must be given, but got nothing"
    if kind == "extra_forbidden":
        return "must not be given: there is no such field"
    if kind == "value_error":
        return context["error"]
    if kind == "json_invalid":
        return f"must be JSON, but got {context['error']}"
    rule = _RULES.get(kind)
    if rule is None:
        return f"must be valid ({error['msg']}), but got {reprlib.repr(error.get('input'))}"
    return f"{rule.format_map(context)}, but got {reprlib.repr(error.get('input'))}"


def _short(value: Any) -> str:
    """A limit as people write it: 0, not 0.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)
