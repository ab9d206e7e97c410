"""The server's side of the device streams: ACL users, requests out, reports in. Knows no database.

Reports are deleted only after what they said has been committed, so a collector that dies reads
them again; a result stored twice is recognised by its lease.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from redis import Redis

from latency_probes import acl, keys
from latency_probes.messages import MeasureRequest, encode

READ_COUNT = 200
AHEAD_S = 60.0
TIDY_COUNT = 100
NEW_S = 15
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One report as it lies in a device's results stream."""

    device_id: str
    stream_id: str
    text: str


class Streams:
    """All device streams on one server."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis
        self._users: dict[str, str] = {}
        self._run_id = ""

    def ensure_users(self, secrets: dict[str, str], revoked: Iterable[str] = ()) -> None:
        """Makes the ACL users of these devices, and removes those that are not among them.

        ACL users do not survive a restart of the server, so a new run of it gets all of them. One
        that outlived this process may have those of `revoked` devices.

        Args:
            secrets: Device id -> SHA-256 of its secret.
            revoked: Ids of devices that must have no user.
        """
        run_id = self._redis.info("server")["run_id"]
        if run_id != self._run_id:
            self._users, self._run_id = dict.fromkeys(revoked, ""), run_id
        for device_id, digest in secrets.items():
            if self._users.get(device_id) != digest:
                self._redis.execute_command(*acl.set_user(device_id, digest))
                self._users[device_id] = digest
        for device_id in self._users.keys() - secrets.keys():
            self._redis.execute_command(*acl.delete_user(device_id))
            del self._users[device_id]

    def read(self, device_ids: Iterable[str], *, block_ms: int) -> list[Entry]:
        """Reports that have not been deleted, oldest first per device; waits for the first one."""
        names = {keys.results_stream(device_id): device_id for device_id in device_ids}
        if not names:
            return []
        found = self._redis.xread(dict.fromkeys(names, "0-0"), READ_COUNT, block_ms)
        return [
            Entry(names[_text(name)], _text(stream_id), _field(fields))
            for name, entries in _pairs(found)
            for stream_id, fields in entries
        ]

    def delete(self, entries: Iterable[Entry]) -> None:
        """Removes reports whose contents have been committed.

        A report with an id far ahead of the clock leaves no room for others behind it: its stream
        is begun anew.
        """
        for entry in entries:
            stream = keys.results_stream(entry.device_id)
            if self._is_ahead(entry.stream_id):
                log.warning("device %s chose the id %s", entry.device_id, entry.stream_id)
                self._redis.delete(stream)
            else:
                self._redis.xdel(stream, entry.stream_id)

    def _is_ahead(self, stream_id: str) -> bool:
        milliseconds = _order(stream_id)[0]
        latest = (time.time() + AHEAD_S) * 1000
        # Only the clock that makes ids can tell; ours may be off.
        return milliseconds > latest and milliseconds > (self._redis.time()[0] + AHEAD_S) * 1000

    def send(self, device_id: str, request: MeasureRequest) -> str:
        """Puts a request into the device's stream; returns the entry's id."""
        added = self._redis.xadd(keys.requests_stream(device_id), {keys.FIELD: encode(request)})
        return _text(added)

    def is_held(
        self, device_id: str, stream_id: str | None, lease_s: float, *, queued: bool = True
    ) -> bool:
        """Whether the device still has the request: it renewed its claim within the lease, or the
        entry has not been delivered yet and may stay `queued`."""
        stream = keys.requests_stream(device_id)
        if stream_id is None or not self._redis.xrange(stream, stream_id, stream_id):
            return False
        delivered = {
            _text(group["name"]): _text(group["last-delivered-id"])
            for group in self._redis.xinfo_groups(stream)
        }
        if keys.GROUP not in delivered or _order(stream_id) > _order(delivered[keys.GROUP]):
            return queued
        held = self._redis.xpending_range(stream, keys.GROUP, stream_id, stream_id, 1)
        return bool(held) and held[0]["time_since_delivered"] < lease_s * 1000

    def forget(self, device_id: str, stream_id: str | None) -> None:
        """Removes a request that has been taken back."""
        if stream_id is not None:
            self._redis.xdel(keys.requests_stream(device_id), stream_id)

    def drop(self, device_id: str) -> None:
        """Removes both streams of a device that is gone for good."""
        self._redis.delete(keys.requests_stream(device_id), keys.results_stream(device_id))

    def tidy(self, device_id: str, wanted: Collection[str]) -> None:
        """Removes the requests that nobody waits for any more: answered, or of a job that ended. A
        device that still measures one loses its claim, and stops.

        Args:
            wanted: Entries that stay, beside those so new that the database may not know them.
        """
        stream = keys.requests_stream(device_id)
        newest = (self._redis.time()[0] - NEW_S) * 1000
        found = self._redis.xrange(stream, "-", str(newest), TIDY_COUNT)
        if gone := [entry for entry, _ in found if _text(entry) not in wanted]:
            self._redis.xdel(stream, *gone)


def _pairs(found: Any) -> Iterable[tuple[Any, Any]]:
    """`XREAD` answers with a mapping or a list of pairs, by protocol version."""
    if isinstance(found, dict):
        return [
            (name, [entry for part in parts for entry in part]) for name, parts in found.items()
        ]
    return found or []


def _field(fields: dict[Any, Any]) -> str:
    value = fields.get(keys.FIELD.encode(), fields.get(keys.FIELD, ""))
    return _text(value)


def _order(stream_id: str) -> tuple[int, int]:
    """The id as numbers: its text does not sort."""
    milliseconds, _, number = stream_id.partition("-")
    return int(milliseconds), int(number or 0)


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
