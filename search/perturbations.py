"""Perturbations of one layer, and how the loss answers: noise, flipped bits, few bits.

After SAfER (Yvinec et al. 2023, arXiv 2308.04753), which asks how sensitive accuracy is to what
happens to one layer alone. The removal of units is `search.sensitivity`.

| symbol | meaning | shape |
|---|---|---|
| w | weight of a layer | (out, …) |
| σ | standard deviation of the noise, as a part of the root mean square of w | |
| p | probability with which each of the bits that may flip does | |
| b | bits of a rounded weight, its sign among them | |
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from search.errors import ConfigError
from search.quantization.rounding import rounded_weight, scale_per_output
from search.sensitivity import Sensitivity, check_ratios
from search.tensors import copy_with

Kind = Literal["noise", "flips", "rounding"]
INT8_BITS, INT8_REACH = 8, 127
FEWER_BITS = (6, 5, 4, 3, 2)
LOW_BITS, HIGH_BITS, ALL_BITS = range(4), range(4, 8), range(8)


@dataclass(frozen=True)
class Perturbation:
    """What is done to the weight of a layer.

    Attributes:
        kind: `noise` adds w's root mean square times σ times a normal number to each value;
            `flips` rounds to int8 per output channel and flips bits of the integers (two's
            complement); `rounding` rounds to b bits per output channel, symmetric.
        amount: σ ≥ 0, p in [0, 1] or b ≥ 2.
        bits: which of the eight bits may flip, 0 the lowest and 7 the sign.

    Raises:
        ConfigError: an amount or bits outside of these.
    """

    kind: Kind
    amount: float
    bits: Sequence[int] = ALL_BITS

    def __post_init__(self) -> None:
        allowed = {
            "noise": self.amount >= 0,
            "flips": 0 <= self.amount <= 1,
            "rounding": self.amount >= 2 and self.amount == int(self.amount),
        }
        if not allowed.get(self.kind, False):
            raise ConfigError(
                "a perturbation must be noise ≥ 0, flips in [0, 1] or rounding to 2 bits or more, "
                f"but got {self.kind!r} {self.amount}"
            )
        if not set(self.bits) <= set(ALL_BITS):
            raise ConfigError(f"bits must be in 0..7, but got {tuple(self.bits)}")

    def of(self, weight: Tensor, seed: int) -> Tensor:
        """The perturbed weight, of the same shape; the given one is not touched.

        Args:
            weight: w.
            seed: of noise and flips; the same gives the same.
        """
        source = torch.Generator().manual_seed(seed)
        value = weight.detach()
        if self.kind == "rounding":
            return rounded_weight(value, 2 ** (int(self.amount) - 1) - 1)
        if self.kind == "flips":
            return _flipped(value, self.amount, self.bits, source)
        deviation = self.amount * value.square().mean().sqrt()
        return value + deviation * torch.randn(value.shape, generator=source).to(value)


def weighted_layers(model: nn.Module) -> tuple[str, ...]:
    """Names of the convolutions and linear layers, in the model's order."""
    return tuple(
        name for name, module in model.named_modules() if isinstance(module, _ConvNd | nn.Linear)
    )


def perturbed(model: nn.Module, layer: str, change: Perturbation, seed: int = 0) -> nn.Module:
    """A copy of the model with the weight of one layer perturbed; biases and norms stay.

    Raises:
        ConfigError: `layer` is none of `weighted_layers`.
    """
    if layer not in weighted_layers(model):
        raise ConfigError(f"layer must be a convolution or a linear layer, but got {layer!r}")
    weight = model.get_submodule(layer).weight
    assert isinstance(weight, Tensor)
    return copy_with(model, {f"{layer}.weight": change.of(weight, seed)})


def layer_rises(
    model: nn.Module,
    evaluate: Callable[[nn.Module], float],
    change: Perturbation,
    *,
    layers: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    time_limit_s: float | None = None,
) -> Mapping[str, float | None]:
    """How the loss rises when one layer alone is perturbed; nothing is recalibrated.

    Args:
        model: not touched.
        evaluate: the loss of a model.
        change: what is done to each layer.
        layers: which; by default all of `weighted_layers`.
        seeds: of noise and flips; the mean over them is told.
        time_limit_s: layers that would begin later are left out.

    Returns:
        layer -> mean rise of the loss over the unperturbed model; None where time was over.
    """
    began, before = time.monotonic(), evaluate(model)
    rises: dict[str, float | None] = {}
    for layer in weighted_layers(model) if layers is None else layers:
        if time_limit_s is not None and time.monotonic() - began > time_limit_s:
            rises[layer] = None
            continue
        rises[layer] = mean(
            evaluate(perturbed(model, layer, change, seed)) - before for seed in seeds
        )
    return rises


def _flipped(weight: Tensor, rate: float, bits: Sequence[int], source: torch.Generator) -> Tensor:
    scale = scale_per_output(weight, INT8_REACH)
    integers = (weight / scale).round().clamp(-INT8_REACH, INT8_REACH).to(torch.int8)
    drawn = torch.rand((INT8_BITS, *weight.shape), generator=source) < rate
    mask = torch.zeros(weight.shape, dtype=torch.uint8)
    for bit in bits:
        mask |= drawn[bit].to(torch.uint8) << bit
    flipped = (integers.view(torch.uint8) ^ mask.to(weight.device)).view(torch.int8)
    return flipped.to(weight.dtype) * scale


def rounding_sensitivity(
    model: nn.Module,
    evaluate: Callable[[nn.Module], float],
    bits: Sequence[int] = FEWER_BITS,
) -> Sensitivity:
    """How the loss rises with a layer's weight in fewer bits, as `layer_floors` takes it.

    The share that is removed is that of eight bits; with a width of eight for every layer and 2
    as the least, `layer_floors` gives the bits that each layer needs.

    Args:
        model: not touched.
        evaluate: the loss of a model.
        bits: descending, each in 2..7.

    Raises:
        ConfigError: other bits.
    """
    ratios = tuple(1 - each / INT8_BITS for each in bits)
    check_ratios(ratios)
    found = [layer_rises(model, evaluate, Perturbation("rounding", each)) for each in bits]
    layers = weighted_layers(model)
    rises = {layer: tuple(float(each[layer] or 0.0) for each in found) for layer in layers}
    return Sensitivity(ratios, rises)
