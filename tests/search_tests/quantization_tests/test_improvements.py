"""Ranges without data, scales per channel, corrected biases and adapted rounding."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from search.errors import QuantizationError
from search.graph import PruningGraph, trace
from search.quantization import FORMATS, QuantizedModel, graph_form, quantizable_layers
from search.quantization.channel_scales import LEAST, links, scale_channels
from search.quantization.corrections import adapt_rounding, correct_biases, float_outputs
from search.quantization.norm_statistics import ranges_from_norms
from search.quantization.torch_graph import TorchGraph
from tests.search_tests.models import InvertedResidual, Residual

FORM = FORMATS["u8s7"]
INPUTS = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(5))


class Uneven(nn.Module):
    """Channels of very different size between two layers; (B, 3, 8, 8) -> (B, 5)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second, self.third = nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 6, 1)
        self.fc = nn.Linear(6, 5)
        with torch.no_grad():
            size = torch.tensor([1.0, 100.0, 0.1, 1.0, 10.0, 0.01, 5.0, 0.5])
            self.norm.weight.copy_(size)
            self.norm.bias.copy_(size * 0.2)
            self.second.weight.div_(
                size.reshape(2, 1, 4, 1, 1).expand(-1, 4, -1, 1, 1).reshape(8, 4, 1, 1)
            )

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        x = self.third(self.second(x).sigmoid()).relu().mean((2, 3))
        logits: Tensor = self.fc(x)
        return logits


def _traced(model: nn.Module) -> PruningGraph:
    model.train()
    with torch.no_grad():
        for _ in range(30):
            model(INPUTS)  # statistics that are those of the inputs
    return trace(model.eval(), (INPUTS[:2],))


@cache
def _of(kind: Callable[[], nn.Module]) -> PruningGraph:
    """Traced once for all tests: none of them changes its model."""
    torch.manual_seed(0)
    return _traced(kind())


def _rounded(graph: PruningGraph) -> QuantizedModel:
    pruned = graph_form(graph.model, graph, graph.dense_plan())
    return QuantizedModel(pruned, quantizable_layers(pruned), FORM).eval()


def _off(graph: PruningGraph, model: nn.Module) -> float:
    """Mean squared distance to the float model."""
    with torch.no_grad():
        return float((model(INPUTS) - graph.model(INPUTS)).square().mean())


def test_scaled_channels_compute_the_same_and_round_with_less_error() -> None:
    graph = _traced(Uneven())
    plain, scaled = _rounded(graph), graph_form(graph.model, graph, graph.dense_plan())
    made = scale_channels(scaled, [INPUTS])
    assert list(made) == ["second"]  # a sigmoid and a mean lie before the others
    assert float(made["second"].max()) == 1.0
    assert float(made["second"].min()) == LEAST  # a channel of 0.01 beside one of 100
    with torch.no_grad():
        torch.testing.assert_close(scaled(INPUTS), graph.model(INPUTS), rtol=1e-4, atol=1e-5)
    model = QuantizedModel(scaled, quantizable_layers(scaled), FORM).eval()
    plain.observe([INPUTS])
    model.observe([INPUTS])
    assert _off(graph, model) < 0.5 * _off(graph, plain)


def test_what_several_read_or_cut_at_six_is_not_scaled() -> None:
    residual, inverted = _of(Residual), _of(InvertedResidual)
    for graph in (residual, inverted):
        pruned = graph_form(graph.model, graph, graph.dense_plan())
        view = TorchGraph(pruned)
        for link in links(view):
            assert len((link.before.norm or link.before.node).users) == 1
            between = link.before.norm or link.before.node
            (reader,) = between.users
            assert not isinstance(view.module(reader), nn.ReLU6)


def test_corrected_biases_bring_the_means_back() -> None:
    graph = _of(Residual)
    pruned = graph_form(graph.model, graph, graph.dense_plan())
    layers = quantizable_layers(pruned)
    wanted = float_outputs(pruned, layers, [INPUTS])
    model = QuantizedModel(pruned, layers, FORM).eval()
    model.observe([INPUTS])
    with torch.no_grad():
        before = (model(INPUTS) - graph.model(INPUTS)).mean(0).abs().max()
        assert correct_biases(model, wanted, [INPUTS]) == len(layers)
        after = (model(INPUTS) - graph.model(INPUTS)).mean(0).abs().max()
    assert after < 0.2 * before


def test_an_operator_in_place_does_not_change_what_is_wanted() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(inplace=True), nn.Conv2d(8, 4, 3)
    )
    graph = _traced(model)
    pruned = graph_form(graph.model, graph, graph.dense_plan())
    wanted = float_outputs(pruned, quantizable_layers(pruned), [INPUTS])
    with torch.no_grad():
        torch.testing.assert_close(wanted["0"], model[:2](INPUTS))
    assert float(wanted["0"].min()) < 0


def test_adapted_rounding_is_nearer_and_stays_when_rounded_again() -> None:
    graph = _of(Residual)
    pruned = graph_form(graph.model, graph, graph.dense_plan())
    layers = quantizable_layers(pruned)
    wanted = float_outputs(pruned, layers, [INPUTS])
    plain, model = _rounded(graph), QuantizedModel(pruned, layers, FORM).eval()
    plain.observe([INPUTS])
    model.observe([INPUTS])
    assert adapt_rounding(model, wanted, [INPUTS], steps=100) == len(layers)
    assert _off(graph, model) < _off(graph, plain)
    again = QuantizedModel(
        graph_form(graph.model, graph, graph.dense_plan(), pruned=None), layers, FORM
    ).eval()
    again.float_graph.load_state_dict(model.float_tensors(), strict=False)
    again.fix(model.ranges)
    with torch.no_grad():
        torch.testing.assert_close(again(INPUTS), model(INPUTS))


@pytest.mark.parametrize("kind", [Residual, InvertedResidual])
def test_ranges_from_norms_cover_what_is_seen(kind: Callable[[], nn.Module]) -> None:
    graph = _of(kind)
    model = _rounded(graph)
    model.observe([INPUTS], "minmax")
    seen = dict(model.ranges)
    low, high = float(INPUTS.min()), float(INPUTS.max())
    told = ranges_from_norms(
        graph_form(graph.model, graph, graph.dense_plan()), model.int8_layers, inputs=(low, high)
    )
    assert told.keys() == seen.keys()
    for key, (least, most) in seen.items():
        width = most - least
        assert told[key][0] <= least + 0.1 * width, key
        assert told[key][1] >= most - 0.1 * width, key
        if not key.endswith(("in:fc", "head.1", "squeeze", "excite")):  # of means over positions
            assert told[key][1] - told[key][0] <= 8 * width, key
    model.fix(told)
    with torch.no_grad():
        spread = graph.model(INPUTS).max() - graph.model(INPUTS).min()
    assert _off(graph, model) < (0.1 * spread) ** 2


def test_no_example_is_refused() -> None:
    graph = _of(Residual)
    pruned = graph_form(graph.model, graph, graph.dense_plan())
    with pytest.raises(QuantizationError, match="at least one example"):
        scale_channels(pruned, [])


def test_norms_bound_what_comes_up_once_in_a_while() -> None:
    graph = _of(Residual)
    model = _rounded(graph)
    rare = INPUTS.clone()
    rare[0] *= 60
    model.observe([INPUTS], "minmax")
    usual = dict(model.ranges)
    model.observe([rare], "minmax")
    widened = dict(model.ranges)
    model.observe([rare])
    bounded = [key for key in usual if model.ranges[key][1] < 0.5 * widened[key][1]]
    assert len(bounded) >= 2
    for key in bounded:  # six deviations hold what usually comes up
        assert model.ranges[key][1] >= 0.9 * usual[key][1]
    inputs = next(key for key in usual if key.startswith("in:"))
    assert model.ranges[inputs] == widened[inputs]  # no norm says anything of the inputs
