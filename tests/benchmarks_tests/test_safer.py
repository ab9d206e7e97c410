"""The arithmetic of the benchmark of sensitivities, on numbers that are written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.safer import CHANGES, fewer_measurements, ranking, sensitivity_of, winner
from search.estimators import ESTIMATORS
from search.sensitivity import RATIOS


def cost(value: float) -> dict[str, list[float]]:
    return {"rise": [value, 3 * value], "drop": [value / 10, value / 10]}


def found() -> dict[str, Any]:
    """Three groups and layers, of which the gradient says the truth and the norm its contrary."""
    slopes = {"a": 0.1, "b": 0.2, "c": 0.4}
    estimates: dict[str, dict[str, Any]] = {
        name: {"values": {g: [s * r for r in RATIOS] for g, s in slopes.items()}, "seconds": 0.5}
        for name in ESTIMATORS
    }
    estimates["weight norm"]["values"] = {g: [r / s for r in RATIOS] for g, s in slopes.items()}
    layers = {"values": {g: cost(s) for g, s in slopes.items()}, "seconds": 2.0}
    of_layers = {
        name: {"values": {g: v[0] for g, v in each["values"].items()}, "seconds": 0.25}
        for name, each in estimates.items()
    }
    return {
        "network": "net",
        "groups": {
            "values": {g: [cost(s * r) for r in RATIOS] for g, s in slopes.items()},
            "seconds": 8.0,
        },
        "layers": dict.fromkeys(CHANGES, layers),
        "group_estimates": estimates,
        "layer_estimates": of_layers,
    }


@pytest.mark.parametrize("change", ["removal", *CHANGES])
def test_the_table_ranks_estimates_against_what_was_measured(change: str) -> None:
    rows = {line.split(" | ")[0]: line for line in ranking([found()], change)[2:]}
    seconds = "0.5" if change == "removal" else "0.2"
    assert rows["| gradient"] == f"| gradient | 1.00 | 1.00 | 1.00 to 1.00 | 1.00 | {seconds} |"
    assert rows["| weight norm"].startswith("| weight norm | -1.00 | -1.00 |")
    assert rows["| measured loss, other images"].startswith("| measured loss, other images | 1.00")
    assert winner([found()], change) == "gradient"


def test_sensitivities_are_means_over_both_halves() -> None:
    assert sensitivity_of(found()).rises["b"] == pytest.approx([0.4 * r for r in RATIOS])


def test_a_true_estimate_gives_the_floors_that_all_ratios_give() -> None:
    rows = {
        tuple(line.split(" | ")[:2]): line.split(" | ")[2:]
        for line in fewer_measurements([found()])[2:]
    }
    assert rows["| 1 of 4", "gradient"] == ["25%", "0.000", "0.00", "1.00", "1.00 |"]
    assert rows["| 2 of 4", "straight line"] == ["50%", "0.000", "0.00", "1.00", "1.00 |"]


def test_what_is_negligible_is_not_measured() -> None:
    lines = fewer_measurements([found()])[2:]
    rows = {line.split(" | ")[0]: line.split(" | ")[2] for line in lines}
    # the limits are 1/120, 1/60 and 1/30; of twelve estimates none, one and three lie below
    assert rows["| where gradient is not negligible"] == "89%"
    assert rows["| 3/4, and all where that is not negligible"] == "100%"
