"""How answers look: conditional GETs, pages, and repeated POSTs answered as the first time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Header, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from api.routes.edge import Edge
from jobs.repository import idempotency

T = TypeVar("T")
MAX_KEY_CHARACTERS = 200

After = Annotated[str | None, Query(description="the `next` of the page before", max_length=100)]
Limit = Annotated[int, Query(ge=1, le=500, description="entries per page")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        description="repeat the request with the same key within 24 h and get the same answer",
        min_length=1,
        max_length=MAX_KEY_CHARACTERS,
    ),
]


class Listing(BaseModel, Generic[T]):
    """Some entries; `next` is the cursor of the following page, null on the last one."""

    items: list[T]
    next: str | None = None


def conditional(request: Request, body: BaseModel) -> Response:
    """The body with its ETag, or 304 when the caller has it already."""
    data = body.model_dump_json().encode()
    return conditional_on(request, data, lambda: data)


def conditional_on(request: Request, known: bytes, make: Callable[[], bytes]) -> Response:
    """What `make` gives with its ETag, or 304 when the caller has it already.

    Args:
        known: Two answers to the same request are alike where this is.
        make: Gives the answer in JSON; not called for a 304.
    """
    headers = {"ETag": _etag(known), "Cache-Control": "private, no-cache", "Vary": "Authorization"}
    if _has(request.headers.get("if-none-match", ""), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(make(), headers=headers, media_type="application/json")


def once(
    edge: Edge,
    scope: str,
    key: str | None,
    document: Any,
    work: Callable[[], tuple[str, BaseModel]],
) -> Response:
    """Do the work and answer 202 with its Location; with a known key give the first answer again.

    Args:
        scope: Whose key it is, and for which route.
        document: The request, as JSON; another one under the same key is refused.
        work: Returns the path of what was made, and its representation.
    """
    if key is not None:
        known = idempotency.reserve(edge.session, scope, key, _sha256(document))
        if known is not None:
            return _accepted(known.response, known.status, {"Idempotency-Replayed": "true"})
    location, body = work()
    answer = {"location": location, "body": body.model_dump(mode="json")}
    if key is not None:
        idempotency.store(edge.session, scope, key, 202, answer)
    return _accepted(answer, 202, {})


def _accepted(answer: dict[str, Any], status: int, headers: dict[str, str]) -> JSONResponse:
    location = {"Location": answer["location"]}
    return JSONResponse(answer["body"], status, headers=location | headers)


def _sha256(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _etag(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()[:32]}"'


def _has(header: str, etag: str) -> bool:
    known = {part.strip().removeprefix("W/") for part in header.split(",")}
    return etag in known or "*" in known
