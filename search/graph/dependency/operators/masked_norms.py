"""Norms and means that count units that are gone as zeros: sums, divided by how many there were.

| symbol | meaning |
|---|---|
| N | how many values a statistic counts, those that are gone among them |
| m | Σ x / N, the mean |
| v | Σ x (x − m) / N, the variance: what is gone adds nothing to this sum |

It knows operators and numbers, no labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

_aten = torch.ops.aten

Given = Mapping[str, Any]


def mean(graph: fx.Graph, given: Given, dims: Sequence[int], count: int) -> fx.Node:
    """m, over `dims`."""
    named = {} if given.get("dtype") is None else {"dtype": given["dtype"]}
    args = (given["self"], list(dims), given.get("keepdim", False))
    total = graph.call_function(_aten.sum.dim_IntList, args, named)
    return graph.call_function(_aten.div.Scalar, (total, count))


def rms_norm(graph: fx.Graph, given: Given, dims: Sequence[int], count: int) -> fx.Node:
    """x / √(Σ x² / N + ε) · gain."""
    call, x = graph.call_function, given["input"]
    power = _average(graph, call(_aten.mul.Tensor, (x, x)), dims, count)
    return _scaled(graph, x, power, given)


def layer_norm(graph: fx.Graph, given: Given, dims: Sequence[int], count: int) -> fx.Node:
    """(x − m) / √(v + ε) · gain + bias."""
    call, x = graph.call_function, given["input"]
    centred = call(_aten.sub.Tensor, (x, _average(graph, x, dims, count)))
    variance = _average(graph, call(_aten.mul.Tensor, (x, centred)), dims, count)
    return _scaled(graph, centred, variance, given)


def _average(graph: fx.Graph, x: fx.Node, dims: Sequence[int], count: int) -> fx.Node:
    return mean(graph, {"self": x, "keepdim": True}, dims, count)


def _scaled(graph: fx.Graph, x: fx.Node, power: fx.Node, given: Given) -> fx.Node:
    call = graph.call_function
    scale = call(_aten.rsqrt.default, (call(_aten.add.Scalar, (power, given["eps"])),))
    made = call(_aten.mul.Tensor, (x, scale))
    for operator, name in ((_aten.mul.Tensor, "weight"), (_aten.add.Tensor, "bias")):
        if given.get(name) is not None:
            made = call(operator, (made, given[name]))
    return made


RECOUNTED: Mapping[str, Callable[[fx.Graph, Given, Sequence[int], int], fx.Node]] = {
    "layer_norm": layer_norm,
    "mean": mean,
    "rms_norm": rms_norm,
}
