"""How long a running job may still take: a range, which is never above what was told before.

Knows the progress document and what the preparation found, no clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workers.phases.facts import PREPARE, prepared_result
from workers.snapshot import Snapshot

# A training step runs the dense model forward, and the pruned one forward and back, with values
# rounded perhaps. Which part of that is left of it, how many cores are to spare, and who shares
# the machine, is not known before.
PASSES = (0.8, 6.0)
# How much longer the rest of a search takes than what is planned, at its pace so far: candidates
# that miss their target are moved and measured again, and scores may take longer.
SEARCHING = (0.5, 3.0)
CONFIRMING_S = (2.0, 60.0)
VERIFYING_S = (5.0, 120.0)
LEAST_PART, LEAST_S, LEAST_MEASURED = 0.05, 2.0, 5


@dataclass(frozen=True)
class Span:
    """From at least `low_s` to about `high_s` seconds."""

    low_s: float
    high_s: float

    def __add__(self, other: Span) -> Span:
        return Span(self.low_s + other.low_s, self.high_s + other.high_s)

    def within(self, most_s: float) -> Span:
        """Both ends at most so long."""
        return Span(min(self.low_s, most_s), min(self.high_s, most_s))


def time_left(
    snapshot: Snapshot,
    phase: str,
    part: float,
    spent_s: float,
    to_measure: int | None = None,
    limit_s: float = math.inf,
) -> tuple[float, float] | None:
    """Seconds until the job ends, low and high; None while nothing is known.

    Args:
        part: How much of this phase is done, 0 to 1.
        spent_s: How long this phase has lasted.
        to_measure: How many measurements the search still plans; None before it plans any.
        limit_s: What search and fine-tuning may still take together.
    """
    before = (snapshot.job.progress or {}).get("seconds_left_range")
    found = _estimate(snapshot, phase, part, spent_s, to_measure, limit_s)
    if found is None:
        return tuple(before) if before else None
    low_s, high_s = (found.low_s, found.high_s)
    if before:
        low_s, high_s = min(low_s, before[0]), min(high_s, before[1])
    return round(min(low_s, high_s), 1), round(high_s, 1)


def _estimate(
    snapshot: Snapshot,
    phase: str,
    part: float,
    spent_s: float,
    to_measure: int | None,
    limit_s: float,
) -> Span | None:
    if phase == "done":
        return Span(0.0, 0.0)
    if phase == "verifying":
        return _rest(part, spent_s, 1.0, 2.0) or Span(*VERIFYING_S)
    if phase == "finetuning":
        rest = _rest(part, spent_s, 0.8, 1.5) or _finetuning(snapshot)
        return None if rest is None else rest.within(limit_s) + Span(*VERIFYING_S)
    training, pace_s = _finetuning(snapshot, entwined=True), measuring_pace_s(snapshot)
    if training is None or pace_s is None or to_measure is None:
        return None
    searching = Span(*(factor * pace_s * to_measure for factor in SEARCHING))
    # A search goes on beside the measurements of a preparation.
    preparing = _rest(part, spent_s, 0.0, 1.5) if phase == "preparing" else None
    left = (searching + training).within(limit_s) + (preparing or Span(0.0, 0.0))
    return left + Span(*CONFIRMING_S) + Span(*VERIFYING_S)


def measuring_pace_s(snapshot: Snapshot) -> float | None:
    """Seconds from one measurement of the job to the next, whatever they waited for; None while
    there are few. Those of earlier jobs, which are reused, say nothing of it."""
    ends = sorted(row.created_at for row in snapshot.found.values())
    if len(ends) < LEAST_MEASURED:
        return None
    return (ends[-1] - ends[0]).total_seconds() / (len(ends) - 1)


def _rest(part: float, spent_s: float, least: float, most: float) -> Span | None:
    """The rest of a phase if it goes on as it went, times the two factors."""
    if part < LEAST_PART or spent_s < LEAST_S:
        return None
    rest_s = spent_s * (1 - part) / part
    return Span(least * rest_s, most * rest_s)


def _finetuning(snapshot: Snapshot, entwined: bool = False) -> Span | None:
    """All steps of all finalists, by how fast the dense model answered in the preparation; with
    those between the levels, of at most all nodes of the beam."""
    if snapshot.result(PREPARE) is None:
        return None
    per_image_s = prepared_result(snapshot).seconds_per_image
    if per_image_s is None:
        return None
    spec = snapshot.spec
    search, batch = spec.search, spec.finetune.batch_size
    within = search.entwined * (search.levels - 1) * search.beam_width if entwined else 0
    most = spec.finetune.steps * search.finalists + within
    low, high = (passes * per_image_s * batch for passes in PASSES)
    return Span(low * spec.finetune.steps, high * most)


def part_began_s(before: Mapping[str, Any], phase: str, elapsed_s: float) -> float:
    """When this phase of the progress began, in seconds since the job did."""
    same = before.get("phase") == phase and "phase_began_s" in before
    return float(before["phase_began_s"]) if same else elapsed_s
