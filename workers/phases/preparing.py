"""Preparing: the dense model is measured strictly while the layers' sensitivities are found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jobs.footprint import Footprint
from jobs.runtimes import DENSE, dense_on
from jobs.states import JobState
from jobs.tables import Measurement
from search.sensitivity import RATIOS, small_rise
from workers.context import Context
from workers.decision import Decision, NewRequest, NewTask
from workers.library import Library
from workers.phases import chance, precision, runtimes, unpruned
from workers.phases.advice import too_fine
from workers.phases.demands import further_dense, tightest
from workers.phases.facts import (
    PREPARE,
    dense_request,
    group_rise,
    prepared_result,
    sensitivity_key,
)
from workers.phases.scouting import scout
from workers.progress import progress
from workers.results import Prepared
from workers.snapshot import Snapshot

AHEAD = 4  # sensitivities that wait at a time: enough for as many workers


def decide(context: Context, library: Library, snapshot: Snapshot) -> Decision:
    """Leaves for the search, or for the end where the dense model knows nothing of its images,
    or meets the budget already."""
    if snapshot.result(PREPARE) is None:
        return Decision()
    prepared = prepared_result(snapshot)
    if (words := chance.refusal(prepared)) is not None:
        errors = [{"field": each, "message": text} for each, text in chance.LOOK_AT.items()]
        return Decision.fail(chance.TITLE, words, errors=errors)
    if (words := accuracy_refusal(snapshot, prepared)) is not None:
        return Decision.fail("The accuracy floor is above the dense model", words)
    dense, every = snapshot.dense, sensitivity_tasks(snapshot, prepared)
    tasks = first_of(snapshot, every)
    if snapshot.chooses_runtime and dense is None:
        return _choosing(runtimes.decide(context, library, snapshot), snapshot, every)
    if snapshot.ended(DENSE) and (dense is None or dense.latency_ms is None):
        return could_not_measure(dense)
    shown = prepared_part(snapshot, every)
    further = further_dense(snapshot)
    for number, row in enumerate(further):
        if snapshot.ended(dense_on(number)) and (row is None or row.latency_ms is None):
            return could_not_measure(row, f"further_devices.{number}")
    if dense is None or None in further:
        first = precision.early_task(snapshot)
        requests = dense_requests(snapshot, prepared)
        return Decision(tasks=(*first, *tasks), requests=requests, progress=shown)
    if tightest(snapshot) >= 1.0 and is_small_enough(snapshot):
        return unpruned.decide(snapshot)
    if (refused := precision.refusal(snapshot)) is not None:
        return refused
    asked, formats = precision.questions(context, library, snapshot)
    if not are_known(snapshot) or formats:
        early = scout(context, library, snapshot)
        is_settled = precision.is_settled(snapshot)
        if not (early.is_over and is_settled):
            shown = prepared_part(snapshot, every, early.left if is_settled else None)
            return Decision(
                tasks=(*early.tasks, *tasks, *asked),
                requests=(*formats, *early.requests),
                progress=shown,
            )
    fine = too_fine(snapshot)
    return Decision(
        to_state=JobState.SEARCHING,
        progress=progress(snapshot, "searching", 0.0),
        events=(
            ("dense", {"latency_ms": dense.latency_ms, "budget": tightest(snapshot)}),
            *runtimes.news(snapshot),
            *((("levels", fine),) if fine is not None else ()),
        ),
    )


def dense_requests(snapshot: Snapshot, prepared: Prepared) -> tuple[NewRequest, ...]:
    """The dense model on every device of the job."""
    seed, named = snapshot.spec.search.seed, snapshot.spec.further_devices
    own = () if snapshot.dense is not None else (dense_request(prepared, seed, DENSE),)
    return own + tuple(
        dense_request(prepared, seed, dense_on(number), selector=each.device)
        for number, each in enumerate(named)
    )


def _choosing(asked: Decision, snapshot: Snapshot, tasks: tuple[NewTask, ...]) -> Decision:
    """What the choice of a runtime asks for, and behind it the sensitivities: the few tasks that
    the device waits for come first."""
    if asked.to_state is not None:
        return asked
    behind = () if snapshot.device is None else first_of(snapshot, tasks)
    shown = prepared_part(snapshot, tasks)
    return replace(asked, tasks=(*asked.tasks, *behind), progress=shown)


def accuracy_refusal(snapshot: Snapshot, prepared: Prepared) -> str | None:
    """Why no pruned model can be expected to reach the accuracy that is asked for, if so."""
    floor, dense = snapshot.spec.constraints.min_accuracy, prepared.validation_accuracy
    if floor is None or floor <= dense:
        return None
    return (
        f"constraints.min_accuracy must be at most the accuracy of the dense model on the "
        f"validation images, {dense:.4f}, but got {floor:g}; lower it, or give max_accuracy_drop"
    )


def is_small_enough(snapshot: Snapshot) -> bool:
    """Whether the dense model keeps to the limits of parameters and memory."""
    given, report = snapshot.spec.constraints, snapshot.model.report or {}
    most, megabytes = given.most_parameters, given.max_memory_mb
    if most is not None and int(report.get("parameters", 0)) > most:
        return False
    footprint = Footprint.of(report)
    if megabytes is None or footprint is None:
        return True
    taken = footprint.memory_mb(footprint.dense_widths, snapshot.spec.target.batch_size)
    return taken is None or taken <= megabytes


def sensitivity_tasks(snapshot: Snapshot, prepared: Prepared) -> tuple[NewTask, ...]:
    """One task per group at the largest ratio; then one at each of the others, unless the loss
    rises so little there that none is asked."""
    small = small_rise(snapshot.spec.search.tolerance, len(prepared.groups))
    asked = []
    for name in prepared.groups:
        largest = group_rise(snapshot, name, RATIOS[-1])
        ratios = RATIOS if largest is not None and largest > small else RATIOS[-1:]
        asked += [(name, ratio) for ratio in ratios]
    return tuple(
        NewTask("sensitivity", sensitivity_key(name, ratio), {"group": name, "ratio": ratio})
        for name, ratio in asked
    )


def are_known(snapshot: Snapshot) -> bool:
    """Whether every sensitivity is, of widths and of bits."""
    tasks = sensitivity_tasks(snapshot, prepared_result(snapshot))
    if not precision.is_settled(snapshot):
        return False
    keys = (task.key for task in (*tasks, *precision.rise_tasks(snapshot)))
    return snapshot.results(keys) is not None


def first_of(snapshot: Snapshot, tasks: tuple[NewTask, ...]) -> tuple[NewTask, ...]:
    """The tasks; few at a time while all of the model in int8 may be the answer, which needs none
    of them and must not wait behind them."""
    if not precision.may_be_answer(snapshot):
        return tasks
    return tuple(task for task in tasks if snapshot.result(task.key) is None)[:AHEAD]


def prepared_part(
    snapshot: Snapshot, tasks: tuple[NewTask, ...], to_measure: int | None = None
) -> dict[str, Any]:
    """Progress by the share of sensitivities that are known, and by how many measurements the
    search would still take."""
    done = sum(snapshot.result(task.key) is not None for task in tasks)
    measured = sum(snapshot.ended(purpose) for purpose in snapshot.requests)
    part = 0.2 + 0.8 * done / max(len(tasks), 1)
    planned = None if to_measure is None else measured + to_measure
    known = {"done": done, "of": len(tasks)}
    return progress(
        snapshot, "preparing", part, measured=measured, planned=planned, sensitivities=known
    )


def could_not_measure(dense: Measurement | None, where: str = "target") -> Decision:
    """The job ends: without the dense latency there is nothing to compare with.

    Args:
        where: the field that names the device.
    """
    if dense is not None and dense.error_kind == "unsupported_op":
        return Decision.fail(
            "The runtime lacks operators of the model",
            f"{dense.target_key} cannot run the dense model (unsupported_op: "
            f"{dense.error_message}); choose another target.runtime or another "
            f"{where}.device, or replace these operators",
        )
    reason = (
        "no device answered" if dense is None else f"{dense.error_kind}: {dense.error_message}"
    )
    return Decision.fail(
        "The dense model could not be measured",
        f"the device could not run the dense model ({reason}); "
        f"choose another target.runtime or another {where}.device",
    )
