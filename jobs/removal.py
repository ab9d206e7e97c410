"""Removes models, data sets, jobs and devices: rows first, in the caller's transaction, then the
files. Killed in between, the files are orphans, which the collector's sweep finds.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, and_, delete, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import (
    ArtifactStore,
    dataset_folder,
    job_folder,
    model_folder,
    skeleton_name,
)
from jobs.errors import InUse
from jobs.repository import checks, inputs, skeletons
from jobs.runtimes import DENSE, dense_purpose
from jobs.settings import Settings
from jobs.states import LIVE, SHUT_OUT, DeviceState, InputState, RequestState
from jobs.tables import (
    Artifact,
    Candidate,
    Dataset,
    Device,
    Event,
    Job,
    Measurement,
    Model,
    Request,
    Task,
)

NAMED = 20  # users that a refusal names
BATCH = 50  # skeletons whose files go within one transaction
T = TypeVar("T")
OF_JOB = (Measurement, Request, Task, Candidate, Event, Artifact)  # in the order of foreign keys
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Remains:
    """The files that are left to remove after the commit.

    Attributes:
        folders: in the artifact store.
        unpacked: the data set that workers may have unpacked.
        skeletons: digests that may not be needed any more.
    """

    folders: tuple[str, ...] = ()
    unpacked: str | None = None
    skeletons: tuple[str, ...] = ()


def remove_model(session: Session, model_id: str) -> Remains:
    """Removes a model and frees its name; jobs that have ended stay readable.

    Raises:
        InUse: a job on it has not ended.
    """
    model = _locked(session, Model, model_id)
    if model is None:
        return Remains()
    _refuse_use(session, "model", model.name, Job.model_id == model_id)
    return _removed(session, model)


def remove_dataset(session: Session, dataset_id: str) -> Remains:
    """Removes a data set, as `remove_model` a model. A folder on the server that it named stays
    as it is."""
    dataset = _locked(session, Dataset, dataset_id)
    if dataset is None:
        return Remains()
    _refuse_use(session, "data set", dataset.name, Job.dataset_id == dataset_id)
    return _removed(session, dataset)


def replace_rejected(session: Session, row: Model | Dataset) -> Remains | None:
    """Frees the name of what was rejected. None: it was not, or is gone.

    A job that waited for the verdict still fails with the reason.
    """
    found = _locked(session, type(row), row.id)
    if found is None or found.state != InputState.REJECTED:
        return None
    return _removed(session, found)


def remove_job(session: Session, job_id: str) -> Remains:
    """Removes a job that has ended, with its log, its measurements and its files.

    Raises:
        InUse: it has not ended.
    """
    job = _locked(session, Job, job_id)
    if job is None:
        return Remains()
    if job.state in LIVE:
        message = f"job {job_id} must have ended, but is {job.state}: cancel it first"
        raise InUse(message, [job_id])
    digests = skeletons.of_job(session, job_id)
    # A result that comes in now waits, and then finds no request.
    session.execute(select(Request.id).where(Request.job_id == job_id).with_for_update())
    session.expunge(job)
    for statement in (
        *(delete(each).where(each.job_id == job_id) for each in OF_JOB),
        delete(Job).where(Job.id == job_id),
    ):
        session.execute(statement, execution_options={"synchronize_session": False})
    inputs.drop_removed(session)
    return Remains((job_folder(job_id),), skeletons=tuple(sorted(digests)))


def remove_device(session: Session, device_id: str) -> None:
    """Shuts a device out for good, and shows it no more; what it measured stays readable.

    Raises:
        InUse: it is not revoked, and a job or a check that has not ended is measured by it or
            waits for it alone.
    """
    device = _locked(session, Device, device_id)
    if device is None:
        return
    users = [] if device.state in SHUT_OUT else _users_of(session, device_id)
    if users:
        message = (
            f"device {device.name!r} must not be in use, but {_words(users)} not ended: wait, "
            "cancel what uses it, or revoke it first, and its jobs fail"
        )
        raise InUse(message, users)
    device.state = DeviceState.REMOVED
    session.flush()


def clear(
    remains: Remains, store: ArtifactStore, factory: sessionmaker[Session], settings: Settings
) -> None:
    """Removes the files of what was removed, now that it is committed."""
    for folder in remains.folders:
        store.remove_folder(folder)
    if remains.unpacked is not None:
        shutil.rmtree(settings.unpacked / remains.unpacked, ignore_errors=True)
    drop_skeletons(factory, store, remains.skeletons)


def drop_skeletons(
    factory: sessionmaker[Session], store: ArtifactStore, digests: Sequence[str]
) -> list[str]:
    """Removes those skeletons that nothing needs any more, rows and files; returns which."""
    gone: list[str] = []
    for start in range(0, len(digests), BATCH):
        batch = digests[start : start + BATCH]
        try:
            with factory.begin() as session:
                unneeded = skeletons.remove_unneeded(session, batch)
                for digest in unneeded:
                    store.remove(skeleton_name(digest))
        except IntegrityError:  # one of them was just named: the sweep looks again
            continue
        gone += unneeded
    return gone


def _removed(session: Session, row: Model | Dataset) -> Remains:
    inputs.remove(session, row)
    if isinstance(row, Model):
        return Remains((model_folder(row.id),))
    return Remains((dataset_folder(row.id),), unpacked=row.id)


def _locked(session: Session, table: type[T], row_id: str) -> T | None:
    """The row, which stays as it is until the transaction ends; None if it is gone."""
    return session.get(table, row_id, with_for_update=True, populate_existing=True)


def _refuse_use(session: Session, kind: str, name: str, where: ColumnElement[bool]) -> None:
    statement = select(Job.id).where(where, Job.state.in_(LIVE)).order_by(Job.created_at, Job.id)
    users = session.scalars(statement).all()
    if users:
        message = (
            f"{kind} {name!r} must not be in use, but {_words(users)} not ended: cancel what "
            "uses it, or wait"
        )
        raise InUse(message, users)


def _users_of(session: Session, device_id: str) -> list[str]:
    """The live jobs that the device measures or that name it alone, and its live checks."""
    is_dense = or_(
        Request.purpose == DENSE,
        Request.purpose.like(dense_purpose("%")),
        Request.purpose.like(f"{DENSE}@%"),
    )
    its_own = and_(is_dense, Request.state == RequestState.DONE)
    statement = (
        select(Request.job_id)
        .join(Job, Job.id == Request.job_id)
        .where(
            Request.device_id == device_id,
            Job.state.in_(LIVE),
            or_(its_own, Request.state == RequestState.DISPATCHED),
        )
    )
    measured = {str(job_id) for job_id in session.scalars(statement)}
    live = session.execute(select(Job.id, Job.spec).where(Job.state.in_(LIVE)))
    named = {job_id for job_id, spec in live if f"id:{device_id}" in _devices_of(spec)}
    return sorted(measured | named) + [check.id for check in checks.live(session, device_id)]


def _devices_of(spec: Mapping[str, Any]) -> list[str | None]:
    """The devices that a job names for its one result, whatever version wrote its document."""
    given = [spec.get("target"), *(spec.get("further_devices") or ())]
    return [(each or {}).get("device") for each in given]


def _words(users: Sequence[str]) -> str:
    more = f" and {len(users) - NAMED} more" if len(users) > NAMED else ""
    return f"{', '.join(users[:NAMED])}{more} {'has' if len(users) == 1 else 'have'}"
