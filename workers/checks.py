"""Judges an upload once: ready with what was found in it, or rejected with a problem."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, TypeVar

from pydantic import ValidationError
from sqlalchemy.orm import Session

from jobs.artifacts import weights_name
from jobs.data_roots import data_roots
from jobs.repository import datasets, inputs, jobs, models
from jobs.spec import DatasetSpec, ModelSpec
from jobs.states import JobState
from jobs.tables import Dataset, Model
from search.graph.exported.deadline import PATIENCE
from workers.context import Context, Unit
from workers.data_inspection import DataInspection, inspect_data_in_child
from workers.inspection import Inspection, inspect_in_child
from workers.leasing import kept
from workers.library import Library, upload_of
from workers.loaders.errors import CheckError
from workers.retrying import words
from workers.rounds import LONGEST_WALL_S, Rounds, keep_rounds, rounds_of

MAX_ATTEMPTS = 5  # as often as a task's worker may die
Inspector = Callable[[Inspection], dict[str, Any]]
T = TypeVar("T", Model, Dataset)
log = logging.getLogger(__name__)


def check_model(
    context: Context, _library: Library, model_id: str, *, inspector: Inspector = inspect_in_child
) -> None:
    """One round: builds, loads and traces the model in a child process.

    A model of which not all is verified then stays `checking`, and its next round is sent; after
    the last one the model is judged by what is known.
    """
    with _held(context, Model, model_id) as model:
        if model is None:
            return
        rounds = rounds_of(context.store, model)
        if not rounds.over:  # else the worker died before it could say so
            rounds = _one_more(context, model, rounds, inspector)
            keep_rounds(context.store, model_id, rounds)
        with context.unit() as unit:
            if rounds.over:
                _judge(unit, model, rounds)
            elif inputs.renew(unit.session, Model, model, None):
                unit.send("check_model", model_id)


def _judge(unit: Unit, model: Model, rounds: Rounds) -> None:
    if rounds.report is not None:
        models.accept(unit.session, model.id, rounds.report, attempt=model.attempt)
    else:
        models.reject(unit.session, model.id, rounds.problem or {}, attempt=model.attempt)
    _wake_waiting_jobs(unit, model.id)
    log.info("model %s: %s", model.id, "rejected" if rounds.report is None else "ready")


def _one_more(context: Context, model: Model, rounds: Rounds, inspector: Inspector) -> Rounds:
    total_s = context.settings.inspection_limit_s
    limit_s = rounds.limit_s(total_s)

    def inspect() -> dict[str, Any]:
        request = Inspection(
            spec=ModelSpec.model_validate(model.spec),
            weights=context.store.local_path(weights_name(model.id), sha256=model.weights_digest),
            allow=sorted(context.settings.allow),
            time_limit_s=limit_s,
            wall_limit_s=min(PATIENCE * limit_s, LONGEST_WALL_S),
            verdicts=rounds.verdicts,
        )
        return inspector(request)

    return rounds.after(_answered(model, inspect, ended=rounds.count), total_s)


def check_dataset(context: Context, _library: Library, dataset_id: str) -> None:
    """Reads the training split in a child process and keeps the verdict; of the test split, the
    names, headers, labels and range of pixels."""
    with _held(context, Dataset, dataset_id) as dataset:
        if dataset is None:
            return
        answer = _answered(dataset, lambda: inspect_data_in_child(_request(context, dataset)))
        with context.unit() as unit:
            if "info" in answer:
                datasets.accept(unit.session, dataset_id, answer["info"], attempt=dataset.attempt)
            else:
                datasets.reject(
                    unit.session, dataset_id, answer["problem"], attempt=dataset.attempt
                )
            _wake_waiting_jobs(unit, dataset_id)
    log.info("data set %s: %s", dataset_id, "ready" if "info" in answer else "rejected")


def _answered(
    entry: Model | Dataset, inspect: Callable[[], dict[str, Any]], *, ended: int = 0
) -> dict[str, Any]:
    """The answer of the child; a problem of ours where there can be none.

    Args:
        ended: how many runs of the check came to their end.
    """
    try:
        return _out_of_attempts(entry, ended) or inspect()
    except ValidationError as error:  # a spec that this version cannot read
        return {"problem": CheckError(words(error)).problem()}


def _request(context: Context, dataset: Dataset) -> DataInspection:
    spec = DatasetSpec.model_validate(dataset.spec)
    upload = upload_of(context, dataset.id) if spec.needs_archive else None
    return DataInspection(
        spec=spec,
        upload=None if upload is None else (upload.file, upload.folder),
        allow=sorted(context.settings.allow),
        roots=data_roots(context.settings).folders,
    )


@contextmanager
def _held(context: Context, table: type[T], entry_id: str) -> Iterator[T | None]:
    """The entry under a lease that is renewed while the block runs, and given back if it fails.
    None: another worker holds it, or it has been judged."""
    lease_s = context.settings.task_lease_s
    with context.unit() as unit:
        entry = inputs.claim(unit.session, table, entry_id, context.clock(), lease_s)
    if entry is None:
        yield None
        return

    def renew(session: Session, now: datetime, lease_s: float) -> bool:
        return inputs.renew(session, table, entry, now + timedelta(seconds=lease_s))

    try:
        with kept(context, entry_id, renew):
            yield entry
    except Exception:
        with context.unit() as unit:
            inputs.renew(unit.session, table, entry, None)
        raise


def _out_of_attempts(entry: Model | Dataset, ended: int) -> dict[str, Any] | None:
    """The problem of an entry whose checks never come to an end."""
    if entry.attempt <= MAX_ATTEMPTS + ended:
        return None
    detail = (
        f"its check was begun {MAX_ATTEMPTS} times and never came to an end: its worker died "
        "or could not reach the store; see the workers' logs, then submit it again"
    )
    return {"problem": CheckError(detail).problem()}


def _wake_waiting_jobs(unit: Unit, input_id: str) -> None:
    for job in jobs.live(unit.session):
        if job.state == JobState.QUEUED and input_id in {job.model_id, job.dataset_id}:
            unit.send("advance", job.id)
