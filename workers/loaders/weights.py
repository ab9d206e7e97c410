"""Puts safetensors into a freshly built network, or says by name and shape what does not fit."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from search.tensors import load_tensors
from workers.loaders.errors import WeightsError
from workers.loaders.prefixes import unwrapped

LISTED = 50


def load_weights(model: nn.Module, path: Path) -> str | None:
    """Fills `model` in place.

    Returns:
        None, or a sentence that names the wrapper whose name was taken off the tensors.

    Raises:
        WeightsError: The file is damaged, or names, shapes or values do not fit.
    """
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"the safetensors file cannot be read: {error}") from error
    expected = model.state_dict()
    findings, told = list(_findings(expected, weights)), None
    if findings and (bare := unwrapped(weights, expected)) is not None:
        weights = {name: weights[given] for given, name in bare.names.items()}
        findings, told = list(_findings(expected, weights)), bare.sentence
    if findings:
        after = f", after {told}" if told else ""
        raise WeightsError(
            f"{len(findings)} tensors do not fit the architecture{after}; give the weights "
            "of exactly this architecture, or its other constructor arguments in `kwargs`",
            errors=findings[:LISTED],
        )
    load_tensors(model, weights, strict=False)
    return told


def _findings(expected: dict[str, Tensor], given: dict[str, Tensor]) -> Iterable[dict[str, Any]]:
    aliases = _aliases(expected)
    for name in sorted(expected.keys() | given.keys()):
        if name not in given:
            if not any(other in given for other in aliases[name]):
                yield {
                    "field": name,
                    "message": f"missing; expected shape {_shape(expected[name])}",
                }
        elif name not in expected:
            yield {
                "field": name,
                "message": f"unknown to the architecture, shape {_shape(given[name])}",
            }
        elif expected[name].shape != given[name].shape:
            message = f"shape must be {_shape(expected[name])}, but got {_shape(given[name])}"
            yield {"field": name, "message": message}
        elif given[name].is_floating_point() and not bool(torch.isfinite(given[name]).all()):
            yield {"field": name, "message": "holds values that are not finite"}


def _aliases(tensors: dict[str, Tensor]) -> dict[str, list[str]]:
    """Names that share one storage: safetensors keeps a tied tensor once."""
    groups: dict[tuple[int, int], list[str]] = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tensor.numel())
        groups.setdefault(key if tensor.numel() else (id(tensor), 0), []).append(name)
    return {name: names for names in groups.values() for name in names}


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)
