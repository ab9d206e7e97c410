"""The sizes that modules of torch.nn keep as attributes, computed from what their tensors keep.

So does the `Conv1D` of transformers, a linear layer, which is known by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase  # private: all batch and instance norms
from torch.nn.modules.conv import _ConvNd  # private: all convolutions

Attributes = dict[str, Any]
Shapes = Mapping[str, tuple[int, ...]]
Indices = Mapping[int, Sequence[int]]  # dimension -> the indices that stay, where some leave


def attributes_of(module: nn.Module, kept: Mapping[str, Indices]) -> Attributes:
    """The attributes that `module` must have when its own tensors keep the indices `kept`.

    Args:
        module: the module as it is now, before any tensor is cut.
        kept: what its own parameters and buffers (unprefixed) keep.

    Returns:
        Attribute name -> JSON value (tuples as lists); only those that change. Empty for a
        module of another class: its own code must follow its tensors.
    """
    rule = next((rule for kind, rule in _RULES if isinstance(module, kind)), None)
    rule = _conv1d if is_conv1d(module) else rule
    own = {**module._parameters, **module._buffers}
    shapes = {
        name: shape_with(tuple(tensor.shape), kept.get(name, {}))
        for name, tensor in own.items()
        if tensor is not None
    }
    wanted = rule(module, shapes, kept) if rule and shapes else {}
    return {
        name: value for name, value in wanted.items() if _plain(getattr(module, name)) != value
    }


def is_conv1d(module: nn.Module) -> bool:
    """Whether it is the linear layer of transformers, whose weight is (inputs, outputs)."""
    kind = type(module)
    return (kind.__module__, kind.__name__) == ("transformers.pytorch_utils", "Conv1D")


def shape_with(shape: tuple[int, ...], kept: Indices) -> tuple[int, ...]:
    """The shape of what is left of a tensor."""
    return tuple(len(kept[dim]) if dim in kept else size for dim, size in enumerate(shape))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _convolution(module: nn.Module, shapes: Shapes, kept: Mapping[str, Indices]) -> Attributes:
    """Conv groups that have lost all their rows are gone."""
    if not isinstance(module, _ConvNd) or "weight" not in shapes:
        return {}
    first, second = shapes["weight"][:2]
    rows = module.in_channels if module.transposed else module.out_channels
    left = kept.get("weight", {}).get(0, range(rows))
    groups = len({row * module.groups // rows for row in left})
    many, few = second * groups, first
    made, read = (many, few) if module.transposed else (few, many)
    return {"in_channels": read, "out_channels": made, "groups": groups}


def _linear(_: nn.Module, shapes: Shapes, __: Mapping[str, Indices]) -> Attributes:
    if "weight" not in shapes:
        return {}
    out_features, in_features = shapes["weight"]
    return {"in_features": in_features, "out_features": out_features}


def _conv1d(module: nn.Module, shapes: Shapes, _: Mapping[str, Indices]) -> Attributes:
    sizes = dict(zip(("nx", "nf"), shapes.get("weight", ()), strict=False))
    return {name: size for name, size in sizes.items() if hasattr(module, name)}


def _size(attribute: str) -> Callable[..., Attributes]:
    """The rule of a module that counts the entries of its vectors in one attribute."""

    def rule(_: nn.Module, shapes: Shapes, __: Mapping[str, Indices]) -> Attributes:
        vectors = [shape for shape in shapes.values() if len(shape) == 1]
        return {attribute: vectors[0][0]} if vectors else {}

    return rule


def _layer_norm(_: nn.Module, shapes: Shapes, __: Mapping[str, Indices]) -> Attributes:
    return {"normalized_shape": list(shapes["weight"])} if "weight" in shapes else {}


def _group_norm(module: nn.Module, shapes: Shapes, kept: Mapping[str, Indices]) -> Attributes:
    """Norm groups that have lost all their channels are gone."""
    if not isinstance(module, nn.GroupNorm) or "weight" not in shapes:
        return {}
    left = kept.get("weight", {}).get(0, range(module.num_channels))
    groups = len({channel * module.num_groups // module.num_channels for channel in left})
    return {"num_channels": shapes["weight"][0], "num_groups": groups}


def _embedding(_: nn.Module, shapes: Shapes, __: Mapping[str, Indices]) -> Attributes:
    return {"embedding_dim": shapes["weight"][1]} if "weight" in shapes else {}


def _recurrent(_: nn.Module, shapes: Shapes, __: Mapping[str, Indices]) -> Attributes:
    """What it reads; its hidden size stays."""
    weight = shapes.get("weight_ih_l0") or shapes.get("weight_ih")
    return {"input_size": weight[1]} if weight else {}


_RULES: tuple[tuple[type[nn.Module], Callable[..., Attributes]], ...] = (
    (_ConvNd, _convolution),
    (nn.Linear, _linear),
    (_NormBase, _size("num_features")),
    (nn.GroupNorm, _group_norm),
    (nn.PReLU, _size("num_parameters")),
    (nn.LayerNorm, _layer_norm),
    (nn.RMSNorm, _layer_norm),
    (nn.Embedding, _embedding),
    (nn.RNNBase, _recurrent),
    (nn.RNNCellBase, _recurrent),
)
