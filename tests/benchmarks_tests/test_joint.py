"""What the comparison of widths and int8 says of its cells."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from benchmarks.joint.cells import Cell, best_simple, verdict
from benchmarks.joint.networks import NETWORKS
from benchmarks.kept import kept


def _cell(way: str, ratio: float, accuracy: float, budget: float = 0.35) -> Cell:
    return Cell("resnet20", budget, way, ratio, ratio - 0.01, ratio + 0.01, accuracy, 3, 60.0)


def test_the_best_simple_way_meets_the_budget_whatever_it_was_made_for() -> None:
    slow = _cell("int8", 0.46, 0.945, budget=1.0)
    fast = _cell("float", 0.34, 0.92)
    faster = _cell("float, then int8", 0.30, 0.93, budget=0.42)
    both = _cell("both", 0.34, 0.99)
    assert best_simple([slow, fast, faster, both], 0.35) == faster
    assert best_simple([slow, fast, faster], 0.5) == slow
    assert best_simple([slow], 0.35) is None


@pytest.mark.parametrize(
    ("accuracy", "ratio", "word"),
    [
        (0.9351, 0.34, "clearly better"),
        (0.9300, 0.25, "clearly better"),
        (0.9310, 0.34, "better"),
        (0.9300, 0.30, "equal"),
        (0.9290, 0.20, "worse"),
    ],
)
def test_half_a_point_or_less_latency_is_clearly_better(
    accuracy: float, ratio: float, word: str
) -> None:
    assert verdict(_cell("both", ratio, accuracy), _cell("float", 0.33, 0.93))["word"] == word


def test_a_cell_is_made_once(tmp_path: Path) -> None:
    made = [asdict(_cell("float", 0.3, 0.9))]
    assert kept(tmp_path, "a", made.pop) == kept(tmp_path, "a", made.pop)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_give_ten_scores(name: str) -> None:
    assert NETWORKS[name]().eval()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
