"""The lines that load a result, as the report, the card and the README print them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OWN_CLASS = """\
import json, safetensors.torch

model, weights = build_your_network(), safetensors.torch.load_file("model.safetensors")
for name, attributes in json.load(open("plan.json"))["modules"].items():
    vars(model.get_submodule(name)).update(attributes)
tensors = model.state_dict(keep_vars=True)
for name, tensor in weights.items():
    tensors[name].data = tensor.to(tensors[name])
"""
AS_GRAPH = """\
import secateur

model = secateur.load(".", build_your_network())
"""


def loading(report: Mapping[str, Any], widths: Mapping[str, int]) -> str:
    """The lines that load a result: those of the README, unless it is an exported graph.

    Args:
        report: the analysis of the model.
        widths: group -> units that are left; empty where nothing was pruned.
    """
    cut = (
        group
        for group in report.get("groups", ())
        if widths.get(group["name"], group["width"]) < group["width"]
    )
    return AS_GRAPH if any(group["form"] == "graph" for group in cut) else OWN_CLASS
