"""Calibration losses: of one candidate, and of one group pruned alone."""

from __future__ import annotations

from search.plan import Plan
from search.quantization import Format, format_of
from search.sensitivity import precision_plan, sensitivity_plan, told_rise
from workers.phases.facts import prepared_result
from workers.results import finite
from workers.tasks.metrics import calibration_loss, origin_of
from workers.work import Done, Work


def score(work: Work) -> Done:
    """{"loss", "standard_error"}: of the plan in the payload, after recalibration."""
    plan = Plan.from_document(work.payload["plan"])
    loss, error = calibration_loss(work, plan, format_in(work), origin_of(work))
    return Done({"loss": finite(loss), "standard_error": finite(error)})


def sensitivity(work: Work) -> Done:
    """{"rise", "standard_error"}: of the loss when the payload's ratio of its group alone is
    removed, or when its layers alone are in int8."""
    prepared = prepared_result(work.snapshot)
    if (layers := work.payload.get("layers")) is not None:
        plan = precision_plan(work.graph, layers)
        loss, error = calibration_loss(work, plan, format_in(work))
        rise = finite(loss - prepared.calibration_loss)
        return Done({"rise": rise, "standard_error": finite(error)})
    scores = work.library.scores(prepared.scores)
    group, ratio = work.payload["group"], work.payload["ratio"]
    plan = sensitivity_plan(work.graph, scores, group, ratio)
    rise = calibration_loss(work, plan)[0] - prepared.calibration_loss
    return Done({"rise": finite(told_rise(work.graph, group, ratio, rise))})


def format_in(work: Work) -> Format | None:
    """The integers of the payload's layers in int8; None where it has none."""
    name = work.payload.get("format")
    return None if name is None else format_of(name)
