"""The only place that changes a job's state: `transition`. Stop is a wish, kept beside the state;
cancel is a transition that needs no worker."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from jobs.columns import database_time
from jobs.errors import IllegalTransition
from jobs.repository import events, jobs, requests, tasks
from jobs.repository.writing import changed
from jobs.states import ALLOWED, ALWAYS, LIVE, TERMINAL, DeviceState, InputState, JobState
from jobs.tables import Job

__all__ = [
    "ALLOWED",
    "LIVE",
    "TERMINAL",
    "DeviceState",
    "InputState",
    "JobState",
    "request_cancel",
    "request_stop",
    "transition",
]


def transition(
    session: Session,
    job_id: str,
    from_state: JobState,
    to_state: JobState,
    attempt: int,
    *,
    result: dict[str, Any] | None = None,
    problem: dict[str, Any] | None = None,
    now: datetime | None = None,
) -> bool:
    """Moves a job from one state to another, if it still is where the caller saw it, and appends
    an event. Tasks and requests of a job that ends are ended with it: neither workers nor devices
    spend time on them.

    Args:
        attempt: the job's attempt as the caller read it.
        result: stored with the new state where given.
        problem: likewise; what the user is told about a job that failed or is infeasible.

    Returns:
        Whether this call moved the job. False: another one did, and the caller must read it
        again.

    Raises:
        IllegalTransition: the table `ALLOWED` has no such way.
    """
    if to_state not in ALLOWED.get(from_state, ALWAYS):
        ways = ", ".join(sorted(ALLOWED[from_state])) or "nothing, it is final"
        raise IllegalTransition(f"state after {from_state} must be {ways}, but got {to_state}")
    moment = now or database_time(session)
    values: dict[str, Any] = {"state": to_state, "updated_at": moment, **jobs.AT_EASE}
    if to_state in TERMINAL:
        values["finished_at"] = moment
    if result is not None:
        values["result"] = result
    if problem is not None:
        values["problem"] = problem
    where = (Job.id == job_id, Job.state == from_state, Job.attempt == attempt)
    if not changed(session, update(Job).where(*where).values(values)):
        return False
    data: dict[str, Any] = {"from": from_state, "to": to_state}
    if problem is not None:
        data["problem"] = problem
    events.append(session, job_id, "state", data, now=moment)
    if to_state in TERMINAL:
        tasks.abandon(session, job_id)
        requests.abandon(session, job_id)
    return True


def request_stop(session: Session, job_id: str, *, now: datetime | None = None) -> bool:
    """Asks a job to finish with the best it has. False: it has ended, or was asked before."""
    moment = now or database_time(session)
    where = (Job.id == job_id, Job.state.in_(LIVE), Job.stop_requested.is_(False))
    values = {"stop_requested": True, "updated_at": moment}
    if not changed(session, update(Job).where(*where).values(values)):
        return False
    events.append(session, job_id, "stop_requested", {}, now=moment)
    return True


def request_cancel(session: Session, job_id: str, *, now: datetime | None = None) -> bool:
    """Ends a job without a result, whatever it is at. False: it has ended."""
    job = jobs.lock(session, job_id)
    if job is None or job.state in TERMINAL:
        return False
    moment = now or database_time(session)
    session.execute(update(Job).where(Job.id == job_id).values(cancel_requested=True))
    events.append(session, job_id, "cancel_requested", {}, now=moment)
    return transition(session, job_id, job.state, JobState.CANCELLED, job.attempt, now=moment)
