"""trace: the one way into the analysis."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from search.errors import ExportError, GraphError, LateError
from search.graph.batches import with_batches
from search.graph.blocks import with_blocks
from search.graph.branches import branches_of, set_aside, with_branches
from search.graph.call import Rule
from search.graph.choosing import analysed
from search.graph.costs import mac_products, parameter_products
from search.graph.deadline import LATE, PATIENCE, Deadline, own_processor_time
from search.graph.doubling import everything_in_float64
from search.graph.exporting import TOO_LATE, Exported, batch_of_two, export
from search.graph.grouping import Grouping, form_groups
from search.graph.partial import NO_PROGRAM, inputs_of, rejoined, side_by_side, traceable_calls
from search.graph.program import Program
from search.graph.propagation import Propagation
from search.graph.pruning_graph import PruningGraph
from search.graph.recasting import recast
from search.graph.redrawing import double_copy, quiet_copy, stirred
from search.graph.refusals import check_inputs, check_model, check_outputs
from search.graph.rules.table import RULES
from search.graph.standardising import with_fixed_statistics
from search.graph.threads import one_thread
from search.graph.types import Group
from search.graph.verdicts import Hearing, Verdicts
from search.graph.verification import frozen_by, settle
from search.tensors import named_tensors

SEED = 0
BRANCHES = "the model takes other branches in training, which a graph without it would lack"
OTHER = "unverified: the graph in the model's own dtype differs from the one in float64"


def trace(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    *,
    time_limit_s: float = 60.0,
    wall_limit_s: float | None = None,
    verdicts: Verdicts | None = None,
    rules: Mapping[str, Rule] = RULES,
    clock: Callable[[], float] | None = None,
    wall_clock: Callable[[], float] | None = None,
) -> PruningGraph:
    """Find what can be pruned in `model`, and verify it.

    The model is exported by torch.export at a batch of two; one rule per operator ties the
    dimensions of its parameters into groups; every group is then cut in a redrawn float64 copy,
    which must compute what the dense graph does with the same units zeroed. What fails, what has
    no rule, and what the time limit leaves unverified is frozen, with the reason. Of a model that
    cannot be exported as a whole (post-processing that branches on values, say), the largest
    submodules that can be are analysed; the rest stays as it is.

    Args:
        model: any traceable module, in any mode and dtype; it is not touched.
        example_inputs: tensors with a leading batch dimension.
        time_limit_s: processor time of the calling thread, which does all the work, so that what
            is found does not hang on who else uses the machine. Checked between steps, each of
            which is taken to last as long as the longest before it, and while the model is
            exported.
        wall_limit_s: the same in time as it passes, for a model that waits instead of computing;
            twenty times as long by default.
        verdicts: what an earlier trace of the same model told (`graph.verdicts`): it goes on from
            there, and what was verified is not verified again. What they do not fit is left aside.
        rules: one per ATen operator; extend RULES for an operator that has none. A wrong rule
            freezes groups, it cannot break a pruned model.
        clock: of `time_limit_s`: seconds that only ever grow; by default the processor time.
        wall_clock: of `wall_limit_s`; by default `clock` where that is given, else the time.

    Raises:
        GraphError: the model cannot be copied or exported in time, it holds what cannot be pruned
            (NaN, sparse or quantized tensors, no parameters at all), its output does not depend
            on its parameters, or the inputs are not tensors.
        LateError: a GraphError: the time was over before the model was exported.
    """
    wall_limit_s = PATIENCE * time_limit_s if wall_limit_s is None else wall_limit_s
    wall = Deadline(wall_limit_s, wall_clock or clock or time.monotonic)
    deadline = Deadline(time_limit_s, clock or own_processor_time(), wall)
    hearing = Hearing(verdicts or Verdicts(), deadline)
    check_model(model)
    with one_thread(), torch.inference_mode(False), torch.enable_grad():
        try:
            graph = _traced(model, example_inputs, rules, hearing, deadline)
        except ExportError as obstacle:
            parts = _traced_in_parts(model, example_inputs, rules, hearing, deadline)
            if parts is None or not any(_is_open(group) for group in parts.groups):
                if deadline.is_over() or deadline.has_refused:  # other parts were not tried
                    raise LateError(TOO_LATE) from obstacle
                raise
            graph = replace(parts, obstacle=str(obstacle))
    complete = not hearing.is_over and not graph.unfinished
    return replace(graph, complete=complete, verdicts=hearing.verdicts)


def _is_open(group: Group) -> bool:
    """Whether a group can be pruned, or could with more time."""
    return group.status != "frozen" or group.reason == LATE


def _traced_in_parts(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    rules: Mapping[str, Rule],
    hearing: Hearing,
    deadline: Deadline,
) -> PruningGraph | None:
    """The analysis of the submodules that can be exported; None if there are none."""
    calls = traceable_calls(model, example_inputs, deadline)
    if not calls:
        return None
    parts = side_by_side(model, calls)
    graph = _traced(parts, inputs_of(calls), rules, hearing, deadline, whole=False)
    return rejoined(graph, model, example_inputs, calls, hearing)


def _traced(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    rules: Mapping[str, Rule],
    hearing: Hearing,
    deadline: Deadline,
    *,
    whole: bool = True,
) -> PruningGraph:
    with everything_in_float64():
        verified = _verified(model, example_inputs, rules, hearing, deadline, whole=whole)
    graph = replace(verified, model=model, example_inputs=example_inputs, program=None)
    if verified.program is None or all(group.form == "module" for group in graph.prunable):
        return replace(graph, exporting=partial(_program_like, graph, rules))
    program = recast(verified.program, model, example_inputs)
    return (
        _with_program(graph, rules, deadline)
        if program is None
        else replace(graph, program=program)
    )


def _verified(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    rules: Mapping[str, Rule],
    hearing: Hearing,
    deadline: Deadline,
    *,
    whole: bool,
) -> PruningGraph:
    """The analysis of a float64 copy; parts of a model have no graph that could lose blocks."""
    copy = double_copy(model)
    inputs = stirred(batch_of_two(example_inputs), SEED)
    check_inputs(inputs)
    exported = with_fixed_statistics(export(copy, inputs, deadline.is_over), named_tensors(copy))
    graph, found = _assembled(copy, inputs, exported, rules)
    if not whole:
        graph = frozen_by(graph, {group.name: NO_PROGRAM for group in graph.removable})
    reads_parameters = set(graph.unused) < set(_parameters(copy).values())
    check_outputs(exported.graph_module.graph, reads_parameters=reads_parameters)
    joined = _verified_with_branches(graph, rules, hearing, deadline)
    return settle(graph, exported, found, hearing) if joined is None else joined


def _verified_with_branches(
    graph: PruningGraph, rules: Mapping[str, Rule], hearing: Hearing, deadline: Deadline
) -> PruningGraph | None:
    """The analysis in which auxiliary heads lose what they read; None where that cannot be."""
    copy, inputs = graph.model, graph.example_inputs
    exported = with_branches(copy, inputs, graph.unused, deadline.is_over)
    if exported is None:
        return None
    exported = with_fixed_statistics(exported, named_tensors(copy))
    whole, found = _assembled(copy, inputs, exported, rules)
    blocks = dict.fromkeys((group.name for group in whole.removable), BRANCHES)
    aside = frozen_by(set_aside(whole, found, graph.unused), blocks)
    with branches_of(copy):
        settled = settle(aside, exported, found, hearing)
    return settled if settled.prunable and settled.program is None else None


def _with_program(
    graph: PruningGraph, rules: Mapping[str, Rule], deadline: Deadline
) -> PruningGraph:
    """The graph with the exported graph of the model in its own dtype.

    Where that cannot be had in time, or differs from the one that was verified, the groups that
    need it are frozen.
    """
    needing = [
        group.name for group in graph.groups if group.form == "graph" and group.status != "frozen"
    ]
    try:
        return replace(graph, program=_program_like(graph, rules, deadline.is_over))
    except GraphError as error:
        return frozen_by(graph, dict.fromkeys(needing, str(error)))


def _program_like(
    graph: PruningGraph, rules: Mapping[str, Rule], is_over: Callable[[], bool] = bool
) -> Program:
    """The exported graph of the model in its own dtype, if it has the groups of `graph`."""
    program, grouping = program_of(graph.model, graph.example_inputs, rules, is_over)
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
    rules: Mapping[str, Rule] = RULES,
    is_over: Callable[[], bool] = bool,
) -> tuple[Program, Grouping]:
    """The exported graph of a model in its own dtype, and its groups, not verified.

    Raises:
        GraphError: see `trace`.
    """
    copied = quiet_copy(model)
    tensors = named_tensors(copied)
    exported = export(copied, batch_of_two(example_inputs), is_over)
    exported = with_fixed_statistics(exported, tensors)
    found = with_blocks(exported, analysed(exported, _aliases(tensors), rules))
    program = with_batches(Program(exported, found), model, example_inputs)
    return program, form_groups(found)


def _assembled(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    exported: Exported,
    rules: Mapping[str, Rule],
) -> tuple[PruningGraph, Propagation]:
    """The groups of an exported model, not verified, and its labels."""
    found = with_blocks(exported, analysed(exported, _aliases(named_tensors(model)), rules))
    grouping = form_groups(found)
    graph = PruningGraph(
        model=model,
        example_inputs=inputs,
        groups=grouping.groups,
        shapes={name: labels.shape for name, labels in found.tensors.items()},
        unused=_unused(exported, _parameters(model)),
        dynamic_batch=exported.dynamic,
        group_of=grouping.group_of,
        unit_of=grouping.unit_of,
        parameter_counts=parameter_products(found, dict.fromkeys(_parameters(model).values())),
        mac_counts=mac_products(found, dynamic=exported.dynamic),
    )
    return graph, found


def _parameters(model: nn.Module) -> dict[str, str]:
    return _aliases(dict(model.named_parameters(remove_duplicate=False)))


def _unused(exported: Exported, aliases: Mapping[str, str]) -> tuple[str, ...]:
    """Parameters that no operator reads under any of their names."""
    placeholders = exported.graph_module.graph.find_nodes(op="placeholder")
    read = {aliases.get(exported.sources.get(n.name, "")) for n in placeholders if n.users}
    return tuple(name for name, first in aliases.items() if name == first and first not in read)


def _aliases(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Name of a tensor -> the first name of the same tensor; they differ where it is tied."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in tensors.items()}
