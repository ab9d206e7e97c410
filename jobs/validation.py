"""Turns what pydantic says about a bad document into sentences such as `budget.ratio must be > 0,
but got -1`."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from jobs.errors import FieldProblem, SpecError

M = TypeVar("M", bound=BaseModel)
DOCUMENT = "document"

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
    """Reads a document's JSON text; raises SpecError as `validate` does."""
    return _translated(lambda: kind.model_validate_json(text))


def problems(errors: Iterable[Mapping[str, Any]]) -> tuple[FieldProblem, ...]:
    """One sentence per error of `ValidationError.errors()`."""
    return tuple(_problem(error) for error in errors)


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
