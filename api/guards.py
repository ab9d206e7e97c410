"""What a request must pass before any route sees it, and how one ends that is refused. Plain ASGI.

It must not know routes, keys or the database.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from urllib.parse import unquote_to_bytes, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.auth import AccessSettings, host_allowed, is_loopback
from api.problems import Problem, invalid_field

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
DISCARDED_BYTES = 256 * 1024
DISCARDED_S = 1.0


class HostGuard:
    """Refuses foreign Host headers, foreign origins and, without keys, foreign addresses."""

    def __init__(self, app: ASGIApp, settings: AccessSettings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 4xx."""
        problem = self._objection(scope) if scope["type"] == "http" else None
        if problem is not None:
            await problem.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _objection(self, scope: Scope) -> Problem | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not host_allowed(host, self._settings):
            detail = (
                f"The Host header must name this machine, but got {host!r}: use 127.0.0.1 or "
                "localhost, or add the name to SECATEUR_ALLOWED_HOSTS."
            )
            return Problem(421, "foreign-host", detail)
        if self._settings.auth == "off" and not _local(scope):
            detail = "Without keys only loopback addresses are served: set SECATEUR_AUTH=on."
            return Problem(403, "keys-required", detail)
        if scope["method"] not in SAFE_METHODS and _foreign_origin(headers, host):
            detail = "A page of another origin may not change anything here."
            return Problem(403, "foreign-origin", detail)
        return None


class TextGuard:
    """Refuses NUL characters in path, query and headers: no database holds them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 422."""
        if scope["type"] == "http" and (place := _place_of_nul(scope)) is not None:
            problem = invalid_field(place, "must hold no NUL character")
            await problem.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)


class EarlyAnswer:
    """Ends the connection after an answer that came before the request's body was read.

    What is left of the body is not taken in. A little of it is discarded first, so that a client
    that sends on finds the answer rather than a reset connection.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and watch whether its body ends before the answer does."""
        if scope["type"] != "http" or not _has_body(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        complete = False

        async def watched() -> Message:
            nonlocal complete
            message = await receive()
            complete = complete or not message.get("more_body", False)
            return message

        async def last_words(message: Message) -> None:
            if complete:
                await send(message)
            elif message["type"] == "http.response.start":
                closing = [*message.get("headers", ()), (b"connection", b"close")]
                await send({**message, "headers": closing})
            elif message.get("more_body", False):
                await send(message)
            else:
                await send({**message, "more_body": True})
                await _discard(receive)
                await send({"type": "http.response.body"})

        await self._app(scope, watched, last_words)


async def _discard(receive: Receive) -> None:
    """Reads on for a moment; who waits to be asked for the body (Expect) sends none."""
    left = DISCARDED_BYTES
    with suppress(TimeoutError):
        async with asyncio.timeout(DISCARDED_S):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _place_of_nul(scope: Scope) -> str | None:
    if "\0" in scope["path"]:
        return "path"
    if b"\0" in unquote_to_bytes(scope.get("query_string", b"")):
        return "query"
    names = (name.decode("latin-1") for name, value in scope["headers"] if b"\0" in value)
    return next(names, None)


def _local(scope: Scope) -> bool:
    server = scope.get("server")
    return server is None or server[1] is None or is_loopback(server[0])


def _foreign_origin(headers: Headers, host: str) -> bool:
    if headers.get("sec-fetch-site") == "cross-site":
        return True
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc.lower() != host.lower()
