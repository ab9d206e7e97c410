"""Calibration losses: of one candidate, and of one group pruned alone."""

from __future__ import annotations

import math

from search.plan import Plan
from search.sensitivity import sensitivity_plan, told_rise
from workers.phases.facts import prepared_result
from workers.tasks.metrics import calibration_loss
from workers.work import Done, Work


def score(work: Work) -> Done:
    """{"loss"}: of the plan in the payload, after recalibration."""
    return Done({"loss": finite(calibration_loss(work, Plan.from_document(work.payload["plan"])))})


def sensitivity(work: Work) -> Done:
    """{"rise"}: of the loss when the payload's ratio of its group alone is removed."""
    prepared = prepared_result(work.snapshot)
    scores = work.library.scores(prepared.scores)
    group, ratio = work.payload["group"], work.payload["ratio"]
    plan = sensitivity_plan(work.graph, scores, group, ratio)
    rise = calibration_loss(work, plan) - prepared.calibration_loss
    return Done({"rise": finite(told_rise(work.graph, group, ratio, rise))})


def finite(value: float) -> float | None:
    """The number, or None where it is infinite or none at all, which JSON cannot hold."""
    return value if math.isfinite(value) else None
