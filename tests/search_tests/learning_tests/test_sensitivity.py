"""Rules of the sensitivities: one group at a time, lowest scores first, against the dense loss."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from search.constraints import Constraints
from search.criteria import score_channels
from search.errors import ConfigError
from search.evaluation import cross_entropy_loss
from search.finetuning import Finetune, FinetuneConfig
from search.graph import PruningGraph, trace
from search.quantization import FORMATS, QuantizedModel, precision_segments
from search.sensitivity import Sensitivity, layer_sensitivity, pruned_loss, sensitivity_plan
from search.skeleton import operators
from tests.search_tests.learning_tests.networks import small_net, striped_images


@pytest.fixture(scope="module")
def graph() -> PruningGraph:
    """A trained network, so that pruning hurts."""
    images, labels = striped_images(240)
    model = small_net(0, width=8)
    config = FinetuneConfig(steps=60, batch_size=32, distillation_weight=0.0, shift=0)
    Finetune(model, copy.deepcopy(model), images, labels, config).run()
    return trace(model, (images[:2],))


@pytest.fixture(scope="module")
def scores(graph: PruningGraph) -> dict[str, Tensor]:
    return score_channels(graph.model, graph, "l1")


def test_a_sensitivity_plan_cuts_one_group_by_lowest_score(
    graph: PruningGraph, scores: dict[str, Tensor]
) -> None:
    plan = sensitivity_plan(graph, scores, "conv", 1 / 4)
    dense = graph.dense_plan()
    assert {name for name in dense.kept if plan.kept[name] != dense.kept[name]} == {"conv"}
    lowest = set(scores["conv"].argsort()[:2].tolist())
    assert set(range(8)) - set(plan.kept["conv"]) == lowest


@pytest.mark.parametrize(("ratio", "kept"), [(0.01, 8), (1 / 8, 7), (0.99, 1)])
def test_the_number_removed_is_rounded_and_one_unit_stays(
    graph: PruningGraph, scores: dict[str, Tensor], ratio: float, kept: int
) -> None:
    assert sensitivity_plan(graph, scores, "conv", ratio).widths["conv"] == kept


def test_sensitivities_are_rises_over_the_recalibrated_dense_loss(
    graph: PruningGraph, scores: dict[str, Tensor]
) -> None:
    images, labels = striped_images(96, seed=1)
    before = copy.deepcopy(graph.model.state_dict())

    def evaluate(model: nn.Module) -> float:
        return cross_entropy_loss(model, [(images, labels)])

    seen: list[tuple[int, int]] = []
    sensitivity = layer_sensitivity(
        graph.model,
        graph,
        evaluate,
        scores=scores,
        ratios=(0.01, 0.5, 7 / 8),
        recalibration_batches=[images],
        progress=lambda done, total: seen.append((done, total)),
    )
    assert sensitivity.rises.keys() == {"conv"}
    nothing, half, most = sensitivity.rises["conv"]
    assert nothing == 0
    assert most > max(half, 0.05)
    half_loss = pruned_loss(
        graph.model, graph, sensitivity_plan(graph, scores, "conv", 0.5), evaluate, [images]
    )
    dense_loss = pruned_loss(graph.model, graph, graph.dense_plan(), evaluate, [images])
    assert half == half_loss - dense_loss
    assert seen == [(1, 1)]
    for name, value in graph.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_small_rise_at_the_largest_ratio_is_not_looked_into(
    graph: PruningGraph, scores: dict[str, Tensor]
) -> None:
    images, _ = striped_images(96, seed=1)
    losses = {8: 1.0, 6: 1.3, 2: 1.2}
    asked: list[int] = []

    def loss_of(model: nn.Module) -> float:
        asked.append(model.get_parameter("conv.weight").shape[0])
        return losses[asked[-1]]

    def rises_of(small: float) -> tuple[float, ...]:
        asked.clear()
        return layer_sensitivity(
            graph.model, graph, loss_of, scores=scores, recalibration_batches=[images],
            ratios=(0.25, 0.75), small=small,
        ).rises["conv"]  # fmt: skip

    assert rises_of(0.21) == pytest.approx((0.2 / 3, 0.2))
    assert asked == [8, 2]
    assert rises_of(0.19) == pytest.approx((0.3, 0.2))
    assert sorted(asked) == [2, 6, 8]


@given(
    st.dictionaries(
        st.text(max_size=5), st.tuples(*[st.floats(-9, 9) | st.just(math.inf)] * 2), max_size=4
    )
)
def test_json_gives_the_same_sensitivities_back(rises: dict[str, tuple[float, float]]) -> None:
    sensitivity = Sensitivity((0.25, 0.5), rises)
    assert Sensitivity.from_json(sensitivity.to_json()) == sensitivity


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[]",
        "{}",
        '{"version":2,"ratios":[0.5],"rises":{}}',
        '{"version":1,"ratios":[0.5],"rises":{"a":[1,2]}}',
        '{"version":1,"ratios":[0.5],"rises":{"a":["x"]}}',
    ],
)
def test_malformed_json_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="must be"):
        Sensitivity.from_json(text)


@pytest.mark.parametrize("ratios", [(), (0.5, 0.25), (0.0, 0.5), (0.5, 1.0)])
def test_ratios_that_are_not_ascending_shares_are_refused(ratios: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"ratios must be ascending in \(0, 1\)"):
        Sensitivity(ratios, {})


def test_a_group_without_scores_is_refused(graph: PruningGraph, scores: dict[str, Tensor]) -> None:
    with pytest.raises(ConfigError, match="scored group of the graph, but got 'fc'"):
        sensitivity_plan(graph, scores, "fc", 0.5)


def test_a_segment_answers_for_the_greater_of_its_rise_alone_and_among_all(
    graph: PruningGraph, scores: dict[str, Tensor]
) -> None:
    segments = precision_segments(graph, operators(graph), Constraints())
    first, second = (frozenset(segment.layers) for segment in segments)
    images, _ = striped_images(96, seed=1)
    losses = {frozenset[str](): 1.0, first: 1.05, second: 1.9, first | second: 2.0}

    def loss_of(model: nn.Module) -> float:
        return losses[model.int8_layers if isinstance(model, QuantizedModel) else frozenset()]

    def rises_of(negligible: float) -> list[float]:
        found = layer_sensitivity(
            graph.model, graph, loss_of, scores={}, recalibration_batches=[images],
            ratios=(0.5,), segments=segments, form=FORMATS["u8s7"], negligible=negligible,
        )  # fmt: skip
        return [found.rises[segment.name][0] for segment in segments]

    assert rises_of(0.99) == pytest.approx([0.1 / 2, 0.95 / 2])  # 2.0 - 1.9, and 2.0 - 1.05
    assert rises_of(1.0) == [0.0, 0.0]  # the rise of all is not told from chance
