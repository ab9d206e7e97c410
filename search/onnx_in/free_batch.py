"""A model exported for a fixed batch: frees the batch, and checks the result on two batches.

Knows inputs and outputs, and nothing of nodes.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from search.errors import OnnxError, first_line
from search.onnx_in.module import OnnxModule, as_tuple
from search.onnx_in.reading import Graph

TOLERANCE = 1e-4


def with_free_batch(graph: Graph) -> Graph:
    """The graph with a free batch: every input whose first size is that of the first input's."""
    own = graph.inputs[0].shape[0]
    inputs = (
        replace(each, shape=(None, *each.shape[1:])) if each.shape[0] in (None, own) else each
        for each in graph.inputs
    )
    return replace(graph, inputs=tuple(inputs))


def check_batch(module: OnnxModule, size: int) -> None:
    """Raises OnnxError unless two batches together give what each gives alone.

    The batch may be any dimension of the outputs: what a recurrent layer makes begins with steps.
    """
    first, second = (module.example_inputs(size, seed) for seed in (0, 1))
    try:
        with torch.no_grad():
            alone = [as_tuple(module(*inputs)) for inputs in (first, second)]
            joined = tuple(
                torch.cat(pair) if each.shape[0] is None else pair[0]
                for each, *pair in zip(module.inputs, first, second, strict=True)
            )
            together = as_tuple(module(*joined))
        close = all(_joins(*three) for three in zip(together, *alone, strict=True))
        problem = "its outputs mix the examples"
    except (OnnxError, RuntimeError, IndexError) as error:
        close, problem = False, first_line(error)
    if not close:
        raise OnnxError(
            f"the batch must be free, but the model holds for batches of {size} only "
            f"({problem}): export it with a dynamic first dimension"
        )


def _joins(together: Tensor, first: Tensor, second: Tensor) -> bool:
    """Whether `together` is the two, one after the other in one dimension."""
    longer = [dim for dim in range(together.ndim) if together.shape[dim] != first.shape[dim]]
    return len(longer) == 1 and _close(together, torch.cat((first, second), longer[0]))


def _close(value: Tensor, wanted: Tensor) -> bool:
    if value.shape != wanted.shape:
        return False
    scale = float(wanted.double().abs().max()) or 1.0
    return float((value - wanted).double().abs().max()) <= TOLERANCE * scale
