from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from search.criteria import best_units
from search.errors import ExplorerError
from search.explorer.importance import Importance
from search.sensitivity import Sensitivity
from tests.search_tests.explorer_tests.simulation import FakeGroup

GROUPS = (FakeGroup("a", 4), FakeGroup("b", 3), FakeGroup("out", 2, "frozen"))
SCORES = {"a": torch.tensor([1.0, 4.0, 1.0, 2.0]), "b": torch.tensor([0.0, 0.0, 0.0])}


def test_a_plan_keeps_the_best_units_of_every_group() -> None:
    plan = Importance(GROUPS, SCORES).plan({"a": 3, "b": 1})
    assert plan.kept == {"a": (0, 1, 3), "b": (0,), "out": (0, 1)}


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=4, max_size=4), st.integers(1, 4))
def test_units_are_those_that_the_criteria_call_best(row: list[float], width: int) -> None:
    scores = {"a": torch.tensor(row)}
    plan = Importance(GROUPS[:1], scores).plan({"a": width})
    assert plan.kept["a"] == best_units(scores["a"], width)


def test_penalty_falls_with_the_width_to_nothing() -> None:
    importance = Importance(GROUPS, SCORES)
    penalties = [importance.penalty("a", width) for width in (1, 2, 3, 4)]
    assert penalties == sorted(penalties, reverse=True)
    assert penalties[-1] == 0.0


def test_a_measured_rise_replaces_the_scores() -> None:
    sensitivity = Sensitivity((0.25, 0.5), {"a": (0.1, 0.3)})
    importance = Importance(GROUPS, SCORES, sensitivity)
    assert importance.penalty("a", 3) == pytest.approx(0.1, abs=1e-3)
    assert importance.penalty("a", 2) == pytest.approx(0.3, abs=1e-3)
    assert importance.penalty("b", 1) == Importance(GROUPS, SCORES).penalty("b", 1)


def test_an_infinite_rise_is_only_very_large() -> None:
    importance = Importance(GROUPS, SCORES, Sensitivity((0.5,), {"a": (float("inf"),)}))
    assert 1e6 < importance.penalty("a", 1) < float("inf")


@dataclass
class Row:
    values: list[float]

    def tolist(self) -> list[float]:
        return self.values


@pytest.mark.parametrize("values", [[1.0, 2.0], [1.0, 2.0, 3.0, float("nan")]])
def test_scores_that_do_not_fit_are_refused(values: list[float]) -> None:
    with pytest.raises(ExplorerError, match="scores of a must"):
        Importance(GROUPS, {"a": Row(values)})


def test_negative_scores_are_shifted() -> None:
    importance = Importance(GROUPS[:1], {"a": Row([-1.0, 0.0, 1.0, 2.0])})
    assert importance.penalty("a", 3) == 0.0
    assert importance.penalty("a", 1) > importance.penalty("a", 2) > 0.0
