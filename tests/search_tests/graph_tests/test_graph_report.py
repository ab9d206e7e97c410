"""The report of an analysis: shares of exact and approximate groups, causes of frozen ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from search.graph import trace
from search.graph.report import cause_of
from tests.search_tests.models import FixedView, InvertedResidual, Normed, image


class Mixed(nn.Module):
    """An exact group, then an approximate one, then the output."""

    def __init__(self) -> None:
        super().__init__()
        self.exact, self.mixed = nn.Linear(3, 8), nn.Linear(8, 6)
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.mixed(torch.relu(self.exact(x)))))
        return logits


def report(model: nn.Module) -> dict[str, Any]:
    inputs = (torch.randn(2, 3),) if isinstance(model, Mixed) else image()
    told: dict[str, Any] = json.loads(json.dumps(trace(model, inputs).report()))
    return told


def test_exact_and_approximate_shares_are_told_apart_and_sum_to_the_whole() -> None:
    told = report(Mixed())
    macs = 3 * 8 + 8 * 6 + 6 * 5
    assert told["macs"] == macs
    assert told["prunable_mac_share_exact"] == pytest.approx((3 * 8 + 8 * 6) / macs)
    assert told["prunable_mac_share_approximate"] == pytest.approx(6 * 5 / macs)
    assert told["prunable_mac_share"] == pytest.approx(1.0)
    parts = ("prunable_parameter_share_exact", "prunable_parameter_share_approximate")
    assert told["prunable_parameter_share"] == pytest.approx(sum(told[part] for part in parts))


def test_half_width_is_what_all_groups_at_half_remove() -> None:
    told = report(Mixed())
    macs = 3 * 8 + 8 * 6 + 6 * 5
    exact = 3 * 4 + 4 * 6 + 6 * 5
    both = 3 * 4 + 4 * 3 + 3 * 5
    assert told["half_width"]["mac_share_exact"] == pytest.approx(1 - exact / macs)
    assert told["half_width"]["mac_share_approximate"] == pytest.approx((exact - both) / macs)


def test_a_group_tells_the_parameters_and_macs_that_its_units_touch() -> None:
    first = report(Mixed())["groups"][0]
    assert (first["name"], first["width"], first["kind"]) == ("exact", 8, "hidden")
    assert first["macs"] == 3 * 8 + 8 * 6
    assert first["parameters"] == 3 * 8 + 8 + 8 * 6


def test_frozen_groups_are_told_by_cause_the_costliest_first() -> None:
    frozen = report(FixedView())["frozen"]
    assert [entry["groups"] for entry in frozen][-1] == ["fc2"]
    assert frozen[-1]["cause"] == "its units are an output of the model"
    assert frozen[-1]["units"] == 5
    shares = [entry["mac_share"] for entry in frozen]
    assert shares == sorted(shares, reverse=True)


def test_a_model_all_of_whose_groups_are_approximate_has_no_exact_share() -> None:
    told = report(Normed())
    assert told["prunable_mac_share_exact"] == told["half_width"]["mac_share_exact"] == 0
    assert told["half_width"]["mac_share_approximate"] > 0.5


def test_a_model_that_multiplies_nothing_has_no_shares_and_no_groups() -> None:
    told = report(nn.PReLU())
    assert (told["parameters"], told["macs"], told["groups"], told["frozen"]) == (1, 0, [], [])
    assert told["prunable_mac_share"] == told["half_width"]["mac_share_exact"] == 0.0


def test_exact_groups_need_no_approximate_share() -> None:
    assert report(InvertedResidual())["prunable_mac_share_approximate"] == 0


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("its units are an output of the model", "its units are an output of the model"),
        ("there is no pruning rule (operator sort in neck.0)", "there is no pruning rule"),
        (
            "unverified: beside a, the pruned model is off by 3.1e-02",
            "unverified: the pruned model is off",
        ),
        (
            "unverified: the model's own forward fails on smaller tensors (RuntimeError: [1, 96])",
            "unverified: the model's own forward fails on smaller tensors",
        ),
    ],
)
def test_the_cause_is_the_reason_without_place_and_numbers(reason: str, cause: str) -> None:
    assert cause_of(reason) == cause
