"""Maps plans to the requests and tasks that answer them, and their ends back to outcomes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jobs.repository import measurements
from jobs.states import TaskState
from jobs.tables import Measurement, Task
from latency_probes.messages import Settings
from search.explorer import (
    Candidate,
    Explorer,
    Failed,
    Measured,
    Node,
    Scored,
    SearchConfig,
    Tuned,
)
from search.explorer.outcomes import Outcome, read_outcome
from search.plan import Plan
from search.time_limit import refinements
from workers.context import Context
from workers.decision import NewRequest, NewTask
from workers.library import Library
from workers.memory import Heard
from workers.phases import precision
from workers.phases.demands import Demand, demands, furthest, tightest
from workers.phases.facts import as_outcome, prepared_result
from workers.snapshot import Snapshot
from workers.starts import start_document

SCREENING = "screening"
STRICT = "strict"


class Questions:
    """What is known about the plans of one job at one moment, and how to ask for more.

    Args:
        skeletons: Plan -> skeleton, by digest, as far as they are known; added to.

    Attributes:
        reused: Skeletons whose ratio an earlier job measured, and which job.
    """

    def __init__(
        self,
        context: Context,
        library: Library,
        snapshot: Snapshot,
        skeletons: dict[str, str] | None = None,
    ) -> None:
        self._context, self._library, self._snapshot = context, library, snapshot
        self._reference = prepared_result(snapshot).dense_skeleton
        self._demands = demands(snapshot)
        self._format = precision.format_of(snapshot)
        self._skeletons = {} if skeletons is None else skeletons
        self.reused: dict[str, str] = {}

    def outcome(self, candidate: Candidate) -> Outcome | None:
        """What is known of a candidate; None while it is open."""
        if candidate.needs == "loss":
            return self._scored(candidate.digest)
        if candidate.needs == "weights":
            return self._tuned(candidate.digest)
        return self.latency(candidate.plan, SCREENING)

    def latency(self, plan: Plan, kind: str) -> Measured | Failed | None:
        """The ratio of the plan's skeleton: measured for this job, or earlier on its devices."""
        skeleton = self.skeleton(plan)
        return furthest(
            self._demands, (self._on(demand, skeleton, kind) for demand in self._demands)
        )

    def _on(self, demand: Demand, skeleton: str, kind: str) -> Measured | Failed | None:
        """The same on one of its devices."""
        purpose = f"{kind}:{skeleton}{demand.mark}"
        if purpose not in self._snapshot.requests and kind == SCREENING:
            row = self._cached(skeleton, demand.dense)
            if row is None or row.job_id is None:
                return None
            if row.job_id != self._snapshot.job.id:  # its own, under another purpose, is no reuse
                self.reused[skeleton + demand.mark] = row.job_id
            return as_outcome(row)
        if not self._snapshot.ended(purpose):
            return None
        row = self._snapshot.measurement(purpose)
        return Failed("abandoned", "no device measured it") if row is None else as_outcome(row)

    def withdrawn(self, nodes: Iterable[Node], heard: dict[str, Heard]) -> list[str]:
        """The digests of nodes whose latency is not what counts now: it was measured by a device
        that had drifted, and is asked again or has been answered anew.

        Args:
            heard: The request of each node as it was when it was looked at last; brought up to
                date. Only requests that changed since are looked at.
        """
        found, requests = [], self._snapshot.requests
        for node in nodes:
            if node.latency is None:
                continue
            known = heard.get(node.digest)
            if known is not None and requests.get(known[0]) is known[1]:
                continue
            purpose = f"{SCREENING}:{self.skeleton(node.plan)}"
            if (request := requests.get(purpose)) is None:
                continue
            heard[node.digest] = purpose, request
            latency = self.latency(node.plan, SCREENING)
            if latency is None or read_outcome("latency", latency) != node.latency:
                found.append(node.digest)
        return found

    def strict(self, plan: Plan) -> Measured | Failed | None:
        """The ratio of the plan's skeleton by a strict measurement for this job."""
        return self.latency(plan, STRICT)

    def tell_and_ask(self, explorer: Explorer) -> bool:
        """Asks for new candidates and tells what is known; False once neither brings anything."""
        asked = explorer.ask()
        known = [
            (candidate, outcome)
            for candidate in explorer.outstanding()
            if (outcome := self.outcome(candidate)) is not None
        ]
        for candidate, outcome in known:
            explorer.tell(candidate, outcome)
        return bool(asked or known)

    def task(self, candidate: Candidate) -> NewTask:
        """The task that finds the candidate's calibration loss, or trains it."""
        payload: dict[str, Any] = {"plan": json.loads(candidate.plan.to_json())}
        if (start := start_document(candidate.start)) is not None:
            payload["start"] = start
        if candidate.plan.precision and self._format is not None:
            payload["format"] = self._format.name
        if candidate.needs == "loss":
            return NewTask("score", score_key(candidate.digest), payload)
        payload |= {"digest": candidate.digest, "steps": candidate.steps}
        return NewTask(
            "tune", tune_key(candidate.digest), payload | {"step": 0, "checkpoint": None}
        )

    def requests(
        self, plan: Plan, kind: str, *, budget: float | None = None
    ) -> Iterator[NewRequest]:
        """What is still to be asked to measure the plan's skeleton, on each device; a strict
        request ends as soon as it is clear whether the plan meets the budget."""
        skeleton, least = self.skeleton(plan), min(each.beta for each in self._demands)
        for demand in self._demands:
            purpose = f"{kind}:{skeleton}{demand.mark}"
            if purpose in self._snapshot.requests or self._on(demand, skeleton, kind) is not None:
                continue
            there = None if budget is None else budget * demand.beta / least
            yield self._request(plan, kind, purpose, demand, there)

    def _request(
        self, plan: Plan, kind: str, purpose: str, demand: Demand, budget: float | None
    ) -> NewRequest:
        batch_size = self._snapshot.spec.target.batch_size
        blob = self._library.skeleton(
            self._snapshot.model, plan, batch_size=batch_size, form=self._format
        )
        seed = self._snapshot.spec.search.seed
        settings = Settings.screening(seed=seed)
        if kind == STRICT:
            settings = Settings.strict(seed=seed, threshold=budget)
        return NewRequest(
            purpose, blob, self._reference, settings,
            pooled=kind == SCREENING and not demand.mark, selector=demand.selector,
        )  # fmt: skip

    def skeleton(self, plan: Plan) -> str:
        """The digest of the plan's skeleton, which is derived where it is not known."""
        if plan.digest not in self._skeletons:
            batch_size = self._snapshot.spec.target.batch_size
            factory = self._library.skeletons(self._snapshot.model, batch_size=batch_size)
            self._skeletons[plan.digest] = factory.derive(plan, self._format).digest
        return self._skeletons[plan.digest]

    def _scored(self, digest: str) -> Scored | Failed | None:
        task = self._ended(score_key(digest))
        if task is None:
            return None
        if task.result is None:
            return Failed("score", task.error or "it could not be scored")
        return _scored(task.result)

    def _tuned(self, digest: str) -> Tuned | Failed | None:
        task = self._ended(tune_key(digest))
        if task is None:
            return None
        if task.result is None:
            return Failed("tune", task.error or "it could not be trained")
        found = _scored(task.result)
        if isinstance(found, Failed):
            return found
        return Tuned(task.result["checkpoint"], found.loss, found.standard_error)

    def _ended(self, key: str) -> Task | None:
        task = self._snapshot.tasks.get(key)
        ended = (TaskState.DONE, TaskState.FAILED)
        return task if task is not None and task.state in ended else None

    def _cached(self, skeleton: str, dense: Measurement) -> Measurement | None:
        with self._context.read() as session:
            return measurements.cached(session, skeleton, dense)


def score_key(digest: str) -> str:
    """The task that scores a plan."""
    return f"score:{digest}"


def tune_key(digest: str) -> str:
    """The task that trains a node between two levels."""
    return f"tune:{digest}"


def task_key(candidate: Candidate) -> str:
    """The task that answers a candidate whose latency is not what is asked for."""
    return (score_key if candidate.needs == "loss" else tune_key)(candidate.digest)


def _scored(result: Mapping[str, Any]) -> Scored | Failed:
    loss, error = result["loss"], result.get("standard_error")
    if loss is None:
        return Failed("score", "its loss is not finite")
    return Scored(float(loss), None if error is None else float(error))


def search_config(snapshot: Snapshot) -> SearchConfig:
    """The settings of the job's search."""
    spec, limits = snapshot.spec.search, snapshot.spec.constraints
    return SearchConfig(
        tightest(snapshot),
        beam_width=spec.beam_width,
        children=spec.children,
        levels=spec.levels,
        staircase_points=spec.staircase_points,
        refinements=refinements(spec.refinements, limits.time_limit_s),
        seed=spec.seed,
        blocks=spec.blocks,
        entwined=spec.entwined,
        multiple=limits.multiple,
        max_parameters=limits.most_parameters,
        max_memory_mb=limits.max_memory_mb,
        batch_size=snapshot.spec.target.batch_size,
    )
