"""A job as the database has it at one moment: what the phases decide on. Reads only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from jobs.pools import Pool
from jobs.repository import (
    checks,
    datasets,
    devices,
    jobs,
    measurements,
    models,
    pools,
    requests,
    tasks,
)
from jobs.runtimes import DENSE, dense_on
from jobs.spec import JobSpec
from jobs.states import RequestState, TaskState
from jobs.tables import Check, Dataset, Device, Job, Measurement, Model, Request, Task
from latency_probes.messages import AUTO, Target
from workers.answers import RUNTIMES, SEGMENTS, Answers
from workers.memory import Memory


@dataclass(frozen=True)
class Snapshot:
    """Everything known of a job.

    Attributes:
        tasks: By key. Those that score a plan are without their payload.
        requests: By purpose.
        found: Counted measurements by id.
        further: The devices that answered for the dense model beside it, of a job whose result
            must meet budgets on several; None where it has not been measured yet.
        device: The one that answered for the dense model. It measures the job, and alone what is
            compared in milliseconds; others of its kind may join it.
        pool: The devices that measure the job beside it.
        search_state: What the searching phase saved last.
        check: The last check of the device with this job's target, if there was one.
    """

    job: Job
    spec: JobSpec
    model: Model
    dataset: Dataset
    tasks: Mapping[str, Task]
    requests: Mapping[str, Request]
    found: Mapping[str, Measurement]
    further: tuple[Device | None, ...]
    device: Device | None
    pool: Pool
    search_state: dict[str, Any] | None
    check: Check | None

    @property
    def answers(self) -> Answers:
        """The simple answers, of a job with runtime `auto`."""
        told, first = self.result(RUNTIMES), self.requests.get(DENSE)
        segments = self.result(SEGMENTS)
        return Answers(
            precision=self.spec.search.precision,
            runtimes=None if told is None else _sorted(told["runtimes"]),
            first=None if first is None else first.target["runtime"],
            layers=None if segments is None else bool(segments["segments"]),
            ended=self.ended,
            measurement=self.measurement,
        )

    @property
    def chooses_runtime(self) -> bool:
        """Whether the job asks for the fastest runtime of its device."""
        return self.spec.target.runtime == AUTO

    @property
    def target(self) -> Target:
        """How the device runs what the job asks for.

        Raises:
            LookupError: The runtime is not chosen yet.
        """
        if not self.chooses_runtime:
            return self.spec.target.how
        if (chosen := self.answers.chosen) is None:
            raise LookupError(f"{self.job.id} must have chosen its runtime, but has not")
        return self.spec.target.in_runtime(chosen)

    @property
    def dense(self) -> Measurement | None:
        """The strict measurement of the dense model in float32 in the job's runtime, once there is
        one."""
        if not self.chooses_runtime:
            return self.measurement(DENSE)
        chosen = self.answers.chosen
        return None if chosen is None else self.measurement(self.answers.purpose(chosen))

    @property
    def reused(self) -> dict[str, str]:
        """Skeletons whose ratio an earlier job measured, and which job."""
        return dict((self.search_state or {}).get("reused", {}))

    def result(self, key: str) -> dict[str, Any] | None:
        """The result of a finished task, else None."""
        task = self.tasks.get(key)
        return task.result if task is not None and task.state == TaskState.DONE else None

    def results(self, keys: Iterable[str]) -> list[dict[str, Any]] | None:
        """The results of all these tasks, or None while one is missing."""
        given = [self.result(key) for key in keys]
        done = [result for result in given if result is not None]
        return done if len(done) == len(given) else None

    def ended(self, purpose: str) -> bool:
        """Whether the request is over, with or without a number."""
        request = self.requests.get(purpose)
        return request is not None and request.state in (RequestState.DONE, RequestState.FAILED)

    def measurement(self, purpose: str) -> Measurement | None:
        """What was measured for the request, or None: not yet, or abandoned."""
        request = self.requests.get(purpose)
        if request is None or request.measurement_id is None:
            return None
        return self.found.get(request.measurement_id)


def _sorted(runtimes: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(formats) for name, formats in sorted(runtimes.items())}


def take(session: Session, job_id: str, memory: Memory | None = None) -> Snapshot | None:
    """The job now; None if there is no such job. Rows that `memory` has are not read again."""
    memory = memory or Memory()
    job = jobs.find(session, job_id)
    if job is None:
        return None
    model, dataset = models.kept(session, job.model_id), datasets.kept(session, job.dataset_id)
    if model is None or dataset is None:
        raise LookupError(f"{job_id} must have its model and data set, but one is gone")
    asked = {row.purpose: row for row in _requests(session, job_id, memory)}
    found = {row.id: row for row in _found(session, job_id, memory)}
    spec = JobSpec.model_validate(job.spec)

    def device(purpose: str) -> Device | None:
        row = found.get((asked[purpose].measurement_id or "") if purpose in asked else "")
        return None if row is None else devices.find(session, row.device_id)

    snapshot = Snapshot(
        job=job,
        spec=spec,
        model=model,
        dataset=dataset,
        tasks={task.key: task for task in _tasks(session, job_id, memory)},
        requests=asked,
        found=found,
        further=tuple(device(dense_on(number)) for number in range(len(spec.further_devices))),
        device=device(DENSE),
        pool=pools.of_job(session, job_id),
        search_state=_search_state(session, job, memory),
        check=None,
    )
    return replace(snapshot, check=_check(session, snapshot.dense))


def _tasks(session: Session, job_id: str, memory: Memory) -> list[Task]:
    read = partial(tasks.of_ids, session)
    return memory.tasks.refreshed(tasks.stamps(session, job_id), read)


def _requests(session: Session, job_id: str, memory: Memory) -> list[Request]:
    read = partial(requests.of_ids, session)
    return memory.requests.refreshed(requests.stamps(session, job_id), read)


def _found(session: Session, job_id: str, memory: Memory) -> list[Measurement]:
    read = partial(measurements.of_ids, session)
    return memory.found.refreshed(measurements.stamps(session, job_id), read)


def _search_state(session: Session, job: Job, memory: Memory) -> dict[str, Any] | None:
    if (search := memory.search(job.version)) is not None:
        return search.state
    return session.scalar(select(Job.search_state).where(Job.id == job.id))


def _check(session: Session, dense: Measurement | None) -> Check | None:
    if dense is None or dense.latency_ms is None:
        return None
    return checks.last_done(session, dense.device_id, dense.target_key)
