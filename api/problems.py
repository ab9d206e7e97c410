"""RFC 9457 problem documents: every error of the API leaves through this file.

It knows HTTP and the error tree of `jobs`; it must not know any route.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.database import is_busy, reason
from jobs.errors import (
    ArtifactNotFound,
    ArtifactUnavailable,
    FieldProblem,
    IdempotencyMismatch,
    IllegalTransition,
    InUse,
    JobsError,
    SpecError,
    UnknownCursor,
)
from jobs.near import near
from jobs.validation import MAX_PROBLEMS, problems

MEDIA_TYPE = "application/problem+json"
KIND_PREFIX = "urn:secateur:problem:"
SHOWN_CHARACTERS = 80
WHERE = ("body", "query", "path", "header", "cookie")

AS_JSON = "With curl, add -H 'content-type: application/json'."

log = logging.getLogger(__name__)


class Problem(HTTPException):
    """An answer that says what is wrong and what to change.

    An HTTPException, because FastAPI lets only those pass while it reads a body.

    Attributes:
        document: The problem document: type, title, status, detail and further fields.
        headers: Extra response headers.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.document: dict[str, Any] = {
            "type": KIND_PREFIX + kind,
            "title": kind.replace("-", " ").capitalize(),
            "status": status,
            "detail": detail,
            **fields,
        }

    def response(self) -> JSONResponse:
        """This problem as an HTTP response."""
        return JSONResponse(
            self.document, self.status_code, headers=self.headers, media_type=MEDIA_TYPE
        )


def not_found(what: str, name: str, hint: str = "", known: Iterable[str] = ()) -> Problem:
    """404 for a named thing, with the names that are near, and a hint where to look."""
    detail = f"There is no {what} {shown(name)}{near(name, known) or '.'}"
    return Problem(404, "not-found", f"{detail} {hint}".strip())


def conflict(kind: str, detail: str, **fields: Any) -> Problem:
    """409: the request is well formed and the state of things refuses it."""
    return Problem(409, kind, detail, **fields)


def invalid(
    errors: Iterable[FieldProblem], kind: str = "invalid-request", hint: str = ""
) -> Problem:
    """422 with one entry per field that has to change."""
    fields = [{"field": error.field, "message": error.message} for error in errors][:MAX_PROBLEMS]
    detail = "; ".join(entry["message"] for entry in fields[:3])
    more = f" (and {len(fields) - 3} more)" if len(fields) > 3 else ""
    return Problem(422, kind, f"{detail}{more}. {hint}".strip(), errors=fields)


def invalid_field(field: str, message: str, kind: str = "invalid-request") -> Problem:
    """422 for a single field; the message goes on after the field's name."""
    return invalid([FieldProblem(field, f"{field} {message}")], kind)


def database_busy() -> Problem:
    """503: somebody else writes, and does not let go in time. Nothing of the request was kept."""
    detail = "The database is busy with other writers: nothing was changed, send it again."
    return Problem(503, "database-busy", detail, headers={"Retry-After": "3"})


def shown(value: object) -> str:
    """A caller's value, quoted and cut short."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"


def _spec_error(error: SpecError) -> Problem:
    return invalid(error.problems)


def _cursor_error(error: UnknownCursor) -> Problem:
    return invalid([FieldProblem("after", str(error))])


def _mismatch(error: IdempotencyMismatch) -> Problem:
    return Problem(422, "idempotency-key-reused", f"{error}. Send a new key.")


def _gone(error: ArtifactNotFound) -> Problem:
    return Problem(410, "artifact-gone", f"The file is no longer in the store: {error}.")


def _away(error: ArtifactUnavailable) -> Problem:
    log.warning("the artifact store refused: %s", error)
    detail = "The artifact store cannot be used at the moment: try again in a few seconds."
    return Problem(503, "store-unavailable", detail, headers={"Retry-After": "3"})


def _conflict(error: IllegalTransition) -> Problem:
    return conflict("illegal-transition", f"{error}.")


def _in_use(error: InUse) -> Problem:
    return conflict("in-use", f"{error}.", users=list(error.users))


# The one table from the errors of `jobs` to answers; what is not in it is a 500.
ANSWERS: Mapping[type[JobsError], Callable[[Any], Problem]] = {
    SpecError: _spec_error,
    UnknownCursor: _cursor_error,
    IdempotencyMismatch: _mismatch,
    ArtifactNotFound: _gone,
    ArtifactUnavailable: _away,
    IllegalTransition: _conflict,
    InUse: _in_use,
}


def _request_problems(error: RequestValidationError) -> tuple[FieldProblem, ...]:
    return problems(
        _of_parts({**item, "loc": _without_place(item["loc"])}) for item in error.errors()
    )


def _not_as_json(request: Request, error: RequestValidationError) -> Problem | None:
    """415 for a document that was sent as something else: what `curl -d` does by itself."""
    if not any(
        tuple(item["loc"]) == ("body",) and isinstance(item.get("input"), bytes)
        for item in error.errors()
    ):
        return None
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    detail = f"Content-Type must be application/json, but got {kind!r}. {AS_JSON}"
    return Problem(415, "unsupported-media-type", detail)


def _of_parts(item: dict[str, Any]) -> dict[str, Any]:
    """The error of a form's field that came as text instead of as a file, or the other way, in
    words; others as they are."""
    name, given = item["loc"][-1] if item["loc"] else "", item.get("input")
    if isinstance(given, UploadFile):
        words = f"must be text, but got a file: with curl, -F '{name}=<PATH'"
    elif "UploadFile" in str(item.get("msg")):
        words = f"must be a file, but got text: with curl, -F {name}=@PATH"
    else:
        return item
    return {**item, "type": "value_error", "ctx": {"error": words}}


def _without_place(loc: Sequence[Any]) -> tuple[Any, ...]:
    """A field's path without where FastAPI read it: ``body.budget.ratio`` is ``budget.ratio``."""
    named = tuple(part for part in loc if not str(part).startswith("function-"))
    return named[1:] if named and named[0] in WHERE else named


def install(app: FastAPI) -> None:
    """Turn every exception that leaves a route into a problem document."""

    @app.exception_handler(Problem)
    def on_problem(request: Request, error: Problem) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    def on_request(request: Request, error: RequestValidationError) -> JSONResponse:
        if (problem := _not_as_json(request, error)) is not None:
            return problem.response()
        return invalid(_request_problems(error)).response()

    @app.exception_handler(JobsError)
    def on_jobs(request: Request, error: JobsError) -> JSONResponse:
        answer = ANSWERS.get(type(error))
        if answer is None:
            raise error
        return answer(error).response()

    @app.exception_handler(HTTPException)
    def on_http(request: Request, error: HTTPException) -> JSONResponse:
        phrase = HTTPStatus(error.status_code).phrase
        kind = phrase.lower().replace(" ", "-").replace("'", "")
        detail = f"{request.method} {request.url.path}: {error.detail}."
        return Problem(error.status_code, kind, detail, headers=error.headers).response()

    @app.exception_handler(OperationalError)
    @app.exception_handler(PoolTimeout)
    def on_database(request: Request, error: OperationalError | PoolTimeout) -> JSONResponse:
        log.warning("the database refused: %s", reason(error))
        if is_busy(error):
            return database_busy().response()
        detail = "The database cannot be used at the moment: try again in a few seconds."
        headers = {"Retry-After": "3"}
        return Problem(503, "database-unavailable", detail, headers=headers).response()

    app.add_middleware(AnswersAnyway)


class AnswersAnyway:
    """Answers 500 where an exception leaves the application, and keeps the connection.

    A handler of ``Exception`` would not do: after it has answered, the exception goes on to the
    server, which hangs up, and a client may lose the answer with the connection.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; an exception after the first byte of the answer goes on as well."""
        answering = False

        async def watched(message: Message) -> None:
            nonlocal answering
            answering = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            if answering or scope["type"] != "http":
                raise
            log.exception("%s %s failed", scope["method"], scope["path"])
            detail = "The server failed on this request; its log says why. It may be sent again."
            await Problem(500, "internal-error", detail).response()(scope, receive, send)
