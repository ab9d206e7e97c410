"""Plays whole jobs without a broker: a list of messages, a loop, and a made-up device."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from jobs.artifacts import skeleton_name, weights_name
from jobs.checking import BUILT_IN, CheckSettings, built_in
from jobs.repository import checks, datasets, jobs, models, requests, skeletons, tasks
from jobs.selectors import Selector
from jobs.spec import DatasetSpec, JobSpec, ModelSpec
from jobs.states import TERMINAL
from jobs.tables import Job, Request, Task
from latency_probes.messages import MeasureError, MeasureResult, Target, encode
from latency_probes.runtimes.replay import synthetic_latency_ns
from latency_probes.samples import Measurement
from tests.e2e_tests.nets import write_weights
from tests.workers_tests.bench import Bench
from tests.workers_tests.nets import HERE, SHAPE
from tests.workers_tests.rows import measured, online_device, ready_dataset, ready_model
from workers.collector.ingesting import ingest
from workers.collector.streams import Entry
from workers.collector.sweeping import resend
from workers.context import Unit
from workers.library import Library
from workers.snapshot import Snapshot, take
from workers.steps import STEPS

MOST_STEPS = 3000
MODEL, DATASET = "tiny", "stripes"


@dataclass(frozen=True)
class Question:
    """What a device is asked, in which runtime, and with which models."""

    purpose: str
    runtime: str
    kind: str
    candidate: bytes
    reference: bytes


Answer = Callable[[Question], Measurement | MeasureError]


def staircase(question: Question) -> Measurement | MeasureError:
    """The replay runtime's function of the shapes."""
    pair = (synthetic_latency_ns(question.candidate), synthetic_latency_ns(question.reference))
    return measured(*pair, kind=question.kind)


@dataclass(frozen=True)
class Finished:
    """A job that was played to its end, with its device.

    Attributes:
        state_before: The job's state when it had chosen, and was about to read the test images.
        refusal: What reading the test images said until then.
    """

    job_id: str
    device_id: str
    state_before: str
    refusal: str


@dataclass
class Workshop:
    """A model and a data set that are ready, and jobs on them.

    Attributes:
        names: Numbers for names that are taken once.
    """

    bench: Bench
    library: Library = field(init=False)
    names: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.library = Library(self.bench.context)
        weights = write_weights(Path(self.bench.settings.home) / "tiny.safetensors").read_bytes()
        with self.bench.write() as session:
            self.add_dataset(session, DATASET)
        self.add_model(MODEL, "tiny", weights)

    def add_model(self, name: str, function: str, weights: bytes) -> None:
        """A model that a function of these tests builds."""
        spec = ModelSpec(name=name, architecture=f"{HERE}:{function}", input_shape=SHAPE)
        with self.bench.write() as session:
            model = ready_model(session, spec, hashlib.sha256(weights).hexdigest())
            self.bench.context.store.put(weights_name(model.id), weights)
        report = self.library.graph(model).report()
        with self.bench.write() as session:
            models.accept(session, model.id, report)

    def add_dataset(
        self, session: Session, name: str, function: str = DATASET, **kwargs: Any
    ) -> None:
        """A data set that a function of these tests makes."""
        place = f"{HERE}:{function}"
        ready_dataset(
            session, DatasetSpec(name=name, format="python", function=place, kwargs=kwargs)
        )

    def submit(self, dataset: str = DATASET, **changes: Any) -> str:
        """A small job; returns its id."""
        spec = JobSpec.model_validate(
            {
                "model": MODEL,
                "dataset": dataset,
                "budget": {"ratio": 0.6},
                "target": {"runtime": "replay"},
                "search": {
                    "levels": 2, "beam_width": 1, "children": 2, "staircase_points": 2,
                    "refinements": 1, "calibration_images": 32, "finalists": 1,
                },
                "finetune": {"steps": 0},
            }
            | changes
        )  # fmt: skip
        with self.bench.write() as session:
            model, data = models.find(session, spec.model), datasets.find(session, dataset)
            if model is None or data is None:
                raise LookupError(f"{dataset} must be there, but is not")
            job = jobs.create(session, spec, model_id=model.id, dataset_id=data.id)
        self.bench.messages.append(("advance", job.id))
        return job.id

    def device(self) -> str:
        """A new device that is online."""
        with self.bench.write() as session:
            return online_device(session, f"board-{next(self.names)}").id

    def check(self, device_id: str, screening: float) -> None:
        """A check that found what the device resolves when screening."""
        digest, model = built_in()
        with self.bench.write() as session:
            skeletons.add(session, digest, len(model), skeleton_name(digest))
            check = checks.create(
                session,
                device_id,
                workload=BUILT_IN,
                skeleton_digest=digest,
                target=Target(runtime="replay"),
                settings=CheckSettings(),
            )
            result = {"screening": screening}
            checks.finish(session, check.id, result, self.bench.context.clock())

    def play(
        self,
        job_id: str,
        answer: Answer = staircase,
        *,
        device_id: str | None = None,
        until: Callable[[], bool] | None = None,
        chance: random.Random | None = None,
    ) -> Job:
        """Runs messages and answers requests until nothing is left to do.

        Args:
            until: Asked before each step; True ends the play.
            chance: Draws what comes next; without it, messages first and in their order.
        """
        device = device_id or self.device()
        for _ in range(MOST_STEPS):
            if until is not None and until():
                return self.job(job_id)
            if not self._step(job_id, answer, device, chance) and not self._wait(job_id):
                return self.job(job_id)
        raise TimeoutError(f"{job_id} must end within {MOST_STEPS} steps")

    def _wait(self, job_id: str) -> bool:
        """Lets the time pass until something is tried again; False: nothing is."""
        snapshot = self.snapshot(job_id)
        waiting = [snapshot.job.try_at, *(each.try_at for each in snapshot.tasks.values())]
        times = [each for each in waiting if each is not None]
        if not times or snapshot.job.state in TERMINAL:
            return False
        self.bench.now = min(times)
        resend(self.bench.context)
        return True

    def job(self, job_id: str) -> Job:
        """The job now."""
        return self.snapshot(job_id).job

    def snapshot(self, job_id: str) -> Snapshot:
        """All that is known of the job now."""
        with self.bench.context.read() as session:
            snapshot = take(session, job_id)
        if snapshot is None:
            raise LookupError(f"{job_id} must be a job, but is none")
        return snapshot

    def tasks(self, job_id: str, kind: str) -> list[Task]:
        """The job's tasks of a kind."""
        return [each for each in self.snapshot(job_id).tasks.values() if each.kind == kind]

    def requests(self, job_id: str, kind: str) -> list[Request]:
        """The job's requests whose purpose starts so."""
        found = self.snapshot(job_id).requests.values()
        return [each for each in found if each.purpose.startswith(kind)]

    def hand_in(self, job_id: str, like: str) -> None:
        """Ends the job's packaging with what it was for the same plans of an earlier job."""
        earlier = self.snapshot(like)
        for task in [*self.tasks(job_id, "package"), *self.tasks(job_id, "package_dense")]:
            with self.bench.write() as session:
                claimed = tasks.claim(session, task.id, self.bench.context.clock(), 60.0)
                result = earlier.result(task.key)
                if claimed is None or result is None:
                    raise LookupError(f"{task.key} must be open here and done there")
                tasks.finish(session, task.id, claimed.attempt, result)
        self.bench.messages.append(("advance", job_id))

    def has_ended(self, job_id: str) -> bool:
        return self.job(job_id).state in TERMINAL

    def _step(
        self, job_id: str, answer: Answer, device_id: str, chance: random.Random | None
    ) -> bool:
        messages = self.bench.messages
        waiting = [] if messages and chance is None else self._waiting(job_id)
        if messages and (not waiting or chance is None or chance.random() < 0.5):
            index = 0 if chance is None else chance.randrange(len(messages))
            step, identifier = messages.pop(index)
            STEPS[step](self.bench.context, self.library, identifier)
            return True
        if waiting:
            self._measure(chance.choice(waiting) if chance else waiting[0], answer, device_id)
        return bool(messages or waiting)

    def _waiting(self, job_id: str) -> list[Request]:
        """The job's requests that no device has, in their order."""
        with self.bench.context.read() as session:
            return [each for each in requests.pending(session) if each.job_id == job_id]

    def _measure(self, request: Request, answer: Answer, device_id: str) -> None:
        with self.bench.context.unit() as unit:
            now, selector = self.bench.context.clock(), Selector.parse(request.selector)
            device_id = selector.name if selector.kind == "id" else device_id
            given = requests.assign(unit.session, request.id, device_id, now, 60.0)
            if given is None or given.lease_token is None:
                raise LookupError(f"{request.id} must be free, but is not")
            result = MeasureResult(
                request_id=given.id,
                attempt=given.attempt,
                lease_token=given.lease_token,
                outcome=answer(self._question(unit, given)),
            )
            ingest(unit, Entry(device_id, "1-0", encode(result)), now)

    def _question(self, unit: Unit, request: Request) -> Question:
        store = self.bench.context.store
        return Question(
            purpose=request.purpose,
            runtime=request.target["runtime"],
            kind=request.settings["kind"],
            candidate=store.get(skeleton_name(request.skeleton_digest)),
            reference=store.get(skeleton_name(request.reference_digest)),
        )
