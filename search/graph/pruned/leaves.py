"""What the modules of torch.nn call: one operator each, with these tensors and arguments.

An operator of a graph that is called alike is that module's call. It knows no graph and no labels.

| symbol | meaning |
|---|---|
| leaf | a module of torch.nn, or of a subclass with the same forward, that calls one operator |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

Arguments = dict[str, Any]

WEIGHTS = ("weight", "bias")
STATISTICS = (*WEIGHTS, "running_mean", "running_var")
_FORWARDS = ("__call__", "forward", "_conv_forward")
_BACKENDS = ("cudnn_enable", "cudnn_enabled")  # whether a library may compute it


@dataclass(frozen=True)
class Leaf:
    """How a module of torch.nn calls its operator in evaluation mode.

    Attributes:
        operator: its name, without namespace, overload and the underscore of in-place ones.
        tensors: the module's own tensors among the arguments, which have their names there.
        arguments: module -> the other arguments by their schema names, where they may differ from
            the defaults; None for a module that computes something else too.
        flag: the name of the argument that depends on training.
    """

    operator: str
    tensors: tuple[str, ...] = ()
    arguments: Callable[[Any], Arguments | None] = lambda _: {}
    flag: str | None = None


def leaf_of(module: nn.Module) -> Leaf | None:
    """What a module calls; None where its forward is not known, or hooks go with it.

    What the hooks of a module do while it is traced is part of the graph: called again, they would
    do it twice.
    """
    if is_changed(module):
        return None
    for kind in type(module).__mro__:
        if kind in _LEAVES:
            return _LEAVES[kind] if _computes_like(type(module), kind) else None
    return None


def is_changed(module: nn.Module) -> bool:
    """Whether a module has hooks, or a forward that is not that of its class."""
    return bool("forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks)


def _computes_like(kind: type, known: type) -> bool:
    return all(getattr(kind, name, None) is getattr(known, name, None) for name in _FORWARDS)


def calls_alike(
    leaf: Leaf,
    module: nn.Module,
    given: Mapping[str, Any],
    defaults: Mapping[str, Any],
    *,
    inplace: bool,
) -> bool:
    """Whether an operator has the arguments that a module gives it in evaluation mode.

    Args:
        leaf: what the module calls.
        module: it.
        given: all arguments of the operator that are no tensors, by their schema names.
        defaults: of those that have one.
        inplace: the operator writes into its input.
    """
    own = leaf.arguments(module)
    if own is None or inplace != bool(getattr(module, "inplace", False)):
        return False
    wanted = {**defaults, **own}
    return all(
        name in _BACKENDS or (name in wanted and _same(wanted[name], value))
        for name, value in given.items()
    )


def _same(wanted: Any, given: Any) -> bool:
    """Whether two arguments are equal; a number stands for a list of it."""
    if isinstance(given, list | tuple):
        listed = [wanted] * len(given) if isinstance(wanted, int) and given else wanted
        return isinstance(listed, list | tuple) and [*listed] == [*given]
    numbers = isinstance(wanted, int | float) and isinstance(given, int | float)
    return bool(wanted == given) if numbers or type(wanted) is type(given) else False


def _read(*names: str, **others: str) -> Callable[[Any], Arguments]:
    """Arguments that are attributes of the module; `others`: argument = attribute."""
    attributes = {name: name for name in names} | others
    return lambda module: {name: getattr(module, own) for name, own in attributes.items()}


def _convolution(module: _ConvNd) -> Arguments | None:
    names = ["stride", "padding", "dilation", "groups"]
    names += ["output_padding"] if module.transposed else []
    return _read(*names)(module) if module.padding_mode == "zeros" else None


def _batch_norm(module: _BatchNorm) -> Arguments:
    momentum = 0.0 if module.momentum is None else module.momentum
    return {"training": module.running_mean is None, "momentum": momentum, "eps": module.eps}


def _instance_norm(module: _InstanceNorm) -> Arguments:
    momentum = 0.0 if module.momentum is None else module.momentum
    taken = not module.track_running_stats
    return {"use_input_stats": taken, "momentum": momentum, "eps": module.eps}


def _embedding(module: nn.Embedding) -> Arguments | None:
    padding = -1 if module.padding_idx is None else module.padding_idx
    others = _read("scale_grad_by_freq", "sparse")(module)
    return None if module.max_norm is not None else {"padding_idx": padding, **others}


def _dropout(module: Any) -> Arguments:
    return {"p": module.p, "train": False}


def _softmax(module: Any) -> Arguments:
    return {"dim": module.dim, "dtype": None}


def _max_pool(module: Any) -> Arguments | None:
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    return None if module.return_indices else _read(*names)(module)


_POOL = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
_SHAPED = _read("normalized_shape", "eps")

_LEAVES: dict[type, Leaf] = {
    nn.Linear: Leaf("linear", WEIGHTS),
    nn.Conv1d: Leaf("conv1d", WEIGHTS, _convolution),
    nn.Conv2d: Leaf("conv2d", WEIGHTS, _convolution),
    nn.Conv3d: Leaf("conv3d", WEIGHTS, _convolution),
    nn.ConvTranspose1d: Leaf("conv_transpose1d", WEIGHTS, _convolution),
    nn.ConvTranspose2d: Leaf("conv_transpose2d", WEIGHTS, _convolution),
    nn.ConvTranspose3d: Leaf("conv_transpose3d", WEIGHTS, _convolution),
    _BatchNorm: Leaf("batch_norm", STATISTICS, _batch_norm, "training"),
    _InstanceNorm: Leaf("instance_norm", STATISTICS, _instance_norm, "use_input_stats"),
    nn.LayerNorm: Leaf("layer_norm", WEIGHTS, _SHAPED),
    nn.RMSNorm: Leaf("rms_norm", ("weight",), _SHAPED),
    nn.GroupNorm: Leaf("group_norm", WEIGHTS, _read("num_groups", "eps")),
    nn.Embedding: Leaf("embedding", ("weight",), _embedding),
    nn.PReLU: Leaf("prelu", ("weight",)),
    nn.Dropout: Leaf("dropout", (), _dropout, "train"),
    nn.Dropout1d: Leaf("feature_dropout", (), _dropout, "train"),
    nn.Dropout2d: Leaf("feature_dropout", (), _dropout, "train"),
    nn.Dropout3d: Leaf("feature_dropout", (), _dropout, "train"),
    nn.AlphaDropout: Leaf("alpha_dropout", (), _dropout, "train"),
    nn.FeatureAlphaDropout: Leaf("feature_alpha_dropout", (), _dropout, "train"),
    nn.ReLU: Leaf("relu"),
    nn.ReLU6: Leaf("hardtanh", (), _read("min_val", "max_val")),
    nn.SiLU: Leaf("silu"),
    nn.Mish: Leaf("mish"),
    nn.SELU: Leaf("selu"),
    nn.Hardswish: Leaf("hardswish"),
    nn.Hardsigmoid: Leaf("hardsigmoid"),
    nn.Sigmoid: Leaf("sigmoid"),
    nn.LogSigmoid: Leaf("log_sigmoid"),
    nn.Tanh: Leaf("tanh"),
    nn.GELU: Leaf("gelu", (), _read("approximate")),
    nn.ELU: Leaf("elu", (), _read("alpha")),
    nn.CELU: Leaf("celu", (), _read("alpha")),
    nn.GLU: Leaf("glu", (), _read("dim")),
    nn.LeakyReLU: Leaf("leaky_relu", (), _read("negative_slope")),
    nn.Hardtanh: Leaf("hardtanh", (), _read("min_val", "max_val")),
    nn.Softplus: Leaf("softplus", (), _read("beta", "threshold")),
    nn.Softmax: Leaf("softmax", (), _softmax),
    nn.LogSoftmax: Leaf("log_softmax", (), _softmax),
    nn.MaxPool1d: Leaf("max_pool1d", (), _max_pool),
    nn.MaxPool2d: Leaf("max_pool2d", (), _max_pool),
    nn.MaxPool3d: Leaf("max_pool3d", (), _max_pool),
    nn.AvgPool1d: Leaf("avg_pool1d", (), _read(*_POOL)),
    nn.AvgPool2d: Leaf("avg_pool2d", (), _read(*_POOL, "divisor_override")),
    nn.AvgPool3d: Leaf("avg_pool3d", (), _read(*_POOL, "divisor_override")),
    nn.AdaptiveAvgPool1d: Leaf("adaptive_avg_pool1d", (), _read("output_size")),
    nn.AdaptiveAvgPool2d: Leaf("adaptive_avg_pool2d", (), _read("output_size")),
    nn.AdaptiveAvgPool3d: Leaf("adaptive_avg_pool3d", (), _read("output_size")),
    nn.Flatten: Leaf("flatten", (), _read("start_dim", "end_dim")),
    nn.PixelShuffle: Leaf("pixel_shuffle", (), _read("upscale_factor")),
}
