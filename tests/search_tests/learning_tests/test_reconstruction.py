"""Rules of reconstruction: layers that read something else give what they gave before."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from search.candidates import candidate, recalibrated
from search.criteria import best_units, score_channels
from search.graph import PruningGraph, trace
from search.plan import Plan
from search.quantization import graph_form
from search.recalibration import recalibrate
from search.reconstruction import dense_targets, known_targets, reconstruct
from search.surgery import kept_indices
from tests.search_tests.models import InvertedResidual, Normed, Residual

INPUTS = torch.randn(128, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Twins(nn.Module):
    """The second half of the hidden channels is twice the first half; (B, 3, 8, 8) -> (B, 5)."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        is_conv = kind != "linear"
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8) if kind == "norm" else nn.Identity()
        self.second: nn.Module = nn.Linear(8, 5)
        if is_conv:
            self.second = nn.Conv2d(8, 5, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2))
        with torch.no_grad():
            self.first.weight[4:] = 2 * self.first.weight[:4]
            if self.first.bias is not None:
                self.first.bias[4:] = 2 * self.first.bias[:4]

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        x = x.mean((2, 3)) if isinstance(self.second, nn.Linear) else x
        out: Tensor = self.second(x)
        return out if out.ndim == 2 else out.mean((2, 3))


def _half(graph: PruningGraph, kept: Sequence[int] | None = None) -> Plan:
    scores = score_channels(graph.model, graph, "l1")
    widths = {
        group.name: best_units(scores[group.name], group.width // 2, group.required_any_of)
        if group.name in scores
        else tuple(range(group.width))
        for group in graph.groups
    }
    if kept is not None:
        widths["first"] = tuple(kept)
    return Plan(widths)


def _off(model: nn.Module, dense: nn.Module) -> float:
    with torch.no_grad():
        wanted = dense(INPUTS)
        return float((model.eval()(INPUTS) - wanted).square().mean() / wanted.var())


@pytest.mark.parametrize("kind", ["linear", "conv", "norm"])
def test_channels_that_are_sums_of_others_are_not_missed(kind: str) -> None:
    graph = trace(Twins(kind).eval(), (INPUTS[:2],))
    plan = _half(graph, kept=(0, 1, 2, 3))
    pruned = candidate(graph.model, graph, plan)
    before = _off(pruned, graph.model)
    targets = dense_targets(graph.model, INPUTS)
    assert reconstruct(pruned, targets, kept_indices(graph, plan), INPUTS, ridge=1e-6) == 1
    if kind == "norm":
        recalibrate(pruned, [INPUTS])
        dense = copy.deepcopy(graph.model)
        recalibrate(dense, [INPUTS])
        assert _off(pruned, dense) < 1e-3 * before
    else:
        assert _off(pruned, graph.model) < 1e-6 * before


@pytest.mark.parametrize("kind", [Residual, InvertedResidual, Normed])
def test_a_reconstructed_model_is_nearer_to_the_dense_one(kind: type[nn.Module]) -> None:
    torch.manual_seed(1)
    graph = trace(kind().eval(), (INPUTS[:2],))
    plan = _half(graph)
    plain = candidate(graph.model, graph, plan)
    recalibrate(plain, [INPUTS])
    made = recalibrated(candidate(graph.model, graph, plan), graph.model, graph, plan, [INPUTS])
    dense = copy.deepcopy(graph.model)
    recalibrate(dense, [INPUTS])
    assert _off(made, dense) < 0.7 * _off(plain, dense)


def test_a_module_and_its_graph_are_refitted_alike() -> None:
    torch.manual_seed(2)
    graph = trace(Residual().eval(), (INPUTS[:2],))
    plan = _half(graph)
    kept, targets = kept_indices(graph, plan), dense_targets(graph.model, INPUTS)
    module, as_graph = candidate(graph.model, graph, plan), graph_form(graph.model, graph, plan)
    assert reconstruct(module, targets, kept, INPUTS) == reconstruct(
        as_graph, targets, kept, INPUTS
    )
    for name, value in module.state_dict().items():
        torch.testing.assert_close(as_graph.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_the_dense_model_and_what_nothing_was_cut_before_stay_to_the_bit() -> None:
    torch.manual_seed(3)
    graph = trace(Residual().eval(), (INPUTS[:2],))
    before = copy.deepcopy(graph.model.state_dict())
    targets = dense_targets(graph.model, INPUTS)
    same = candidate(graph.model, graph, graph.dense_plan())
    assert reconstruct(same, targets, {}, INPUTS) == 0
    for model in (graph.model, same):
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_layer_that_reads_zeros_and_one_that_runs_twice_stay() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.twice = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
            self.fc = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.twice(self.twice(self.first(x).relu()).relu())
            logits: Tensor = self.fc(0 * x.mean((2, 3)))
            return logits

    graph = trace(Twice().eval(), (INPUTS[:2],))
    targets = dense_targets(graph.model, INPUTS)
    assert set(targets) == {"first.weight", "fc.weight"}
    plan = _half(graph)
    pruned = candidate(graph.model, graph, plan)
    wanted = pruned.get_parameter("fc.weight").clone()
    reconstruct(pruned, targets, kept_indices(graph, plan), INPUTS)
    assert torch.equal(pruned.get_parameter("fc.weight"), wanted)


def test_targets_are_kept_for_the_same_inputs_alone() -> None:
    model = Residual().eval()
    first = known_targets(model, INPUTS)
    assert known_targets(model, INPUTS.clone()) is first
    assert known_targets(model, INPUTS + 1) is not first
