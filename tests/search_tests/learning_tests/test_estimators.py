"""Estimates of sensitivities on a linear network, where each is known in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from search.criteria import score_channels
from search.errors import ConfigError
from search.estimators import (
    ESTIMATORS,
    Estimator,
    estimated_layers,
    estimated_sensitivity,
    filled_in,
)
from search.graph import PruningGraph, trace
from search.objectives import CLASSIFICATION
from search.sensitivity import Sensitivity, sensitivity_plan

IMAGES = torch.randn(16, 6, generator=torch.Generator().manual_seed(3))
LABELS = torch.arange(16) % 3
BATCHES = [(IMAGES[:8], LABELS[:8]), (IMAGES[8:], LABELS[8:])]


@pytest.fixture(scope="module")
def graph() -> PruningGraph:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)).eval()
    return trace(model, (IMAGES[:2],))


@pytest.fixture(scope="module")
def scores(graph: PruningGraph) -> dict[str, Tensor]:
    return score_channels(graph.model, graph, "l1")


def estimate(graph: PruningGraph, scores: dict[str, Tensor], name: Estimator) -> float:
    found = estimated_sensitivity(
        graph.model,
        graph,
        name,
        BATCHES,
        scores=scores,
        ratios=(0.5,),
    )
    assert found.rises.keys() == {"0"}
    return found.rises["0"][0]


def removed(graph: PruningGraph, scores: dict[str, Tensor]) -> list[int]:
    kept = sensitivity_plan(graph, scores, "0", 0.5).kept["0"]
    return sorted(set(range(8)) - set(kept))


def weights(graph: PruningGraph) -> tuple[Tensor, Tensor]:
    reader, hidden = graph.model.get_parameter("1.weight"), graph.model.get_submodule("0")
    return reader.detach(), hidden(IMAGES).detach()


def test_norms_and_shares_are_those_of_the_columns_that_go(
    graph: PruningGraph, scores: dict[str, Tensor]
) -> None:
    (weight, hidden), gone = weights(graph), removed(graph, scores)
    assert len(gone) == 4
    of_weight = float(weight[:, gone].norm())
    energy = hidden.square().mean(0)
    assert estimate(graph, scores, "weight norm") == pytest.approx(of_weight)
    assert estimate(graph, scores, "weight share") == pytest.approx(
        (of_weight / float(weight.norm())) ** 2
    )
    assert estimate(graph, scores, "activation norm") == pytest.approx(
        float(energy[gone].sum()) ** 0.5
    )
    assert estimate(graph, scores, "activation share") == pytest.approx(
        float(energy[gone].sum() / energy.sum())
    )


def loss_and_gradient(graph: PruningGraph, weight: Tensor, part: slice) -> tuple[float, Tensor]:
    leaf, bias = weight.clone().requires_grad_(), graph.model.get_parameter("1.bias").detach()
    logits = weights(graph)[1][part] @ leaf.T + bias
    loss = nn.functional.cross_entropy(logits, LABELS[part])
    return float(loss.detach()), torch.autograd.grad(loss, leaf)[0]


def test_the_gradient_estimate_is_the_mean_over_parts_of_products(
    graph: PruningGraph, scores: dict[str, Tensor]
) -> None:
    (weight, _), gone = weights(graph), removed(graph, scores)
    parts = [
        float((weight * loss_and_gradient(graph, weight, part)[1]).abs()[:, gone].sum())
        for part in (slice(0, 8), slice(8, 16))
    ]
    assert estimate(graph, scores, "gradient") == pytest.approx(sum(parts) / 2, rel=1e-5)


def test_integrated_gradients_give_the_change_of_the_loss(
    graph: PruningGraph, scores: dict[str, Tensor]
) -> None:
    weight, every = weights(graph)[0], slice(0, 16)
    left = weight.clone()
    left[:, removed(graph, scores)] = 0
    change = loss_and_gradient(graph, left, every)[0] - loss_and_gradient(graph, weight, every)[0]
    assert estimate(graph, scores, "integrated gradients") == pytest.approx(change, rel=0.02)


def test_layers_are_told_by_their_whole_weight(graph: PruningGraph) -> None:
    weight, hidden = weights(graph)
    norms = estimated_layers(graph.model, "weight norm", ())
    assert norms == {
        "0": pytest.approx(float(graph.model.get_parameter("0.weight").detach().norm())),
        "1": pytest.approx(float(weight.norm())),
    }
    energies = estimated_layers(graph.model, "activation norm", BATCHES)
    assert energies["1"] == pytest.approx(float(hidden.square().mean(0).sum()) ** 0.5)


def test_a_convolution_is_seen_by_its_input_channels() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(4 * 4, 2)).eval()
    images = torch.randn(6, 4, 4, 4)
    found = estimated_layers(model, "activation norm", [(images, torch.zeros(6).long())])
    energy = images.square().mean((0, 2, 3)).sum()
    assert found["0"] == pytest.approx(float(energy) ** 0.5, rel=1e-5)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_no_estimate_touches_the_model(
    graph: PruningGraph, scores: dict[str, Tensor], name: Estimator
) -> None:
    before = {key: value.clone() for key, value in graph.model.state_dict().items()}
    estimate(graph, scores, name)
    for key, value in graph.model.state_dict().items():
        assert torch.equal(value, before[key])
    assert not any(module._forward_pre_hooks for module in graph.model.modules())
    assert all(p.grad is None for p in graph.model.parameters())


@pytest.mark.parametrize("name", [n for n in ESTIMATORS if not n.startswith("weight")])
def test_estimates_that_look_at_images_need_some(
    graph: PruningGraph, scores: dict[str, Tensor], name: Estimator
) -> None:
    with pytest.raises(ConfigError, match="at least one batch"):
        estimated_sensitivity(
            graph.model,
            graph,
            name,
            (),
            scores=scores,
            objective=CLASSIFICATION,
        )


def test_an_unknown_estimator_is_refused(graph: PruningGraph, scores: dict[str, Tensor]) -> None:
    with pytest.raises(ConfigError, match="estimator must be one of"):
        estimate(graph, scores, "guess")  # type: ignore[arg-type]


def test_what_was_not_measured_has_the_shape_of_the_estimate() -> None:
    ratios = (0.125, 0.25, 0.5, 0.75)
    shape = Sensitivity(ratios, {"a": (1.0, 2.0, 8.0, 20.0), "flat": (0.0, 0.0, 1.0, 2.0)})
    known = Sensitivity((0.25, 0.75), {"a": (0.2, 4.0), "flat": (0.5, 1.5), "new": (0.5, 1.5)})
    found = filled_in(known, shape)
    assert found.ratios == ratios
    # factors 0.1 at 1/4 and 0.2 at 3/4: 0.1 before, 0.15 at the half
    assert found.rises["a"] == pytest.approx((0.1, 0.2, 1.2, 4.0))
    assert found.rises["flat"] == pytest.approx((0.25, 0.5, 1.0, 1.5))
    assert found.rises["new"] == found.rises["flat"]
