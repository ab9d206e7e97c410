"""Recalibration without batch norm: layers get back the means and scales of the dense model.

Convolutions and linear layers are recognised by their weights when they are called, so a module
and its exported graph are corrected alike. Per output channel c that is kept, with the dense
statistics μ, σ and those of the layer before its correction m, s:

| symbol | meaning |
|---|---|
| scale_c | σ / s, within [1 / LIMIT, LIMIT]; 1 where s vanishes |
| weight, bias | scale · weight, scale · (bias − m) + μ; a layer without a bias is scaled only |

Layers are corrected in the order in which they run, within the forward pass: later ones see the
corrected inputs. A layer that runs twice is corrected by its first call. Over several batches the
statistics are cumulative, every batch weighing alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from search.errors import ConfigError
from search.training_flags import in_evaluation

LIMIT = 4.0
STILL = 1e-4  # relative; a channel that moved less keeps its bits

KeptIndices = Mapping[str, Mapping[int, Sequence[int]]]

_METADATA = ("__get__", "__set__", "dim", "is_floating_point", "numel", "size", "stride")


@dataclass
class _Moments:
    """Sums over batches of the mean and of the mean square per channel, both (C,) float64."""

    mean: Tensor
    square: Tensor
    batches: int = 1

    @classmethod
    def of(cls, y: Tensor, dim: int) -> _Moments:
        values = y.detach().double()
        others = [d for d in range(y.ndim) if d != dim % y.ndim]
        return cls(values.mean(others), values.square().mean(others))

    def add(self, other: _Moments) -> None:
        self.mean, self.square = self.mean + other.mean, self.square + other.square
        self.batches += other.batches

    @property
    def average(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation."""
        mean = self.mean / self.batches
        return mean, (self.square / self.batches - mean.square()).clamp(min=0).sqrt()


@dataclass(frozen=True)
class _LayerCall:
    """One call of a layer: the names of its tensors, and its output channels."""

    weight: str
    bias: str | None
    rows: int
    channel: int


class _Watch(TorchFunctionMode):
    """Hands every call of a layer on; notes the parameters that anything else reads."""

    def __init__(
        self, model: nn.Module, seen: Callable[[_LayerCall, Tensor], Tensor | None]
    ) -> None:
        super().__init__()
        self._names = {id(p): name for name, p in model.named_parameters()}
        self._seen = seen
        self.others: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(getattr(func, "overloadpacket", func), "__name__", "")
        if name in _METADATA:
            return result
        call = self._layer_call(name, args, kwargs or {})
        if call is None:
            flat = [*args, *(kwargs or {}).values()]
            self.others |= {self._names[id(a)] for a in flat if id(a) in self._names}
            return result
        corrected = self._seen(call, result)
        return result if corrected is None else corrected

    def _layer_call(self, name: str, args: Any, kwargs: Any) -> _LayerCall | None:
        given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
        weight, bias = given.get("weight"), given.get("bias")
        weight_name = self._names.get(id(weight))
        if weight_name is None or not isinstance(weight, Tensor):
            return None
        bias_name = None if bias is None else self._names.get(id(bias))
        if bias is not None and bias_name is None:
            return None
        if name == "linear" and weight.ndim == 2:
            return _LayerCall(weight_name, bias_name, 0, -1)
        if name in ("conv1d", "conv2d", "conv3d"):
            return _LayerCall(weight_name, bias_name, 0, 1 - weight.ndim)
        if name.startswith("conv_transpose") and _plain_groups(args, kwargs):
            return _LayerCall(weight_name, bias_name, 1, 1 - weight.ndim)
        return None


def _plain_groups(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a transposed convolution has one group: the seventh argument."""
    groups = kwargs.get("groups", args[6] if len(args) > 6 else 1)
    return bool(groups == 1)


@dataclass
class _Layer:
    """A layer of the pruned model while it is corrected."""

    weight: Tensor
    bias: Tensor | None
    rows: int
    first_weight: Tensor = field(init=False)
    first_bias: Tensor = field(init=False)
    scale: Tensor = field(init=False)
    shift: Tensor = field(init=False)
    raw: _Moments | None = None
    wanted: _Moments | None = None

    def __post_init__(self) -> None:
        channels = self.weight.shape[self.rows]
        self.first_weight = self.weight.detach().clone()
        zeros = torch.zeros(channels, dtype=torch.float64, device=self.weight.device)
        self.first_bias = zeros if self.bias is None else self.bias.detach().double().clone()
        self.scale, self.shift = torch.ones_like(zeros), self.first_bias.clone()

    def note(self, measured: _Moments, wanted: _Moments) -> None:
        """Adds the moments of one batch; `measured` are those of the layer as it is now."""
        spread = (measured.square - measured.mean.square()) / self.scale.square()
        mean = (measured.mean - self.shift) / self.scale + self.first_bias
        raw = _Moments(mean, spread + mean.square())
        if self.raw is None or self.wanted is None:
            self.raw, self.wanted = raw, replace(wanted)
        else:
            self.raw.add(raw)
            self.wanted.add(wanted)

    def correct(self) -> None:
        """Writes weight and bias as the moments noted so far want them."""
        if self.raw is None or self.wanted is None:
            return
        (mean, spread), (wanted_mean, wanted_spread) = self.raw.average, self.wanted.average
        tiny = 1e-12 + STILL * wanted_spread
        scale = (wanted_spread / spread.clamp(min=1e-12)).clamp(1 / LIMIT, LIMIT)
        scale = torch.where(spread > tiny, scale, 1.0)
        shift = wanted_mean - scale * (mean - self.first_bias)
        still = ((scale - 1).abs() < STILL) & ((mean - wanted_mean).abs() <= tiny)
        self.scale = torch.where(still, 1.0, scale)
        if self.bias is not None:
            self.shift = torch.where(still, self.first_bias, shift)
        shape = [-1 if dim == self.rows else 1 for dim in range(self.weight.ndim)]
        with torch.no_grad():
            self.weight.copy_(self.first_weight.double() * self.scale.reshape(shape))
            if self.bias is not None:
                self.bias.copy_(self.shift)

    def applied(self, y: Tensor, scale: Tensor, shift: Tensor, channel: int) -> Tensor:
        """An output computed under an older scale and shift, as it would be now."""
        shape = [-1 if dim == channel % y.ndim else 1 for dim in range(y.ndim)]
        factor = (self.scale / scale).reshape(shape)
        moved = (y.double() - shift.reshape(shape)) * factor + self.shift.reshape(shape)
        return moved.to(y.dtype)


def correct_moments(
    pruned: nn.Module, dense: nn.Module, kept: KeptIndices, batches: Iterable[Tensor]
) -> None:
    """Gives the layers of `pruned` the means and scales that `dense` has, in place.

    Args:
        pruned: in any mode; only weights and biases change, dropout stays off.
        dense: the model that it was cut from; not touched.
        kept: weight -> dimension -> the indices that are left, where some are gone.
        batches: inputs.

    Raises:
        ConfigError: there is no batch.
    """
    layers: dict[str, _Layer] = {}
    seen = 0
    with in_evaluation(pruned), in_evaluation(dense), torch.no_grad():
        for inputs in batches:
            wanted, calls, others = _moments(dense, inputs)
            _correct_on(pruned, inputs, layers, _targets(wanted, calls, others, kept))
            seen += 1
    if seen == 0:
        raise ConfigError("batches must hold at least one batch, but got none")


def _moments(
    model: nn.Module, inputs: Tensor
) -> tuple[dict[str, _Moments], dict[str, _LayerCall], set[str]]:
    """Weight -> moments of its outputs and how it was called; parameters read otherwise."""
    moments: dict[str, _Moments] = {}
    calls: dict[str, _LayerCall] = {}

    def seen(call: _LayerCall, y: Tensor) -> None:
        if call.weight not in moments:
            moments[call.weight], calls[call.weight] = _Moments.of(y, call.channel), call

    with _Watch(model, seen) as watch:
        model(inputs)
    biases = [call.bias for call in calls.values() if call.bias is not None]
    shared = {bias for bias in biases if biases.count(bias) > 1}
    return moments, calls, watch.others | shared


def _targets(
    moments: Mapping[str, _Moments],
    calls: Mapping[str, _LayerCall],
    others: set[str],
    kept: KeptIndices,
) -> dict[str, _Moments]:
    """Weight -> the dense moments of the channels that are left."""
    targets = {}
    for name, dense in moments.items():
        if not {name, calls[name].bias} & others:
            rows = kept.get(name, {}).get(calls[name].rows)
            places = slice(None) if rows is None else torch.tensor(list(rows))
            targets[name] = _Moments(dense.mean[places], dense.square[places])
    return targets


def _correct_on(
    pruned: nn.Module, inputs: Tensor, layers: dict[str, _Layer], targets: Mapping[str, _Moments]
) -> None:
    """One forward pass, in which every layer is corrected where it runs first."""
    tensors = dict(pruned.named_parameters())
    done: set[str] = set()

    def seen(call: _LayerCall, y: Tensor) -> Tensor | None:
        target = targets.get(call.weight)
        if target is None or call.weight in done or len(target.mean) != y.shape[call.channel]:
            return None
        done.add(call.weight)
        bias = None if call.bias is None else tensors[call.bias]
        layer = layers.setdefault(call.weight, _Layer(tensors[call.weight], bias, call.rows))
        scale, shift = layer.scale, layer.shift
        layer.note(_Moments.of(y, call.channel), target)
        layer.correct()
        return layer.applied(y, scale, shift, call.channel)

    with _Watch(pruned, seen):
        pruned(inputs)
