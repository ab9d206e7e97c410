"""What a request must pass before any route sees it: host, origin and size. Plain ASGI.

It must not know routes, keys or the database.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.auth import AccessSettings, host_allowed, is_loopback
from api.problems import Problem

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
MIB = 1024 * 1024
MAX_DOCUMENT_BYTES = 4 * MIB


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


class BodyLimit:
    """Stops reading a request body at a limit: a large one for uploads, a small one otherwise."""

    def __init__(self, app: ASGIApp, settings: AccessSettings) -> None:
        self._app = app
        self._upload_bytes = settings.max_upload_mb * MIB

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what is received; answer 413 as soon as it is, or announces itself, too large."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        multipart = headers.get("content-type", "").startswith("multipart/")
        limit = self._upload_bytes if multipart else MAX_DOCUMENT_BYTES
        announced = headers.get("content-length", "")
        if announced.isdigit() and int(announced) > limit:
            await _too_large(limit).response()(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _too_large(limit)
            return message

        await self._app(scope, counted, send)


def _too_large(limit: int) -> Problem:
    detail = (
        f"The request body must be at most {limit // MIB} MiB: send less, or raise "
        "SECATEUR_MAX_UPLOAD_MB for uploads."
    )
    return Problem(413, "content-too-large", detail)


def _local(scope: Scope) -> bool:
    server = scope.get("server")
    return server is None or server[1] is None or is_loopback(server[0])


def _foreign_origin(headers: Headers, host: str) -> bool:
    if headers.get("sec-fetch-site") == "cross-site":
        return True
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc.lower() != host.lower()
