"""Names of the modules and constants of an OnnxModule, from those of ONNX. Builds nothing."""

from __future__ import annotations

import re

from torch import nn

from search.onnx_in.reading import OnnxNode


def free_name(module: nn.Module, name: str) -> str:
    """The name, or the first with a number that the module does not have."""
    free, number = name, 2
    while hasattr(module, free):
        free, number = f"{name}_{number}", number + 1
    return free


def layer_name(node: OnnxNode) -> str:
    """The module that the weight belongs to by its name, or the node, or operator and weight."""
    weight = node.inputs[0 if node.op == "Gather" else 1]
    stem, _, leaf = weight.rpartition(".")
    if stem and leaf == "weight":
        return _sanitized(stem)
    return _sanitized(node.name) or f"{node.op}_{_sanitized(weight)}"


def constant_name(node: OnnxNode, name: str) -> str:
    """A vector that is added is called a bias."""
    plain = _sanitized(name) or f"{node.op}_constant"
    return f"{plain}_bias" if node.op in ("Add", "Sub") and "bias" not in plain else plain


def _sanitized(name: str) -> str:
    """A name that a module can have: `/layer1/0/Conv` is layer1_0_Conv."""
    plain = re.sub(r"\W+", "_", name.rpartition("::")[2]).strip("_")
    return f"value_{plain}" if plain[:1].isdigit() else plain
