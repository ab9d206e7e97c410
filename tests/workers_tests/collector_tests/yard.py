"""A job with requests, devices on a real Valkey server, and what those devices see and say."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any

from redis import Redis

from jobs.artifacts import skeleton_name
from jobs.repository import devices, requests, skeletons
from jobs.states import JobState
from jobs.status import transition
from jobs.tables import Device, Request
from latency_probes import keys
from latency_probes.messages import (
    Heartbeat,
    MeasureError,
    MeasureRequest,
    MeasureResult,
    Settings,
    Target,
    encode,
    parse_request,
)
from latency_probes.samples import Measurement
from tests.latency_probes_tests.valkey import PASSWORD, ValkeyProcess
from tests.workers_tests.bench import Bench
from tests.workers_tests.rows import measured, online_device
from tests.workers_tests.test_decision import add_job
from workers.collector.streams import Streams

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Yard:
    """A job that is preparing, at noon."""

    def __init__(self, bench: Bench, valkey: ValkeyProcess) -> None:
        self.bench, self.valkey, self.context = bench, valkey, bench.context
        bench.now = NOON
        self.redis: Any = Redis(port=valkey.port, password=PASSWORD, socket_timeout=10)
        self.streams = Streams(self.redis)
        self.job_id = add_job(bench)
        with bench.write() as session:
            transition(session, self.job_id, JobState.QUEUED, JobState.PREPARING, 1, now=NOON)

    def __enter__(self) -> Yard:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.redis.close()

    @property
    def lease_s(self) -> float:
        """How long a device may be silent with a request in its hands."""
        return self.context.settings.request_lease_s

    def later(self, seconds: float) -> None:
        """Moves the clock."""
        self.bench.now = (self.bench.now or NOON) + timedelta(seconds=seconds)

    def request(self, purpose: str, *, selector: str = "any", **target: Any) -> str:
        """A pending request for a skeleton of a few bytes; returns its id."""
        data = purpose.encode()
        digest = hashlib.sha256(data).hexdigest()
        self.context.store.put(skeleton_name(digest), data)
        with self.bench.write() as session:
            skeletons.add(session, digest, len(data), skeleton_name(digest))
            return requests.add(
                session,
                self.job_id,
                purpose,
                skeleton_digest=digest,
                reference_digest=digest,
                selector=selector,
                target=Target(**({"runtime": "replay"} | target)),
                settings=Settings.strict() if purpose.startswith("dense") else Settings(),
                now=self.bench.now,
            ).id

    def device(self, name: str = "board", **more: Any) -> str:
        """A device that is online."""
        with self.bench.write() as session:
            return online_device(session, name, now=self.bench.now, **more).id

    def look_at(self, request_id: str) -> Request:
        with self.context.read() as session:
            found = requests.find(session, request_id)
        if found is None:
            raise LookupError(request_id)
        return found

    def held(self, device_id: str) -> Sequence[Request]:
        """What the device was given and has not answered, oldest first."""
        with self.context.read() as session:
            return requests.dispatched(session, device_id)

    def purposes(self) -> list[str]:
        """What the job has asked for, oldest first."""
        with self.context.read() as session:
            return [each.purpose for each in requests.for_job(session, self.job_id)]

    def look_at_device(self, device_id: str) -> Device:
        with self.context.read() as session:
            found = devices.find(session, device_id)
        if found is None:
            raise LookupError(device_id)
        return found

    def received(self, device_id: str) -> list[MeasureRequest]:
        """What lies in the device's stream."""
        entries = self.redis.xrange(keys.requests_stream(device_id))
        return [parse_request(fields[keys.FIELD.encode()]) for _, fields in entries]

    def claim(self, device_id: str) -> None:
        """The device takes the next entry, as its agent does."""
        stream = keys.requests_stream(device_id)
        self.redis.xgroup_create(stream, keys.GROUP, "0", mkstream=True)
        self.redis.xreadgroup(keys.GROUP, keys.CONSUMER, {stream: ">"}, count=1)

    def say(self, device_id: str, text: str) -> None:
        """Adds a report as the device does."""
        self.redis.xadd(keys.results_stream(device_id), {keys.FIELD: text})

    def unread(self, device_id: str) -> int:
        """Reports that lie in the device's stream."""
        return int(self.redis.xlen(keys.results_stream(device_id)))


def answer_to(
    request: Request | MeasureRequest, outcome: Measurement | MeasureError | None = None
) -> MeasureResult:
    """A result under the request's lease."""
    return MeasureResult(
        request_id=request.id if isinstance(request, Request) else request.request_id,
        attempt=request.attempt,
        lease_token=request.lease_token or "none",
        outcome=outcome or measured(600, 1000),
    )


def text_of(request: Request, outcome: Measurement | MeasureError | None = None) -> str:
    return encode(answer_to(request, outcome))


def heartbeat(state: str = "online") -> str:
    return encode(Heartbeat.model_validate({"state": state, "sent_at": NOON, "cores": (0,)}))
