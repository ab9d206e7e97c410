"""What the service adds to a measurement: a whole stack with one agent, fed with requests.

The queue is never empty, so that what is between two results is the measurement and the overhead.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker, undefer

from api.client import Client
from api.stack.background import background
from benchmarks.latency.figures import Figure
from benchmarks.latency.models import Pair
from jobs.artifacts import ArtifactStore, skeleton_name
from jobs.database import reading, sessions
from jobs.ids import new_id
from jobs.repository import devices, jobs, requests, skeletons
from jobs.settings import Settings as Installation
from jobs.spec import BudgetSpec, JobSpec
from jobs.states import InputState, JobState
from jobs.tables import Dataset, Measurement, Model
from latency_probes.agent import server
from latency_probes.messages import (
    Capabilities,
    Enrolment,
    Heartbeat,
    MeasureRequest,
    RuntimeInfo,
    Settings,
    Target,
    Workload,
    encode,
)
from latency_probes.transport import RedisTransport, TransportError

OVERHEAD_MS, DELAY_MS, WIRE_KB = 50.0, 20.0, 20.0
PATIENCE_S = 600.0


class NoAnswer(RuntimeError):
    """The stack did not do in time what was asked of it."""


@dataclass(frozen=True)
class Stack:
    """A running stack, its database and its store."""

    url: str
    client: Client
    writing: sessionmaker[Session]
    reading: sessionmaker[Session]
    store: ArtifactStore


@contextmanager
def stack(*options: str) -> Iterator[Stack]:
    """A stack in a folder of its own, gone with the `with` block."""
    with tempfile.TemporaryDirectory(prefix="secateur-bench-") as folder:
        home = Path(folder)
        up = ["--port", "0", "--workers", "1", *options]
        with background(home, up) as url, Client(url) as client:
            settings = Installation(home=home)
            writing = sessions(settings)
            store = ArtifactStore(settings.artifact_url)
            yield Stack(url, client, writing, reading(writing), store)


def job(session: Session) -> str:
    """A job that has ended, to hang requests on: no worker looks at it."""
    model = Model(name=new_id("m"), state=InputState.READY, spec={}, weights_digest="0" * 64)
    dataset = Dataset(name=new_id("d"), state=InputState.READY, spec={})
    session.add_all([model, dataset])
    session.flush()
    spec = JobSpec(model=model.name, dataset=dataset.name, budget=BudgetSpec(ratio=0.5))
    made = jobs.create(session, spec, model_id=model.id, dataset_id=dataset.id)
    made.state = JobState.CANCELLED
    session.flush()
    return made.id


def ask(
    running: Stack, pair: Pair, settings: Sequence[Settings], target: Target | None = None
) -> str:
    """One request for each of `settings`, all at once; returns the id of their job."""
    workloads = [Workload.of(model, inline=False) for model in (pair.candidate, pair.reference)]
    for workload, model in zip(workloads, (pair.candidate, pair.reference), strict=True):
        running.store.put(skeleton_name(workload.digest), model, sha256=workload.digest)
    with running.writing.begin() as session:
        for workload in workloads:
            name = skeleton_name(workload.digest)
            skeletons.add(session, workload.digest, workload.size, name)
        job_id = job(session)
        for number, setting in enumerate(settings):
            requests.add(
                session, job_id, f"bench:{number}",
                skeleton_digest=workloads[0].digest, reference_digest=workloads[1].digest,
                selector="any", target=target or Target(), settings=setting,
            )  # fmt: skip
    return job_id


def answers(running: Stack, job_id: str, count: int) -> Sequence[Measurement]:
    """The counted measurements of a job, once there are so many, in the order of arrival.

    Raises:
        NoAnswer: they do not come.
    """
    deadline = time.monotonic() + PATIENCE_S
    where = (Measurement.job_id == job_id, Measurement.counted)
    statement = select(Measurement).where(*where).order_by(Measurement.created_at)
    while time.monotonic() < deadline:
        with running.reading() as session:
            found = session.scalars(statement.options(undefer(Measurement.raw))).all()
        if len(found) >= count:
            return found
        time.sleep(0.5)
    raise NoAnswer(f"{count} measurements must come within {PATIENCE_S:.0f} s, but {len(found)}")


def throughput(running: Stack, pair: Pair, count: int) -> tuple[list[Figure], dict[str, Any]]:
    """Candidates an hour, and where the time of one goes."""
    job_id = ask(running, pair, [Settings.screening(seed=n) for n in range(count)])
    found = answers(running, job_id, count)
    parts = [
        _parts(before, after)
        for before, after in zip(found, found[1:], strict=False)
        if not (after.conditions or {})["repeated"]
    ]
    if not parts:
        raise NoAnswer("every measurement was disturbed: the machine must be quiet for this")
    whole, timing, setup, overhead = (median(column) for column in zip(*parts, strict=True))
    replicates = [r for m in found for r in (m.raw or {})["replicates"]]
    each = median(r["process_ms"] - r["timing_ms"] for r in replicates)
    return [
        Figure("candidates an hour, ResNet-20, screening", 3_600_000 / whole, "an hour"),
        Figure("one candidate: whole", whole, "ms"),
        Figure("one candidate: warm-up and timing", timing, "ms"),
        Figure("one candidate: set-up of its processes", setup, "ms"),
        Figure("one candidate: set-up of one process", each, "ms", high=250.0),
        Figure("one candidate: everything else", overhead, "ms", high=OVERHEAD_MS),
    ], {"parts_ms": parts}


def _parts(before: Measurement, after: Measurement) -> tuple[float, float, float, float]:
    """Whole, timing, set-up and the rest, in ms, of the later of two results."""
    whole = (after.created_at - before.created_at).total_seconds() * 1e3
    replicates = (after.raw or {})["replicates"]
    processes = sum(r["process_ms"] for r in replicates)
    timing = sum(r["timing_ms"] for r in replicates)
    return whole, timing, processes - timing, whole - processes


def delay(running: Stack, count: int) -> tuple[list[Figure], dict[str, Any]]:
    """From a device's report to the commit in the database: a device that only reports."""
    info = RuntimeInfo(version="0", providers=("none",))
    enrolment = Enrolment(
        token=running.client.devices.token().token,
        name="reporter",
        capabilities=Capabilities(
            cpu="none", cores=1, memory_mb=1, os="none", hostname="none", runtimes={"none": info}
        ),
    )
    reply = server.enrol(running.url, enrolment).reply
    transport = RedisTransport(reply.redis_url, reply.device_id, reply.secret)
    states: list[Literal["online", "busy"]] = ["online", "busy"]
    taken = [_seen_after(running, transport, reply.device_id, states[n % 2]) for n in range(count)]
    transport.close()
    worst = max(taken[1:])
    return [
        Figure("from a report to the database, median", median(taken[1:]), "ms", high=DELAY_MS),
        Figure("from a report to the database, worst", worst, "ms"),
    ], {"delays_ms": taken}


def _seen_after(
    running: Stack, transport: RedisTransport, device_id: str, state: Literal["online", "busy"]
) -> float:
    time.sleep(0.05)  # the collector waits again
    report = encode(Heartbeat(state=state, sent_at=datetime.now(UTC), cores=(0,)))
    deadline = time.monotonic() + PATIENCE_S
    _publish(transport, report, deadline)
    sent = time.perf_counter()
    while time.monotonic() < deadline:
        with running.reading() as session:
            device = devices.find(session, device_id)
        if device is not None and device.state == state:
            return (time.perf_counter() - sent) * 1e3
        time.sleep(0.001)
    raise NoAnswer("a heartbeat must reach the database, but did not")


def _publish(transport: RedisTransport, report: str, deadline: float) -> None:
    """Publish as soon as the collector has let the device in."""
    while True:
        try:
            return transport.publish(report)
        except TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def wire(pair: Pair, name: str) -> list[Figure]:
    """The size of a request as it is sent."""
    request = MeasureRequest(
        request_id=new_id("req"),
        attempt=1,
        lease_token=new_id("lease"),
        candidate=Workload.of(pair.candidate),
        reference=Workload.of(pair.reference, inline=False),
    )
    size = len(encode(request)) / 1000
    return [Figure(f"a request on the wire, {name}", size, "kB", high=WIRE_KB)]
