"""Networks lie channels last where they run so, and contiguous where they do not."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from search.candidates import rounded_candidate
from search.finetuning import Finetune, FinetuneConfig
from search.graph import trace
from search.memory_layout import lay_out


class Flat(nn.Module):
    """Flattens by `view`, which takes contiguous memory alone; (B, C, 8, 8) -> (B, 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        self.head = nn.Linear(4 * 8 * 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.conv(x).relu().view(-1, 4 * 8 * 8))
        return out


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8 * 8, 3)
    )


def test_a_network_that_runs_channels_last_lies_so_and_gives_the_same_numbers() -> None:
    model, inputs = network().train(), torch.randn(5, 2, 8, 8)
    before = model(inputs)
    assert lay_out(model, inputs) is torch.channels_last
    assert next(model.parameters()).is_contiguous(memory_format=torch.channels_last)
    assert model.training
    torch.testing.assert_close(model(inputs), before)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_with_views_stays_contiguous_and_trains(channels: int) -> None:
    student, images = Flat(channels), torch.rand(12, channels, 8, 8)
    assert lay_out(student, images) is torch.contiguous_format
    assert student.conv.weight.is_contiguous()
    before = student.conv.weight.clone()
    labels = torch.arange(12) % 3
    run = Finetune(student, Flat(channels), images, labels, FinetuneConfig(3, batch_size=4))
    assert run.run() == 3
    assert not torch.equal(before, student.conv.weight)


def test_a_network_with_views_is_scored() -> None:
    model, inputs = Flat(3).eval(), torch.rand(4, 3, 8, 8)
    graph = trace(model, (inputs,))
    scored = rounded_candidate(model, graph, graph.dense_plan(), [inputs])
    torch.testing.assert_close(scored(inputs), model(inputs))
    assert model.conv.weight.is_contiguous()


def test_inputs_without_maps_need_no_layout() -> None:
    assert lay_out(nn.Linear(3, 2), torch.rand(4, 3)) is torch.contiguous_format


CHILD = """
import torch
from torch import nn
from search.finetuning import Finetune, FinetuneConfig

def net():
    shortcut = nn.Conv2d(6, 16, 1, stride=2, bias=False)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), shortcut, nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )

torch.set_num_threads(1)
images, labels = torch.randn(256, 1, 28, 28), torch.randint(0, 16, (256,))
Finetune(net(), net(), images, labels, FinetuneConfig(steps=12, batch_size=128)).run()
"""


def test_a_narrow_strided_shortcut_is_trained_without_ending_the_process() -> None:
    ended = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-500:]


@pytest.mark.parametrize(
    ("inputs", "stride", "size", "layout"),
    [
        (7, 2, 1, torch.contiguous_format),
        (8, 2, 1, torch.channels_last),
        (7, 1, 1, torch.channels_last),
        (7, 2, 3, torch.channels_last),
    ],
)
def test_only_what_fails_channels_last_lies_otherwise(
    inputs: int, stride: int, size: int, layout: torch.memory_format
) -> None:
    model = nn.Sequential(nn.Conv2d(inputs, 4, size, stride=stride))
    assert lay_out(model, torch.randn(2, inputs, 8, 8)) is layout
