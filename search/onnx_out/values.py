"""The tensors of an OnnxModule's layers in the order that their ONNX nodes have: the way back from
`onnx_in.layers`. Knows no graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from search.errors import SkeletonError
from search.onnx_in.module import Step
from search.onnx_in.recurrent import GATES, Recurrent

Values = dict[int, Tensor]  # place among a node's inputs -> what it is to hold
Attributes = dict[str, Any]


def layer_values(step: Step, module: nn.Module, opset: int) -> tuple[Values, Attributes]:
    """What the inputs of a node are to hold, and the attributes that follow, as its module says.

    Raises:
        SkeletonError: the module holds more than the node can say.
    """
    made = module[-1] if isinstance(module, nn.Sequential) else module
    if step.node.op in ("Gemm", "MatMul"):
        return _product(step, made)
    if step.node.op == "GroupNormalization" and opset < 21:
        return _group_norm(step, made)
    return _MAKERS[step.node.op](made)


def _product(step: Step, module: Any) -> tuple[Values, Attributes]:
    """A Gemm is left without factors, which are part of the weight by now."""
    turned = step.node.op == "Gemm" and bool(step.node.attributes.get("transB", 0))
    values = {1: module.weight if turned else module.weight.t()}
    if module.bias is not None:
        values[2] = module.bias
    given = {name: 1.0 for name in ("alpha", "beta") if name in step.node.attributes}
    return values, given


def _convolution(module: Any) -> tuple[Values, Attributes]:
    values = {1: module.weight}
    if module.bias is not None:
        values[2] = module.bias
    return values, {"group": module.groups}


def _batch_norm(module: Any) -> tuple[Values, Attributes]:
    tensors = (module.weight, module.bias, module.running_mean, module.running_var)
    return dict(enumerate(tensors, 1)), {}


def _norm(module: Any) -> tuple[Values, Attributes]:
    values = {1: module.weight}
    if getattr(module, "bias", None) is not None:
        values[2] = module.bias
    return values, {}


def _new_group_norm(module: Any) -> tuple[Values, Attributes]:
    return _norm(module)[0], {"num_groups": module.num_groups}


def _group_norm(step: Step, module: Any) -> tuple[Values, Attributes]:
    """Before opset 21 one entry per group: it can be said as long as its channels agree."""
    values, attributes = _new_group_norm(module)
    for place, value in values.items():
        grouped = value.reshape(module.num_groups, -1)
        if not torch.equal(grouped, grouped[:, :1].expand_as(grouped)):
            raise SkeletonError(
                f"{step.node.title} of an opset below 21 holds one value per group, but the "
                "pruned model has one per channel"
            )
        values[place] = grouped[:, 0]
    return values, attributes


def _embedding(module: Any) -> tuple[Values, Attributes]:
    return {0: module.weight}, {}


def _slope(module: Any) -> tuple[Values, Attributes]:
    return {1: module.weight}, {}


def _recurrent(module: Any) -> tuple[Values, Attributes]:
    """Gates in ONNX's order; both biases side by side."""
    if not isinstance(module, Recurrent):
        raise SkeletonError(f"a recurrent layer must be one of onnx_in, but is {module!r:.80}")
    op = type(module.cell).__name__
    suffixes = ("", "_reverse")[: module.directions]

    def stacked(name: str) -> Tensor:
        parts = (getattr(module.cell, f"{name}_l0{suffix}") for suffix in suffixes)
        return torch.stack([_as_onnx(op, part) for part in parts])

    values = {1: stacked("weight_ih"), 2: stacked("weight_hh")}
    if module.cell.bias:
        values[3] = torch.cat((stacked("bias_ih"), stacked("bias_hh")), 1)
    return values, {"hidden_size": module.cell.hidden_size}


def _as_onnx(op: str, tensor: Tensor) -> Tensor:
    order = GATES[op]
    gates = tensor.chunk(len(order))
    return torch.cat([gates[order.index(place)] for place in range(len(order))])


_MAKERS: Mapping[str, Callable[[Any], tuple[Values, Attributes]]] = {
    "BatchNormalization": _batch_norm,
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "GRU": _recurrent,
    "Gather": _embedding,
    "GroupNormalization": _new_group_norm,
    "InstanceNormalization": _norm,
    "LSTM": _recurrent,
    "LayerNormalization": _norm,
    "PRelu": _slope,
    "RMSNormalization": _norm,
    "RNN": _recurrent,
}
