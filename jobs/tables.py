"""Every table. Only the repository and the migrations read this file for what it is.

Relations are never loaded on their own (`lazy="raise"`). A JSON column is replaced, never changed
in place.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, MetaData, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from jobs.columns import Documents, Json, States, UtcDateTime, utc_now
from jobs.ids import new_id
from jobs.states import (
    CheckState,
    DeviceState,
    InputState,
    JobState,
    RequestState,
    TaskState,
)

Document = dict[str, Any]


class Base(DeclarativeBase):
    """Constraint names are fixed, so that a migration can name what it changes."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {
        datetime: UtcDateTime(),
        Document: Documents(),
        list[Any]: Json,
        JobState: States(JobState),
        InputState: States(InputState),
        TaskState: States(TaskState),
        RequestState: States(RequestState),
        DeviceState: States(DeviceState),
        CheckState: States(CheckState),
    }


class Model(Base):
    """A trained network as submitted. Its weights lie at `artifacts.weights_name(id)`.

    `attempt` counts the runs of its check, which hold it until `lease_until`.
    """

    __tablename__ = "models"

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("mdl"))
    name: Mapped[str] = mapped_column(unique=True)
    state: Mapped[InputState] = mapped_column(default=InputState.CHECKING)
    spec: Mapped[Document]
    weights_digest: Mapped[str]
    report: Mapped[Document | None]
    problem: Mapped[Document | None]
    attempt: Mapped[int] = mapped_column(default=0)
    lease_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)


class Dataset(Base):
    """A data set. An uploaded one lies at `artifacts.archive_name(id)`, and `archive_digest` is
    set. `attempt` and `lease_until` are as those of a model."""

    __tablename__ = "datasets"

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("dat"))
    name: Mapped[str] = mapped_column(unique=True)
    state: Mapped[InputState] = mapped_column(default=InputState.CHECKING)
    spec: Mapped[Document]
    archive_digest: Mapped[str | None]
    info: Mapped[Document | None]
    problem: Mapped[Document | None]
    attempt: Mapped[int] = mapped_column(default=0)
    lease_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)


class Job(Base):
    """A pruning job. Only `jobs.status.transition` writes `state`.

    `version` guards `search_state`; `event_count` numbers the events without gaps. `tries` counts
    the decisions in a row that a passing error stopped; the next one is not made before `try_at`.
    `trouble` is the last such error of the job or of one of its tasks, in words, while it lasts.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index(None, "state"),
        Index(None, "created_at", "id"),
        Index(None, "model_id"),
        Index(None, "dataset_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("job"))
    name: Mapped[str | None]
    state: Mapped[JobState] = mapped_column(default=JobState.QUEUED)
    attempt: Mapped[int] = mapped_column(default=1)
    version: Mapped[int] = mapped_column(default=0)
    event_count: Mapped[int] = mapped_column(default=0)
    spec: Mapped[Document]
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    search_state: Mapped[Document | None] = mapped_column(deferred=True)
    progress: Mapped[Document | None]
    waiting_for: Mapped[str | None]
    result: Mapped[Document | None]
    problem: Mapped[Document | None]
    stop_requested: Mapped[bool] = mapped_column(default=False)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    tries: Mapped[int] = mapped_column(default=0)
    try_at: Mapped[datetime | None]
    trouble: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)
    finished_at: Mapped[datetime | None]

    model: Mapped[Model] = relationship(lazy="raise")
    dataset: Mapped[Dataset] = relationship(lazy="raise")


class Task(Base):
    """A bounded piece of a job's work, run by a worker under a lease; `attempt` counts the runs,
    `tries` those in a row that a passing error stopped. It is not claimed before `try_at`."""

    __tablename__ = "tasks"
    __table_args__ = (UniqueConstraint("job_id", "key"), Index(None, "state", "lease_until"))

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("tsk"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    kind: Mapped[str]
    key: Mapped[str]
    state: Mapped[TaskState] = mapped_column(default=TaskState.PENDING)
    attempt: Mapped[int] = mapped_column(default=0)
    payload: Mapped[Document]
    result: Mapped[Document | None]
    error: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    queued_at: Mapped[datetime] = mapped_column(default=utc_now)
    tries: Mapped[int] = mapped_column(default=0)
    try_at: Mapped[datetime | None]


class Candidate(Base):
    """A node of a job's tree; `digest` is its plan's. It was written last when the search was
    saved as this `version` of the job; `int8_layers` counts the plan's layers in int8."""

    __tablename__ = "candidates"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    digest: Mapped[str] = mapped_column(primary_key=True)
    parent: Mapped[str | None]
    level: Mapped[int]
    origin: Mapped[str]
    plan: Mapped[Document | None]
    skeleton_digest: Mapped[str | None]
    ratio: Mapped[float | None]
    ratio_low: Mapped[float | None]
    ratio_high: Mapped[float | None]
    latency_ms: Mapped[float | None]
    loss: Mapped[float | None]
    kept: Mapped[bool] = mapped_column(default=False)
    error: Mapped[str | None]
    version: Mapped[int] = mapped_column(default=0, server_default="0")
    int8_layers: Mapped[int] = mapped_column(default=0, server_default="0")


class Skeleton(Base):
    """An ONNX graph without weights, in the artifact store."""

    __tablename__ = "skeletons"

    digest: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    location: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Device(Base):
    """A machine that measures. `secret_sha256` is also its password's hash at the Redis
    server."""

    __tablename__ = "devices"

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("dev"))
    name: Mapped[str]
    state: Mapped[DeviceState] = mapped_column(default=DeviceState.PENDING)
    drain_requested: Mapped[bool] = mapped_column(default=False)
    labels: Mapped[Document]
    capabilities: Mapped[Document]
    secret_sha256: Mapped[str]
    last_seen: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    problem: Mapped[Document | None]
    dropped_answers: Mapped[int] = mapped_column(default=0, server_default="0")


class Check(Base):
    """A test of a device itself: one model measured against itself, many times over."""

    __tablename__ = "checks"
    __table_args__ = (Index(None, "device_id", "created_at"), Index(None, "state"))

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("chk"))
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"))
    workload: Mapped[str]
    skeleton_digest: Mapped[str] = mapped_column(ForeignKey("skeletons.digest"))
    target: Mapped[Document]
    target_key: Mapped[str]
    settings: Mapped[Document]
    state: Mapped[CheckState] = mapped_column(default=CheckState.PENDING)
    progress: Mapped[Document | None]
    waiting_for: Mapped[str | None]
    result: Mapped[Document | None]
    error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    finished_at: Mapped[datetime | None]


class Request(Base):
    """One candidate to be measured, for a job or for a check. `attempt` and `lease_token` change
    with every assignment.

    `measurement_id` has no foreign key: the two tables would need each other first.
    """

    __tablename__ = "requests"
    __table_args__ = (
        UniqueConstraint("job_id", "purpose"),
        UniqueConstraint("check_id", "purpose"),
        Index(None, "state", "lease_until"),
        Index(None, "device_id", "state"),
        Index(None, "skeleton_digest"),
        Index(None, "reference_digest"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("req"))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    check_id: Mapped[str | None] = mapped_column(ForeignKey("checks.id"))
    purpose: Mapped[str]
    skeleton_digest: Mapped[str] = mapped_column(ForeignKey("skeletons.digest"))
    reference_digest: Mapped[str] = mapped_column(ForeignKey("skeletons.digest"))
    selector: Mapped[str]
    target: Mapped[Document]
    settings: Mapped[Document]
    state: Mapped[RequestState] = mapped_column(default=RequestState.PENDING)
    device_id: Mapped[str | None] = mapped_column(ForeignKey("devices.id"))
    attempt: Mapped[int] = mapped_column(default=0)
    lease_token: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    stream_id: Mapped[str | None]
    measurement_id: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Measurement(Base):
    """What a device found, raw samples included; or its typed error. Only `counted` ones are
    believed."""

    __tablename__ = "measurements"
    __table_args__ = (
        UniqueConstraint("request_id", "device_id", "lease_token"),
        Index(None, "skeleton_digest", "target_key"),
        Index(None, "job_id"),
        Index(None, "check_id"),
        Index(None, "device_id", "created_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("mea"))
    request_id: Mapped[str] = mapped_column(ForeignKey("requests.id"))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    check_id: Mapped[str | None] = mapped_column(ForeignKey("checks.id"))
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"))
    attempt: Mapped[int]
    lease_token: Mapped[str]
    skeleton_digest: Mapped[str]
    reference_digest: Mapped[str]
    target_key: Mapped[str]
    kind: Mapped[str]
    counted: Mapped[bool]
    runtime_version: Mapped[str | None]
    protocol: Mapped[int | None]
    ratio: Mapped[float | None]
    ratio_low: Mapped[float | None]
    ratio_high: Mapped[float | None]
    latency_ms: Mapped[float | None]
    reference_ms: Mapped[float | None]
    verdict: Mapped[str | None]
    raw: Mapped[Document | None] = mapped_column(deferred=True)
    conditions: Mapped[Document | None]
    error_kind: Mapped[str | None]
    error_message: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class EnrolmentToken(Base):
    """Lets one device enrol, once."""

    __tablename__ = "enrolment_tokens"

    sha256: Mapped[str] = mapped_column(primary_key=True)
    expires_at: Mapped[datetime]
    used_by: Mapped[str | None] = mapped_column(ForeignKey("devices.id"))


class ApiKey(Base):
    """A key of a user or a program; only its hash is kept."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("key"))
    name: Mapped[str]
    secret_sha256: Mapped[str]
    scopes: Mapped[list[Any]]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class Event(Base):
    """What happened to a job, numbered 1, 2, 3 ... without gaps."""

    __tablename__ = "events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(default=utc_now)
    kind: Mapped[str]
    data: Mapped[Document]


class Artifact(Base):
    """A file that a job made."""

    __tablename__ = "artifacts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    location: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Lease(Base):
    """Who leads, and until when."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    until: Mapped[datetime]


class Idempotency(Base):
    """The answer to a request that may come again; `status` is null while the first one is being
    answered."""

    __tablename__ = "idempotency"

    scope: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[str]
    status: Mapped[int | None]
    response: Mapped[Document | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
