"""Finds the batch sizes for which an exported graph computes what the model does.

Python may decide by the number of examples, and an export keeps the way of two. It states the
largest number for which that is right, but neither what one example does nor an odd number.

| symbol | meaning |
|---|---|
| ALIKE | of a model and its graph in float32, which round in different places |
| CLEARLY | a size must be off by so many times what two examples are off by |
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from search.graph.exported.copies import quiet_copy
from search.graph.exported.export import BATCH, batch_of_two, batched
from search.graph.pruned.pruned_graph import Program
from search.graph.verification.comparison import outputs_of, relative_error

ALIKE = 1e-4
CLEARLY = 10


def with_batches(program: Program, model: nn.Module, inputs: Sequence[Tensor]) -> Program:
    """The program with the batch sizes for which it may be used.

    Args:
        program: the exported graph of a model in its own dtype.
        model: the model.
        inputs: its example inputs.
    """
    exported, two = program.exported, batch_of_two(inputs)
    if not exported.dynamic or not _differs(program, model, two, 1):
        return program
    fixed = min(exported.most.values()) > BATCH and _differs(program, model, two, BATCH + 1)
    return program.limited(fixed=fixed)


def _differs(program: Program, model: nn.Module, two: Sequence[Tensor], count: int) -> bool:
    """Whether another number of examples is further off than two are."""
    off = off_by(program, model, _in_turn(two, count))
    return off is not None and off > ALIKE and off > CLEARLY * (off_by(program, model, two) or 0.0)


def _in_turn(two: Sequence[Tensor], count: int) -> list[Tensor]:
    """So many examples, the two in turn."""
    index = torch.arange(count) % BATCH
    return [value[index.to(value.device)] if batched(value, BATCH) else value for value in two]


def off_by(program: Program, model: nn.Module, inputs: Sequence[Tensor]) -> float | None:
    """How far the graph is from the model; infinite where it fails, None where the model does."""
    try:
        expected = outputs_of(quiet_copy(model), inputs)
    except Exception:  # whatever the forward of a user's module raises
        return None
    dense = program.pruned(model, quiet_copy(model), np.ones(program.propagation.atoms, bool))
    try:
        return relative_error(outputs_of(dense, inputs), expected)
    except Exception:  # the graph calls what the forward of a user's module calls
        return float("inf")
