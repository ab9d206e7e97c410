"""Moves a job on as far as what is known allows. Safe to run at any time, any number of times.

An error that may pass puts the decision off; any other ends the job, so that none lives for ever.
"""

from __future__ import annotations

import logging
from typing import Any

from jobs import status
from jobs.repository import jobs
from jobs.states import SHUT_OUT, TERMINAL, JobState, TaskState
from jobs.tables import Job
from workers import leftovers
from workers import snapshot as snapshots
from workers.context import Context
from workers.decision import Decision, apply, problem
from workers.library import Library
from workers.phases import finetuning, preparing, queued, searching, verifying
from workers.retrying import MOST_TRIES, given_up, is_passing, pause_s, words
from workers.snapshot import Snapshot

log = logging.getLogger(__name__)


def advance(context: Context, library: Library, job_id: str) -> None:
    """Lets the job's phase decide, and the next one too where the state changed."""
    while (job := _open(context, job_id)) is not None and _moved(context, library, job):
        pass
    leftovers.clear_job(context, job_id)


def _open(context: Context, job_id: str) -> Job | None:
    """The job, unless it has ended or waits for another try."""
    with context.read() as session:
        job = jobs.find(session, job_id)
    if job is None or job.state in TERMINAL:
        return None
    return None if job.try_at is not None and job.try_at > context.clock() else job


def _moved(context: Context, library: Library, job: Job) -> bool:
    """One decision. Whether to look again at once."""
    try:
        if job.cancel_requested:  # by a version that left this to the workers
            return _end(context, job, JobState.CANCELLED)
        with context.read() as session:
            snapshot = snapshots.take(session, job.id, library.memory(job.id))
        moved = snapshot is not None and apply(
            context, snapshot, decide(context, library, snapshot)
        )
    except Exception as error:
        log.exception("%s could not decide in %s", job.id, job.state)
        _stumble(context, job, error)
        return False
    if job.tries:
        with context.unit() as unit:
            jobs.clear_trouble(unit.session, job.id, now=context.clock())
    return moved


def _stumble(context: Context, job: Job, error: Exception) -> None:
    """Puts the decision off, or ends the job where that was the last try or waiting is no use."""
    if not is_passing(error):
        _fail(context, job, words(error))
    elif job.tries + 1 >= MOST_TRIES:
        _fail(context, job, given_up(error))
    else:
        in_s = pause_s(job.tries + 1)
        trouble = f"another try in {in_s:.0f} s: {words(error)}"
        with context.unit() as unit:
            jobs.postpone(unit.session, job, trouble, in_s=in_s, now=context.clock())


def _fail(context: Context, job: Job, detail: str) -> None:
    title = f"The job failed while {job.state}"
    _end(context, job, JobState.FAILED, problem=problem(title, detail))


def _end(
    context: Context, job: Job, to_state: JobState, *, problem: dict[str, Any] | None = None
) -> bool:
    with context.unit() as unit:
        return status.transition(
            unit.session, job.id, job.state, to_state, job.attempt, problem=problem
        )


def decide(context: Context, library: Library, snapshot: Snapshot) -> Decision:
    """The phase's decision; a job of which work failed ends here."""
    if snapshot.device is not None and snapshot.device.state in SHUT_OUT:
        return Decision.fail(
            "The device was revoked",
            f"{snapshot.device.name}, which measured this job, was revoked; submit the job again",
        )
    failed = [
        task
        for task in snapshot.tasks.values()
        if task.state == TaskState.FAILED and task.kind not in ("score", "tune")
    ]
    if failed:
        first = min(failed, key=lambda task: task.key)
        return Decision.fail(f"The job failed in {first.kind}", first.error or "unknown")
    return _decided(context, library, snapshot)


def _decided(context: Context, library: Library, snapshot: Snapshot) -> Decision:
    state = snapshot.job.state
    if state == JobState.QUEUED:
        return queued.decide(snapshot)
    if state == JobState.PREPARING:
        return preparing.decide(context, library, snapshot)
    if state == JobState.SEARCHING:
        return searching.decide(context, library, snapshot)
    if state == JobState.FINETUNING:
        return finetuning.decide(snapshot)
    if state == JobState.VERIFYING:
        return verifying.decide(snapshot, context.clock())
    raise LookupError(f"the job's state must be known to this version, but is {state}")
