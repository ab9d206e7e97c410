"""Rounding in torch, as an int8 runtime rounds; gradients pass as if nothing was rounded.

| symbol | meaning |
|---|---|
| W' | the weight with the batch norm behind it folded in, by its running statistics |
| g | gain of a batch norm, γ / √(σ² + ε) |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm  # private: BatchNorm1d to 3d, SyncBatchNorm
from torch.nn.modules.conv import _ConvNd

from search.quantization.formats import Format
from search.quantization.ranges import Observer
from search.quantization.scales import LEAST_SCALE, affine

FOLLOWED = 0.05  # the part of its distance that a range moves to that of a batch


class RoundedValue(nn.Module):
    """Rounds an activation within a range. In training the range follows the batches; gradients
    pass where the value lies within it.

    Attributes:
        low: the least value that is not cut, high: the greatest; part of the state.
        observer: gets every value while it is there, and nothing is rounded then.
    """

    low: Tensor
    high: Tensor

    def __init__(self, form: Format) -> None:
        super().__init__()
        self._kind = form.activation
        self.observer: Observer | None = None
        self.register_buffer("low", torch.tensor(0.0))
        self.register_buffer("high", torch.tensor(1.0))

    def fix(self, low: float, high: float) -> None:
        """Round values between `low` and `high` from now on.

        Raises:
            QuantizationError: the range is not finite.
        """
        affine(low, high, self._kind)
        self.low.fill_(low)
        self.high.fill_(high)
        self.observer = None

    def forward(self, value: Tensor) -> Tensor:
        if self.observer is not None:
            self.observer.see(value)
            return value
        if self.training:
            self._follow(value)
        found = affine(float(self.low), float(self.high), self._kind)
        low, high = self._kind.low - found.zero, self._kind.high - found.zero
        rounded: Tensor = _Rounding.apply(value.float(), found.scale, low, high)  # type: ignore[no-untyped-call]
        return rounded.to(value.dtype)

    def _follow(self, value: Tensor) -> None:
        """By amin and amax: aminmax copies a value that lies channels last."""
        with torch.no_grad():
            self.low.lerp_(value.amin().float(), FOLLOWED)
            self.high.lerp_(value.amax().float(), FOLLOWED)


class _Rounding(torch.autograd.Function):
    """s · min(max(round(x / s), low), high), which is what `fake_quantize_per_tensor_affine` gives
    to the bit, in a fifth of its time; so is the gradient, in half of it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, scale: float, low: int, high: int) -> Tensor:
        ctx.save_for_backward(value)
        ctx.within = (low - 0.5) * scale, (high + 0.5) * scale
        inverse = float(np.float32(1.0) / np.float32(scale))
        return (value * inverse).round_().clamp_(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (value,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, value, *ctx.within), None, None, None


@dataclass(frozen=True)
class Folded:
    """A convolution or linear layer with the batch norms beside it folded in.

    Attributes:
        layer: of torch.nn.
        weight: W'.
        bias: with the norms' shifts; None where there is none of all.
        gain: what W' is the layer's own weight times, in a shape that goes along with it; None
            without norms that have statistics.
    """

    layer: nn.Module
    weight: Tensor
    bias: Tensor | None
    gain: Tensor | None

    @classmethod
    def of(
        cls, layer: nn.Module, norm: nn.Module | None, ahead: nn.Module | None = None
    ) -> Folded:
        """By the running statistics of the norm behind the layer, and of that before it."""
        assert isinstance(layer, _ConvNd | nn.Linear)
        weight, bias, gain = layer.weight, layer.bias, None
        if (before := _affine(ahead)) is not None:
            gain, shift = (by_input(layer, values) for values in before)
            moved = (weight * shift).flatten(1).sum(1)
            weight, bias = weight * gain, moved if bias is None else bias + moved
        if (behind := _affine(norm)) is not None:
            scale = _along(behind[0], weight)
            weight, gain = weight * scale, scale if gain is None else gain * scale
            bias = behind[1] if bias is None else behind[0] * bias + behind[1]
        return cls(layer, weight, bias, gain)

    def unfolded(self, weight: Tensor) -> Tensor:
        """The layer's own weight, of a folded one; what has no gain takes it as it is."""
        if self.gain is None:
            return weight
        safe = torch.where(self.gain == 0, torch.ones_like(self.gain), self.gain)
        return weight / safe.detach()

    def scale(self, reach: int) -> Tensor:
        """Of W', one per output channel, in a shape that goes along with it."""
        return scale_per_output(self.weight, reach)

    def computed(self, value: Tensor, weight: Tensor) -> Tensor:
        """The outputs with another W'."""
        return _computed(self.layer, value, weight, self.bias)


def rounded_layer(
    layer: nn.Module,
    norm: nn.Module | None,
    reach: int,
    value: Tensor,
    ahead: nn.Module | None = None,
) -> Tensor:
    """A convolution or linear layer with a rounded weight, and the batch norms beside it.

    In training norms take their batch's statistics, as they always do, and what is rounded is
    W' all the same, by the running statistics.

    Args:
        layer: of torch.nn.
        norm: the batch norm behind the layer that is folded into it; None where there is none.
        reach: the greatest integer of a weight; there are as many below zero.
        value: the layer's input, rounded; with `ahead`, that norm's.
        ahead: the batch norm before the layer that is folded into it.
    """
    folded = Folded.of(layer, norm, ahead)
    rounded = rounded_weight(folded.weight, reach)
    if folded.gain is None or not any(each and each.training for each in (norm, ahead)):
        return folded.computed(value, rounded)
    own_bias = layer.bias
    assert own_bias is None or isinstance(own_bias, Tensor)
    value = value if ahead is None else _normed(ahead, value)
    out = _computed(layer, value, folded.unfolded(rounded), own_bias)
    return out if norm is None else _normed(norm, out)


def _normed(norm: nn.Module, value: Tensor) -> Tensor:
    """A batch norm alone: classes of libraries put an activation behind it in their forward."""
    assert isinstance(norm, _BatchNorm)
    return _BatchNorm.forward(norm, value)


def _affine(norm: nn.Module | None) -> tuple[Tensor, Tensor] | None:
    """Gain and shift of a batch norm by its running statistics, (channels,) each."""
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.running_var is None:
        return None
    gain = torch.rsqrt(norm.running_var + norm.eps)
    gain = gain if norm.weight is None else norm.weight * gain
    shift = -norm.running_mean * gain
    return gain, shift if norm.bias is None else shift + norm.bias


def by_input(layer: _ConvNd | nn.Linear, values: Tensor) -> Tensor:
    """One number per input channel, in a shape that goes along with the weight."""
    outputs, inputs = layer.weight.shape[:2]
    groups = layer.groups if isinstance(layer, _ConvNd) else 1
    each = values.reshape(groups, 1, inputs).expand(-1, outputs // groups, -1)
    return each.reshape(outputs, inputs, *[1] * (layer.weight.ndim - 2))


def _computed(layer: nn.Module, value: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(layer, nn.Linear):
        return functional.linear(value, weight, bias)
    return _as_tensor(layer._conv_forward(value, weight, bias))  # type: ignore[operator]


def _as_tensor(value: object) -> Tensor:
    assert isinstance(value, Tensor)
    return value


def _along(values: Tensor, weight: Tensor) -> Tensor:
    """One number per output channel, in a shape that goes along with a weight."""
    return values.reshape(-1, *[1] * (weight.ndim - 1))


def _scale(weight: Tensor, reach: int) -> Tensor:
    """Per output channel, (channels,): the largest value takes the largest integer."""
    largest = weight.detach().flatten(1).abs().amax(1)
    return (largest / reach).clamp_min(LEAST_SCALE)


def scale_per_output(weight: Tensor, reach: int) -> Tensor:
    """The scale of each output channel, in a shape that goes along with the weight (out, …): its
    largest value takes the integer `reach`."""
    return _along(_scale(weight, reach), weight)


def rounded_weight(weight: Tensor, reach: int) -> Tensor:
    """Rounded per output channel, symmetric; of the weight's shape.

    Args:
        weight: (out, …).
        reach: the greatest integer; there are as many below zero.
    """
    scale = _scale(weight, reach)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -reach, reach)
