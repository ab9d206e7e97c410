"""The exported graph with free sizes of the inputs, where it is right for other sizes too.

Units do not depend on the sizes of images or texts, so that graph must have the groups of the
traced one; and it is compared with the model at sizes that were not traced.

| symbol | meaning |
|---|---|
| TRIED | factors on the free sizes, at which model and graph are compared |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from search.errors import GraphError
from search.graph.batch_limits import ALIKE, off_by
from search.graph.dependency.grouping import Grouping
from search.graph.dependency.operators.operator import Operator
from search.graph.dependency.operators.registry import OPERATORS
from search.graph.exported.copies import quiet_copy
from search.graph.exported.export import Exported, batch_of_two, is_symbol
from search.graph.exported.nodes import is_check, operator_name
from search.graph.native_program import program_of
from search.graph.pruned.pruned_graph import Program
from search.graph.pruned.size_conditions import are_plain
from search.graph.pruning_graph import PruningGraph
from search.graph.verification.comparison import outputs_of, random_plan, relative_error
from search.surgery import smaller_copy

TRIED = (2.0, 0.5, 1.5, 0.75, 1.25)


def free_program(
    graph: PruningGraph, operators: Mapping[str, Operator] = OPERATORS
) -> Program | None:
    """The program of `graph` with free sizes beside the batch.

    Returns:
        None where the model has no such sizes, where its graph holds what is right for the traced
        ones alone (statistics that count, constants that a state dict must have), and where graph
        and model differ, or no other size could be compared.
    """
    grouping = Grouping(graph.groups, graph.group_of, graph.unit_of)
    try:
        program = with_free_sizes(
            graph.whole_program, grouping, graph.model, graph.example_inputs, operators
        )
        if program is None or not _is_like_model(program, graph.model, graph.example_inputs):
            return None
        return program if _is_like_traced(program, graph) else None
    except Exception:  # what works for the traced sizes must not fail because of others
        return None


def with_free_sizes(
    traced: Program,
    grouping: Grouping,
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    operators: Mapping[str, Operator] = OPERATORS,
) -> Program | None:
    """The program of a model with free sizes, compared with nothing; see `free_program`.

    Args:
        traced: its program for the traced sizes.
        grouping: the groups of that.
        model: the model.
        inputs: its example inputs.
        operators: what is known of every operator.
    """
    if not traced.exported.dynamic:
        return None
    try:
        program, found = program_of(model, inputs, operators, all_sizes=True)
    except GraphError:
        return None
    same = np.array_equal(found.group_of, grouping.group_of) and np.array_equal(
        found.unit_of, grouping.unit_of
    )
    return _with_batch_of(program, traced.exported) if same and _is_usable(program) else None


def _is_usable(program: Program) -> bool:
    """Whether nothing in it depends on the traced sizes in a way that is not known."""
    exported = program.exported
    checks = (operator_name(n) for n in exported.graph_module.graph.nodes if is_check(n))
    return (
        bool(exported.least)
        and not exported.computed
        and not program.propagation.counted.size
        and are_plain(exported.conditions)
        and not any("metadata" not in name for name in checks)
    )


def _with_batch_of(program: Program, traced: Exported) -> Program | None:
    """The program with the limits of the traced one on the number of examples."""
    exported = program.exported
    first = exported.input_nodes[0].meta["val"].shape[0]
    if not is_symbol(first) or str(first) in exported.least:
        return None
    most = {**exported.most, str(first): min(traced.most.values())}
    return replace(program, exported=replace(exported, most=most, single=traced.single))


def _is_like_model(program: Program, model: nn.Module, inputs: Sequence[Tensor]) -> bool:
    """Whether the graph computes what the model does wherever both can be compared."""
    two = batch_of_two(inputs)
    dense = program.pruned(model, quiet_copy(model), np.ones(program.propagation.atoms, bool))
    if not dense.takes(*two):
        return False
    compared = 0
    for other in (two, *_resized(program.exported, two)):
        off = off_by(program, model, other) if dense.takes(*other) else None
        if off is not None and off > ALIKE:
            return False
        compared += off is not None
    return compared > 1


def _resized(exported: Exported, two: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The examples in other sizes, which the graph says it holds for: repeated or cut."""
    nodes = exported.input_nodes
    for factor in TRIED:
        sizes: dict[str, int] = {}
        made = []
        for node, value in zip(nodes, two, strict=True):
            for dim, size in enumerate(node.meta["val"].shape):
                if is_symbol(size) and str(size) in exported.least:
                    wanted = sizes.setdefault(str(size), max(1, round(value.shape[dim] * factor)))
                    index = torch.arange(wanted, device=value.device) % value.shape[dim]
                    value = value.index_select(dim, index)
            made.append(value)
        yield made


def _is_like_traced(program: Program, graph: PruningGraph) -> bool:
    """Whether both graphs, without the same units, compute the same at the traced sizes."""
    names = [group.name for group in graph.searched(blocks=True)]
    plan = random_plan(graph.groups, names, 0)
    kept = graph.kept_atoms(plan)
    two = batch_of_two(graph.example_inputs)
    body = smaller_copy(graph.model, graph, plan)
    outputs = []
    for each in (graph.whole_program, program):
        pruned = each.pruned(graph.model, body, kept).eval()
        outputs.append(outputs_of(pruned, two))
    return relative_error(*outputs) <= ALIKE
