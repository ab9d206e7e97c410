"""What devices found, and the cache that it is: a skeleton's ratio belongs to its digest, target,
device, runtime version and protocol, and to the state in which the device was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, undefer

from jobs.duty import Span
from jobs.pools import REFERENCE_TOLERANCE
from jobs.repository import reading
from jobs.tables import Measurement, Request

# Conditions that move ratios; the others (load, temperature) show in sentinel and reference.
_FACTS = ("cores", "governor", "environment")
# What the sentinel moves by when nothing disturbs it; a disturbed core moves it by more.
_SENTINEL_TOLERANCE = 0.10
_MOST_LOOKED_AT = 16


@dataclass(frozen=True)
class Finding:
    """A result as the server keeps it: numbers and raw samples, or an error with `error_kind`
    set."""

    runtime_version: str | None = None
    protocol: int | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    latency_ms: float | None = None
    reference_ms: float | None = None
    verdict: str | None = None
    raw: dict[str, Any] | None = None
    conditions: dict[str, Any] | None = None
    error_kind: str | None = None
    error_message: str | None = None

    def columns(self) -> dict[str, Any]:
        """The values by column name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def find(session: Session, measurement_id: str) -> Measurement | None:
    """One measurement, with its raw samples."""
    return session.get(Measurement, measurement_id, options=[undefer(Measurement.raw)])


def brief(session: Session, measurement_id: str) -> Measurement | None:
    """One measurement, without its raw samples."""
    return session.get(Measurement, measurement_id)


def of_lease(
    session: Session, request_id: str, device_id: str, lease_token: str
) -> Measurement | None:
    """What a device has delivered under a lease of a request."""
    where = (
        Measurement.request_id == request_id,
        Measurement.device_id == device_id,
        Measurement.lease_token == lease_token,
    )
    return session.scalars(select(Measurement).where(*where)).first()


def for_job(session: Session, job_id: str, *, counted_only: bool = True) -> Sequence[Measurement]:
    """The measurements of a job, oldest first, without their raw samples."""
    statement = select(Measurement).where(Measurement.job_id == job_id)
    if counted_only:
        statement = statement.where(Measurement.counted)
    return session.scalars(statement.order_by(Measurement.created_at, Measurement.id)).all()


def stamps(session: Session, job_id: str) -> dict[str, tuple[Any, ...]]:
    """The ids of the measurements of a job that count; nothing else of them changes."""
    where = [Measurement.job_id == job_id, Measurement.counted]
    return reading.stamps(session, where, Measurement.id)


def of_ids(session: Session, ids: Sequence[str]) -> Iterator[Measurement]:
    """The measurements with these ids, without their raw samples."""
    return reading.in_parts(session, select(Measurement), Measurement.id, ids)


def first_reference_ms(session: Session, job_id: str) -> float | None:
    """What the reference took in the first measurement of a job that counts."""
    where = (
        Measurement.job_id == job_id, Measurement.counted, Measurement.reference_ms.is_not(None),
    )  # fmt: skip
    oldest = (Measurement.created_at, Measurement.id)
    statement = select(Measurement.reference_ms).where(*where).order_by(*oldest).limit(1)
    return session.scalar(statement)


def spans(session: Session, job_id: str) -> Iterator[Span]:
    """The candidates that were screened for a job: when, and what their processes took."""
    statement = (
        select(Measurement.device_id, Request.created_at, Measurement.created_at, Measurement.raw)
        .join(Request, Request.id == Measurement.request_id)
        .where(
            Measurement.job_id == job_id,
            Measurement.counted,
            Measurement.kind == "screening",
            Measurement.raw.is_not(None),
        )
    )
    rows = session.execute(statement.execution_options(yield_per=64))  # samples are large
    for device_id, asked_at, answered_at, raw in rows:
        processes = (raw or {}).get("replicates") or ()
        busy_ms = sum(float(each.get("process_ms") or 0.0) for each in processes)
        yield Span(device_id, asked_at, answered_at, busy_ms / 1000)


def for_check(session: Session, check_id: str) -> Sequence[Measurement]:
    """The counted measurements of a check, oldest first, with their raw samples."""
    statement = select(Measurement).where(Measurement.check_id == check_id, Measurement.counted)
    ordered = statement.order_by(Measurement.created_at, Measurement.id)
    return session.scalars(ordered.options(undefer(Measurement.raw))).all()


def of_device(session: Session, device_id: str, limit: int) -> Sequence[Measurement]:
    """The last counted measurements of a device that brought a ratio, newest first, with their
    raw samples."""
    where = (
        Measurement.device_id == device_id,
        Measurement.counted,
        Measurement.ratio.is_not(None),
    )
    statement = select(Measurement).where(*where).options(undefer(Measurement.raw))
    newest = statement.order_by(Measurement.created_at.desc(), Measurement.id.desc())
    return session.scalars(newest.limit(limit)).all()


def cached(
    session: Session, skeleton_digest: str, dense: Measurement, *, kind: str = "screening"
) -> Measurement | None:
    """The newest counted measurement of a job (never of a check) with verdict `ok` that answers
    the same question, and would answer it alike today.

    Args:
        dense: The job's measurement of the dense model: it tells target, device, versions, and how
            the device is now.
    """
    where = (
        Measurement.skeleton_digest == skeleton_digest,
        Measurement.target_key == dense.target_key,
        Measurement.reference_digest == dense.reference_digest,
        Measurement.kind == kind,
        Measurement.protocol == dense.protocol,
        Measurement.device_id == dense.device_id,
        Measurement.runtime_version == dense.runtime_version,
        Measurement.counted,
        Measurement.check_id.is_(None),
        Measurement.verdict == "ok",
    )
    newest = (Measurement.created_at.desc(), Measurement.id.desc())
    rows = session.scalars(
        select(Measurement).where(*where).order_by(*newest).limit(_MOST_LOOKED_AT)
    )
    return next((row for row in rows if is_reusable(row, dense)), None)


def is_reusable(row: Measurement, dense: Measurement) -> bool:
    """Whether a device was, when it measured `row`, as it is now: equal facts, and near enough
    sentinel and reference. What did not record its facts is not reused."""
    then, now = row.conditions or {}, dense.conditions or {}
    if then.get("environment") is None or any(then.get(k) != now.get(k) for k in _FACTS):
        return False
    name = "sentinel_baseline_ns"
    is_same_speed = _are_near(then.get(name), now.get(name), _SENTINEL_TOLERANCE)
    return is_same_speed and _are_near(row.reference_ms, dense.reference_ms, REFERENCE_TOLERANCE)


def _are_near(then: float | None, now: float | None, tolerance: float) -> bool:
    return abs((then or 0) - (now or 0)) <= tolerance * (now or 0)


def recent(
    session: Session, job_id: str, device_id: str, target_key: str, limit: int
) -> Sequence[Measurement]:
    """The last screening measurements of a device in a job that count, with a target, oldest
    first."""
    where = (
        Measurement.job_id == job_id,
        Measurement.device_id == device_id,
        Measurement.target_key == target_key,
        Measurement.kind == "screening",
        Measurement.counted,
        Measurement.reference_ms.is_not(None),
    )
    newest = (Measurement.created_at.desc(), Measurement.id.desc())
    rows = session.scalars(select(Measurement).where(*where).order_by(*newest).limit(limit)).all()
    return rows[::-1]


def count(session: Session, job_id: str | None = None) -> int:
    """How many counted measurements there are, of one job or in all."""
    statement = select(func.count()).select_from(Measurement).where(Measurement.counted)
    if job_id is not None:
        statement = statement.where(Measurement.job_id == job_id)
    return session.scalar(statement) or 0
