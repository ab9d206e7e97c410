"""The client of the service for programs: `Client`, and `AsyncClient` for event loops.

Both make the calls of `api.client`; here they are repeated where that is safe.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from api.cli.connection import default_server
from api.client import Client as HttpClient

RETRIES = 4


class Client(HttpClient):
    """A connection to one server; use it as a context manager.

    `models`, `datasets`, `jobs`, `devices`, `checks` and `keys` hold the calls; they return typed
    documents. A request is sent again, with growing pauses, where nobody answered or the server
    said 503, if that can do no harm: readings, removals, what was not sent at all, and what has an
    idempotency key. `jobs.submit` makes itself a key where none is given.

    Args:
        server: Its address; by default SECATEUR_URL, or the stack that runs on this machine.
        key: An API key; by default SECATEUR_KEY. A server on loopback may need none.
        timeout_s: Patience for one answer, uploads and downloads excepted.
        retries: How often a request is sent again.

    Raises:
        api.client.ApiProblem: From its calls: the server refused, with its problem document.
        api.client.ServerUnreachable: From its calls: nobody answered, in the end.
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        key: str | None = None,
        timeout_s: float = 30.0,
        retries: int = RETRIES,
        transport: Any = None,
    ) -> None:
        super().__init__(
            server or os.environ.get("SECATEUR_URL") or default_server(os.environ),
            key=key or os.environ.get("SECATEUR_KEY"),
            timeout_s=timeout_s,
            retries=retries,
            transport=transport,
        )


class AsyncClient:
    """The calls of `Client` as coroutines: `await client.jobs.get("job_…")`.

    Each runs in a thread of its own, so that the event loop goes on. Takes what `Client` takes;
    an async context manager.
    """

    def __init__(self, server: str | None = None, **options: Any) -> None:
        self._client = Client(server, **options)
        self.models = Calls(self._client.models)
        self.datasets = Calls(self._client.datasets)
        self.jobs = Calls(self._client.jobs)
        self.devices = Calls(self._client.devices)
        self.checks = Calls(self._client.checks)
        self.keys = Calls(self._client.keys)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Gives the connections back."""
        await asyncio.to_thread(self._client.close)


class Calls:
    """The methods of one resource, each as a coroutine function with the same arguments."""

    def __init__(self, resource: Any) -> None:
        self._resource = resource

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._resource, name, None)
        if name.startswith("_") or not callable(method):
            raise AttributeError(f"{type(self._resource).__name__} has no call {name!r}")

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(method, *args, **kwargs)

        return call
