"""Another budget for a job that is there: a new job like it, which takes over what it found out.

What a device has measured is not asked again anyway; losses are copied. They are those of weights,
so that they hold for another device too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy.orm import Session

from jobs.repository import events, jobs, tasks
from jobs.spec import FurtherSpec, JobSpec
from jobs.tables import Job


def resolved_spec(source: Job, further: FurtherSpec, name: str | None = None) -> JobSpec:
    """The document of the new job; model and data set are the same ones, whatever their names."""
    changes: dict[str, Any] = {"further_budgets": (), "name": name}
    changes["budget"] = further.model_dump(exclude={"device"})
    if further.device is not None:
        changes["target"] = {**source.spec.get("target", {}), "device": further.device}
    named = {"model": source.model_id, "dataset": source.dataset_id}
    return JobSpec.model_validate(source.spec | changes | named)


def answer_further(session: Session, job_id: str) -> Iterator[str]:
    """Adds a job for each further budget of one that ends; gives their ids."""
    source = jobs.find(session, job_id)
    if source is None:
        return
    for number, further in enumerate(JobSpec.model_validate(source.spec).further_budgets, start=2):
        name = f"{source.name[:60]}-{number}" if source.name else None
        new = jobs.create(
            session, resolved_spec(source, further, name),
            model_id=source.model_id, dataset_id=source.dataset_id,
        )  # fmt: skip
        tasks.copy_losses(session, source.id, new.id)
        told = {"job_id": new.id, "budget": further.model_dump(exclude_none=True)}
        events.append(session, source.id, "further_budget", told)
        yield new.id
