"""Rows and messages to test with: inputs that are ready, devices that are online, measurements."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from jobs.columns import utc_now
from jobs.repository import datasets, devices, models
from jobs.spec import DatasetSpec, ModelSpec
from jobs.states import DeviceState
from jobs.tables import Dataset, Device, Model
from latency_probes.samples import Conditions, Measurement, Replicate, summary

CAPABILITIES = {
    "cores": 2,
    "runtimes": {"replay": {"version": "1", "providers": ["CPUExecutionProvider"]}},
}


def ready_model(session: Session, spec: ModelSpec, weights_digest: str = "0" * 64) -> Model:
    """A model that is being checked; its caller accepts or rejects it."""
    model = models.create(session, spec, weights_digest=weights_digest)
    if model is None:
        raise LookupError(f"name must be free, but got {spec.name}")
    return model


def ready_dataset(session: Session, spec: DatasetSpec) -> Dataset:
    """A data set that was accepted."""
    dataset = datasets.create(session, spec)
    if dataset is None:
        raise LookupError(f"name must be free, but got {spec.name}")
    datasets.accept(session, dataset.id, {})
    return dataset


def online_device(
    session: Session,
    name: str = "board",
    *,
    labels: dict[str, str] | None = None,
    capabilities: dict[str, object] | None = None,
    now: datetime | None = None,
) -> Device:
    """A device that was heard of just now."""
    moment = now or utc_now()
    token = devices.create_token(session, moment + timedelta(hours=1))
    enrolled = devices.enrol(
        session,
        token,
        name=name,
        labels=labels or {},
        capabilities=CAPABILITIES if capabilities is None else capabilities,
        now=moment,
    )
    if enrolled is None:
        raise LookupError("token must be good, but was refused")
    devices.heartbeat(session, enrolled[0].id, DeviceState.ONLINE, moment)
    return enrolled[0]


def measured(
    candidate_ns: int, reference_ns: int, *, kind: str = "screening", spread: float = 0.0
) -> Measurement:
    """A measurement of 3 or, strict, of 6 replicates, whose ratios differ by `spread` of their
    mean."""
    is_strict = kind == "strict"
    signs = (-1, 1) * 3 if is_strict else (-1, 1, 0)
    candidates = [round(candidate_ns * (1 + sign * spread / 2)) for sign in signs]
    replicates = tuple(_replicate(each, reference_ns) for each in candidates)
    return Measurement(
        **summary(replicates),
        kind="strict" if is_strict else "screening",
        replicates=replicates,
        verdict="ok",
        conditions=Conditions(cores=(0,), environment="Linux 6.1"),
        runtime_version="1",
    )


def _replicate(candidate_ns: int, reference_ns: int) -> Replicate:
    return Replicate(
        candidate_ns=((candidate_ns,),),
        reference_ns=((reference_ns,),),
        candidate_cold_ns=candidate_ns,
        reference_cold_ns=reference_ns,
    )
