"""Models that the benchmark's tests name as `python:` functions."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

HERE = "python:tests.benchmarks_tests.nets"


def chain() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Two convolutions with a batch norm, and a classifier."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 4),
    )
    return model, (torch.randn(1, 3, 12, 12),)


def mixer() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A layer norm runs over the units of the first layer: they are approximate."""
    model = nn.Sequential(
        nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 10), nn.GELU(), nn.Linear(10, 3)
    )
    return model, (torch.randn(1, 5, 6),)


def reader() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A recurrent layer reads units that a layer norm runs over, and nothing else can be cut."""
    layers = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.LSTM(16, 5, batch_first=True))
    return layers, (torch.randn(1, 7, 6),)


def normalised() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A weight norm runs over the units of the first layer."""
    second = nn.utils.parametrizations.weight_norm(nn.Linear(8, 16))
    return nn.Sequential(nn.Linear(6, 8), second, nn.Linear(16, 3)), (torch.randn(1, 6),)


class Standardised(nn.Conv2d):
    """A convolution that standardises its weights first."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.flatten(1)[None]
        weight = nn.functional.batch_norm(rows, None, None, training=True, eps=1e-6)
        out: Tensor = self._conv_forward(x, weight.view_as(self.weight), self.bias)
        return out


def standardised() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Weights are standardised, and a layer norm runs over the units of the last of them."""
    model = nn.Sequential(
        Standardised(3, 8, 3),
        nn.ReLU(),
        Standardised(8, 12, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.LayerNorm(12),
        nn.Linear(12, 9),
        nn.ReLU(),
        nn.Linear(9, 4),
    )
    return model, (torch.randn(1, 3, 9, 9),)


def single() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Nothing in it can be cut."""
    return nn.Linear(4, 3), (torch.randn(1, 4),)


def endless() -> nn.Module:
    """Never returns."""
    while True:
        time.sleep(1)


def lyric() -> str:
    """No module."""
    return "la la la"
