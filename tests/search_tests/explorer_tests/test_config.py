from itertools import pairwise
from typing import Any

import pytest

from search.errors import ConfigError
from search.explorer import SearchConfig


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("budget", 0.0, "budget must be a finite ratio > 0, but got 0.0"),
        ("budget", float("nan"), "budget must be"),
        ("beam_width", 0, "beam_width must be an integer ≥ 1, but got 0"),
        ("children", 1.5, "children must be an integer"),
        ("levels", True, "levels must be an integer"),
        ("max_moves", -1, "max_moves must be an integer ≥ 0"),
        ("perturbation", -0.1, "perturbation must be finite and ≥ 0"),
        ("stair_gain", float("inf"), "stair_gain must be finite"),
        ("window", (0.9,), "window must be 0 < low < high ≤ 1"),
        ("window", (0.99, 0.95), "window must be"),
        ("aim", 0.9, "aim must lie inside the window"),
        ("floor_room", 0.0, "floor_room must be in"),
        ("proposals", (), "proposals must be one or more of"),
        ("proposals", ("guess",), "proposals must be one or more of"),
    ],
)
def test_a_bad_value_is_refused(field: str, value: Any, message: str) -> None:
    settings: dict[str, Any] = {"budget": 0.5, field: value}
    with pytest.raises(ConfigError, match=message):
        SearchConfig(**settings)


def test_targets_fall_geometrically_to_the_budget() -> None:
    assert SearchConfig(0.25, levels=2).targets == pytest.approx((0.5, 0.25))


@pytest.mark.parametrize(
    ("budget", "least", "levels"),
    [(0.6, 0.01, 5), (0.6, 0.16, 2), (0.9, 0.03, 3), (0.9, 0.2, 1), (0.9, 3.0, 1), (1.0, 0.1, 5)],
)
def test_levels_are_fewer_where_neighbours_would_look_alike(
    budget: float, least: float, levels: int
) -> None:
    targets = SearchConfig(budget).targets_apart(least)
    assert len(targets) == levels
    assert targets[-1] == budget
    assert all(b <= a * (1 - least) for a, b in pairwise((1.0, *targets)) if levels > 1 > budget)
