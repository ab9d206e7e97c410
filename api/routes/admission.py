"""What must hold before the first byte of a request's body is read: key, scope, size, free disk.

FastAPI reads the body before it solves dependencies; a route of this class looks first.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.types import Message, Receive

from api.guards import SAFE_METHODS
from api.problems import Problem, invalid
from api.routes.access import Requirement, caller_of
from api.routes.edge import Services, services_of
from api.space import MIB, NoSpace, Promise, UploadSpace
from jobs.errors import SpecError
from jobs.validation import read_json

# The largest documents that are of use, an enrolment with 32 labels and 32 runtimes of 32
# providers and a transformer's configuration with 1000 named classes, have about 80 kB.
MAX_DOCUMENT_BYTES = MIB // 4
# A body must go on by so much within the patience: 1 kB a second by default.
PACE_BYTES = 64 * 1024
FULL = (errno.ENOSPC, errno.EDQUOT)

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class AdmittedRoute(APIRoute):
    """A route that reads no body before the caller may send it and there is room for it."""

    def get_route_handler(self) -> Handler:
        """FastAPI's handler behind the checks."""
        handle, requirement = super().get_route_handler(), requirement_of(self.dependant)

        async def admitted(request: Request) -> Response:
            if request.method in SAFE_METHODS:
                return await handle(request)
            services = services_of(request)
            if requirement is not None:
                requirement(await run_in_threadpool(caller_of, request, services))
            is_upload = requirement is not None and requirement.takes_files and _is_form(request)
            limit = services.access.max_upload_mb * MIB if is_upload else MAX_DOCUMENT_BYTES
            size = announced_bytes(request)
            if size is not None and size > limit:
                raise too_large(limit)
            with _room(services, size) if is_upload else nullcontext() as promise:
                patience_s = services.access.body_patience_s
                body = Body(request.receive, limit, patience_s, services.space, promise)
                return await _answer(handle, Document(request.scope, body))

        return admitted


class Document(Request):
    """A request whose JSON is read with the limits of all documents."""

    async def json(self) -> Any:
        """The parsed body; raises Problem 422."""
        try:
            return read_json(await self.body())
        except SpecError as error:
            raise invalid(error.problems) from None


class Body:
    """Receives a body that stays within its limit, its pace and its disk space."""

    def __init__(
        self,
        receive: Receive,
        limit: int,
        patience_s: float,
        space: UploadSpace,
        promise: Promise | None,
    ) -> None:
        self._receive, self._limit, self._patience_s = receive, limit, patience_s
        self._space, self._promise = space, promise
        self._received, self._due_bytes = 0, PACE_BYTES
        self._complete = False
        self._deadline_s = asyncio.get_running_loop().time() + patience_s

    async def __call__(self) -> Message:
        """The next piece; raises Problem 408, 413 or 507."""
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline_s):
                message = await self._receive()
        except TimeoutError:
            raise self._too_slow() from None
        self._complete = not message.get("more_body", False)
        self._count(len(message.get("body", b"")))
        return message

    def _count(self, size: int) -> None:
        self._received += size
        if self._received > self._limit:
            raise too_large(self._limit)
        if self._received >= self._due_bytes:
            self._due_bytes = self._received + PACE_BYTES
            self._deadline_s = asyncio.get_running_loop().time() + self._patience_s
        if self._promise is not None:
            try:
                self._space.take(self._promise, size)
            except NoSpace as error:
                raise no_space(error) from None

    def _too_slow(self) -> Problem:
        detail = (
            f"The request body must go on by {PACE_BYTES // 1024} KiB within "
            f"{self._patience_s:g} s, but did not: send it again, or raise "
            "SECATEUR_BODY_PATIENCE_S."
        )
        return Problem(408, "body-too-slow", detail)


def requirement_of(dependant: Dependant) -> Requirement | None:
    """What the route asks of its caller; None where nobody has to show a key."""
    if isinstance(dependant.call, Requirement):
        return dependant.call
    found = (requirement_of(each) for each in dependant.dependencies)
    return next((each for each in found if each is not None), None)


def announced_bytes(request: Request) -> int | None:
    """What Content-Length says; None for a body that comes in chunks."""
    text = request.headers.get("content-length", "")
    if text.isascii() and text.isdigit():
        return int(text[:20])
    return None if "transfer-encoding" in request.headers else 0


def too_large(limit: int) -> Problem:
    """413."""
    detail = (
        f"The request body must be at most {limit // 1024} KiB: send less, or raise "
        "SECATEUR_MAX_UPLOAD_MB for uploads."
    )
    return Problem(413, "content-too-large", detail)


def no_space(error: NoSpace | None = None) -> Problem:
    """507."""
    detail = "The server's disk must have room for the upload and for those under way"
    if error is not None:
        needed, free = -(-error.needed // MIB), error.free // MIB
        detail += f": {needed} MiB beside its reserve, but {free} MiB are free"
    return Problem(507, "insufficient-storage", f"{detail}. Free some space, or try later.")


@contextmanager
def _room(services: Services, size: int | None) -> Iterator[Promise]:
    """Disk space for an upload until it has been dealt with."""
    try:
        promise = services.space.promise(size)
    except NoSpace as error:
        raise no_space(error) from None
    try:
        yield promise
    finally:
        services.space.release(promise)


async def _answer(handle: Handler, request: Request) -> Response:
    try:
        return await handle(request)
    except (OSError, HTTPException) as error:
        # While it reads a form, FastAPI hands on what went wrong as the cause of a 400.
        cause = error.__cause__ if isinstance(error, HTTPException) else error
        if isinstance(cause, OSError) and cause.errno in FULL:
            raise no_space() from error
        raise


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").lower().startswith("multipart/")
