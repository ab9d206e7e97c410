"""Verifying: finalists are measured with their true weights, and the most accurate wins.

Where none is within the budget, the job goes back to the search for one that is faster."""

from __future__ import annotations

from datetime import datetime

from jobs.states import JobState
from latency_probes.messages import Settings
from workers.decision import Decision, NewRequest, NewTask, problem
from workers.outcome import result_document
from workers.phases import spare
from workers.phases.demands import Demand, demands
from workers.phases.facts import (
    FINISH,
    PACKAGE_DENSE,
    Verified,
    final_purpose,
    finalists,
    package_key,
    prepared_result,
    usual_reference_ms,
    winner,
)
from workers.progress import progress
from workers.results import Chosen, Packaged
from workers.snapshot import Snapshot


def decide(snapshot: Snapshot, now: datetime) -> Decision:
    """Packages, measures, chooses, reads the test images once, and ends."""
    chosen = finalists(snapshot)
    packages = snapshot.results([PACKAGE_DENSE, *(package_key(each.digest) for each in chosen)])
    if packages is None:
        return Decision(progress=progress(snapshot, "verifying", 0.1))
    reference, *candidates = [Packaged.model_validate(each) for each in packages]
    asked = demands(snapshot)
    purposes = [final_purpose(each.digest) + there.mark for each in chosen for there in asked]
    if not all(snapshot.ended(purpose) for purpose in purposes):
        requests = tuple(
            final_request(snapshot, each, candidate, reference, there)
            for each, candidate in zip(chosen, candidates, strict=True)
            for there in asked
        )
        return Decision(requests=requests, progress=progress(snapshot, "verifying", 0.3))
    best = winner(snapshot)
    if best is None:
        return Decision.fail(
            "No finalist could be measured",
            "every finalist failed on the device with its true weights; see the measurements",
        )
    if spare.is_wanted(snapshot, best, now):
        return spare.back_to_search(snapshot, best)
    if (words := below_floor(snapshot, best)) is not None:
        return Decision(
            to_state=JobState.INFEASIBLE,
            problem=problem("The accuracy floor cannot be met within the budget", words),
        )
    if snapshot.result(FINISH) is None:
        return Decision(
            tasks=(NewTask(FINISH, FINISH, {"digest": best.chosen.digest}),),
            progress=progress(snapshot, "verifying", 0.8),
        )
    return Decision(
        to_state=JobState.SUCCEEDED,
        result=result_document(snapshot, best),
        progress=progress(snapshot, "done", 1.0),
    )


def below_floor(snapshot: Snapshot, best: Verified) -> str | None:
    """Why the best finalist is not accurate enough, if so."""
    dense, found = prepared_result(snapshot).validation_accuracy, best.validation_accuracy
    floor = snapshot.spec.constraints.least_accuracy(dense)
    if found >= floor:
        return None
    return (
        f"the best finalist has an accuracy of {found:.4f} on the validation "
        f"images at {best.latency.ratio:.3f} of the dense latency, but at least {floor:.4f} is "
        f"asked for (dense {dense:.4f}); raise the budget, fine-tune for more steps, or lower "
        "the floor"
    )


def final_request(
    snapshot: Snapshot, chosen: Chosen, candidate: Packaged, reference: Packaged, there: Demand
) -> NewRequest:
    """Both files as they are delivered, strictly, on one of the job's devices; sizes that they
    leave free are fixed when the device loads them. It is told what the dense skeleton takes,
    because it has not seen this reference yet."""
    usual_ms = usual_reference_ms(snapshot, there.dense)
    strict = Settings.strict(seed=snapshot.spec.search.seed, profile=True)
    settings = strict.model_copy(update={"usual_ms": usual_ms, "sizes": candidate.sizes})
    purpose = final_purpose(chosen.digest) + there.mark
    return NewRequest(purpose, candidate.onnx, reference.onnx, settings, selector=there.selector)
