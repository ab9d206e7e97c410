"""Data sets: submitted, found by id or name, listed, and judged once by a worker."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from jobs.ids import new_id
from jobs.repository import inputs
from jobs.repository.paging import Page, newest_first
from jobs.spec import DatasetSpec
from jobs.states import InputState
from jobs.tables import Dataset


def create(
    session: Session,
    spec: DatasetSpec,
    *,
    archive_digest: str | None = None,
    dataset_id: str | None = None,
    now: datetime | None = None,
) -> Dataset | None:
    """A new data set, to be checked. None: its name is taken."""
    row = {
        "id": dataset_id or new_id("dat"),
        "name": spec.name,
        "spec": spec.model_dump(mode="json"),
        "archive_digest": archive_digest,
    }
    return inputs.create(session, Dataset, row, now)


def find(session: Session, id_or_name: str) -> Dataset | None:
    """The data set with this id or, failing that, this name."""
    return inputs.find(session, Dataset, id_or_name)


def kept(session: Session, dataset_id: str) -> Dataset | None:
    """The data set with this id, one too that was removed and that jobs still name."""
    return inputs.kept(session, Dataset, dataset_id)


def page(session: Session, *, after: str | None = None, limit: int = 50) -> Page[Dataset]:
    """Data sets, newest first; raises UnknownCursor."""
    where = [Dataset.state != InputState.REMOVED]
    return newest_first(session, Dataset, after=after, limit=limit, where=where)


def unchecked(session: Session, *, free_at: datetime | None = None) -> Sequence[Dataset]:
    """The data sets whose check has not ended, oldest first; see `inputs.unchecked`."""
    return inputs.unchecked(session, Dataset, free_at=free_at)


def accept(
    session: Session,
    dataset_id: str,
    info: dict[str, Any],
    *,
    attempt: int | None = None,
    now: datetime | None = None,
) -> bool:
    """checking -> ready, with what was found in it."""
    return inputs.judge(
        session, Dataset, dataset_id, now, attempt, state=InputState.READY, info=info
    )


def reject(
    session: Session,
    dataset_id: str,
    problem: dict[str, Any],
    *,
    attempt: int | None = None,
    now: datetime | None = None,
) -> bool:
    """checking -> rejected, with the problem document that the user gets."""
    return inputs.judge(
        session, Dataset, dataset_id, now, attempt, state=InputState.REJECTED, problem=problem
    )
