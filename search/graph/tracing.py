"""trace: the one way into the analysis."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from search.errors import ExportError, LateError
from search.graph.dependency.costs import mac_products, parameter_products
from search.graph.dependency.grouping import form_groups
from search.graph.dependency.groups import Group
from search.graph.dependency.memory import activations_of
from search.graph.dependency.operators.operator import Operator
from search.graph.dependency.operators.registry import OPERATORS
from search.graph.dependency.reshape_choices import analysed
from search.graph.dependency.residual_blocks import with_blocks
from search.graph.exported.copies import double_copy
from search.graph.exported.deadline import LATE, NEVER, PATIENCE, Deadline, own_processor_time
from search.graph.exported.diagnostics import check_inputs, check_model, check_outputs
from search.graph.exported.export import TOO_LATE, Exported, batch_of_two, export
from search.graph.exported.float64_mode import everything_in_float64
from search.graph.exported.single_thread import one_thread
from search.graph.exported.weight_statistics import with_fixed_statistics
from search.graph.fallbacks.auxiliary_heads import branches_of, set_aside, with_branches
from search.graph.fallbacks.submodules import (
    NO_PROGRAM,
    inputs_of,
    rejoined,
    side_by_side,
    traceable_calls,
)
from search.graph.free_sizes import free_program
from search.graph.native_program import aliases_of, cast_program, program_like, with_program
from search.graph.pruning_graph import PruningGraph, frozen_by
from search.graph.trial_log import TrialLog, Verdicts
from search.graph.verification.redraw import stirred
from search.graph.verification.subject import Subject
from search.graph.verification.trials import Trials
from search.graph.verification.verifier import Verifier
from search.tensors import named_tensors

SEED = 0
BRANCHES = "the model takes other branches in training, which a graph without it would lack"


def trace(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    *,
    time_limit_s: float = 60.0,
    wall_limit_s: float | None = None,
    verdicts: Verdicts | None = None,
    operators: Mapping[str, Operator] = OPERATORS,
    clock: Callable[[], float] | None = None,
    wall_clock: Callable[[], float] | None = None,
) -> PruningGraph:
    """Find what can be pruned in `model`, and verify it.

    The model is exported by torch.export at a batch of two; what is known of each operator ties
    the dimensions of its parameters into groups; every group is then cut in a redrawn float64
    copy, which must compute what the dense graph does with the same units zeroed. What fails,
    what has no rule, and what the time limit leaves unverified is frozen, with the reason. Of a
    model that cannot be exported as a whole (post-processing that branches on values, say), the
    largest submodules that can be are analysed; the rest stays as it is.

    Args:
        model: any traceable module, in any mode and dtype; it is not touched.
        example_inputs: tensors with a leading batch dimension.
        time_limit_s: processor time of the calling thread, which does all the work, so that the
            result does not depend on other users of the machine. Checked between steps, each of
            which is taken to last as long as the longest before it, and while the model is
            exported.
        wall_limit_s: the same in time as it passes, for a model that waits instead of computing;
            twenty times as long by default.
        verdicts: the results of an earlier trace of the same model (`graph.verdicts`): it goes on
            from there, and what was verified is not verified again. What they do not fit is left
            aside.
        operators: what is known of every ATen operator; extend OPERATORS by a record for one that
            has none. A wrong rule freezes groups, it cannot break a pruned model.
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
    log = TrialLog(verdicts or Verdicts(), deadline)
    check_model(model)
    with one_thread(), torch.inference_mode(False), torch.enable_grad():
        try:
            graph = _traced(model, example_inputs, operators, log)
        except ExportError as obstacle:
            parts = _traced_in_parts(model, example_inputs, operators, log)
            if parts is None or not any(_is_open(group) for group in parts.groups):
                if deadline.is_over() or deadline.has_refused:  # other parts were not tried
                    raise LateError(TOO_LATE) from obstacle
                raise
            graph = replace(parts, obstacle=str(obstacle))
    complete = not log.is_out_of_time and not graph.unfinished
    return replace(graph, complete=complete, verdicts=log.verdicts)


def _is_open(group: Group) -> bool:
    """Whether a group can be pruned, or could with more time."""
    return group.status != "frozen" or group.reason == LATE


def _traced_in_parts(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    operators: Mapping[str, Operator],
    log: TrialLog,
) -> PruningGraph | None:
    """The analysis of the submodules that can be exported; None if there are none."""
    calls = traceable_calls(model, example_inputs, log.deadline)
    if not calls:
        return None
    parts = side_by_side(model, calls)
    graph = _traced(parts, inputs_of(calls), operators, log, whole=False)
    return rejoined(graph, model, example_inputs, calls, log)


def _traced(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    operators: Mapping[str, Operator],
    log: TrialLog,
    *,
    whole: bool = True,
) -> PruningGraph:
    with everything_in_float64():
        verified = _verified(model, example_inputs, operators, log, whole=whole)
    graph = replace(verified, model=model, example_inputs=example_inputs, program=None)
    graph = replace(graph, freeing=partial(free_program, operators=operators) if whole else None)
    if verified.program is None or all(group.form == "module" for group in graph.prunable):
        return replace(graph, exporting=partial(program_like, graph, operators))
    program = cast_program(verified.program, model, example_inputs)
    return (
        with_program(graph, operators, log.deadline)
        if program is None
        else replace(graph, program=program)
    )


def _verified(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    operators: Mapping[str, Operator],
    log: TrialLog,
    *,
    whole: bool,
) -> PruningGraph:
    """The analysis of a float64 copy; parts of a model have no graph that could lose blocks."""
    subject = subject_of(model, example_inputs, operators, log.deadline)
    graph = subject.graph
    if not whole:
        blocks = {group.name: NO_PROGRAM for group in graph.removable}
        subject = subject.of(frozen_by(graph, blocks))
    reads_parameters = set(graph.unused) < set(_parameters(graph.model).values())
    check_outputs(subject.exported.graph_module.graph, reads_parameters=reads_parameters)
    joined = _verified_with_branches(subject.graph, operators, log)
    return Verifier(subject, Trials(log)).settled() if joined is None else joined


def subject_of(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    operators: Mapping[str, Operator] = OPERATORS,
    deadline: Deadline = NEVER,
) -> Subject:
    """The groups of a float64 copy of `model`, not verified, and the graph that they are of.

    It is called, and verified, inside `everything_in_float64`.

    Args:
        model: see `trace`.
        example_inputs: see `trace`; the copy gets two examples, with noise.
        operators: see `trace`.
        deadline: of the export.

    Raises:
        GraphError: see `trace`.
    """
    copy = double_copy(model)
    inputs = stirred(batch_of_two(example_inputs), SEED)
    check_inputs(inputs)
    exported = with_fixed_statistics(export(copy, inputs, deadline), named_tensors(copy))
    return _assembled(copy, inputs, exported, operators)


def _verified_with_branches(
    graph: PruningGraph, operators: Mapping[str, Operator], log: TrialLog
) -> PruningGraph | None:
    """The analysis in which auxiliary heads lose what they read; None where that cannot be."""
    copy, inputs = graph.model, graph.example_inputs
    exported = with_branches(copy, inputs, graph.unused, log.deadline)
    if exported is None:
        return None
    exported = with_fixed_statistics(exported, named_tensors(copy))
    whole = _assembled(copy, inputs, exported, operators)
    blocks = dict.fromkeys((group.name for group in whole.graph.removable), BRANCHES)
    aside = frozen_by(set_aside(whole.graph, whole.propagation, graph.unused), blocks)
    with branches_of(copy):
        settled = Verifier(whole.of(aside), Trials(log)).settled()
    return settled if settled.prunable and settled.program is None else None


def _assembled(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    exported: Exported,
    operators: Mapping[str, Operator],
) -> Subject:
    """The groups of an exported model, not verified."""
    aliases = aliases_of(named_tensors(model))
    propagation = with_blocks(exported, analysed(exported, aliases, operators))
    grouping = form_groups(propagation)
    graph = PruningGraph(
        model=model,
        example_inputs=inputs,
        groups=grouping.groups,
        shapes={name: labels.shape for name, labels in propagation.tensors.items()},
        unused=_unused(exported, _parameters(model)),
        dynamic_batch=exported.dynamic,
        group_of=grouping.group_of,
        unit_of=grouping.unit_of,
        parameter_counts=parameter_products(
            propagation, dict.fromkeys(_parameters(model).values())
        ),
        mac_counts=mac_products(propagation, dynamic=exported.dynamic),
        activations=activations_of(propagation),
    )
    return Subject(graph, exported, propagation)


def _parameters(model: nn.Module) -> dict[str, str]:
    return aliases_of(dict(model.named_parameters(remove_duplicate=False)))


def _unused(exported: Exported, aliases: Mapping[str, str]) -> tuple[str, ...]:
    """Parameters that no operator reads under any of their names."""
    placeholders = exported.graph_module.graph.find_nodes(op="placeholder")
    read = {aliases.get(exported.sources.get(n.name, "")) for n in placeholders if n.users}
    return tuple(name for name, first in aliases.items() if name == first and first not in read)
