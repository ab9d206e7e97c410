"""Models: submitted, found by id or name, listed, and judged once by a worker."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from jobs.ids import new_id
from jobs.repository import inputs
from jobs.repository.paging import Page, newest_first
from jobs.spec import ModelSpec
from jobs.states import InputState
from jobs.tables import Model


def create(
    session: Session,
    spec: ModelSpec,
    *,
    weights_digest: str,
    model_id: str | None = None,
    now: datetime | None = None,
) -> Model | None:
    """A new model, to be checked. None: its name is taken."""
    row = {
        "id": model_id or new_id("mdl"),
        "name": spec.name,
        "spec": spec.model_dump(mode="json"),
        "weights_digest": weights_digest,
    }
    return inputs.create(session, Model, row, now)


def find(session: Session, id_or_name: str) -> Model | None:
    """The model with this id or, failing that, this name."""
    return inputs.find(session, Model, id_or_name)


def kept(session: Session, model_id: str) -> Model | None:
    """The model with this id, one too that was removed and that jobs still name."""
    return inputs.kept(session, Model, model_id)


def page(session: Session, *, after: str | None = None, limit: int = 50) -> Page[Model]:
    """Models, newest first; raises UnknownCursor."""
    where = [Model.state != InputState.REMOVED]
    return newest_first(session, Model, after=after, limit=limit, where=where)


def unchecked(session: Session, *, free_at: datetime | None = None) -> Sequence[Model]:
    """The models whose check has not ended, oldest first; see `inputs.unchecked`."""
    return inputs.unchecked(session, Model, free_at=free_at)


def accept(
    session: Session,
    model_id: str,
    report: dict[str, Any],
    *,
    attempt: int | None = None,
    now: datetime | None = None,
) -> bool:
    """checking -> ready, with the graph report."""
    return inputs.judge(
        session, Model, model_id, now, attempt, state=InputState.READY, report=report
    )


def reject(
    session: Session,
    model_id: str,
    problem: dict[str, Any],
    *,
    attempt: int | None = None,
    now: datetime | None = None,
) -> bool:
    """checking -> rejected, with the problem document that the user gets."""
    return inputs.judge(
        session, Model, model_id, now, attempt, state=InputState.REJECTED, problem=problem
    )
