"""What a phase decided, and how it becomes rows: all in one transaction, or not at all.

Tasks and requests are keyed, so a decision made twice adds them once. A transition and a saved
search are compare-and-set: of two workers that decide at the same time, one finds its decision
void.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from jobs import status
from jobs.artifacts import ArtifactStore
from jobs.errors import ArtifactNotFound
from jobs.repository import candidates, events, jobs, requests, skeletons, tasks
from jobs.resolving import answer_further
from jobs.states import JobState
from latency_probes.messages import Settings, Target
from workers.context import Context, Unit
from workers.results import Blob
from workers.snapshot import Snapshot


@dataclass(frozen=True)
class NewTask:
    """A bounded piece of work for any worker."""

    kind: str
    key: str
    payload: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NewRequest:
    """A measurement wanted from a device.

    Attributes:
        pooled: Any device of the job's pool will do, not just the one that measured the dense
            model.
        target: How it runs; None is the job's own.
        selector: Who may answer, where that is not who measures the job.
    """

    purpose: str
    candidate: Blob
    reference: Blob
    settings: Settings
    pooled: bool = False
    target: Target | None = None
    selector: str | None = None


@dataclass(frozen=True)
class SearchSave:
    """The explorer's state, None where the saved one does, and the rows of the nodes that changed;
    with `anew` those are all nodes, and no others are left."""

    state: dict[str, Any] | None
    rows: Sequence[Mapping[str, Any]]
    anew: bool = False


def _nothing(_version: int) -> None:
    """For decisions of which nobody needs to know that they are written."""


@dataclass(frozen=True)
class Decision:
    """The changes that a phase wants; the empty one changes nothing.

    Attributes:
        written: Called with the job's version once all of it is in the database.
    """

    tasks: tuple[NewTask, ...] = ()
    requests: tuple[NewRequest, ...] = ()
    search: SearchSave | None = None
    progress: dict[str, Any] | None = None
    events: tuple[tuple[str, dict[str, Any]], ...] = ()
    waiting_for: str | None = None
    to_state: JobState | None = None
    result: dict[str, Any] | None = None
    problem: dict[str, Any] | None = None
    written: Callable[[int], None] = _nothing

    @classmethod
    def fail(cls, title: str, detail: str, **more: Any) -> Self:
        """Ends the job as failed, with a problem document that says why and what to change."""
        return cls(to_state=JobState.FAILED, problem=problem(title, detail, **more))


def problem(title: str, detail: str, **more: Any) -> dict[str, Any]:
    """A problem document (RFC 9457) for what happened to a job."""
    return {
        "type": "urn:secateur:problem:job",
        "title": title,
        "status": 422,
        "detail": detail,
    } | more


def apply(context: Context, snapshot: Snapshot, decision: Decision) -> bool:
    """Writes a decision.

    Returns:
        Whether to look again at once: the job changed its state, or another worker was first.

    Raises:
        ArtifactNotFound: A skeleton that it names is not in the store.
    """
    try:
        with context.unit() as unit:
            _write(unit, context.store, snapshot, decision)
    except _Void:
        return True
    decision.written(snapshot.job.version + (decision.search is not None))
    return decision.to_state is not None


class _Void(Exception):
    """Another worker was first; the transaction is rolled back."""


def _write(unit: Unit, store: ArtifactStore, snapshot: Snapshot, decision: Decision) -> None:
    job_id = snapshot.job.id
    if not jobs.is_in(unit.session, job_id, snapshot.job.state):
        raise _Void
    if not (_save(unit, snapshot, decision) and _move(unit, snapshot, decision)):
        raise _Void
    if decision.to_state in (JobState.SUCCEEDED, JobState.INFEASIBLE):
        for further_id in answer_further(unit.session, job_id):
            unit.send("advance", further_id)
    if decision.waiting_for is not None:
        jobs.set_waiting(unit.session, job_id, decision.waiting_for)
    _add_work(unit, store, snapshot, decision)
    for kind, data in decision.events:
        events.append(unit.session, job_id, kind, data)


def _save(unit: Unit, snapshot: Snapshot, decision: Decision) -> bool:
    """Stores search state and progress; False if another worker stored a newer search state."""
    job, progress = snapshot.job, decision.progress
    if decision.search is None:
        if progress is None or progress == job.progress:
            return True
        return jobs.save_progress(unit.session, job.id, progress, version=job.version)
    state, rows = decision.search.state, decision.search.rows
    if not jobs.save_search(unit.session, job.id, job.version, state, progress or {}):
        return False
    if decision.search.anew:
        candidates.clear(unit.session, job.id)
    if rows:
        candidates.save(unit.session, job.id, rows, job.version + 1)
    return True


def _move(unit: Unit, snapshot: Snapshot, decision: Decision) -> bool:
    """Changes the job's state, if the decision says so; False if another worker was first."""
    job, to_state = snapshot.job, decision.to_state
    if to_state is None:
        return True
    return status.transition(
        unit.session, job.id, job.state, to_state, job.attempt,
        result=decision.result, problem=decision.problem,
    )  # fmt: skip


def _add_work(unit: Unit, store: ArtifactStore, snapshot: Snapshot, decision: Decision) -> None:
    session, job_id = unit.session, snapshot.job.id
    works = [each for each in decision.tasks if each.key not in snapshot.tasks]
    fields = [(each.kind, each.key, each.payload) for each in works]
    for task_id in tasks.add_all(session, job_id, fields) if fields else ():
        unit.send("run_task", task_id)
    for wanted in decision.requests:
        if wanted.purpose in snapshot.requests:
            continue
        for blob in (wanted.candidate, wanted.reference):
            is_new = skeletons.add(session, blob.digest, blob.size, blob.location)
            if is_new and not store.exists(blob.location):  # swept since it was stored
                raise ArtifactNotFound(f"artifact must exist, but got {blob.location!r}")
        requests.add(
            session,
            job_id,
            wanted.purpose,
            skeleton_digest=wanted.candidate.digest,
            reference_digest=wanted.reference.digest,
            selector=_selector(snapshot, wanted),
            target=wanted.target or snapshot.target,
            settings=wanted.settings,
        )


def _selector(snapshot: Snapshot, wanted: NewRequest) -> str:
    """Who may answer: whom the job names until its dense model is measured, then the device that
    did it, or its pool. A job that names one device is measured by no other."""
    if wanted.selector is not None:
        return wanted.selector
    named = snapshot.spec.target.device
    if snapshot.device is None:
        return named
    is_alone = named.startswith("id:") or not wanted.pooled
    return f"{'id' if is_alone else 'pool'}:{snapshot.device.id}"
