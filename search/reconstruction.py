"""Reconstruction: what is removed is expressed by what stays, layer by layer, in closed form.

After a cut every layer reads other inputs than in the dense model. In the order in which layers
run, each gets the weights that give, from the inputs that it has now, the outputs nearest to those
of the dense model (ridge regression on calibration activations; He et al. 2017, section 3.1, for
one layer). Convolutions of one group and linear layers are refitted; depthwise ones, and whatever
is not called as a layer, stay. Layers are recognised by their weights when they are called, so a
module and its exported graph are treated alike.

| symbol | meaning | shape |
|---|---|---|
| X | what a layer reads at sampled places now: patches, or features | (rows, inputs) |
| Y | what it gave there in the dense model, of the channels that are left | (rows, outputs) |
| W | its weight, flat | (outputs, inputs) |
| λ | ridge, a part of the mean of the diagonal of XᵀX: draws W to what it was | |
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm  # private: BatchNorm1d to 3d, SyncBatchNorm
from torch.overrides import TorchFunctionMode

from search.statistics_correction import KeptIndices
from search.training_flags import in_evaluation

EXAMPLES = 128
ROWS = 4096  # sampled of each layer
MOST_NUMBERS = 1 << 21  # of one layer's Y
MOST_INPUTS = 2304  # a 3 × 3 convolution of 256 channels; solving costs the cube
RIDGE = 1e-2
NEAR = 4  # layer calls between a layer and its norm, at most; each holds its outputs in memory
STILL = 1e-6  # of the mean square of Y: a layer that is off by less is left as it is

_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_LINEAR = ("input", "weight", "bias")


@dataclass(frozen=True)
class LayerTarget:
    """What the dense model gave.

    Attributes:
        outputs: Y of all channels.
        places: the sampled rows.
        is_normed: whether a batch norm takes the outputs, so that their means do not matter.
    """

    outputs: Tensor
    places: Tensor
    is_normed: bool


@dataclass(frozen=True)
class _Call:
    """One call of a layer."""

    name: str
    value: Tensor
    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()

    def inputs(self, places: Tensor) -> Tensor:
        """X at these places, (rows, inputs)."""
        if self.weight.ndim == 2:
            return self.value.reshape(-1, self.value.shape[-1])[places]
        padded = functional.pad(self.value, [p for p in reversed(self.padding) for _ in range(2)])
        height, width = self.weight.shape[2:]
        across = self._size(3)
        image, row = places // (self._size(2) * across), places // across % self._size(2)
        rows = (row * self.stride[0])[:, None] + torch.arange(height) * self.dilation[0]
        columns = (places % across * self.stride[1])[:, None]
        columns = columns + torch.arange(width) * self.dilation[1]
        found = padded[image[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        return found.permute(0, 3, 1, 2).reshape(len(places), -1)

    def _size(self, dim: int) -> int:
        """Of the outputs."""
        at = dim - 2
        reach = self.dilation[at] * (self.weight.shape[dim] - 1) + 1
        return (self.value.shape[dim] + 2 * self.padding[at] - reach) // self.stride[at] + 1


class _Layers(TorchFunctionMode):
    """Shows every call of a layer before it runs, and its outputs."""

    def __init__(
        self,
        model: nn.Module,
        before: Callable[[_Call], None] | None = None,
        after: Callable[[_Call, Tensor], None] | None = None,
        norm: Callable[[Tensor], None] | None = None,
    ) -> None:
        super().__init__()
        self._names = {id(p): name for name, p in model.named_parameters()}
        self._before, self._after, self._norm = before, after, norm

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(getattr(func, "overloadpacket", func), "__name__", "")
        if name == "batch_norm" and self._norm is not None:
            self._norm(args[0] if args else kwargs["input"])
        call = self._call(name, args, kwargs) if name in ("conv2d", "linear") else None
        if call is not None and self._before is not None:
            with torch._C.DisableTorchFunction():
                self._before(call)
        result = func(*args, **kwargs)
        if call is not None and self._after is not None:
            with torch._C.DisableTorchFunction():
                self._after(call, result)
        return result

    def _call(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Call | None:
        names = _LINEAR if name == "linear" else _CONVOLUTION
        given = dict(zip(names, args, strict=False)) | dict(kwargs)
        weight = given.get("weight")
        known = self._names.get(id(weight))
        if known is None or not isinstance(weight, Tensor):
            return None
        if name == "linear":
            return _Call(known, given["input"], weight, given.get("bias"))
        padding = given.get("padding", 0)
        if given.get("groups", 1) != 1 or isinstance(padding, str) or given["input"].ndim != 4:
            return None
        stride, dilation = given.get("stride", 1), given.get("dilation", 1)
        pairs = (_pair(each) for each in (stride, padding, dilation))
        return _Call(known, given["input"], weight, given.get("bias"), *pairs)


def _pair(value: int | Sequence[int]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value) * (2 // len(value))


def dense_targets(dense: nn.Module, inputs: Tensor) -> dict[str, LayerTarget]:
    """What the layers of the dense model give at sampled places.

    Args:
        dense: not touched.
        inputs: (B, …); the first `EXAMPLES` are used.

    Returns:
        Name of a weight -> what its layer gave when it was called first; layers that are called
        again are left out.
    """
    found: dict[str, LayerTarget] = {}
    last: deque[tuple[Tensor, str]] = deque(maxlen=NEAR)
    again: set[str] = set()
    normed: set[str] = set()

    def after(call: _Call, result: Tensor) -> None:
        again.update({call.name} & found.keys())
        channels_last = result if call.weight.ndim == 2 else result.permute(0, 2, 3, 1)
        flat = channels_last.reshape(-1, channels_last.shape[-1])
        places = _sampled(len(flat), flat.shape[1], len(found))
        found[call.name] = LayerTarget(flat[places].clone(), places, False)
        last.append((result, call.name))

    def norm(value: Tensor) -> None:
        normed.update(name for result, name in last if result is value)

    watch = _Layers(dense, after=after, norm=norm)
    with in_evaluation(dense), torch.no_grad(), _by_batch(dense), watch:
        dense(inputs[:EXAMPLES])
    return {
        name: LayerTarget(each.outputs, each.places, name in normed)
        for name, each in found.items()
        if name not in again
    }


def _sampled(rows: int, outputs: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    most = min(ROWS, MOST_NUMBERS // outputs)
    return torch.randperm(rows, generator=generator)[:most].sort().values


# Dense model -> the inputs that its targets are of, and these.
_KNOWN: WeakKeyDictionary[nn.Module, tuple[Tensor, dict[str, LayerTarget]]] = WeakKeyDictionary()


def known_targets(dense: nn.Module, inputs: Tensor) -> dict[str, LayerTarget]:
    """`dense_targets`, kept as long as the model lives and gets the same inputs: its weights must
    not change."""
    first = inputs[:EXAMPLES]
    known = _KNOWN.get(dense)
    if known is None or known[0].shape != first.shape or not torch.equal(known[0], first):
        known = _KNOWN[dense] = first.clone(), dense_targets(dense, first)
    return known[1]


def reconstruct(
    pruned: nn.Module,
    targets: Mapping[str, LayerTarget],
    kept: KeptIndices,
    inputs: Tensor,
    ridge: float = RIDGE,
) -> int:
    """Refits the layers of a pruned model in place, in the order in which they run.

    Running statistics stay as they are: recalibrate afterwards.

    Args:
        pruned: in any mode; dropout stays off.
        targets: from `dense_targets` of the same inputs.
        kept: weight -> dimension -> the indices that are left, see `surgery.kept_indices`.
        inputs: (B, …).
        ridge: λ, as a part.

    Returns:
        How many layers were refitted.
    """
    done: set[str] = set()
    refitted = 0

    def before(call: _Call) -> None:
        nonlocal refitted
        target = targets.get(call.name)
        if target is None or call.name in done or call.weight[0].numel() > MOST_INPUTS:
            return
        done.add(call.name)
        left = kept.get(call.name, {}).get(0)
        wanted = target.outputs if left is None else target.outputs[:, list(left)]
        if wanted.shape[1] == len(call.weight):
            refitted += _refit(call, wanted, target, ridge)

    with in_evaluation(pruned), torch.no_grad(), _by_batch(pruned), _Layers(pruned, before):
        pruned(inputs[:EXAMPLES])
    return refitted


@contextmanager
def _by_batch(model: nn.Module) -> Iterator[None]:
    """Batch norms take the statistics of the batch, as they will after recalibration, and keep
    their own."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    known = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
        norm.train()
    try:
        yield
    finally:
        for norm, (norm.momentum, norm.num_batches_tracked) in zip(norms, known, strict=True):
            norm.eval()


def _refit(call: _Call, wanted: Tensor, target: LayerTarget, ridge: float) -> bool:
    """Whether there was something to refit."""
    read = call.inputs(target.places).float()
    off = wanted.float() - read @ call.weight.flatten(1).float().T
    if call.bias is not None:
        off = off - call.bias.float()
    if off.square().mean() <= STILL * wanted.float().square().mean():
        return False
    means = read.mean(0), off.mean(0)
    has_means = call.bias is not None or target.is_normed
    if has_means:
        read, off = read - means[0], off - means[1]
    gram = read.T @ read
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    factor, failed = torch.linalg.cholesky_ex(gram)
    if bool(failed):  # a layer that reads nothing but zeros
        return False
    moved = torch.cholesky_solve(read.T @ off, factor).T
    if not bool(moved.isfinite().all()):
        return False
    call.weight.add_(moved.reshape(call.weight.shape))
    if call.bias is not None:
        call.bias.add_(means[1] - moved @ means[0])
    return True
