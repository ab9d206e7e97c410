"""What is said of a pruned model whose outputs differ somewhere else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.coverage.checks import (
    ONNX_TOLERANCE,
    CheckFailed,
    rounding_error,
    run_batches,
)


class Ranking(nn.Module):
    """The places of scores, of which two are equal but for rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.tensor([1.0, 1.0, 0.5]))

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.tensor([0.0, 1e-9, 0.0], dtype=x.dtype)
        return (self.scores + steps + 0 * x).argsort(descending=True)


class Selecting(nn.Module):
    """As many values as are above a threshold, or always as many."""

    def __init__(self, threshold: float, *, always: bool = False) -> None:
        super().__init__()
        self._threshold, self._always = threshold, always

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :2] if self._always else x[x > self._threshold]


def test_sizes_that_hang_on_values_may_differ() -> None:
    values = torch.linspace(-1, 1, 20).view(1, 20)
    notes = run_batches(Selecting(0.5), Selecting(-0.5), (values,))
    assert notes == ["the shapes of the outputs hang on the values of the inputs"]


def test_other_sizes_may_not() -> None:
    with pytest.raises(CheckFailed, match="other shapes"):
        run_batches(Selecting(0.5), Selecting(0.0, always=True), (torch.ones(1, 3),))


def test_an_order_of_near_ties_hangs_on_rounding() -> None:
    assert rounding_error(Ranking(), (torch.zeros(3),)) > ONNX_TOLERANCE


def test_a_layer_does_not() -> None:
    assert rounding_error(nn.Linear(4, 3), (torch.randn(2, 4),)) < 1e-5
