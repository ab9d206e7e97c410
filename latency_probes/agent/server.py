"""The two HTTP calls that a device makes: enrolling, and fetching a model that was too large to
travel inline. httpx is imported by the first of them: an agent that idles does without."""

from __future__ import annotations

import hashlib
import json
import ssl
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from latency_probes.agent.credentials import Credentials
from latency_probes.agent.files import write_whole
from latency_probes.messages import Enrolment, EnrolmentReply, Workload

if TYPE_CHECKING:
    import httpx

_CONNECT_S = 5.0
_REPLY_S = 30.0
_MAX_REPLY_BYTES = 64 * 1024
# Answers that may be different later: not logged in yet, overload, a server that restarts.
_PASSING = frozenset({401, 403, 408, 425, 429})


class Unavailable(Exception):
    """The server cannot be reached or cannot answer now; worth trying again."""


class Refused(Exception):
    """The server answered no; trying again would not help."""


def enrol(server: str, enrolment: Enrolment, ca_file: Path | None = None) -> Credentials:
    """Exchange a one-off token for this device's identity.

    Raises:
        Unavailable: no answer, or one that may change.
        Refused: the token is wrong or used, or the reply is not of this protocol.
    """
    import httpx

    url = f"{server}/v1/devices/enrol"
    try:
        with _client(ca_file) as client:
            response = client.post(url, json=enrolment.model_dump(mode="json"))
    except httpx.RequestError as error:
        raise Unavailable(f"{url}: {error}") from error
    if response.status_code >= 500 or response.status_code in {408, 425, 429}:
        raise Unavailable(f"{url} answered {response.status_code}")
    if not response.is_success:
        raise Refused(f"{url} answered {response.status_code}: {_detail(response.content)}")
    try:
        reply = EnrolmentReply.model_validate_json(response.content[:_MAX_REPLY_BYTES])
    except ValidationError as error:
        raise Refused(f"{url} gave no valid reply: {error.error_count()} problems") from error
    return Credentials(server=server, reply=reply)


class Models:
    """Fetches models by digest as this device."""

    def __init__(self, credentials: Credentials, ca_file: Path | None = None) -> None:
        self._credentials, self._ca_file = credentials, ca_file
        self._kept: httpx.Client | None = None

    def fetch(self, workload: Workload, path: Path) -> None:
        """Write the model to `path`, reading no more than its size and checking its hash.

        Raises:
            Unavailable, Refused: as for `enrol`; a model with another hash is Refused.
        """
        import httpx

        url = f"/v1/skeletons/{workload.digest}"
        try:
            with self._client().stream("GET", url) as response:
                _check_status(url, response)
                write_whole(path, _checked(response.iter_bytes(), workload))
        except httpx.RequestError as error:
            raise Unavailable(f"{url}: {error}") from error

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()

    def _client(self) -> httpx.Client:
        if self._kept is None:
            self._kept = _client(self._ca_file)
            self._kept.base_url = self._credentials.server
            self._kept.headers["Authorization"] = self._credentials.bearer
        return self._kept


def _client(ca_file: Path | None) -> httpx.Client:
    """A client that trusts the certificates in `ca_file`, or those that httpx brings."""
    import httpx

    trusted = True if ca_file is None else ssl.create_default_context(cafile=ca_file)
    return httpx.Client(timeout=httpx.Timeout(_REPLY_S, connect=_CONNECT_S), verify=trusted)


def _check_status(url: str, response: httpx.Response) -> None:
    status = response.status_code
    if status >= 500 or status in _PASSING:
        raise Unavailable(f"{url} answered {status}")
    if not response.is_success:
        raise Refused(f"{url} answered {status}")


def _checked(chunks: Iterable[bytes], workload: Workload) -> Iterator[bytes]:
    """The chunks as they come: a model with true weights may be larger than what memory is free.

    Raises:
        Refused: too many of them, or another model.
    """
    size, digest = 0, hashlib.sha256()
    for chunk in chunks:
        size += len(chunk)
        if size > workload.size:
            raise Refused(f"model must have {workload.size} bytes, but the server sends more")
        digest.update(chunk)
        yield chunk
    if size != workload.size or digest.hexdigest() != workload.digest:
        raise Refused(f"model must have digest {workload.digest}, but its bytes differ")


def _detail(content: bytes) -> str:
    """The `detail` of a problem document, else nothing of what may be a page of HTML."""
    try:
        document = json.loads(content[:_MAX_REPLY_BYTES])
    except ValueError:
        return "no details"
    detail = document.get("detail") if isinstance(document, dict) else None
    return str(detail)[:500] if detail else "no details"
