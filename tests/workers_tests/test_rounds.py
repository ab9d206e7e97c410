"""A model is inspected in rounds until all is verified, and traced for a job as reported."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from jobs.repository import models
from jobs.states import InputState
from search.errors import LateError
from search.graph import trace
from search.graph.exported.deadline import LATE
from search.graph.trial_log import Verdicts
from tests.workers_tests import nets
from tests.workers_tests.bench import Bench
from tests.workers_tests.test_checks import add_model, model_row
from workers.checks import Inspector, check_model
from workers.inspection import Inspection, inspect, inspect_in_child
from workers.library import Library
from workers.loaders.models import example_inputs
from workers.rounds import FIRST_ROUND_S, Rounds, keep_rounds, rounds_of

PROBLEM = {"title": "Problem", "detail": "it ended"}
TOTAL_S = 10 * FIRST_ROUND_S
NONE = Rounds(weights_digest="0")


def report(*, complete: bool) -> dict[str, Any]:
    return {
        "report": {"complete": complete, "groups": []},
        "verdicts": Verdicts((("a", {}),)).to_json(),
    }


def test_a_round_is_twice_as_long_as_the_one_before_until_the_time_is_spent() -> None:
    rounds, limits = NONE, []
    while not rounds.over:
        limits.append(rounds.limit_s(TOTAL_S) / FIRST_ROUND_S)
        rounds = rounds.after(report(complete=False), TOTAL_S)
    assert limits == [1, 2, 4, 3]
    assert rounds.granted_s == TOTAL_S


def test_what_is_complete_ends_the_rounds() -> None:
    rounds = NONE.after(report(complete=True), TOTAL_S)
    assert rounds.over
    assert rounds.report == {"complete": True, "groups": [], "unfinished_because": ""}


def test_the_last_round_says_why_the_report_is_unfinished() -> None:
    rounds = NONE.after(report(complete=False), FIRST_ROUND_S)
    assert rounds.over
    assert rounds.known().closed
    assert "the 150 s of processor time" in (rounds.report or {})["unfinished_because"]


def test_what_was_not_exported_in_time_has_another_round() -> None:
    late = {"problem": PROBLEM, "late": True}
    first = NONE.after(late, 3 * FIRST_ROUND_S)
    assert (first.over, first.problem) == (False, None)
    last = first.after(late, 3 * FIRST_ROUND_S)
    assert (last.over, last.problem, last.report) == (True, PROBLEM, None)


@pytest.mark.parametrize("late", [False, True])
def test_a_round_that_fails_leaves_what_was_known(late: bool) -> None:
    first = NONE.after(report(complete=False), 2 * FIRST_ROUND_S)
    second = first.after({"problem": PROBLEM, "late": late}, 2 * FIRST_ROUND_S)
    assert (second.over, second.problem) == (True, None)
    assert (second.report or {})["unfinished_because"] == "it ended"
    assert second.known() == replace(first.known(), closed=True)


def test_the_first_round_that_fails_is_the_last() -> None:
    rounds = NONE.after({"problem": PROBLEM}, TOTAL_S)
    assert (rounds.over, rounds.problem) == (True, PROBLEM)


class Rushed:
    """Inspects with a clock that ends after so many readings in each round."""

    def __init__(self, *readings: float) -> None:
        self.readings = list(readings)
        self.known: list[int] = []

    def __call__(self, request: Inspection) -> dict[str, Any]:
        verdicts = Verdicts.from_json(request.verdicts) if request.verdicts else Verdicts()
        self.known.append(len(verdicts.entries))
        left = self.readings.pop(0)

        def clock() -> float:
            nonlocal left
            left -= 1
            return 0.0 if left >= 0 else 1e9

        inputs = example_inputs(nets.small(), request.spec)
        try:
            graph = trace(nets.small(), inputs, verdicts=verdicts, clock=clock)
        except LateError as error:
            return {"problem": {"detail": str(error)}, "late": True}
        return {"report": graph.report(), "verdicts": graph.verdicts.to_json()}


def readings() -> int:
    """How often an inspection that has the time asks for it."""
    count = 0

    def clock() -> float:
        nonlocal count
        count += 1
        return 0.0

    trace(nets.small(), (torch.rand(1, *nets.SHAPE),), clock=clock)
    return count


def test_a_model_is_checked_on_until_all_is_verified(bench: Bench) -> None:
    model_id = add_model(bench, "small", nets.weights(nets.small()))
    inspector = Rushed(0.8 * readings(), float("inf"))
    check_model(bench.context, Library(bench.context), model_id, inspector=inspector)
    row = model_row(bench, model_id)
    assert (row.state, row.attempt, row.lease_until) == (InputState.CHECKING, 1, None)
    assert bench.take_messages() == [("check_model", model_id)]
    check_model(bench.context, Library(bench.context), model_id, inspector=inspector)
    row = model_row(bench, model_id)
    assert row.state == InputState.READY
    assert (row.report or {})["complete"]
    assert inspector.known[0] == 0 < inspector.known[1]


def test_a_worker_that_died_before_it_could_judge_costs_no_round(bench: Bench) -> None:
    model_id = add_model(bench, "small", nets.weights(nets.small()))
    row = model_row(bench, model_id)
    rounds = Rounds(weights_digest=row.weights_digest).after(report(complete=True), TOTAL_S)
    keep_rounds(bench.context.store, model_id, rounds)
    check_model(bench.context, Library(bench.context), model_id, inspector=Rushed())
    assert model_row(bench, model_id).state == InputState.READY


def test_rounds_of_other_weights_or_none_begin_anew(bench: Bench) -> None:
    row = model_row(bench, add_model(bench, "small", nets.weights(nets.small())))
    none = Rounds(weights_digest=row.weights_digest)
    assert rounds_of(bench.context.store, row) == none
    keep_rounds(bench.context.store, row.id, Rounds(weights_digest="other", count=3))
    assert rounds_of(bench.context.store, row) == none
    bench.context.store.put(f"models/{row.id}/inspection.json", b"{")
    assert rounds_of(bench.context.store, row) == none


def checked(bench: Bench, kept: int | None, inspector: Inspector) -> str:
    """A model of which the inspection knows the first `kept` verdicts, and may have no more."""
    model_id = add_model(bench, "small", nets.weights(nets.small()))
    check_model(bench.context, Library(bench.context), model_id, inspector=inspector)
    row = model_row(bench, model_id)
    rounds = rounds_of(bench.context.store, row)
    verdicts = rounds.known()
    keep_rounds(
        bench.context.store,
        model_id,
        rounds.with_verdicts(replace(verdicts, entries=verdicts.entries[:kept])),
    )
    return model_id


def test_a_job_takes_over_what_the_inspection_verified(bench: Bench) -> None:
    row = model_row(bench, checked(bench, None, inspect_in_child))
    graph = Library(bench.context).graph(row)
    assert [group.status for group in graph.groups] == [
        group["status"] for group in (row.report or {})["groups"]
    ]
    assert graph.prunable
    assert graph.complete


def test_a_job_verifies_nothing_that_the_inspection_left_open(bench: Bench) -> None:
    row = model_row(bench, checked(bench, 1, inspect))
    graph = Library(bench.context).graph(row)
    assert not graph.prunable
    assert LATE in {group.reason for group in graph.groups}


def test_a_job_prunes_nothing_that_the_report_calls_frozen(bench: Bench) -> None:
    model_id = add_model(bench, "small", nets.weights(nets.small()))
    frozen = {"name": "1", "status": "frozen", "reason": "as the report says"}
    with bench.write() as session:
        models.accept(session, model_id, {"groups": [frozen]})
    graph = Library(bench.context).graph(model_row(bench, model_id))
    assert {group.name: group.reason for group in graph.groups}["1"] == "as the report says"


def test_what_another_version_verified_is_verified_anew_once(bench: Bench) -> None:
    row = model_row(bench, add_model(bench, "small", nets.weights(nets.small())))
    other = Verdicts((("another digest", {"problem": None}),), closed=True)
    keep_rounds(
        bench.context.store, row.id, Rounds(weights_digest=row.weights_digest).with_verdicts(other)
    )
    graph = Library(bench.context).graph(row)
    assert graph.prunable
    assert rounds_of(bench.context.store, row).known().entries == graph.verdicts.entries
