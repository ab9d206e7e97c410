"""What one call holds at once: values that are alive together, and weights, by hand."""

from __future__ import annotations

import json
import random

import pytest
import torch
from torch import Tensor, nn

from jobs.footprint import Footprint
from search.graph import PruningGraph, trace
from search.graph.verification.comparison import random_plan
from search.plan import Plan
from tests.search_tests.graph_tests.around import conv

SIDE = 4
PIXELS = SIDE * SIDE


class Chain(nn.Module):
    """Two convolutions of 3x3 and a head; the flattened mean is a view."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(3, 12), conv(12, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu())
        out: Tensor = self.head(x.mean((2, 3), keepdim=True).flatten(1))
        return out


class Residual(nn.Module):
    """A value that is needed beside a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 6)
        self.body = nn.Sequential(conv(6, 10), nn.ReLU(), conv(10, 6))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out: Tensor = self.head((x + self.body(x)).mean((2, 3)))
        return out


def traced(model: nn.Module) -> PruningGraph:
    torch.manual_seed(0)
    return trace(model, (torch.randn(2, 3, SIDE, SIDE),))


def values(graph: PruningGraph, plan: Plan, batch_size: int) -> float:
    """The elements that are alive at once, without the weights."""
    return graph.memory_bytes(plan, batch_size) / 4 - graph.parameters(plan)


def kept(graph: PruningGraph, **widths: int) -> Plan:
    units = {group.name: group.width for group in graph.groups} | widths
    return Plan({name: tuple(range(width)) for name, width in units.items()})


def test_two_values_of_the_widest_layer_are_alive_in_a_chain() -> None:
    graph = traced(Chain())
    assert values(graph, graph.dense_plan(), 1) == 2 * 12 * PIXELS  # the convolution and its relu
    assert values(graph, graph.dense_plan(), 8) == 8 * 2 * 12 * PIXELS


def test_it_follows_the_units_that_are_kept() -> None:
    graph = traced(Chain())
    assert values(graph, kept(graph, first=6), 1) == (6 + 8) * PIXELS  # relu and second
    assert values(graph, kept(graph, first=6, second=2), 1) == 2 * 6 * PIXELS


def test_a_shortcut_is_alive_beside_its_branch_and_goes_with_it() -> None:
    graph = traced(Residual())
    assert values(graph, graph.dense_plan(), 1) == (6 + 10 + 10) * PIXELS
    without = {group.name: 0 for group in graph.groups if group.kind == "block"}
    assert without
    # Of the branch nothing is left; the sum is counted, though it is the shortcut itself.
    assert values(graph, kept(graph, **without), 1) == (6 + 6) * PIXELS


@pytest.mark.parametrize("model", [Chain, Residual])
def test_the_report_tells_the_same_without_torch(model: type[nn.Module]) -> None:
    graph = traced(model())
    told = Footprint.of(json.loads(json.dumps(graph.report())))
    assert told is not None
    names = [group.name for group in graph.searched(blocks=True)]
    for seed in range(8):
        chosen = random.Random(seed).sample(names, seed % (len(names) + 1))
        plan = random_plan(graph.groups, chosen, seed)
        widths = [len(plan.kept[group.name]) for group in graph.groups]
        assert told.count(widths) == graph.parameters(plan)
        for batch_size in (1, 3):
            assert told.memory_bytes(widths, batch_size) == graph.memory_bytes(plan, batch_size)
