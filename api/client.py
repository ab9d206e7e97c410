"""The client of the REST API: one connection, the calls of all resources, and their errors."""

from types import TracebackType
from typing import Self

import httpx

from api.resources import Checks, Datasets, Devices, Inputs, Jobs, Keys, Models, Removable
from api.transport import (
    ApiProblem,
    BrokenDownload,
    ClientError,
    Http,
    ServerUnreachable,
    WaitTimeout,
)

__all__ = [
    "ApiProblem",
    "BrokenDownload",
    "Checks",
    "Client",
    "ClientError",
    "Datasets",
    "Devices",
    "Inputs",
    "Jobs",
    "Keys",
    "Models",
    "Removable",
    "ServerUnreachable",
    "WaitTimeout",
]


class Client:
    """A connection to one server; use it as a context manager.

    Args:
        server: Its address, such as `http://127.0.0.1:8000`.
        key: An API key; a server on loopback may need none.
        timeout_s: Patience for one answer, uploads and downloads excepted.
        retries: How often a request is sent again where nobody answered, or 503 did, and that
            can do no harm.
        transport: Replaces the network, for tests.
    """

    def __init__(
        self,
        server: str,
        *,
        key: str | None = None,
        timeout_s: float = 30.0,
        retries: int = 0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # Reading the authorities takes 0.1 s, for nothing where there is no TLS.
        verify = not server.startswith("http://")
        self._client = httpx.Client(
            base_url=server, headers=headers, timeout=timeout_s, transport=transport, verify=verify
        )
        http = Http(self._client, retries)
        self.models = Models(http)
        self.datasets = Datasets(http)
        self.jobs = Jobs(http)
        self.devices = Devices(http)
        self.checks = Checks(http)
        self.keys = Keys(http)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives the connections back."""
        self._client.close()
