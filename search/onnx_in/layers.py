"""Nodes whose weights are constants, as modules of torch.nn, so that they can be pruned in place.

Knows nodes and tensors, and nothing of the graph around them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from search.errors import OnnxError
from search.onnx_in.ops.space import padded, paddings, spatial
from search.onnx_in.reading import OnnxNode
from search.onnx_in.recurrent import Recurrent

MAX_STEPS = 4096  # torch tries a recurrent layer step by step
Constants = Mapping[int, Tensor]


@dataclass(frozen=True)
class Site:
    """A node and what is known where it stands.

    Attributes:
        constants: its inputs that are constants, by their places.
        shape: of the one input that is not.
        opset: of the model.
    """

    node: OnnxNode
    constants: Constants
    shape: tuple[int, ...]
    opset: int

    @property
    def settings(self) -> Mapping[str, Any]:
        """The attributes of the node."""
        return self.node.attributes


Maker: TypeAlias = Callable[..., nn.Module]
CONVOLUTIONS: tuple[Maker, ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED: tuple[Maker, ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class BatchNorm(_BatchNorm):
    """Batch norm over inputs of any rank: the public classes of torch.nn check the rank."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


class InstanceNorm(_InstanceNorm):
    """Instance norm over inputs of any rank, which always have a batch.

    The public classes of torch.nn check the rank.
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.instance_norm(
            input, None, None, self.weight, self.bias, use_input_stats=True, eps=self.eps
        )


class Pad(nn.Module):
    """Zeros around an image, from `pads` or `auto_pad` of a convolution."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        dilation: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.settings, self.window = settings, (kernel, stride, dilation)

    def forward(self, x: Tensor) -> Tensor:
        return padded(x, *paddings(self.settings, x.shape[2:], *self.window))


def layer(site: Site, *, bias: bool) -> nn.Module | None:
    """The module that computes a node from its one input that is no constant, or None.

    Args:
        site: the node.
        bias: whether a convolution without a bias gets one of zeros, so that its mean can be
            corrected after pruning.

    Raises:
        OnnxError: the weights do not fit each other.
    """
    node, constants = site.node, site.constants
    maker = LAYERS.get(node.op)
    given = {place for place, name in enumerate(node.inputs) if name}
    if maker is None or given - constants.keys() != {int(node.op == "Gather")}:
        return None
    if node.op == "Conv" and bias and 2 not in constants:
        site = replace(site, constants={**constants, 2: torch.zeros(len(constants[1]))})
    try:
        return maker(site)
    except (RuntimeError, ValueError, IndexError, KeyError) as error:
        raise OnnxError(f"{node.title} cannot be built: {error}") from error


def _fill(module: nn.Module, **values: Tensor | None) -> nn.Module:
    """Copies values into a module that was made without memory."""
    for name, value in values.items():
        if value is None:
            continue
        old = getattr(module, name)
        if old is None or old.shape != value.shape:
            wanted = None if old is None else list(old.shape)
            raise ValueError(f"{name} must have shape {wanted}, but got {list(value.shape)}")
        made = value.detach().clone().contiguous()
        setattr(module, name, nn.Parameter(made) if isinstance(old, nn.Parameter) else made)
    return module


def _convolution(site: Site) -> nn.Module | None:
    weight, settings = site.constants[1], site.settings
    rank = weight.ndim - 2
    if not 1 <= rank <= 3:
        raise ValueError(f"its weight must have 3 to 5 dimensions, but got {weight.ndim}")
    kernel = tuple(weight.shape[2:])
    stride = spatial(settings, "strides", rank, 1)
    dilation = spatial(settings, "dilations", rank, 1)
    groups = settings.get("group", 1)
    auto = settings.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
    before, after = ([0], [1]) if auto else paddings(settings, (), kernel, stride, dilation)
    even = before == after
    made = CONVOLUTIONS[rank - 1](
        weight.shape[1] * groups, weight.shape[0], kernel, stride, tuple(before) if even else 0,
        dilation, groups, bias=2 in site.constants, device="meta",
    )  # fmt: skip
    _fill(made, weight=weight, bias=site.constants.get(2))
    return made if even else nn.Sequential(Pad(settings, kernel, stride, dilation), made)


def _transposed(site: Site) -> nn.Module | None:
    weight, settings = site.constants[1], site.settings
    rank = weight.ndim - 2
    if settings.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise ValueError("auto_pad of a ConvTranspose must be NOTSET")
    if "output_shape" in settings:
        raise ValueError("output_shape must not be given")
    pads = spatial(settings, "pads", 2 * rank, 0)
    extra = spatial(settings, "output_padding", rank, 0)
    if pads[:rank] != pads[rank:]:
        raise ValueError(f"pads must be symmetric, but got {list(pads)}")
    groups = settings.get("group", 1)
    made = TRANSPOSED[rank - 1](
        weight.shape[0], weight.shape[1] * groups, tuple(weight.shape[2:]),
        spatial(settings, "strides", rank, 1), tuple(pads[:rank]), extra, groups,
        bias=2 in site.constants, dilation=spatial(settings, "dilations", rank, 1), device="meta",
    )  # fmt: skip
    return _fill(made, weight=weight, bias=site.constants.get(2))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
    """`weight` is (outputs, inputs)."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    return _fill(made, weight=weight, bias=bias)


def _gemm(site: Site) -> nn.Module | None:
    settings, weight, bias = site.settings, site.constants[1], site.constants.get(2)
    if settings.get("transA", 0) or weight.ndim != 2:
        return None
    weight = weight if settings.get("transB", 0) else weight.t()
    weight = weight * settings.get("alpha", 1.0)
    if bias is not None:
        bias = bias * settings.get("beta", 1.0)
        bias = bias.expand(1, len(weight)).reshape(-1) if bias.shape[:-1] in ((), (1,)) else bias
    return _linear(weight, bias) if bias is None or bias.ndim == 1 else None


def _matmul(site: Site) -> nn.Module | None:
    weight, bias = site.constants[1], site.constants.get(2)
    return _linear(weight.t(), bias) if weight.ndim == 2 else None


def _batch_norm(site: Site) -> nn.Module | None:
    settings, constants = site.settings, site.constants
    if settings.get("training_mode", 0):
        raise ValueError("training_mode must be 0: export the model in evaluation mode")
    if not settings.get("spatial", 1):
        raise ValueError("spatial must be 1")
    made = BatchNorm(
        len(constants[1]),
        settings.get("epsilon", 1e-5),
        1 - settings.get("momentum", 0.9),
        device="meta",
    )
    made.num_batches_tracked = torch.tensor(0)
    return _fill(
        made,
        weight=constants[1],
        bias=constants[2],
        running_mean=constants[3],
        running_var=constants[4],
    )


def _instance_norm(site: Site) -> nn.Module | None:
    scale, epsilon = site.constants[1], site.settings.get("epsilon", 1e-5)
    made = InstanceNorm(len(scale), epsilon, affine=True, device="meta")
    return _fill(made, weight=scale, bias=site.constants[2])


def _layer_norm(site: Site) -> nn.Module | None:
    """The scale must span all normalised dimensions."""
    scale, bias = site.constants[1], site.constants.get(2)
    normalised = site.shape[site.settings.get("axis", -1) % len(site.shape) :]
    if tuple(scale.shape) != normalised:
        raise ValueError(f"its scale must have shape {normalised}, but got {tuple(scale.shape)}")
    epsilon = site.settings.get("epsilon", 1e-5)
    made = nn.LayerNorm(normalised, epsilon, bias=bias is not None, device="meta")
    return _fill(made, weight=scale, bias=bias)


def _rms_norm(site: Site) -> nn.Module | None:
    scale, epsilon = site.constants[1], site.settings.get("epsilon", 1e-5)
    return _fill(nn.RMSNorm(tuple(scale.shape), epsilon, device="meta"), weight=scale)


def _group_norm(site: Site) -> nn.Module | None:
    """Scale and bias have one entry per channel; before opset 21 they had one per group."""
    groups, channels = site.settings["num_groups"], site.shape[1]
    scale, bias = site.constants[1], site.constants[2]
    if site.opset < 21:
        scale, bias = (each.repeat_interleave(channels // groups) for each in (scale, bias))
    made = nn.GroupNorm(groups, channels, site.settings.get("epsilon", 1e-5), device="meta")
    return _fill(made, weight=scale, bias=bias)


def _prelu(site: Site) -> nn.Module | None:
    """One slope, or one per channel (dimension 1); other slopes are left to the operator."""
    slope = site.constants[1]
    wide = [dim - slope.ndim for dim, size in enumerate(slope.shape) if size > 1]
    if wide not in ([], [1 - len(site.shape)]):
        return None
    return _fill(nn.PReLU(slope.numel(), device="meta"), weight=slope.reshape(-1))


def _embedding(site: Site) -> nn.Module | None:
    """Rows of a table by computed indices."""
    table = site.constants[0]
    if table.ndim != 2 or not table.is_floating_point() or site.settings.get("axis", 0) != 0:
        return None
    return _fill(nn.Embedding(table.shape[0], table.shape[1], device="meta"), weight=table)


def _recurrent(site: Site) -> nn.Module | None:
    """One that starts from zeros, and reads every sequence to its end."""
    node, constants = site.node, site.constants
    for place, what in ((4, "sequence_lens"), (7, "peepholes")):
        if place < len(node.inputs) and node.inputs[place]:
            raise ValueError(f"{what} must not be given")
    if site.shape[0] > MAX_STEPS:
        raise ValueError(f"its sequence must have ≤ {MAX_STEPS} steps, but has {site.shape[0]}")
    return Recurrent(node.op, site.settings, constants[1], constants[2], constants.get(3))


LAYERS: Mapping[str, Callable[[Site], nn.Module | None]] = {
    "BatchNormalization": _batch_norm,
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "GRU": _recurrent,
    "Gather": _embedding,
    "Gemm": _gemm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LSTM": _recurrent,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "PRelu": _prelu,
    "RMSNormalization": _rms_norm,
    "RNN": _recurrent,
}
