"""The Redis server as the API sees it: alive or not, its queues, and a device's address of it.

Queues are only counted here; steps are sent by `api.dispatch`, measurements by the collector.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit, urlunsplit

from redis import Redis
from redis.exceptions import RedisError

from jobs.queues import QUEUES
from latency_probes import keys

TIMEOUT_S = 2.0


class Broker:
    """A short-tempered connection: what does not answer within two seconds is down."""

    def __init__(self, url: str) -> None:
        self._redis = Redis.from_url(
            url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, decode_responses=True
        )

    def failure(self) -> str | None:
        """Why the server does not answer; None when it does."""
        try:
            self._redis.ping()
        except RedisError as error:
            return str(error).rstrip(".") or type(error).__name__
        return None

    def queue_lengths(self, device_ids: Sequence[str]) -> dict[str, int]:
        """Entries per queue: steps for the workers, requests for each device; {} when down."""
        streams = [keys.requests_stream(device_id) for device_id in device_ids]
        pipe = self._redis.pipeline(transaction=False)
        for queue in QUEUES:
            pipe.llen(queue)
        for stream in streams:
            pipe.xlen(stream)
        try:
            lengths = pipe.execute()
        except RedisError:
            return {}
        return dict(zip([*QUEUES, *streams], map(int, lengths), strict=True))

    def close(self) -> None:
        """Give the connections back."""
        self._redis.close()


def device_url(redis_url: str, device_id: str, secret: str) -> str:
    """The broker's address with the device's own user and secret in place of ours."""
    parts = urlsplit(redis_url)
    host = parts.netloc.rpartition("@")[2]
    netloc = f"{keys.device_user(device_id)}:{secret}@{host}"
    return urlunsplit((parts.scheme, netloc, parts.path, parts.query, ""))
