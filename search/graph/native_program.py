"""The program of a model in its own dtype from that of its float64 copy, without a second export.

It can be had where nothing in the graph names a dtype, or holds a number that depends on one. It
knows programs, no groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from search.errors import GraphError
from search.graph.batch_limits import ALIKE, off_by, with_batches
from search.graph.dependency.grouping import Grouping, form_groups
from search.graph.dependency.operators.operator import Operator
from search.graph.dependency.operators.registry import OPERATORS
from search.graph.dependency.reshape_choices import analysed
from search.graph.dependency.residual_blocks import with_blocks
from search.graph.exported.copies import quiet_copy
from search.graph.exported.deadline import NEVER, Deadline
from search.graph.exported.export import Exported, batch_of_two, export
from search.graph.exported.weight_statistics import with_fixed_statistics
from search.graph.pruned.pruned_graph import Program
from search.graph.pruning_graph import PruningGraph, frozen_by
from search.graph.verification.comparison import first_examples
from search.tensors import named_tensors

OTHER = "unverified: the graph in the model's own dtype differs from the one in float64"

_SMALLEST, _LARGEST = 1e-13, 1e30  # what a code that adapts to a dtype takes is beyond


def cast_program(program: Program, model: nn.Module, inputs: Sequence[Tensor]) -> Program | None:
    """The program in the dtype of `model`; None where that needs an export of its own.

    Args:
        program: that of a float64 copy.
        model: the user's, all in one dtype.
        inputs: its example inputs.
    """
    exported = program.exported
    if _decimals(model, inputs) != {torch.float32} or exported.statistics is not None:
        return None
    if any(_depends_on_dtype(value) for value in _arguments(exported)):
        return None
    constants = {
        name: value.float() if value.dtype is torch.float64 else value
        for name, value in exported.constants.items()
    }
    made = Program(replace(exported, constants=constants), program.propagation)
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


def _depends_on_dtype(value: Any) -> bool:
    if isinstance(value, float):
        return value != 0 and np.isfinite(value) and not _SMALLEST < abs(value) < _LARGEST
    if isinstance(value, torch.dtype):
        return value.is_floating_point or value.is_complex
    return isinstance(value, Tensor)


def with_program(
    graph: PruningGraph, operators: Mapping[str, Operator], deadline: Deadline
) -> PruningGraph:
    """The analysis with the exported graph of the model in its own dtype.

    Where that cannot be had in time, or differs from the one that was verified, the groups that
    need it are frozen.
    """
    needing = [
        group.name for group in graph.groups if group.form == "graph" and group.status != "frozen"
    ]
    try:
        return replace(graph, program=program_like(graph, operators, deadline))
    except GraphError as error:
        return frozen_by(graph, dict.fromkeys(needing, str(error)))


def program_like(
    graph: PruningGraph, operators: Mapping[str, Operator], deadline: Deadline = NEVER
) -> Program:
    """The exported graph of the model in its own dtype.

    Raises:
        GraphError: it cannot be exported in time, or does not have the groups of `graph`.
    """
    program, grouping = program_of(graph.model, graph.example_inputs, operators, deadline)
    same = (
        np.array_equal(grouping.group_of, graph.group_of),
        np.array_equal(grouping.unit_of, graph.unit_of),
    )
    if not all(same):
        raise GraphError(OTHER)
    return program


def program_of(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    operators: Mapping[str, Operator] = OPERATORS,
    deadline: Deadline = NEVER,
    *,
    all_sizes: bool = False,
) -> tuple[Program, Grouping]:
    """The exported graph of a model in its own dtype, and its groups, not verified.

    With `all_sizes`, every size of the inputs is free where the model allows it.

    Raises:
        GraphError: see `trace`.
    """
    copied = quiet_copy(model)
    tensors = named_tensors(copied)
    two = batch_of_two(example_inputs)
    exported = export(copied, two, deadline, all_sizes=all_sizes)
    exported = with_fixed_statistics(exported, tensors)
    propagation = with_blocks(exported, analysed(exported, aliases_of(tensors), operators))
    program = Program(exported, propagation)
    if not all_sizes:
        program = with_batches(program, model, example_inputs)
    return program, form_groups(propagation)


def aliases_of(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Name of a tensor -> the first name of the same tensor; they differ where it is tied."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in tensors.items()}
