"""What a module of torch.nn says about its own sizes, computed from the sizes of its tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

Attributes = dict[str, Any]


def attributes_of(module: nn.Module, shapes: dict[str, tuple[int, ...]]) -> Attributes:
    """The attributes that `module` must have when its own tensors have `shapes`.

    Args:
        module: the module as it is now, before any tensor is cut.
        shapes: its own parameters and buffers (unprefixed) with the sizes that they will have.

    Returns:
        Attribute name -> JSON value (tuples as lists); only those that change. Empty for a
        module that is not of torch.nn or a subclass: its own code must follow its tensors.
    """
    rule = next((rule for kind, rule in _RULES if isinstance(module, kind)), None)
    wanted = rule(module, shapes) if rule and shapes else {}
    return {
        name: value for name, value in wanted.items() if _plain(getattr(module, name)) != value
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _convolution(module: nn.Module, shapes: dict[str, tuple[int, ...]]) -> Attributes:
    """Whole conv groups leave, so the rows (transposed: columns) of one group keep their count."""
    if not isinstance(module, _ConvNd) or "weight" not in shapes:
        return {}
    first, second = shapes["weight"][:2]
    if module.transposed:
        per_group = module.in_channels // module.groups
        groups = first // per_group if module.groups > 1 else 1
        return {"in_channels": first, "out_channels": second * groups, "groups": groups}
    per_group = module.out_channels // module.groups
    groups = first // per_group if module.groups > 1 else 1
    return {"in_channels": second * groups, "out_channels": first, "groups": groups}


def _linear(module: nn.Module, shapes: dict[str, tuple[int, ...]]) -> Attributes:
    if "weight" not in shapes:
        return {}
    out_features, in_features = shapes["weight"]
    return {"in_features": in_features, "out_features": out_features}


def _size(attribute: str) -> Callable[[nn.Module, dict[str, tuple[int, ...]]], Attributes]:
    """The rule of a module that counts the entries of its vectors in one attribute."""

    def rule(module: nn.Module, shapes: dict[str, tuple[int, ...]]) -> Attributes:
        vectors = [shape for shape in shapes.values() if len(shape) == 1]
        return {attribute: vectors[0][0]} if vectors else {}

    return rule


def _layer_norm(module: nn.Module, shapes: dict[str, tuple[int, ...]]) -> Attributes:
    return {"normalized_shape": list(shapes["weight"])} if "weight" in shapes else {}


def _embedding(module: nn.Module, shapes: dict[str, tuple[int, ...]]) -> Attributes:
    return {"embedding_dim": shapes["weight"][1]} if "weight" in shapes else {}


_RULES: tuple[tuple[type[nn.Module], Callable[..., Attributes]], ...] = (
    (_ConvNd, _convolution),
    (nn.Linear, _linear),
    (_NormBase, _size("num_features")),
    (nn.GroupNorm, _size("num_channels")),
    (nn.PReLU, _size("num_parameters")),
    (nn.LayerNorm, _layer_norm),
    (nn.RMSNorm, _layer_norm),
    (nn.Embedding, _embedding),
)
