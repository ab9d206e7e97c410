"""Runs one task under its lease; one that another worker holds is left alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from jobs.repository import jobs, tasks
from jobs.states import TERMINAL
from jobs.tables import Task
from workers import leftovers
from workers import snapshot as snapshots
from workers.context import Context, Unit
from workers.leasing import renewed
from workers.library import Library
from workers.retrying import ERROR_LENGTH, MOST_TRIES, given_up, is_passing, pause_s, words
from workers.tasks import HANDLERS
from workers.work import Again, Done, Handler, Work

MAX_CRASHES = 5
# Rounds go on when their last task is done; those between only move the progress on.
ADVANCE_EVERY = 4
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failed:
    """The task ends without a result."""

    reason: str


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
    try:
        _end(context, task, _outcome(context, library, task, handlers))
    except Exception as error:
        log.exception("%s of %s failed", task.key, task.job_id)
        _stumble(context, task, error)


def _outcome(
    context: Context, library: Library, task: Task, handlers: Mapping[str, Handler]
) -> Done | Again | Failed:
    with context.read() as session:
        snapshot = snapshots.take(session, task.job_id, library.memory(task.job_id))
    if snapshot is None or snapshot.job.state in TERMINAL or snapshot.job.cancel_requested:
        return Failed("the job has ended")
    if task.attempt > MAX_CRASHES + ended_runs(task):
        return Failed(f"its worker died {MAX_CRASHES} times while it ran {task.kind}")
    handler = handlers[task.kind]
    with renewed(context, task):
        outcome = handler(Work(context, library, snapshot, task.payload))
    check_storable(outcome)
    return outcome


def _end(context: Context, task: Task, outcome: Done | Again | Failed) -> None:
    """Keeps what the run brought, if it still holds the lease, and wakes the job."""
    with context.unit() as unit:
        # The lock also lets each of the tasks that end together see the others.
        jobs.lock(unit.session, task.job_id)
        is_kept = _keep(unit, context, task, outcome)
        if is_kept:
            _wake(unit, context, task, outcome)
    if is_kept and not isinstance(outcome, Failed):
        leftovers.drop(context, outcome.spent)
    else:
        leftovers.clear_job(context, task.job_id)


def _wake(unit: Unit, context: Context, task: Task, outcome: Done | Again | Failed) -> None:
    if isinstance(outcome, Again):
        unit.send("run_task", task.id)
    if task.tries:
        jobs.clear_trouble(unit.session, task.job_id, now=context.clock())
    is_round_over = tasks.open_count(unit.session, task.job_id) % ADVANCE_EVERY in (0, 1)
    if is_round_over or isinstance(outcome, Failed | Again):  # a slice lasts seconds, and is shown
        unit.send("advance", task.job_id)


def _keep(unit: Unit, context: Context, task: Task, outcome: Done | Again | Failed) -> bool:
    session = unit.session
    if isinstance(outcome, Done):
        return tasks.finish(session, task.id, task.attempt, outcome.result)
    if isinstance(outcome, Failed):
        return tasks.fail(session, task.id, task.attempt, outcome.reason[:ERROR_LENGTH])
    payload, now = counted(task, outcome.payload), context.clock()
    return tasks.checkpoint(session, task.id, task.attempt, payload, now=now)


def _stumble(context: Context, task: Task, error: Exception) -> None:
    """Puts the task off, or fails it where that was the last try or waiting is no use."""
    told = f"{type(error).__name__}: {words(error)}"
    if not is_passing(error):
        _end(context, task, Failed(told))
    elif task.tries + 1 >= MOST_TRIES:
        _end(context, task, Failed(given_up(error)))
    else:
        in_s, now = pause_s(task.tries + 1), context.clock()
        payload, try_at = counted(task, task.payload), now + timedelta(seconds=in_s)
        with context.unit() as unit:
            jobs.lock(unit.session, task.job_id)
            if tasks.postpone(unit.session, task, payload, told[:ERROR_LENGTH], try_at):
                trouble = f"another try of {task.key} in {in_s:.0f} s: {words(error)}"
                jobs.set_trouble(unit.session, task.job_id, trouble, now=now)


def ended_runs(task: Task) -> int:
    """How many runs of the task ended in order: by a slice, or by an error that may pass."""
    return int(task.payload.get("slices", 0))


def counted(task: Task, payload: Mapping[str, Any]) -> dict[str, Any]:
    """The payload with one more run that ended in order."""
    return {**payload, "slices": ended_runs(task) + 1}


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
