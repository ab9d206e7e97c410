"""What devices found, and the cache that it is: a skeleton's ratio belongs to its digest, target,
device, runtime version and protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, undefer

from jobs.tables import Measurement


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
    session: Session,
    skeleton_digest: str,
    target_key: str,
    *,
    reference_digest: str,
    kind: str,
    protocol: int,
    device_id: str | None = None,
    runtime_version: str | None = None,
) -> Measurement | None:
    """The newest counted measurement with verdict `ok` that answers the same question, and that
    was made for a job: those of checks are never used again.

    Args:
        device_id: None takes any device's; likewise `runtime_version`.
    """
    where = [
        Measurement.skeleton_digest == skeleton_digest,
        Measurement.target_key == target_key,
        Measurement.reference_digest == reference_digest,
        Measurement.kind == kind,
        Measurement.protocol == protocol,
        Measurement.counted,
        Measurement.check_id.is_(None),
        Measurement.verdict == "ok",
    ]
    if device_id is not None:
        where.append(Measurement.device_id == device_id)
    if runtime_version is not None:
        where.append(Measurement.runtime_version == runtime_version)
    newest = (Measurement.created_at.desc(), Measurement.id.desc())
    return session.scalars(select(Measurement).where(*where).order_by(*newest).limit(1)).first()


def count(session: Session, job_id: str | None = None) -> int:
    """How many counted measurements there are, of one job or in all."""
    statement = select(func.count()).select_from(Measurement).where(Measurement.counted)
    if job_id is not None:
        statement = statement.where(Measurement.job_id == job_id)
    return session.scalar(statement) or 0
