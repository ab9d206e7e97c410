"""Class scores from what a network returns: a tensor, or an output object, dict or tuple that
holds them.

Knows no library: an output object of transformers is a mapping with `logits`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from search.errors import GraphError

# Names under which networks return class scores, the usual first.
NAMES = ("logits", "scores", "class_scores", "pred_logits", "output", "out")


def scores_of(output: Any) -> Tensor:
    """The class scores (B, classes) in an output.

    A tensor is taken as it is. Of a mapping or data class: `logits`, or another of `NAMES`, else
    its only matrix. Of a tuple or list: its first entry if that is a matrix, else its only one.

    Raises:
        GraphError: None of these; the message lists what the output holds.
    """
    if isinstance(output, Tensor):
        return output
    entries = _entries(output)
    found: dict[str, Tensor] = {
        name: value for name, value in entries.items() if _is_matrix(value)
    }
    for name in (*NAMES, "0"):
        if name in found:
            return found[name]
    if len(found) == 1:
        return next(iter(found.values()))
    told = ", ".join(f"{name} {_shown(value)}" for name, value in entries.items())
    raise GraphError(
        "the output must be class scores (batch, classes), or hold them as `logits`, but got "
        f"{type(output).__name__}{f' with {told}' if told else ''}: let the network return the "
        "scores alone"
    )


def scores_only(model: nn.Module) -> nn.Module:
    """Lets `model` itself return its class scores alone, see `scores_of`.

    Its class becomes a subclass with the same name and the same signature of `forward`, so that
    parameters, buffers and copies of it are what they were.
    """
    own = type(model)

    @functools.wraps(own.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        return scores_of(own.forward(self, *args, **kwargs))

    names = {"forward": forward, "__module__": own.__module__, "__qualname__": own.__qualname__}
    model.__class__ = type(own.__name__, (own,), names)
    return model


def _entries(output: Any) -> dict[str, Any]:
    if isinstance(output, Mapping):
        return {str(name): value for name, value in output.items()}
    if is_dataclass(output):
        return {each.name: getattr(output, each.name) for each in fields(output)}
    if isinstance(output, Sequence) and not isinstance(output, str):
        names = getattr(output, "_fields", range(len(output)))
        return {str(name): value for name, value in zip(names, output, strict=True)}
    return {}


def _is_matrix(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 2


def _shown(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
