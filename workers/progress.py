"""What pollers see of a running job: the phase, the counts, the part done and the time left."""

from __future__ import annotations

from typing import Any

from jobs.columns import utc_now
from workers.phases.advice import advice
from workers.snapshot import Snapshot

# Where each phase begins on the way from 0 to 1, by the time it usually takes.
STARTS = {"preparing": 0.0, "searching": 0.2, "finetuning": 0.6, "verifying": 0.92, "done": 1.0}


def progress(snapshot: Snapshot, phase: str, part: float, **counts: Any) -> dict[str, Any]:
    """The progress document of a job.

    Args:
        part: How much of this phase is done, 0 to 1.
        counts: Replace what the last document said: level, levels, measured, reused, scored, best.
    """
    starts = [*STARTS.values(), 1.0]
    index = list(STARTS).index(phase)
    fraction = starts[index] + (starts[index + 1] - starts[index]) * min(max(part, 0.0), 1.0)
    elapsed = (utc_now() - snapshot.job.created_at).total_seconds()
    before = snapshot.job.progress or {}
    kept = {
        "level": before.get("level", 0),
        "levels": snapshot.spec.search.levels,
        "measured": before.get("measured", 0),
        "reused": before.get("reused", 0),
        "scored": before.get("scored", 0),
        "best": before.get("best"),
    }
    left = elapsed * (1 - fraction) / fraction if fraction >= 0.05 else None
    return (
        kept
        | counts
        | {
            "phase": phase,
            "fraction": round(fraction, 4),
            "elapsed_s": round(elapsed, 1),
            "seconds_left": None if left is None else round(left, 1),
            "advice": advice(snapshot),
        }
    )
