"""Rows to test with, each with the rows that it needs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from jobs.ids import new_id
from jobs.repository import datasets, devices, jobs, models, requests, skeletons
from jobs.spec import BudgetSpec, DatasetSpec, JobSpec, ModelSpec
from jobs.tables import Dataset, Device, Job, Model, Request
from latency_probes.messages import Settings, Target

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
REFERENCE = "a" * 64
SKELETON = "b" * 64


def at(seconds: float) -> datetime:
    """Some seconds after noon."""
    return NOON + timedelta(seconds=seconds)


def model_spec(name: str = "net") -> ModelSpec:
    return ModelSpec(name=name, architecture="torchvision:resnet18", input_shape=(3, 32, 32))


def dataset_spec(name: str = "photos") -> DatasetSpec:
    return DatasetSpec(name=name, format="idx", path="/data/photos")


def make_model(session: Session, name: str = "net", *, now: datetime = NOON) -> Model:
    model = models.create(session, model_spec(name), weights_digest="0" * 64, now=now)
    if model is None:
        raise LookupError(f"name must be free, but got {name}")
    return model


def make_dataset(session: Session, name: str = "photos", *, now: datetime = NOON) -> Dataset:
    dataset = datasets.create(session, dataset_spec(name), now=now)
    if dataset is None:
        raise LookupError(f"name must be free, but got {name}")
    return dataset


def make_job(session: Session, *, now: datetime = NOON) -> Job:
    model = models.find(session, "net") or make_model(session)
    dataset = datasets.find(session, "photos") or make_dataset(session)
    spec = JobSpec(model="net", dataset="photos", budget=BudgetSpec(ratio=0.5))
    return jobs.create(session, spec, model_id=model.id, dataset_id=dataset.id, now=now)


def make_device(session: Session, name: str = "board", *, now: datetime = NOON) -> Device:
    token = devices.create_token(session, now + timedelta(hours=1))
    enrolled = devices.enrol(
        session, token, name=name, labels={"room": "lab"}, capabilities={"cores": 4}, now=now
    )
    if enrolled is None:
        raise LookupError("token must be good, but was refused")
    return enrolled[0]


def make_request(
    session: Session, job: Job, purpose: str | None = None, *, now: datetime = NOON
) -> Request:
    for digest in (REFERENCE, SKELETON):
        skeletons.add(session, digest, 10, f"skeletons/{digest}", now=now)
    return requests.add(
        session,
        job.id,
        purpose or new_id("purpose"),
        skeleton_digest=SKELETON,
        reference_digest=REFERENCE,
        selector="any",
        target=Target(),
        settings=Settings(),
        now=now,
    )
