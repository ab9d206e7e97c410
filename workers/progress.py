"""What pollers see of a running job: the phase, the counts, the part done and the time left."""

from __future__ import annotations

from typing import Any

from jobs.columns import utc_now
from workers.phases.advice import advice
from workers.phases.demands import are_known, tightest
from workers.phases.facts import dense_ms, levels
from workers.snapshot import Snapshot
from workers.time_left import part_began_s, time_left
from workers.time_limit import limit_left_s

# Where each phase begins on the way from 0 to 1, by the time it usually takes.
STARTS = {"preparing": 0.0, "searching": 0.2, "finetuning": 0.6, "verifying": 0.92, "done": 1.0}


def progress(snapshot: Snapshot, phase: str, part: float, **counts: Any) -> dict[str, Any]:
    """The progress document of a job.

    Args:
        part: How much of this phase is done, 0 to 1.
        counts: Replace what the last document said: level, levels, floors_doubled, measured,
            planned, reused, scored, hurried, best, sensitivities (`done` and `of`), finetuning.

    Returns:
        The counts, the phase, `fraction` of the whole job, `elapsed_s`, and `seconds_left_range`,
        low and high, which never grows; `seconds_left` is its middle. `budget_ratio` and
        `dense_latency_ms` once the dense model is measured.
    """
    starts = [*STARTS.values(), 1.0]
    index = list(STARTS).index(phase)
    fraction = starts[index] + (starts[index + 1] - starts[index]) * min(max(part, 0.0), 1.0)
    clock = utc_now()
    elapsed = (clock - snapshot.job.created_at).total_seconds()
    before = snapshot.job.progress or {}
    kept = {
        "level": before.get("level", 0),
        "levels": levels(snapshot),
        "floors_doubled": before.get("floors_doubled", 0),
        "measured": before.get("measured", 0),
        "planned": before.get("planned"),
        "reused": before.get("reused", 0),
        "scored": before.get("scored", 0),
        "hurried": before.get("hurried", False),
        "best": before.get("best"),
        "sensitivities": before.get("sensitivities"),
        "finetuning": before.get("finetuning"),
    }
    now = kept | counts
    began_s = part_began_s(before, phase, elapsed)
    to_measure = None if now["planned"] is None else now["planned"] - now["measured"]
    part, spent_s = min(max(part, 0.0), 1.0), elapsed - began_s
    limit_s = limit_left_s(snapshot, clock)
    left = time_left(snapshot, phase, part, spent_s, to_measure, limit_s)
    return (
        now
        | _budget(snapshot)
        | {
            "phase": phase,
            "fraction": round(fraction, 4),
            "elapsed_s": round(elapsed, 1),
            "phase_began_s": round(began_s, 1),
            "seconds_left": None if left is None else round(sum(left) / 2, 1),
            "seconds_left_range": left,
            "advice": advice(snapshot, now),
        }
    )


def _budget(snapshot: Snapshot) -> dict[str, float]:
    """The budget as a ratio, and the dense latency, once that is known."""
    if not are_known(snapshot):
        return {}
    return {"budget_ratio": tightest(snapshot), "dense_latency_ms": dense_ms(snapshot)}
