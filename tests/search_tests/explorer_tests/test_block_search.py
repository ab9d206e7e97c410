"""A search with blocks: whole branches go where nothing else makes the model faster."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import pytest
import torch
from torch import Tensor, nn

from search import SearchConfig, SearchResult, run_search, trace
from search.explorer import Explorer, Measured
from search.graph import PruningGraph
from search.recalibration import recalibrate
from search.sensitivity import RATIOS, layer_sensitivity, pruned_loss, sensitivity_plan
from search.skeleton import Skeleton, export_onnx, skeleton, weightless
from tests.search_tests.models import Residual, image

IMAGES = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class ByDepth:
    """Takes as long as there are convolutions, however wide they are."""

    def __call__(self, skeletons: Sequence[Skeleton]) -> list[Measured]:
        return [self.measure(each) for each in skeletons]

    def measure(self, each: Skeleton) -> Measured:
        nodes = onnx.load_from_string(each.onnx_bytes).graph.node
        ratio = sum(node.op_type == "Conv" for node in nodes) / 5
        return Measured(ratio, 0.999 * ratio, 1.001 * ratio, ratio)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = Residual().eval()
    with torch.no_grad():
        net.get_parameter("blocks.1.4.weight").mul_(0.1)  # the second block matters least
    recalibrate(net, [IMAGES])
    return net


@pytest.fixture(scope="module")
def graph(net: nn.Module) -> PruningGraph:
    return trace(net, image())


class DistanceToDense:
    """Mean squared distance of the logits from the dense model's."""

    def __init__(self, dense: nn.Module) -> None:
        self.expected = self._logits(dense)

    def __call__(self, model: nn.Module) -> float:
        return float((self._logits(model) - self.expected).square().mean())

    def _logits(self, model: nn.Module) -> Tensor:
        with torch.no_grad():
            logits: Tensor = model(IMAGES)
        return logits


def search(net: nn.Module, graph: PruningGraph, *, blocks: bool) -> SearchResult:
    config = SearchConfig(0.65, beam_width=1, children=2, levels=2, window=(0.5, 1.0),
                          aim=0.99, staircase_points=1, blocks=blocks)  # fmt: skip
    loss = DistanceToDense(net)
    batches = [(IMAGES, torch.zeros(16))]
    return run_search(net, graph, ByDepth(), batches, config, evaluate=loss, tolerance=1e-6)


def test_a_budget_that_only_depth_can_reach_takes_the_block_that_matters_least(
    net: nn.Module, graph: PruningGraph
) -> None:
    result = search(net, graph, blocks=True)
    assert result.plan is not None
    assert result.model is not None
    assert result.plan.widths["blocks.0"] == 1
    assert result.plan.kept["blocks.1"] == ()
    assert result.ratio == pytest.approx(3 / 5)
    assert skeleton(graph, result.plan) == weightless(export_onnx(result.model, image()))
    assert result.loss == pytest.approx(DistanceToDense(net)(result.model))
    assert result.floors["blocks.1"] == 0
    assert result.staircases["blocks.1"] == {"0": pytest.approx(3 / 5)}
    uniform = [row["widths"] for row in result.tree if row["origin"] == "uniform"]
    assert {(widths["blocks.0"], widths["blocks.1"]) for widths in uniform} == {(1, 1)}
    again = search(net, graph, blocks=True)
    assert again.tree == result.tree
    assert again.plan == result.plan


def test_a_search_that_is_told_so_leaves_blocks_alone(net: nn.Module, graph: PruningGraph) -> None:
    result = search(net, graph, blocks=False)
    assert result.plan is None
    assert result.infeasible is not None
    assert result.sensitivity is not None
    assert result.sensitivity.rises.keys() == {group.name for group in graph.prunable}
    assert all("blocks.0" not in row["widths"] for row in result.tree)


def test_scores_alone_do_not_switch_blocks_on(graph: PruningGraph) -> None:
    scores = {group.name: torch.ones(group.width) for group in graph.searched(blocks=True)}
    off = Explorer(SearchConfig(0.5, blocks=False), graph, scores, {})
    on = Explorer(SearchConfig(0.5), graph, scores, {})
    assert on.root.widths.keys() - off.root.widths.keys() == {"blocks.0", "blocks.1"}
    minimum = [each.plan for each in on.ask() if each.origin == "minimum"]
    assert [plan.kept["blocks.1"] for plan in minimum] == [()]
    again = Explorer.restore(on.state(), graph, scores, {})
    assert again.state() == on.state()


def test_the_sensitivity_of_a_block_reaches_its_whole_rise_at_one(
    net: nn.Module, graph: PruningGraph
) -> None:
    scores = {"blocks.1": torch.ones(1)}
    plan = sensitivity_plan(graph, scores, "blocks.1", 1 / 8)
    assert plan.kept["blocks.1"] == ()
    evaluate = DistanceToDense(net)
    found = layer_sensitivity(net, graph, evaluate, scores=scores, recalibration_batches=[IMAGES])
    assert found.ratios == RATIOS
    dense, whole = (
        pruned_loss(net, graph, each, evaluate, [IMAGES]) for each in (graph.dense_plan(), plan)
    )
    assert found.rises == {"blocks.1": tuple(pytest.approx(r * (whole - dense)) for r in RATIOS)}
