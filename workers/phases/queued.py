"""Queued: waits until the model and the data set have been judged, and starts the preparation."""

from __future__ import annotations

from jobs.states import InputState, JobState
from workers.decision import Decision, NewTask
from workers.phases.facts import PREPARE
from workers.progress import progress
from workers.snapshot import Snapshot


def decide(snapshot: Snapshot) -> Decision:
    """Fails with the input's own problem where one was rejected, or another took its name."""
    for kind, row in (("model", snapshot.model), ("data set", snapshot.dataset)):
        if row.state in (InputState.REJECTED, InputState.REMOVED):
            found = row.problem or {}
            return Decision.fail(
                f"The {kind} was rejected",
                f"{kind} {row.spec['name']}: {found.get('detail', 'no reason was kept')}",
                errors=found.get("errors", []),
            )
        if row.state == InputState.CHECKING:
            return Decision(waiting_for=f"the {kind} {row.name} is being checked")
    return Decision(
        tasks=(NewTask(PREPARE, PREPARE),),
        to_state=JobState.PREPARING,
        progress=progress(snapshot, "preparing", 0.0),
    )
