"""Fine-tuning: the finalists learn from the dense model, each in its own chain of short slices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.states import JobState
from jobs.tables import Task
from workers.decision import Decision, NewTask
from workers.phases.facts import PACKAGE_DENSE, finalists, finetune_key, package_key
from workers.progress import progress
from workers.results import Chosen
from workers.snapshot import Snapshot
from workers.starts import learnt


def decide(snapshot: Snapshot) -> Decision:
    """Waits for all finalists, then has them and the dense model packaged."""
    chosen = finalists(snapshot)
    if snapshot.results(finetune_key(each.digest) for each in chosen) is None:
        return Decision(
            tasks=tuple(finetune_task(each) for each in chosen),
            progress=progress(
                snapshot,
                "finetuning",
                finetuned_part(snapshot, chosen),
                finetuning=finetuning_now(snapshot, chosen),
            ),
        )
    return Decision(
        tasks=(NewTask("package_dense", PACKAGE_DENSE), *(package_task(each) for each in chosen)),
        progress=progress(snapshot, "verifying", 0.0),
        to_state=JobState.VERIFYING,
    )


def finetuned_part(snapshot: Snapshot, chosen: list[Chosen]) -> float:
    """The share of all fine-tuning that has been done."""
    tasks = [snapshot.tasks.get(finetune_key(each.digest)) for each in chosen]
    return sum(_part(snapshot, task) for task in tasks if task is not None) / max(len(chosen), 1)


def finetuning_now(snapshot: Snapshot, chosen: list[Chosen]) -> dict[str, Any]:
    """The finalist that is furthest among those not done: step of steps, those that it comes to,
    loss and accuracy of the last slice; how many finalists are done."""
    running = [
        task.payload
        for each in chosen
        if (task := snapshot.tasks.get(finetune_key(each.digest))) is not None
        and task.result is None
    ]
    now = max(running, key=lambda payload: int(payload.get("step", 0)), default={})
    step, steps = _step_of(snapshot, now)
    return {
        "step": step,
        "steps": steps,
        "finalists": len(chosen),
        "finalists_done": len(chosen) - len(running),
        **(now.get("training") or {"loss": None, "accuracy": None}),
    }


def _part(snapshot: Snapshot, task: Task) -> float:
    if task.result is not None:
        return 1.0
    step, steps = _step_of(snapshot, task.payload)
    return step / max(steps, 1)


def _step_of(snapshot: Snapshot, payload: Mapping[str, Any]) -> tuple[int, int]:
    """The step of a finalist, and the one that its training comes to: the last of those asked
    for, or an earlier one where time is short."""
    before, asked = learnt(payload.get("start")), snapshot.spec.finetune.steps
    return before + int(payload.get("step", 0)), before + int(
        payload.get("comes_to", asked - before)
    )


def finetune_task(chosen: Chosen) -> NewTask:
    """Fine-tuning from the first step; the task itself goes on from slice to slice."""
    payload = {"plan": chosen.plan, "digest": chosen.digest, "step": 0, "checkpoint": None}
    payload |= {} if chosen.start is None else {"start": chosen.start}
    payload |= {"as_it_is": True} if chosen.is_answer else {}
    return NewTask("finetune", finetune_key(chosen.digest), payload)


def package_task(chosen: Chosen) -> NewTask:
    """Export and check of a fine-tuned finalist."""
    payload = {"plan": chosen.plan, "digest": chosen.digest}
    return NewTask("package", package_key(chosen.digest), payload)
