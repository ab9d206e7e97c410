"""How the client sends a request: again where that is safe, and what a refusal becomes.

Knows httpx and problem documents (RFC 9457), no resource of the API.

ClientError
├── ServerUnreachable   nobody answers at the address
├── ApiProblem          the server refused, with its problem document
├── BrokenDownload      a file did not arrive as it was listed
└── WaitTimeout         something took longer than the caller wanted to wait
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx

Document = dict[str, Any]
PAGE = 200
REPEATABLE = frozenset({"GET", "DELETE"})
PUT_OFF = 503
LONGEST_PAUSE_S = 10.0


class ClientError(Exception):
    """What the client raises."""


class ServerUnreachable(ClientError):
    """Nobody answers at the address."""


class BrokenDownload(ClientError):
    """A file did not arrive as it was listed."""


class WaitTimeout(ClientError):
    """Something took longer than the caller wanted to wait."""


class ApiProblem(ClientError):
    """The server refused.

    Attributes:
        status: The HTTP status.
        document: The problem document: type, title, status, detail and further fields.
    """

    def __init__(self, status: int, document: Document) -> None:
        super().__init__(str(document.get("detail") or document.get("title") or status))
        self.status = status
        self.document = document


class Http:
    """Sends requests and turns refusals into `ApiProblem`.

    Args:
        retries: How often a request is sent again that nobody answered, or that the server put off
            by 503, if that can do no harm.
        sleep: Waits between them.
    """

    def __init__(
        self,
        client: httpx.Client,
        retries: int = 0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.client = client
        self.retries = retries
        self._sleep = sleep

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request; the answer is a 2xx.

        Raises:
            ApiProblem: If the server refused.
            ServerUnreachable: If nobody answered.
        """
        repeatable = method in REPEATABLE or "Idempotency-Key" in (options.get("headers") or {})
        for attempt in range(self.retries + 1):
            is_last = attempt == self.retries
            rewind(options.get("files") or {})
            try:
                response = self.client.request(method, path, **options)
            except httpx.HTTPError as error:
                # What was not connected was not sent.
                if is_last or not (repeatable or isinstance(error, httpx.ConnectError)):
                    raise self.unreachable(error) from error
                self._sleep(pause_s(attempt))
                continue
            if response.is_success:
                return response
            if is_last or response.status_code != PUT_OFF:
                raise refusal(response)
            self._sleep(pause_s(attempt, response.headers.get("retry-after", "")))
        raise AssertionError("the last attempt returns or raises")

    def unreachable(self, error: Exception) -> ServerUnreachable:
        """The error for a request that got no answer."""
        return ServerUnreachable(
            f"no answer from {str(self.client.base_url).rstrip('/')} ({error}). Is `secateur up` "
            "running? Another address can be given with --server or SECATEUR_URL."
        )

    def pages(self, path: str, parameters: Mapping[str, Any] | None = None) -> Iterator[Document]:
        """All items of a listing, page by page."""
        query: Document = {**(parameters or {}), "limit": PAGE}
        while True:
            page = self.send("GET", path, params=query).json()
            yield from page["items"]
            if page.get("next") is None:
                return
            query["after"] = page["next"]


def pause_s(attempt: int, retry_after: str = "") -> float:
    """How long to wait before the next attempt: what the server asks for, or growing."""
    asked = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0
    return min(max(asked, 0.2 * 2.0**attempt), LONGEST_PAUSE_S)


def rewind(files: Any) -> None:
    """Sets the files of a form back to their beginning, for another attempt."""
    parts = files.values() if isinstance(files, Mapping) else (part for _, part in files)
    for part in parts:
        file = part[1] if isinstance(part, tuple) else part
        if hasattr(file, "seek"):
            file.seek(0)


def refusal(response: httpx.Response) -> ApiProblem:
    """The problem that an answer holds, or one made of its status."""
    try:
        document = response.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        document = {"title": response.reason_phrase, "status": response.status_code}
    return ApiProblem(response.status_code, document)
