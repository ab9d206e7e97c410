"""Jobs whose one result must meet budgets on several devices."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from jobs.artifacts import job_file_name
from jobs.errors import InUse
from jobs.removal import remove_device
from jobs.runtimes import dense_on
from latency_probes.messages import MeasureError
from latency_probes.runtimes.replay import synthetic_latency_ns
from latency_probes.samples import Measurement
from search.explorer import Failed, Measured
from tests.workers_tests.rows import measured
from tests.workers_tests.workshop import Answer, Question, Workshop, staircase
from workers.phases.demands import Demand, furthest

OWN, THERE = 0.6, 0.7
SEARCH = {
    "levels": 1, "beam_width": 1, "children": 2, "staircase_points": 2, "refinements": 0,
    "calibration_images": 32, "finalists": 1,
}  # fmt: skip


def slow_to_gain(question: Question) -> Measurement | MeasureError:
    """On the further device half of the time is no arithmetic: the ratio is the mean of that of
    the job's own device and one."""
    if "@" not in question.purpose:
        return staircase(question)
    own = [synthetic_latency_ns(each) for each in (question.candidate, question.reference)]
    return measured(round((own[0] + own[1]) / 2), own[1], kind=question.kind)


def without(purpose: str) -> Answer:
    def answer(question: Question) -> Measurement | MeasureError:
        if question.purpose == purpose:
            return MeasureError(kind="unsupported_op", message="no Conv there")
        return slow_to_gain(question)

    return answer


def test_one_result_meets_the_budgets_of_two_devices(workshop: Workshop) -> None:
    first, second = workshop.device(), workshop.device()
    job_id = workshop.submit(
        budget={"ratio": OWN},
        further_devices=[{"ratio": THERE, "device": f"id:{second}"}],
        search=SEARCH,
    )
    job = workshop.play(job_id, slow_to_gain, device_id=first)
    assert job.state == "succeeded", job.problem
    result: dict[str, Any] = job.result or {}
    (there,) = result["further_devices"]
    # the further one binds: it meets 0.7 where the own one is at 0.4
    assert 0.955 * THERE <= there["ratio"] <= THERE
    assert result["ratio"] == pytest.approx(2 * there["ratio"] - 1)
    assert result["within_budget"]
    assert {each["id"] for each in result["devices"]} == {first, second}
    assert all(each["duty"] is not None for each in result["devices"])
    assert (result["budget_ratio"], there["budget_ratio"]) == (OWN, THERE)
    assert (result["device_id"], there["device_id"]) == (first, second)
    assert (job.progress or {})["budget_ratio"] == OWN  # the tightest, by which the search goes
    for kind in ("screening:", "strict:", "final:"):
        asked = workshop.requests(job_id, kind)
        own = {each.purpose for each in asked if "@" not in each.purpose}
        assert {each.purpose for each in asked} == own | {f"{each}@0" for each in own}
        for each in asked:
            assert each.device_id == (second if "@" in each.purpose else first)
    report = workshop.bench.context.store.get(job_file_name(job_id, "report.html")).decode()
    assert f"latency on {there['device']}, budget 0.700" in report
    card = workshop.bench.context.store.get(job_file_name(job_id, "model.md")).decode()
    assert f"latency on {there['device']}" in card
    tree = json.loads(workshop.bench.context.store.get(job_file_name(job_id, "report.json")))
    assert tree["search_budget"] == OWN


def test_a_budget_that_no_pruned_model_meets_on_a_further_device_is_out_of_reach(
    workshop: Workshop,
) -> None:
    job_id = workshop.submit(
        budget={"ratio": OWN}, further_devices=[{"ratio": 0.4, "device": "label:room=lab"}]
    )
    job = workshop.play(job_id, slow_to_gain)
    assert job.state == "infeasible"
    detail = (job.problem or {})["detail"]
    assert "of the budget on the device that is furthest from it" in detail


def test_a_further_device_that_cannot_run_the_dense_model_ends_the_job(
    workshop: Workshop,
) -> None:
    job_id = workshop.submit(further_devices=["70%@any"])
    job = workshop.play(job_id, without(dense_on(0)))
    assert job.state == "failed"
    assert "further_devices.0.device" in (job.problem or {})["detail"]


def test_the_device_of_a_further_budget_is_in_use_while_the_job_lives(workshop: Workshop) -> None:
    second = workshop.device()
    job_id = workshop.submit(further_devices=[{"ratio": THERE, "device": f"id:{second}"}])
    workshop.play(
        job_id, slow_to_gain, until=lambda: bool(workshop.requests(job_id, "screening:"))
    )
    (dense,) = workshop.requests(job_id, dense_on(0))
    assert dense.selector == f"id:{second}"
    assert [each and each.id for each in workshop.snapshot(job_id).further] == [second]
    with workshop.bench.write() as session, pytest.raises(InUse, match=job_id):
        remove_device(session, second)


def asked(*betas: float) -> tuple[Demand, ...]:
    """Demands without their measurements."""
    found: Any = None
    return tuple(Demand(f"@{number}", beta, found) for number, beta in enumerate(betas))


def test_the_search_is_told_of_the_device_that_is_furthest_from_its_budget() -> None:
    told = furthest(
        asked(0.5, 0.8), [Measured(0.45, 0.44, 0.46, 3.0), Measured(0.76, 0.75, 0.78, 9.0)]
    )
    assert isinstance(told, Measured)
    assert told.ratio == pytest.approx(0.76 * 0.5 / 0.8)
    assert told.ratio_high == pytest.approx(0.78 * 0.5 / 0.8)
    assert told.latency_ms == 3.0
    dense = furthest(asked(0.5, 0.8), [Measured(1.0, 1.0, 1.0)] * 2)
    assert isinstance(dense, Measured)
    assert math.isclose(dense.ratio, 1.0)


def test_a_failure_on_one_device_is_one_of_the_candidate_and_a_missing_answer_none() -> None:
    failed, known = Failed("crashed", "gone"), Measured(0.5, 0.5, 0.5)
    assert furthest(asked(0.5, 0.5), [None, failed]) is failed
    assert furthest(asked(0.5, 0.5), [known, None]) is None
