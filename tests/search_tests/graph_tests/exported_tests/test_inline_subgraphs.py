"""Parts of a forward that run without gradients or autocast are part of the exported graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search import Plan, prune
from search.graph import trace
from search.graph.exported.export import export
from search.graph.exported.nodes import operator_name


class Shifted(nn.Module):
    """A residual branch beside a shift that is computed without gradients."""

    def __init__(self, *, autocast: bool = False) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(4))
        self.first = nn.Linear(4, 4)
        self.branch = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4))
        self.last = nn.Linear(4, 2)
        self._autocast = autocast

    @torch.no_grad()
    def shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._autocast):
            return x.cos(), self.table.sin()

    def forward(self, x: Tensor) -> Tensor:
        moved, table = self.shift(x)
        x = self.first(moved) + table
        x = x + self.branch(x)
        result: Tensor = self.last(x)
        return result


def operators(model: nn.Module) -> list[str]:
    graph = export(model.eval(), (torch.randn(2, 4),)).graph_module.graph
    return [operator_name(node) for node in graph.nodes if node.op == "call_function"][:5]


def test_their_operators_stand_in_line_and_their_values_are_detached() -> None:
    assert operators(Shifted()) == ["cos", "sin", "detach", "detach", "linear"]


def test_a_part_with_autocast_stays_wrapped() -> None:
    assert operators(Shifted(autocast=True))[0] == "wrap_with_autocast"


def test_a_pruned_graph_trains_what_the_dense_model_trains() -> None:
    model, inputs = Shifted(), (torch.randn(2, 4),)
    graph = trace(model, inputs)
    (branch,) = graph.removable
    pruned = prune(model, graph, Plan({**graph.dense_plan().kept, branch.name: ()}))
    model.get_parameter("branch.2.weight").data.zero_()
    model.get_parameter("branch.2.bias").data.zero_()
    assert torch.allclose(pruned(*inputs), model(*inputs))
    pruned(*inputs).sum().backward()
    assert pruned.get_parameter("table").grad is None
    assert pruned.get_parameter("first.weight").grad is not None
