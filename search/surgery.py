"""Cuts a model to a plan. It traces nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from search.attributes import Attributes, Indices, attributes_of
from search.errors import PlanError
from search.plan import Plan
from search.tensors import copy_with, named_tensors, set_attributes

if TYPE_CHECKING:
    from search.graph.dependency.groups import Form, Group, Member
    from search.graph.pruning_graph import PruningGraph


def prune(
    model: nn.Module,
    graph: PruningGraph,
    plan: Plan,
    *,
    form: Form | None = None,
    free_sizes: bool = True,
) -> nn.Module:
    """A smaller copy of `model` without the units that `plan` removes.

    It is of the same class, unless `graph.form(plan)` is "graph": then it is a `PrunedGraph`, as
    the model's own forward holds constants, or a block is removed. What only such blocks read is
    not in its state dict. Parameters keep their values, dtype, device and
    requires_grad; modules keep their training flags and hooks (what these did while the model was
    traced is part of a `PrunedGraph`); tied parameters stay tied. `model` is not touched.

    Args:
        model: the traced model, or another with the same tensors (trained further, say).
        graph: its analysis.
        plan: the kept units of every group of the graph.
        form: "graph" asks for a `PrunedGraph` where the graph has a program, whatever the plan.
        free_sizes: a `PrunedGraph` takes other sizes of the inputs too, where the model does and
            its graph can; the first one of a graph exports the model once more for that.

    Raises:
        PlanError: the plan does not fit the graph, or the graph does not fit the model.
        GraphError: the plan removes a block, and the model cannot be exported in its own dtype.
    """
    pruned = smaller_copy(model, graph, plan)
    program = graph.program if form == "graph" else None
    if graph.form(plan) == "graph":
        program = graph.whole_program
    if program is None:
        return pruned
    free = graph.free_program if free_sizes else None
    return program.pruned(model, pruned, graph.kept_atoms(plan), free)


def smaller_copy(model: nn.Module, graph: PruningGraph, plan: Plan) -> nn.Module:
    """A copy of the own class with smaller tensors, whether or not its forward runs with them.

    Raises:
        PlanError: the plan does not fit the graph, or the graph does not fit the model.
    """
    check_plan(graph, plan)
    check_model_shapes(model, graph)
    kept = kept_indices(graph, plan)
    tensors = named_tensors(model)
    cut = {name: tensors[name].detach() for name in kept}
    _absorb(cut, graph, plan)
    for name, dims in kept.items():
        for dim, indices in dims.items():
            cut[name] = cut[name].index_select(dim, torch.tensor(indices, device=cut[name].device))
    pruned = copy_with(model, cut)
    set_attributes(pruned, module_edits(model, kept))
    return pruned


def check_plan(graph: PruningGraph, plan: Plan) -> None:
    """Raise PlanError unless `plan` names every group and removes units of prunable ones only."""
    groups = {group.name: group for group in graph.groups}
    if groups.keys() != plan.kept.keys():
        missing = sorted(groups.keys() - plan.kept.keys())
        unknown = sorted(plan.kept.keys() - groups.keys())
        raise PlanError(
            f"a plan must name exactly the groups of the graph, but it lacks {missing} and "
            f"names {unknown}"
        )
    for name, units in plan.kept.items():
        _check_group(groups[name], units)


def _check_group(group: Group, units: tuple[int, ...]) -> None:
    if len(units) < group.min_width:
        raise PlanError(
            f"group {group.name!r} must keep {group.min_width} of its units at least, but got "
            f"{len(units)}"
        )
    if units and units[-1] >= group.width:
        raise PlanError(f"units of {group.name!r} must be < {group.width}, but got {units[-1]}")
    for part in group.required_any_of:
        if not set(part) & set(units):
            raise PlanError(
                f"{group.name!r} must keep one of its units {part!r:.60}: some tensor has no other"
            )
    if group.status == "frozen" and len(units) < group.width:
        raise PlanError(
            f"{group.name!r} must keep all {group.width} units ({group.reason}), but got "
            f"{len(units)}"
        )


def check_model_shapes(model: nn.Module, graph: PruningGraph) -> None:
    tensors = named_tensors(model)
    for name, shape in graph.shapes.items():
        actual = tuple(tensors[name].shape) if name in tensors else "no such tensor"
        if actual != shape:
            raise PlanError(f"{name!r} must have the traced shape {shape}, but got {actual}")


def kept_indices(graph: PruningGraph, plan: Plan) -> dict[str, dict[int, list[int]]]:
    """Tensor -> dimension -> indices that stay, for the dimensions that lose some."""
    lost: dict[str, dict[int, set[int]]] = {}
    for group in graph.groups:
        removed = sorted(set(range(group.width)) - set(plan.kept[group.name]))
        for member in group.members if removed else ():
            gone = lost.setdefault(member.tensor, {}).setdefault(member.dim, set())
            gone.update(index for unit in removed for index in member.indices[unit])
    return {
        tensor: {
            dim: [index for index in range(graph.shapes[tensor][dim]) if index not in gone]
            for dim, gone in dims.items()
            if gone
        }
        for tensor, dims in lost.items()
        if any(dims.values())
    }


def _absorb(cut: dict[str, Tensor], graph: PruningGraph, plan: Plan) -> None:
    """The columns that read a removed unit are added, scaled, to those of its absorber."""
    for group in graph.groups:
        merges = plan.absorbed.get(group.name, {})
        for member in group.members if merges else ():
            if member.role == "consumer":
                cut[member.tensor] = _absorb_columns(cut[member.tensor], member, merges)


def _absorb_columns(
    tensor: Tensor, member: Member, merges: Mapping[int, tuple[int, float]]
) -> Tensor:
    merged = tensor.clone()
    for unit, (absorber, scale) in merges.items():
        source = torch.tensor(member.indices[unit], device=tensor.device)
        target = torch.tensor(member.indices[absorber], device=tensor.device)
        if len(source) != len(target):
            raise PlanError(
                f"units that merge must have as many columns in {member.tensor!r}, but got "
                f"{len(source)} and {len(target)}"
            )
        merged.index_add_(member.dim, target, tensor.index_select(member.dim, source) * scale)
    return merged


def module_edits(model: nn.Module, kept: Mapping[str, Indices]) -> dict[str, Attributes]:
    """Module -> attributes that change with `kept`; a tied tensor changes all its owners."""
    tensors = named_tensors(model)
    by_identity = {id(tensors[name]): indices for name, indices in kept.items()}
    edits: dict[str, Attributes] = {}
    for name, module in model.named_modules():
        own = {**module._parameters, **module._buffers}
        cut = {key: by_identity[id(t)] for key, t in own.items() if id(t) in by_identity}
        if cut:
            edits[name] = attributes_of(module, cut)
    return {name: attributes for name, attributes in edits.items() if attributes}
