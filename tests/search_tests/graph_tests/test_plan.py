"""Plan: canonical JSON, a digest that names it, and refusals that say what is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.errors import PlanError
from search.graph import Group
from search.plan import Plan, best_of

units = st.sets(st.integers(0, 40)).map(lambda chosen: tuple(sorted(chosen)))
plans = st.dictionaries(st.text(max_size=8), units).map(Plan)


@given(plans)
def test_json_gives_the_plan_back(plan: Plan) -> None:
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.digest == plan.digest
    assert hash(again) == hash(plan)


@given(plans, plans)
def test_the_digest_names_the_plan(first: Plan, second: Plan) -> None:
    assert (first.digest == second.digest) == (first == second)


def test_the_order_of_groups_does_not_matter() -> None:
    assert Plan({"a": (0,), "b": (1,)}).digest == Plan({"b": (1,), "a": (0,)}).digest


def test_the_dense_plan_keeps_everything() -> None:
    plan = Plan.dense([Group("a", 3, "channels", (), "prunable")])
    assert plan.kept == {"a": (0, 1, 2)}
    assert plan.widths == {"a": 3}


def test_merges_are_part_of_the_plan() -> None:
    plan = Plan({"a": (0, 2)}, {"a": {1: (2, 0.5)}})
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.digest != Plan({"a": (0, 2)}).digest


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ((1, 1), "must be ascending and distinct"),
        ((2, 1), "must be ascending and distinct"),
        ((-1, 1), "must be integers ≥ 0"),
        ((0.5,), "must be integers ≥ 0"),
        ((True,), "must be integers ≥ 0"),
    ],
)
def test_units_that_no_plan_can_keep(kept: tuple[Any, ...], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Plan({"a": kept})


@pytest.mark.parametrize(
    "merges", [{0: (2, 1.0)}, {1: (3, 1.0)}, {1: (2, float("nan"))}, {1: (2, float("inf"))}]
)
def test_merges_that_no_plan_can_hold(merges: dict[int, tuple[int, float]]) -> None:
    with pytest.raises(PlanError):
        Plan({"a": (0, 2)}, {"a": merges})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "a plan must be a JSON object, but got list"),
        ({}, "version must be 1 or 2, but got None"),
        ({"version": 3, "kept": {}}, "version must be 1 or 2, but got 3"),
        ({"version": 1}, "kept must be a JSON object, but got nothing"),
        ({"version": 1, "kept": {"a": 3}}, "kept\\['a'\\] must be a list, but got int"),
        ({"version": 1, "kept": {"a": ["x"]}}, "must be integers ≥ 0"),
        ({"version": 1, "kept": {}, "absorbed": []}, "absorbed must be a JSON object"),
        ({"version": 1, "kept": {"a": [0]}, "absorbed": {"a": {"1": 3}}}, "must map a unit"),
    ],
)
def test_malformed_documents(document: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Plan.from_json(json.dumps(document))


def test_text_that_is_no_json() -> None:
    with pytest.raises(PlanError, match="a plan must be JSON"):
        Plan.from_json("{")


def test_the_best_units_are_kept_and_one_of_each_part() -> None:
    order = [5, 4, 3, 2, 1, 0]
    assert best_of(order, 2) == (4, 5)
    assert best_of(order, 2, [(0, 1, 2)]) == (2, 5)
    assert best_of(order, 3, [(0, 1), (1, 0, 3)]) == (1, 4, 5)
    assert best_of(order, 1, [(0, 1), (4, 5)]) == (1, 5)
