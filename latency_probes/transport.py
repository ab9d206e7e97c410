"""How requests reach a device and reports leave it: a seam, and its form on Redis Streams.

A request stays pending until it is acknowledged, so that an agent that was killed finds it again.
Knows nothing of what the texts mean.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from latency_probes import keys

_CONNECT_S = 5.0
_REPLY_S = 10.0
_CLAIMED = 16

T = TypeVar("T")


class TransportError(Exception):
    """The server is away or does not let us in (yet); worth trying again."""


@dataclass(frozen=True)
class Delivery:
    """One entry of the request stream."""

    entry_id: str
    text: str


class Transport(Protocol):
    """Every method raises TransportError when the server cannot be used."""

    def reclaim(self) -> list[Delivery]:
        """What was delivered to this device before and is not acknowledged yet, oldest first."""
        ...

    def receive(self, wait_s: float) -> Delivery | None:
        """The next new request, or None if none comes within `wait_s`."""
        ...

    def renew(self, entry_id: str) -> bool:
        """Show that this request is still worked on; False if it has been taken away."""
        ...

    def acknowledge(self, entry_id: str) -> None:
        """Say that this request is done; harmless when repeated."""
        ...

    def publish(self, text: str) -> None:
        """Append a report."""
        ...


class RedisTransport:
    """Redis Streams of one device, as its own ACL user. Safe to share between threads.

    Args:
        url: `redis://`, or `rediss://` for TLS, which always checks certificate and host name: a
            query, which could switch that off, is cut away.
        ca_file: PEM certificates to trust for TLS; the system's by default.
    """

    def __init__(
        self, url: str, device_id: str, secret: str, *, ca_file: Path | None = None
    ) -> None:
        self._requests = keys.requests_stream(device_id)
        self._results = keys.results_stream(device_id)
        self._redis: Any = redis.Redis.from_url(
            url.partition("?")[0],
            username=keys.device_user(device_id),
            password=secret,
            decode_responses=True,
            protocol=2,
            socket_connect_timeout=_CONNECT_S,
            socket_timeout=_REPLY_S,
            retry=Retry(NoBackoff(), 0),
            **(_tls(ca_file) if url.startswith("rediss:") else {}),
        )

    def reclaim(self) -> list[Delivery]:
        found: list[Delivery] = []
        cursor, entries = self._claim_from("0-0")
        found += entries
        while cursor != "0-0":
            cursor, entries = self._claim_from(cursor)
            found += entries
        return found

    def receive(self, wait_s: float) -> Delivery | None:
        def read() -> Any:
            return self._redis.xreadgroup(
                keys.GROUP,
                keys.CONSUMER,
                {self._requests: ">"},
                count=1,
                block=max(round(wait_s * 1000), 1),
            )

        for _, entries in self._in_group(read) or ():
            for entry in entries:
                return _delivery(*entry)
        return None

    def renew(self, entry_id: str) -> bool:
        def claim() -> Any:
            return self._redis.xclaim(
                self._requests, keys.GROUP, keys.CONSUMER, 0, [entry_id], justid=True
            )

        return bool(self._in_group(claim))

    def acknowledge(self, entry_id: str) -> None:
        _guarded(lambda: self._redis.xack(self._requests, keys.GROUP, entry_id))

    def publish(self, text: str) -> None:
        _guarded(lambda: self._redis.xadd(self._results, {keys.FIELD: text}))

    def close(self) -> None:
        """Drop the connections."""
        self._redis.close()

    def _claim_from(self, cursor: str) -> tuple[str, list[Delivery]]:
        def claim() -> Any:
            return self._redis.xautoclaim(
                self._requests, keys.GROUP, keys.CONSUMER, 0, cursor, count=_CLAIMED
            )

        further, entries = self._in_group(claim)[:2]
        return further, [_delivery(*entry) for entry in entries]

    def _in_group(self, command: Callable[[], T]) -> T:
        """Run a command of the consumer group, which is created where it is missing."""
        try:
            return _guarded(command)
        except TransportError as error:
            if "NOGROUP" not in str(error):
                raise
        self._create_group()
        return _guarded(command)

    def _create_group(self) -> None:
        try:
            _guarded(
                lambda: self._redis.xgroup_create(self._requests, keys.GROUP, "0", mkstream=True)
            )
        except TransportError as error:
            if "BUSYGROUP" not in str(error):
                raise


def _tls(ca_file: Path | None) -> dict[str, Any]:
    trusted = {} if ca_file is None else {"ssl_ca_certs": str(ca_file)}
    return trusted | {"ssl_cert_reqs": "required", "ssl_check_hostname": True}


def _guarded(command: Callable[[], T]) -> T:
    try:
        return command()
    except (redis.RedisError, OSError) as error:
        raise TransportError(f"{type(error).__name__}: {error}") from error


def _delivery(entry_id: str, fields: dict[str, str] | None) -> Delivery:
    return Delivery(entry_id, (fields or {}).get(keys.FIELD, ""))
