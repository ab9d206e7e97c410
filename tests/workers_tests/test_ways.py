"""The simple ways, read off a tree."""

from __future__ import annotations

from typing import Any

import pytest

from workers.report.ways import simple_ways


def _row(
    digest: str, width: int, layers: int, ratio: float | None, loss: float | None
) -> dict[str, Any]:
    origin = "dense" if digest == "d" else "cut"
    plan = {"widths": {"a": width}, "int8": ["x", "y"][:layers]}
    return {"digest": digest, "origin": origin, "plan": plan, "ratio": ratio, "loss": loss}


TREE = [
    _row("d", 8, 0, 1.0, 0.2),
    _row("q", 8, 2, 0.5, None),
    _row("f1", 4, 0, 0.39, 0.5),
    _row("f2", 6, 0, 0.4, 0.4),
    _row("f3", 7, 0, 0.6, 0.3),
    _row("g2", 6, 2, 0.45, 0.41),
    _row("b", 6, 1, 0.38, 0.35),
    _row("u", 5, 2, None, None),
]


def test_each_way_is_told_by_its_best_candidate() -> None:
    found = {row["way"]: row for row in simple_ways(TREE, 2, 0.4, "b", 0.01)}
    assert list(found) == ["int8 alone", "pruning alone", "pruning, then int8", "both together"]
    assert found["int8 alone"]["loss"] == pytest.approx(0.21)  # the dense loss and the rise
    assert not found["int8 alone"]["meets"]
    assert (found["pruning alone"]["ratio"], found["pruning alone"]["loss"]) == (0.4, 0.4)
    assert (found["pruning, then int8"]["ratio"], found["pruning, then int8"]["meets"]) == (
        0.45,
        False,
    )
    assert found["both together"]["loss"] == 0.35


def test_a_uniformly_thinner_network_is_told_beside_the_result_with_and_without_int8() -> None:
    uniform = _row("n", 3, 0, 0.37, 0.6) | {"origin": "uniform"}
    tree = [*TREE, uniform, _row("m", 2, 0, 0.3, 0.9) | {"origin": "uniform"}]
    found = {row["way"]: (row["ratio"], row["loss"]) for row in simple_ways(tree, 0, 0.4, "f2")}
    assert found == {"uniformly thinner": (0.37, 0.6), "the search": (0.4, 0.4)}
    assert simple_ways(tree, 2, 0.4, "b")[0]["way"] == "uniformly thinner"


def test_what_was_not_measured_is_not_told() -> None:
    assert [row["way"] for row in simple_ways(TREE[:2], 2, 0.4, "b")] == ["int8 alone"]
    assert simple_ways(TREE, 0, 0.4, "b") == []
    assert simple_ways([], 2, 0.4, "b") == []
