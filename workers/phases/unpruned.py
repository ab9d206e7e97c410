"""A budget at or above the dense latency: the dense model itself is the result, at once."""

from __future__ import annotations

from jobs.states import JobState
from workers.decision import Decision, NewTask
from workers.outcome import result_document
from workers.phases.facts import FINISH, PACKAGE_DENSE
from workers.progress import progress
from workers.snapshot import Snapshot


def decide(snapshot: Snapshot) -> Decision:
    """Packages the dense model, reads the test images once, and ends."""
    if snapshot.result(PACKAGE_DENSE) is None:
        return Decision(tasks=(NewTask("package_dense", PACKAGE_DENSE),))
    if snapshot.result(FINISH) is None:
        return Decision(tasks=(NewTask(FINISH, FINISH, {"digest": None}),))
    return Decision(
        to_state=JobState.SUCCEEDED,
        result=result_document(snapshot, None),
        progress=progress(snapshot, "done", 1.0),
    )
