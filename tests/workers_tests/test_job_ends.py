"""Jobs that end in another way than with a pruned model after an undisturbed search."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from jobs import status
from jobs.artifacts import job_file_name
from jobs.repository import events
from jobs.spec import ConstraintsSpec
from jobs.states import RequestState, TaskState
from latency_probes.messages import MeasureError
from latency_probes.runtimes.replay import synthetic_latency_ns
from latency_probes.samples import Measurement
from search.explorer import Explorer, SearchConfig
from tests.search_tests.explorer_tests.simulation import FLOORS, GROUPS, scores
from tests.workers_tests.rows import measured
from tests.workers_tests.workshop import Answer, Finished, Question, Workshop, staircase
from workers.phases import spare
from workers.phases.advice import advice
from workers.phases.facts import final_purpose, finalists, prepared_result
from workers.phases.preparing import accuracy_refusal
from workers.phases.searching import nothing_found

SEARCH = {
    "levels": 2,
    "beam_width": 1,
    "children": 2,
    "calibration_images": 32,
    "staircase_points": 2,
    "refinements": 0,
    "finalists": 1,
}


def test_budget_above_the_dense_latency_returns_the_dense_model(
    workshop: Workshop, finished: Finished
) -> None:
    job_id = workshop.submit(budget={"latency_ms": 1000.0})
    workshop.play(job_id, until=lambda: bool(workshop.tasks(job_id, "package_dense")))
    workshop.hand_in(job_id, finished.job_id)
    job = workshop.play(job_id)
    assert job.state == "succeeded", job.problem
    result = job.result or {}
    assert result["unpruned"]
    assert result["budget_ms"] == pytest.approx(1000.0)
    assert result["accuracy"] == result["dense_accuracy"]
    assert workshop.requests(job_id, "strict") == []
    page = workshop.bench.context.store.get(job_file_name(job_id, "report.html")).decode()
    assert "Nothing was pruned" in page


def test_budget_that_nothing_meets_is_infeasible_with_both_numbers(workshop: Workshop) -> None:
    job_id = workshop.submit(budget={"ratio": 0.001})
    job = workshop.play(job_id)
    assert job.state == "infeasible"
    problem = job.problem or {}
    assert "0.001" in problem["detail"]
    assert problem["search"]["minimum_ratio"] > 0.001


def test_cancelled_job_ends_without_a_result_and_abandons_its_requests(
    workshop: Workshop,
) -> None:
    job_id = workshop.submit(budget={"ratio": 0.55})
    workshop.play(job_id, until=lambda: bool(workshop.requests(job_id, "screening")))
    with workshop.bench.write() as session:
        status.request_cancel(session, job_id)
    workshop.bench.messages.append(("advance", job_id))
    job = workshop.play(job_id)
    assert job.state == "cancelled"
    assert job.result is None
    states = {each.state for each in workshop.requests(job_id, "")}
    assert states <= {RequestState.DONE, RequestState.FAILED}


def test_task_of_a_cancelled_job_is_not_run(workshop: Workshop) -> None:
    job_id = workshop.submit()
    workshop.play(job_id, until=lambda: bool(workshop.tasks(job_id, "prepare")))
    with workshop.bench.write() as session:
        status.request_cancel(session, job_id)
    workshop.play(job_id)
    (task,) = workshop.tasks(job_id, "prepare")
    assert (task.state, task.error) == (TaskState.FAILED, "the job has ended")
    assert workshop.job(job_id).state == "cancelled"


def has_scored(workshop: Workshop, job_id: str, count: int) -> bool:
    done = [each for each in workshop.tasks(job_id, "score") if each.result]
    return len(done) >= count


def is_within_budget(workshop: Workshop, job_id: str) -> bool:
    """Whether a plan within the budget is scored."""
    shown = workshop.job(job_id).progress or {}
    return bool(shown.get("best")) and shown["best"]["ratio"] <= shown["budget_ratio"]


def stop(workshop: Workshop, job_id: str) -> None:
    with workshop.bench.write() as session:
        status.request_stop(session, job_id)
    workshop.bench.messages.append(("advance", job_id))


def test_job_stopped_before_any_candidate_met_the_budget_fails_and_says_so(
    workshop: Workshop,
) -> None:
    job_id = workshop.submit(budget={"ratio": 0.57})
    workshop.play(job_id, until=lambda: bool(workshop.requests(job_id, "screening")))
    stop(workshop, job_id)
    job = workshop.play(job_id)
    assert job.state == "failed"
    assert (job.problem or {})["title"] == "The search was stopped too early"


def test_job_stopped_while_it_searches_finishes_with_the_best_so_far(workshop: Workshop) -> None:
    search = {
        "levels": 1, "beam_width": 8, "children": 24, "calibration_images": 32, "finalists": 1
    }  # fmt: skip
    job_id = workshop.submit(search=search)
    workshop.play(job_id, until=lambda: has_scored(workshop, job_id, 3))
    stop(workshop, job_id)
    job = workshop.play(job_id, until=lambda: bool(workshop.tasks(job_id, "finetune")))
    assert job.state == "finetuning", job.problem
    (chosen,) = (workshop.snapshot(job_id).search_state or {})["chosen"]
    assert chosen["ratio"] <= 0.6


def test_time_that_is_over_ends_search_and_training_with_the_best_so_far(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = workshop.submit(
        finetune={"steps": 100_000, "batch_size": 16}, constraints={"time_limit_s": "100s"}
    )
    workshop.play(job_id, until=lambda: is_within_budget(workshop, job_id))
    began = workshop.bench.context.clock()  # with the uniform network, as yet
    monkeypatch.setattr(workshop.bench, "now", began + timedelta(seconds=81))
    workshop.bench.messages.append(("advance", job_id))
    workshop.play(job_id, until=lambda: bool(workshop.tasks(job_id, "finetune")))
    assert (workshop.snapshot(job_id).search_state or {})["explorer"]["stopped"]
    monkeypatch.setattr(workshop.bench, "now", began + timedelta(seconds=101))
    job = workshop.play(job_id)
    assert job.state == "succeeded", job.problem
    (trained,) = workshop.tasks(job_id, "finetune")
    assert 0 < (trained.result or {})["steps"] < 100_000


def test_what_is_left_to_training_is_not_spent_on_confirming(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disturbed device may repeat a strict measurement for as long as the whole limit is."""
    job_id = workshop.submit(
        finetune={"steps": 2, "batch_size": 16}, constraints={"time_limit_s": "100s"}
    )
    workshop.play(job_id, until=lambda: bool(workshop.requests(job_id, "strict")))
    state = (workshop.snapshot(job_id).search_state or {})["began"]
    later = datetime.fromisoformat(state) + timedelta(seconds=80)
    monkeypatch.setattr(workshop.bench, "now", later)
    workshop.bench.messages.append(("advance", job_id))
    workshop.play(job_id, until=lambda: not workshop.bench.messages)
    (asked,) = workshop.requests(job_id, "strict")
    assert asked.measurement_id is None
    assert workshop.job(job_id).state == "verifying"
    job = workshop.play(job_id)
    assert job.state == "succeeded", job.problem
    (trained,) = workshop.tasks(job_id, "finetune")
    assert (trained.result or {})["steps"] == 2


def test_a_search_that_is_late_goes_to_the_budget_and_says_so(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = workshop.submit(constraints={"time_limit_s": 100})
    workshop.play(job_id, until=lambda: bool(workshop.requests(job_id, "screening")))
    later = workshop.bench.context.clock() + timedelta(seconds=31)
    monkeypatch.setattr(workshop.bench, "now", later)
    workshop.bench.messages.append(("advance", job_id))
    workshop.play(job_id, until=lambda: not workshop.bench.messages)
    state = (workshop.snapshot(job_id).search_state or {})["explorer"]
    assert state["hurried"] is not None  # for whichever worker goes on with it
    job = workshop.play(job_id)
    assert job.state == "succeeded", job.problem
    assert (job.progress or {})["levels"] == 1
    told = advice(workshop.snapshot(job_id), job.progress or {}) or ""
    assert "the time limit of 100 s is short" in told
    assert "in 1 level instead of" in told


def test_time_that_is_over_before_any_candidate_met_the_budget_fails_and_says_so(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = workshop.submit(budget={"ratio": 0.57}, constraints={"time_limit_s": 100})
    workshop.play(job_id, until=lambda: bool(workshop.requests(job_id, "screening")))
    later = workshop.bench.context.clock() + timedelta(seconds=61)
    monkeypatch.setattr(workshop.bench, "now", later)
    workshop.bench.messages.append(("advance", job_id))
    workshop.play(job_id, until=lambda: not workshop.bench.messages)
    assert workshop.job(job_id).state == "searching"  # all of the time is left for a first one
    monkeypatch.setattr(workshop.bench, "now", later + timedelta(seconds=40))
    workshop.bench.messages.append(("advance", job_id))
    job = workshop.play(job_id)
    assert job.state == "failed"
    assert (job.problem or {})["title"] == "The time was over too early"
    assert "within 100 s" in (job.problem or {})["detail"]


def test_only_a_search_that_was_stopped_blames_the_time(workshop: Workshop) -> None:
    snapshot = workshop.snapshot(workshop.submit(constraints={"time_limit_s": 100}))
    workshop.bench.take_messages()
    explorer = Explorer(SearchConfig(0.6), GROUPS, scores(), FLOORS)
    assert (nothing_found(snapshot, explorer).problem or {})["title"] == (
        "No candidate met the budget"
    )
    explorer.stop()
    assert (nothing_found(snapshot, explorer).problem or {})["title"] == (
        "The time was over too early"
    )


def test_no_strict_interval_within_the_budget_goes_on_with_the_fastest(
    workshop: Workshop,
) -> None:
    def optimistic_screening(question: Question) -> Measurement | MeasureError:
        found = staircase(question)
        is_strict = question.kind == "strict" and question.candidate != question.reference
        if isinstance(found, MeasureError) or not is_strict:
            return found
        return measured(round(2e6 * found.latency_ms), round(1e6 * found.reference_ms),
                        kind="strict", spread=0.001)  # fmt: skip

    job_id = workshop.submit()
    workshop.play(
        job_id, optimistic_screening, until=lambda: bool(workshop.tasks(job_id, "finetune"))
    )
    snapshot = workshop.snapshot(job_id)
    (chosen,) = finalists(snapshot)
    strict = [row for row in snapshot.found.values() if row.kind == "strict" and row.ratio != 1.0]
    fastest = min(strict, key=lambda row: row.ratio or 1.0)
    assert (fastest.ratio_high or 0.0) > 0.6
    assert chosen.ratio == pytest.approx((fastest.ratio or 0.0) / 2, rel=1e-3)


def slow_with_true_weights(factor: float, times: int) -> Answer:
    """The first `times` finalists take `factor` times what their skeletons say."""
    slowed: list[str] = []

    def answer(question: Question) -> Measurement | MeasureError:
        is_final = question.purpose.startswith("final:")
        if is_final and question.purpose not in slowed:
            slowed.append(question.purpose)
        if not is_final or slowed.index(question.purpose) >= times:
            return staircase(question)
        ns = synthetic_latency_ns(question.candidate)
        reference_ns = synthetic_latency_ns(question.reference)
        return measured(round(factor * ns), reference_ns, kind=question.kind)

    return answer


def test_finalist_that_misses_with_its_true_weights_is_followed_by_a_faster_one(
    workshop: Workshop,
) -> None:
    job_id = workshop.submit(search={**SEARCH, "beam_width": 2})
    job = workshop.play(job_id, slow_with_true_weights(1.05, times=1))
    assert job.state == "succeeded", job.problem
    result = job.result or {}
    first, second = finalists(workshop.snapshot(job_id))
    assert result["plan_digest"] == second.digest
    assert result["within_budget"]
    assert (second.ratio or 1.0) <= 0.6 / 1.05
    with workshop.bench.context.read() as session:
        log = events.after(session, job_id, 0)
    (missed,) = [event.data for event in log if event.kind == "missed"]
    assert missed["digest"] == first.digest
    assert missed["ratio"] > missed["budget"] == 0.6
    states = [event.data["to"] for event in log if event.kind == "state"]
    assert states[-5:] == ["verifying", "searching", "finetuning", "verifying", "succeeded"]


def test_device_is_told_what_the_reference_with_true_weights_should_take(
    workshop: Workshop,
) -> None:
    job_id = workshop.submit(search=SEARCH)
    assert workshop.play(job_id, staircase).state == "succeeded"
    snapshot = workshop.snapshot(job_id)
    dense = snapshot.measurement("dense")
    assert dense is not None
    told = {
        purpose.partition(":")[0]: request.settings.get("usual_ms")
        for purpose, request in snapshot.requests.items()
    }
    assert told["final"] == dense.reference_ms
    assert told["screening"] is told["strict"] is told["dense"] is None


def test_job_whose_finalists_all_miss_gives_the_fastest_and_says_so(workshop: Workshop) -> None:
    job_id = workshop.submit(search={**SEARCH, "beam_width": 2})
    job = workshop.play(job_id, slow_with_true_weights(20.0, times=9))
    assert job.state == "succeeded", job.problem
    result = job.result or {}
    assert not result["within_budget"]
    assert result["ratio"] > 0.6
    tried = finalists(workshop.snapshot(job_id))
    assert 1 <= len(tried) <= 1 + spare.MOST
    rows = [workshop.snapshot(job_id).measurement(final_purpose(each.digest)) for each in tried]
    assert result["ratio"] == min(row.ratio for row in rows if row is not None and row.ratio)


def test_a_layer_that_is_left_alone_and_multiples_hold_in_the_result(workshop: Workshop) -> None:
    constraints = {"exclude": ["stem"], "multiple": 2}
    job_id = workshop.submit(budget={"ratio": 0.8}, constraints=constraints)
    job = workshop.play(job_id)
    assert job.state == "succeeded", job.problem
    plan = json.loads(workshop.bench.context.store.get(job_file_name(job_id, "plan.json")))
    graph = workshop.library.graph(workshop.snapshot(job_id).model)
    for group in graph.prunable:
        kept = len(plan["plan"]["kept"][group.name])
        assert kept == group.width or kept % 2 == 0
        if any(member.tensor.startswith("stem.") for member in group.members):
            assert kept == group.width


@pytest.mark.parametrize(
    ("constraints", "said"),
    [
        ({"exclude": ["stemm"]}, "names none; near names are stem"),
        ({"max_parameters": 10}, "max_parameters must be ≥"),
        ({"max_memory_mb": 0.0001}, "max_memory_mb must be ≥"),
    ],
)
def test_constraints_that_cannot_be_kept_end_the_job_before_the_search(
    workshop: Workshop, constraints: dict[str, Any], said: str
) -> None:
    job_id = workshop.submit(constraints=constraints)
    job = workshop.play(job_id)
    assert job.state == "failed"
    assert said in (job.problem or {})["detail"]
    assert workshop.requests(job_id, "screening") == []


def test_a_finalist_below_the_accuracy_floor_is_infeasible_with_the_numbers(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ConstraintsSpec, "least_accuracy", lambda self, dense: 2.0)
    job_id = workshop.submit(constraints={"max_accuracy_drop": 0.01})
    job = workshop.play(job_id)
    assert job.state == "infeasible"
    assert "but at least 2.0000 is asked for" in (job.problem or {})["detail"]


def test_an_accuracy_floor_above_the_dense_model_is_refused_with_both_numbers(
    workshop: Workshop, finished: Finished
) -> None:
    snapshot = workshop.snapshot(workshop.submit(constraints={"min_accuracy": 0.95}))
    prepared = prepared_result(workshop.snapshot(finished.job_id))
    weak = prepared.model_copy(update={"validation_accuracy": 0.9})
    words = accuracy_refusal(snapshot, weak) or ""
    assert "on the validation images, 0.9000, but got 0.95" in words
    strong = prepared.model_copy(update={"validation_accuracy": 0.95})
    assert accuracy_refusal(snapshot, strong) is None
