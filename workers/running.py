"""Runs one task under its lease; one that another worker holds is left alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from sqlalchemy.exc import OperationalError

from jobs.repository import tasks
from jobs.states import TERMINAL
from jobs.tables import Task
from workers import snapshot as snapshots
from workers.context import Context
from workers.leasing import renewed
from workers.library import Library
from workers.tasks import HANDLERS
from workers.work import Again, Done, Handler, Work

MAX_CRASHES = 5
# Rounds go on when their last task is done; those between only move the progress on.
ADVANCE_EVERY = 4
log = logging.getLogger(__name__)


def run_task(
    context: Context,
    library: Library,
    task_id: str,
    *,
    handlers: Mapping[str, Handler] = HANDLERS,
) -> None:
    """Claims the task, does its work, keeps the result, and wakes the job."""
    lease_s = context.settings.task_lease_s
    with context.unit() as unit:
        task = tasks.claim(unit.session, task_id, context.clock(), lease_s)
    if task is None:
        return
    with context.read() as session:
        snapshot = snapshots.take(session, task.job_id)
    if snapshot is None or snapshot.job.state in TERMINAL or snapshot.job.cancel_requested:
        _fail(context, task, "the job has ended")
    elif task.attempt > MAX_CRASHES + int(task.payload.get("slices", 0)):
        _fail(context, task, f"its worker died {MAX_CRASHES} times while it ran {task.kind}")
    else:
        _run(handlers[task.kind], Work(context, library, snapshot, task.payload), task)


def _run(handler: Handler, work: Work, task: Task) -> None:
    context = work.context
    try:
        with renewed(context, task):
            outcome = handler(work)
        check_storable(outcome)
    except OperationalError:
        raise
    except Exception as error:
        log.exception("%s of %s failed", task.key, task.job_id)
        _fail(context, task, f"{type(error).__name__}: {error}")
        return
    with context.unit() as unit:
        if isinstance(outcome, Again):
            payload = {**outcome.payload, "slices": int(task.payload.get("slices", 0)) + 1}
            now = context.clock()
            if tasks.checkpoint(unit.session, task.id, task.attempt, payload, now=now):
                unit.send("run_task", task.id)
        elif isinstance(outcome, Done):
            tasks.finish(unit.session, task.id, task.attempt, outcome.result)
        if tasks.open_count(unit.session, task.job_id) % ADVANCE_EVERY in (0, 1):
            unit.send("advance", task.job_id)


def check_storable(outcome: Done | Again) -> None:
    """Raises ArithmeticError if the outcome holds a number that no JSON column can."""
    document = outcome.payload if isinstance(outcome, Again) else outcome.result
    try:
        json.dumps(document, allow_nan=False)
    except ValueError:
        raise ArithmeticError(
            "its result must hold finite numbers, but does not: the training diverged; "
            "lower finetune.learning_rate"
        ) from None


def _fail(context: Context, task: Task, error: str) -> None:
    with context.unit() as unit:
        tasks.fail(unit.session, task.id, task.attempt, error[:2000])
        unit.send("advance", task.job_id)
