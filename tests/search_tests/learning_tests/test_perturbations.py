"""Perturbations of one layer against numbers that are computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from search.errors import ConfigError
from search.perturbations import (
    HIGH_BITS,
    LOW_BITS,
    Perturbation,
    layer_rises,
    perturbed,
    rounding_sensitivity,
    weighted_layers,
)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


WEIGHT = torch.tensor([[1.27, -0.5, 0.02], [0.0, -2.54, 2.0]])


def test_noise_is_as_large_as_it_says_and_seeded() -> None:
    weight = torch.randn(200, 100, generator=torch.Generator().manual_seed(1)) * 3
    noisy = Perturbation("noise", 0.1)
    change = noisy.of(weight, 0) - weight
    rms = weight.square().mean().sqrt()
    assert float(change.square().mean().sqrt() / rms) == pytest.approx(0.1, rel=0.02)
    assert torch.equal(noisy.of(weight, 0), noisy.of(weight, 0))
    assert not torch.equal(noisy.of(weight, 0), noisy.of(weight, 1))
    assert torch.equal(Perturbation("noise", 0).of(weight, 0), weight)


def test_rounding_takes_the_nearest_of_the_levels_of_each_output_channel() -> None:
    found = Perturbation("rounding", 2).of(WEIGHT, 0)
    assert torch.allclose(found, torch.tensor([[1.27, 0.0, 0.0], [0.0, -2.54, 2.54]]))
    three = Perturbation("rounding", 3).of(WEIGHT, 0)  # levels at thirds of the largest
    assert torch.allclose(
        three, torch.tensor([[1.27, -1.27 / 3, 0.0], [0.0, -2.54, 2 * 2.54 / 3]])
    )


def integers(weight: Tensor) -> list[list[int]]:
    scale = torch.tensor([[0.01], [0.02]])
    return [[round(value) for value in row] for row in (weight / scale).tolist()]


def test_a_bit_that_flips_changes_its_integer_by_its_worth() -> None:
    before = [[127, -50, 2], [0, -127, 100]]
    assert integers(Perturbation("flips", 0.0).of(WEIGHT, 0)) == before
    for bit, worth in ((0, 1), (3, 8), (6, 64), (7, 128)):
        after = integers(Perturbation("flips", 1.0, [bit]).of(WEIGHT, 0))
        differences = [
            abs(a - b)
            for row, other in zip(after, before, strict=True)
            for a, b in zip(row, other, strict=True)
        ]
        assert differences == [worth] * 6
    every = integers(Perturbation("flips", 1.0).of(WEIGHT, 0))  # two's complement: -1 - q
    assert every == [[-1 - q for q in row] for row in before]


def test_as_many_bits_flip_as_the_rate_says() -> None:
    weight = torch.randn(100, 100, generator=torch.Generator().manual_seed(1))
    weight[:, 0] = 127.0  # the scale is 1 in every channel
    plain = Perturbation("flips", 0.0).of(weight, 0).to(torch.int8)
    flipped = Perturbation("flips", 0.05, LOW_BITS).of(weight, 3).to(torch.int8)
    bits = (plain.view(torch.uint8) ^ flipped.view(torch.uint8)).to(torch.int64)
    counted = sum(int((bits >> bit & 1).sum()) for bit in LOW_BITS)
    assert all(int((bits >> bit & 1).sum()) == 0 for bit in HIGH_BITS)
    expected, deviation = 40_000 * 0.05, math.sqrt(40_000 * 0.05 * 0.95)
    assert abs(counted - expected) < 4 * deviation


def test_one_layer_of_a_copy_is_changed() -> None:
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert weighted_layers(model) == ("0", "3")
    changed = perturbed(model, "3", Perturbation("rounding", 2)).state_dict()
    assert [n for n in before if not torch.equal(before[n], changed[n])] == ["3.weight"]
    assert all(torch.equal(before[n], value) for n, value in model.state_dict().items())


def test_rises_are_means_over_seeds_over_the_loss_before() -> None:
    model, change = net(), Perturbation("noise", 0.5)

    def evaluate(given: nn.Module) -> float:
        return float(sum(p.detach().double().square().sum() for p in given.parameters()))

    rises = layer_rises(model, evaluate, change, layers=["3"], seeds=(0, 1))
    both = [evaluate(perturbed(model, "3", change, seed)) for seed in (0, 1)]
    assert rises == {"3": pytest.approx(sum(both) / 2 - evaluate(model))}


def test_rounding_gives_the_sensitivities_of_bits() -> None:
    model = net()

    def evaluate(given: nn.Module) -> float:
        return float(sum(p.detach().double().square().sum() for p in given.parameters()))

    found = rounding_sensitivity(model, evaluate, bits=(4, 2))
    assert found.ratios == (0.5, 0.75)
    coarse = evaluate(perturbed(model, "0", Perturbation("rounding", 2))) - evaluate(model)
    assert found.rises["0"][1] == coarse
    assert found.rises.keys() == {"0", "3"}
    with pytest.raises(ConfigError, match="ratios must be ascending"):
        rounding_sensitivity(model, evaluate, bits=(2, 4))


def test_layers_beyond_the_time_have_no_number() -> None:
    found = layer_rises(net(), lambda _: 1.0, Perturbation("rounding", 4), time_limit_s=-1.0)
    assert found == {"0": None, "3": None}


@pytest.mark.parametrize(
    ("kind", "amount"),
    [("noise", -1), ("noise", math.nan), ("flips", 1.1), ("rounding", 1), ("rounding", 2.5)],
)
def test_amounts_that_mean_nothing_are_refused(kind: str, amount: float) -> None:
    with pytest.raises(ConfigError, match="a perturbation must be"):
        Perturbation(kind, amount)  # type: ignore[arg-type]


def test_bits_and_layers_that_there_are_not_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"bits must be in 0\.\.7"):
        Perturbation("flips", 0.1, [8])
    with pytest.raises(ConfigError, match="layer must be a convolution or a linear layer"):
        perturbed(net(), "1", Perturbation("noise", 0.1))
