"""What a user should know of a running job: levels that are finer than what its device can tell
apart, or were widened for that or left out for want of time, floors that left no room, and a dense
model at chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.resolution import level_step, most_levels
from workers.phases.chance import note
from workers.phases.demands import tightest
from workers.phases.facts import PREPARE, prepared_result
from workers.snapshot import Snapshot


def too_fine(snapshot: Snapshot) -> dict[str, Any] | None:
    """What the last check of the job's device says against its levels; None: nothing, or there
    was no check."""
    check, levels = snapshot.check, snapshot.spec.search.levels
    resolved = (check.result or {}).get("screening") if check is not None else None
    if check is None or not resolved or tightest(snapshot) >= 1:
        return None
    apart = level_step(tightest(snapshot), levels)
    if resolved <= apart:
        return None
    most = most_levels(tightest(snapshot), resolved)
    return {
        "text": f"levels are {100 * apart:.1f} % apart; this device resolves {100 * resolved:.1f} "
        f"% when screening: use at most {most} level{'s' if most > 1 else ''}",
        "apart": apart,
        "resolved": resolved,
        "most_levels": most,
        "check": check.id,
    }


def widened(snapshot: Snapshot, levels: int) -> str | None:
    """That the search has fewer levels than the job asked for, if so."""
    asked = snapshot.spec.search.levels
    if levels >= asked:
        return None
    return (
        f"the search has {levels} level{'s' if levels > 1 else ''} instead of {asked}: the "
        "latencies that were measured on this device do not tell closer ones apart"
    )


def hurried(snapshot: Snapshot, levels: int) -> str:
    """That a time limit took the search to its budget by the shortest way."""
    limit_s = snapshot.spec.constraints.time_limit_s or 0.0
    asked = snapshot.spec.search.levels
    fewer = f", in {levels} level{'s' if levels > 1 else ''} instead of {asked}"
    return (
        f"the time limit of {limit_s:g} s is short for this model on this device: the search goes "
        f"to its budget by the shortest way{fewer if levels < asked else ''}"
    )


def lowered(snapshot: Snapshot, doublings: int) -> str | None:
    """That the floors of the layers had to be lowered for the budget, if so."""
    if not doublings:
        return None
    asked = snapshot.spec.search.tolerance
    return (
        f"the widths that a loss rise of {asked:g} allows leave too little room at the budget: "
        f"{asked * 2**doublings:g} was allowed instead"
    )


def advice(snapshot: Snapshot, shown: Mapping[str, Any]) -> str | None:
    """What is to be told of the job, in sentences.

    Args:
        shown: `levels`, `hurried` and `floors_doubled` of the search, as its progress has them.
    """
    found, count = too_fine(snapshot), shown.get("levels", snapshot.spec.search.levels)
    levels = hurried(snapshot, count) if shown.get("hurried") else widened(snapshot, count)
    told = [
        levels or (str(found["text"]) if found else None),
        lowered(snapshot, shown.get("floors_doubled", 0)),
        note(prepared_result(snapshot)) if snapshot.result(PREPARE) is not None else None,
    ]
    return "; ".join(filter(None, told)) or None
