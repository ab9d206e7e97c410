"""Rules of recalibration without batch norm: layers get back their dense means and scales."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from search import Plan, prune, trace
from search.errors import ConfigError
from search.recalibration import DenseOrigin, recalibrate, recalibration
from search.surgery import kept_indices
from tests.search_tests.learning_tests.networks import small_net

WIDTHS = (6, 8)


def network(bias: bool = True) -> nn.Sequential:
    """Convolutions and a head, no batch norm; (B, 3, 6, 6) -> (B, 5)."""
    torch.manual_seed(1)
    first, second = WIDTHS
    return nn.Sequential(
        nn.Conv2d(3, first, 3, padding=1, bias=bias), nn.ReLU(),
        nn.Conv2d(first, second, 3, bias=bias), nn.ReLU(),
        nn.Flatten(), nn.Linear(second * 16, 5),
    )  # fmt: skip


def images(count: int = 40) -> Tensor:
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(2))


def pruned(model: nn.Module) -> tuple[nn.Module, DenseOrigin]:
    """The first half of every group, and what it was cut from."""
    graph = trace(model, (images(2),))
    kept = dict(graph.dense_plan().kept)
    kept |= {group.name: tuple(range(group.width // 2)) for group in graph.prunable}
    plan = Plan(kept)
    return prune(model, graph, plan), DenseOrigin(model, kept_indices(graph, plan))


def outputs(model: nn.Module, place: int, batch: Tensor) -> Tensor:
    """Means and standard deviations of a layer's channels, (2, C)."""
    assert isinstance(model, nn.Sequential)
    with torch.no_grad():
        y = model[: place + 1](batch).transpose(0, 1).flatten(1)
    return torch.stack([y.mean(1), y.std(1, unbiased=False)])


@pytest.mark.parametrize(("place", "width"), [(0, 3), (2, 4), (5, 5)])
def test_every_layer_gets_the_mean_and_scale_that_its_channels_had(place: int, width: int) -> None:
    model = network()
    smaller, reference = pruned(model)
    recalibrate(smaller, [images()], reference)
    wanted = outputs(model, place, images())[:, :width]
    torch.testing.assert_close(outputs(smaller, place, images()), wanted, rtol=1e-4, atol=1e-5)


def test_a_layer_without_bias_gets_its_scale_alone() -> None:
    model = network(bias=False)
    smaller, reference = pruned(model)
    recalibrate(smaller, [images()], reference)
    found, wanted = outputs(smaller, 2, images()), outputs(model, 2, images())[:, :4]
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-4, atol=1e-5)
    assert smaller.state_dict().keys() == model.state_dict().keys()


def test_the_outputs_come_closer_to_the_dense_ones() -> None:
    model = network()
    smaller, reference = pruned(model)
    fresh = torch.randn(100, 3, 6, 6)
    before = (smaller(fresh) - model(fresh)).square().mean()
    recalibrate(smaller, [images(), images() + 0.1], reference)
    assert (smaller(fresh) - model(fresh)).square().mean() < before


def test_a_layer_that_nothing_was_cut_from_keeps_its_bits() -> None:
    model = network()
    same = copy.deepcopy(model)
    recalibrate(same, [images(), images(7)], DenseOrigin(model, {}))
    assert all(torch.equal(same.state_dict()[n], t) for n, t in model.state_dict().items())


def test_the_correction_is_deterministic_and_leaves_the_dense_model_alone() -> None:
    model = network().train()
    before = copy.deepcopy(model.state_dict())
    smaller, reference = pruned(model)
    twin = copy.deepcopy(smaller)
    for each in (smaller, twin):
        recalibrate(each, [images(), images(9)], reference)
    assert all(torch.equal(twin.state_dict()[n], t) for n, t in smaller.state_dict().items())
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert model.training
    assert smaller.training


def test_a_channel_that_died_is_not_blown_up() -> None:
    model = network()
    smaller, reference = pruned(model)
    with torch.no_grad():
        smaller.get_parameter("2.weight")[0] = 0
    recalibrate(smaller, [images()], reference)
    assert all(bool(t.isfinite().all()) for t in smaller.state_dict().values())
    assert not smaller.get_parameter("2.weight")[0].any()


def test_models_with_batch_norm_get_its_statistics_and_nothing_else() -> None:
    model = small_net()
    weights = {n: p.clone() for n, p in model.named_parameters()}
    recalibrate(model, [torch.ones(4, 2, 8, 8)], DenseOrigin(small_net(3), {}))
    assert all(torch.equal(p, weights[n]) for n, p in model.named_parameters())
    assert (recalibration(model), recalibration(network())) == ("batch norm", "mean and scale")


def test_the_correction_needs_a_batch() -> None:
    with pytest.raises(ConfigError, match="at least one batch"):
        recalibrate(network(), [], DenseOrigin(network(), {}))
