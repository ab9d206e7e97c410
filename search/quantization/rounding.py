"""Rounding in torch, as an int8 runtime rounds; gradients pass as if nothing was rounded.

| symbol | meaning |
|---|---|
| W' | the weight with the batch norm behind it folded in, by its running statistics |
| g | gain of a batch norm, γ / √(σ² + ε) |
"""

from __future__ import annotations

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
        rounded = torch.fake_quantize_per_tensor_affine(
            value.float(), found.scale, found.zero, self._kind.low, self._kind.high
        )
        return rounded.to(value.dtype)

    def _follow(self, value: Tensor) -> None:
        with torch.no_grad():
            low, high = torch.aminmax(value.detach().float())
            self.low.lerp_(low, FOLLOWED)
            self.high.lerp_(high, FOLLOWED)


def rounded_layer(layer: nn.Module, norm: nn.Module | None, reach: int, value: Tensor) -> Tensor:
    """A convolution or linear layer with a rounded weight, and the batch norm behind it.

    In training the norm takes its batch's statistics, as it always does, and what is rounded is
    W' all the same, by the running statistics.

    Args:
        layer: of torch.nn.
        norm: the batch norm that is folded into the layer; None where there is none.
        reach: the greatest integer of a weight; there are as many below zero.
        value: the layer's input, rounded.
    """
    weight, bias = _tensors(layer)
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.running_var is None:
        return _computed(layer, value, _rounded(weight, reach), bias)
    gain = torch.rsqrt(norm.running_var + norm.eps)
    gain = gain if norm.weight is None else norm.weight * gain
    along = (-1, *[1] * (weight.ndim - 1))
    rounded = _rounded(weight * gain.reshape(along), reach)
    if norm.training:
        safe = torch.where(gain == 0, torch.ones_like(gain), gain).detach()
        return _as_tensor(norm(_computed(layer, value, rounded / safe.reshape(along), bias)))
    shift = -norm.running_mean if bias is None else bias - norm.running_mean
    folded = shift * gain if norm.bias is None else shift * gain + norm.bias
    return _computed(layer, value, rounded, folded)


def _tensors(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    assert isinstance(layer, _ConvNd | nn.Linear)
    return layer.weight, layer.bias


def _computed(layer: nn.Module, value: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(layer, nn.Linear):
        return functional.linear(value, weight, bias)
    return _as_tensor(layer._conv_forward(value, weight, bias))  # type: ignore[operator]


def _as_tensor(value: object) -> Tensor:
    assert isinstance(value, Tensor)
    return value


def _rounded(weight: Tensor, reach: int) -> Tensor:
    """Rounded per output channel, symmetric."""
    largest = weight.detach().flatten(1).abs().amax(1)
    scale = (largest / reach).clamp_min(LEAST_SCALE)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -reach, reach)
