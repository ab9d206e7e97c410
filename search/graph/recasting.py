"""The program of a model in its own dtype from that of its float64 copy, without a second export.

It can be had where nothing in the graph names a dtype, or holds a number that depends on one. It
knows programs, no groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from search.graph.batches import ALIKE, off_by
from search.graph.exporting import Exported, batch_of_two
from search.graph.program import Program
from search.graph.trials import first_examples
from search.tensors import named_tensors

_SMALLEST, _LARGEST = 1e-13, 1e30  # what a code that adapts to a dtype takes is beyond


def recast(program: Program, model: nn.Module, inputs: Sequence[Tensor]) -> Program | None:
    """The program in the dtype of `model`; None where that needs an export of its own.

    Args:
        program: that of a float64 copy.
        model: the user's, all in one dtype.
        inputs: its example inputs.
    """
    exported = program.exported
    if _decimals(model, inputs) != {torch.float32} or exported.statistics is not None:
        return None
    if any(_tells_dtype(value) for value in _arguments(exported)):
        return None
    constants = {
        name: value.float() if value.dtype is torch.float64 else value
        for name, value in exported.constants.items()
    }
    made = Program(replace(exported, constants=constants), program.found)
    two = batch_of_two(inputs)
    off = off_by(made, model, first_examples(exported.dynamic, two) or two)
    return made if off is not None and off <= ALIKE else None


def _decimals(model: nn.Module, inputs: Sequence[Tensor]) -> set[torch.dtype]:
    tensors = (*named_tensors(model).values(), *inputs)
    return {value.dtype for value in tensors if value.is_floating_point() or value.is_complex()}


def _arguments(exported: Exported) -> Iterator[Any]:
    yield from (value for value in exported.constants.values() if value.is_complex())
    for node in exported.graph_module.graph.nodes:
        if node.op == "call_function":
            yield from _leaves((node.args, node.kwargs))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    else:
        yield value


def _tells_dtype(value: Any) -> bool:
    if isinstance(value, float):
        return value != 0 and np.isfinite(value) and not _SMALLEST < abs(value) < _LARGEST
    if isinstance(value, torch.dtype):
        return value.is_floating_point or value.is_complex
    return isinstance(value, Tensor)
