"""Is the service alive, is it ready, and what is it doing: /healthz, /readyz, /metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from api.problems import Problem
from api.routes.access import Reader
from api.routes.admission import AdmittedRoute
from api.routes.edge import Composed, Services
from jobs.database import reason
from jobs.repository import devices, jobs, measurements

K = TypeVar("K", bound=str)
router = APIRouter(tags=["health"], route_class=AdmittedRoute)


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    # On the event loop: a server of which all threads are busy is alive.
    return {"status": "ok"}


@router.get("/readyz")
def readyz(services: Composed) -> dict[str, str]:
    """Database and broker answer; 503 says which of them does not, and why."""
    checks = {"database": _database_failure(services), "broker": services.broker.failure()}
    failures = {name: failure for name, failure in checks.items() if failure is not None}
    if failures:
        sentences = (f"The {name} does not answer: {why}" for name, why in failures.items())
        detail = "; ".join(sentences) + "."
        raise Problem(503, "not-ready", detail, failures=failures, headers={"Retry-After": "2"})
    return {"status": "ready", **dict.fromkeys(checks, "ok")}


@router.get("/metrics", response_class=Response)
def metrics(services: Composed, caller: Reader) -> Response:
    """Jobs and devices by state, measurements and queue lengths, in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(services))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class _Snapshot(Collector):
    """The figures as the database and the broker have them at this moment."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        with self._services.reading() as session:
            job_counts, device_counts = jobs.counts(session), devices.counts(session)
            measured = measurements.count(session)
            known = devices.all_devices(session)
        lengths = self._services.broker.queue_lengths([device.id for device in known])
        yield _gauge("secateur_jobs", "Jobs by state.", "state", job_counts)
        yield _gauge("secateur_devices", "Devices by state.", "state", device_counts)
        yield CounterMetricFamily(
            "secateur_measurements", "Counted measurements so far.", value=measured
        )
        dropped = CounterMetricFamily(
            "secateur_dropped_answers",
            "Answers under leases that their device was never given.",
            labels=["device"],
        )
        for device in known:
            dropped.add_metric([device.id], device.dropped_answers)
        yield dropped
        yield _gauge("secateur_queue_length", "Entries waiting per queue.", "queue", lengths)


def _gauge(name: str, text: str, label: str, values: Mapping[K, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([str(key)], value)
    return family


def _database_failure(services: Services) -> str | None:
    try:
        with services.reading() as session:
            jobs.counts(session)
    except SQLAlchemyError as error:
        return reason(error)
    return None
