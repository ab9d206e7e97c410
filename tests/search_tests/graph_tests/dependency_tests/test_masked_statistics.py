"""Where norms and means run over nearly all groups, they count what is gone as zeros."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search import PruningGraph, prune
from search.graph import trace
from search.plan import Plan
from search.skeleton import SkeletonFactory
from tests.search_tests.graph_tests.around import EXACT

Body = Callable[["Network", Tensor], Tensor]


class Network(nn.Module):
    """A layer, a norm over its units, and a layer that reads them; (B, T, 3) -> (B, T, 2)."""

    def __init__(self, body: Body, norm: nn.Module, beside: int = 0) -> None:
        super().__init__()
        self.a, self.norm = nn.Linear(3, 8), norm
        layers = (nn.Linear(8, beside), nn.Linear(beside, 2)) if beside else (nn.Linear(8, 2),)
        self.last = nn.Sequential(*layers)
        self._body = body

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self._body(self, self.a(x)))
        return logits


def response(x: Tensor) -> Tensor:
    """Global response normalisation."""
    power = x.norm(p=2, dim=1, keepdim=True)
    result: Tensor = x + x * (power / (power.mean(-1, keepdim=True) + 1e-6))
    return result


COUNTING: dict[str, tuple[Body, nn.Module]] = {
    "layer norm": (lambda m, x: m.norm(x), nn.LayerNorm(8)),
    "layer norm without gain": (
        lambda m, x: m.norm(x),
        nn.LayerNorm(8, elementwise_affine=False),
    ),
    "rms norm": (lambda m, x: m.norm(F.gelu(x)), nn.RMSNorm(8)),
    "rms norm with an epsilon": (lambda m, x: m.norm(x), nn.RMSNorm(8, eps=0.1)),
    "rms norm by hand": (
        lambda m, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 0.1),
        nn.Identity(),
    ),
    "mean": (lambda m, x: x * (x * 0.5).tanh().mean(-1, keepdim=True), nn.Identity()),
    "mean over tokens, too": (
        lambda m, x: x * x.square().mean((1, 2), keepdim=True),
        nn.Identity(),
    ),
    "global response": (lambda m, x: response(F.gelu(x)), nn.Identity()),
}


def without(graph: PruningGraph, model: nn.Module) -> tuple[Plan, nn.Module]:
    """Half of the units of `a`, and the same model with all that belongs to the others zero."""
    plan = Plan({**graph.dense_plan().kept, "a": (1, 2, 5, 7)})
    gone = [0, 3, 4, 6]
    for layer in (model.get_submodule("a"), model.get_submodule("norm")):
        for parameter in layer.parameters():
            parameter.data[gone] = 0.0
    model.get_parameter("last.0.weight").data[:, gone] = 0.0
    return plan, model


@pytest.mark.parametrize("name", COUNTING)
def test_the_pruned_graph_is_the_dense_model_with_units_of_zeros(name: str) -> None:
    torch.manual_seed(0)
    model, x = Network(*COUNTING[name]).double(), torch.randn(2, 5, 3, dtype=torch.float64)
    graph = trace(model, (x,))
    group = next(group for group in graph.groups if group.name == "a")
    assert (group.status, group.form, group.reason) == ("prunable", "graph", "")
    plan, zeroed = without(graph, model)
    pruned = prune(model, graph, plan)
    assert pruned.get_parameter("a.weight").shape == (4, 3)
    torch.testing.assert_close(pruned(x), zeroed(x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", COUNTING)
def test_with_enough_to_cut_exactly_they_count_what_is_left(name: str) -> None:
    graph = trace(Network(*COUNTING[name], beside=EXACT), (torch.randn(2, 5, 3),))
    statuses = {group.name: group.status for group in graph.groups}
    assert statuses == {"a": "approximate", "last.0": "prunable", "last.1": "frozen"}


MIXING: dict[str, Body] = {
    "a variance": lambda m, x: x * x.var(-1, keepdim=True),
    "a mean of what is not zero": lambda m, x: x * x.sigmoid().mean(-1, keepdim=True),
    "a layer norm by hand": lambda m, x: (x - x.mean(-1, keepdim=True)) * torch.rsqrt(
        (x - x.mean(-1, keepdim=True)).pow(2).mean(-1, keepdim=True) + 0.1
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXING)
def test_statistics_of_other_values_stay_approximate(name: str) -> None:
    graph = trace(Network(MIXING[name], nn.Identity()), (torch.randn(2, 5, 3),))
    assert [group.status for group in graph.groups if group.name == "a"] == ["approximate"]


def test_all_plans_have_the_same_operators() -> None:
    graph = trace(Network(*COUNTING["layer norm"]), (torch.randn(2, 5, 3),))
    factory = SkeletonFactory(graph)
    factory.derive(Plan({**graph.dense_plan().kept, "a": (1, 2, 5)}))
    assert factory.problem is None
