"""Moves a job on as far as what is known allows. Safe to run at any time, any number of times."""

from __future__ import annotations

import logging

from sqlalchemy.exc import OperationalError

from jobs.states import TERMINAL, DeviceState, JobState, TaskState
from workers import snapshot as snapshots
from workers.context import Context
from workers.decision import Decision, apply
from workers.library import Library
from workers.phases import finetuning, preparing, queued, searching, verifying
from workers.snapshot import Snapshot

log = logging.getLogger(__name__)


def advance(context: Context, library: Library, job_id: str) -> None:
    """Lets the job's phase decide, and the next one too where the state changed."""
    moved = True
    while moved:
        with context.read() as session:
            snapshot = snapshots.take(session, job_id)
        if snapshot is None or snapshot.job.state in TERMINAL:
            return
        moved = apply(context, snapshot, decide(context, library, snapshot))


def decide(context: Context, library: Library, snapshot: Snapshot) -> Decision:
    """The phase's decision; a job that was cancelled, or of which work failed, ends here."""
    if snapshot.job.cancel_requested:
        return Decision(to_state=JobState.CANCELLED)
    if snapshot.device is not None and snapshot.device.state == DeviceState.REVOKED:
        return Decision.fail(
            "The device was revoked",
            f"{snapshot.device.name}, which measured this job, was revoked; submit the job again",
        )
    failed = [
        task
        for task in snapshot.tasks.values()
        if task.state == TaskState.FAILED and task.kind != "score"
    ]
    if failed:
        return Decision.fail(f"The job failed in {failed[0].kind}", failed[0].error or "unknown")
    try:
        return _decided(context, library, snapshot)
    except OperationalError:
        raise
    except Exception as error:
        log.exception("%s could not decide in %s", snapshot.job.id, snapshot.job.state)
        return Decision.fail(f"The job failed while {snapshot.job.state}", str(error))


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
    return verifying.decide(snapshot)
