"""Whether the levels of a job are finer than what its device can tell apart, in words."""

from __future__ import annotations

from typing import Any

from jobs.resolution import level_step, most_levels
from workers.phases.facts import beta
from workers.snapshot import Snapshot


def too_fine(snapshot: Snapshot) -> dict[str, Any] | None:
    """What the last check of the job's device says against its levels; None: nothing, or there
    was no check."""
    check, levels = snapshot.check, snapshot.spec.search.levels
    resolved = (check.result or {}).get("screening") if check is not None else None
    if check is None or not resolved or beta(snapshot) >= 1:
        return None
    apart = level_step(beta(snapshot), levels)
    if resolved <= apart:
        return None
    most = most_levels(beta(snapshot), resolved)
    return {
        "text": f"levels are {100 * apart:.1f} % apart; this device resolves {100 * resolved:.1f} "
        f"% when screening: use at most {most} level{'s' if most > 1 else ''}",
        "apart": apart,
        "resolved": resolved,
        "most_levels": most,
        "check": check.id,
    }


def advice(snapshot: Snapshot) -> str | None:
    """The same as a sentence."""
    found = too_fine(snapshot)
    return None if found is None else str(found["text"])
