"""Cuts a model to a plan, and rebuilds the cut model from its files.

Loading needs torch and safetensors only; nothing here traces a model.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from search.attributes import Attributes, attributes_of
from search.errors import PlanError, WeightsError
from search.plan import Plan

if TYPE_CHECKING:
    from search.graph.pruning_graph import PruningGraph
    from search.graph.types import Group, Member

VERSION = 1

Shapes = Mapping[str, tuple[int, ...]]


def prune(model: nn.Module, graph: PruningGraph, plan: Plan) -> nn.Module:
    """A smaller copy of `model`, of the same class, without the units that `plan` removes.

    Parameters keep their values, dtype, device and requires_grad; modules keep their training
    flags and hooks; tied parameters stay tied. `model` is not touched.

    Args:
        model: the traced model, or another with the same tensors (trained further, say).
        graph: its analysis.
        plan: the kept units of every group of the graph.

    Raises:
        PlanError: the plan does not fit the graph, or the graph does not fit the model.
    """
    check_plan(graph, plan)
    _check_model(model, graph)
    kept = kept_indices(graph, plan)
    shapes = {name: _cut_shape(graph, name, dims) for name, dims in kept.items()}
    tensors = named_tensors(model)
    cut = {name: tensors[name].detach() for name in kept}
    _absorb(cut, graph, plan)
    for name, dims in kept.items():
        for dim, indices in dims.items():
            cut[name] = cut[name].index_select(dim, torch.tensor(indices, device=cut[name].device))
    pruned = copy_with(model, cut)
    _set_attributes(pruned, _module_edits(model, shapes))
    return pruned


def copy_with(model: nn.Module, replacements: Mapping[str, Tensor]) -> nn.Module:
    """A deep copy in which the named parameters and buffers have other values; ties live on."""
    tensors = named_tensors(model)
    memo: dict[int, Any] = {
        id(tensors[name]): type(old)(value, old.requires_grad)
        if isinstance(old := tensors[name], nn.Parameter)
        else value
        for name, value in replacements.items()
    }
    return copy.deepcopy(model, memo)


def plan_document(model: nn.Module, graph: PruningGraph, plan: Plan) -> dict[str, Any]:
    """The plan, and every edit that turns `model` into the pruned one, as JSON.

    Returns:
        `plan`, `tensors` (name -> shape of every tensor that shrinks) and `modules` (name ->
        attribute -> value). `load_pruned` reads it without a trace.

    Raises:
        PlanError: the plan does not fit the graph, or the graph does not fit the model.
    """
    check_plan(graph, plan)
    _check_model(model, graph)
    shapes = {
        name: _cut_shape(graph, name, dims) for name, dims in kept_indices(graph, plan).items()
    }
    return {
        "version": VERSION,
        "plan": json.loads(plan.to_json()),
        "tensors": {name: list(shape) for name, shape in shapes.items()},
        "modules": _module_edits(model, shapes),
    }


def load_pruned(model: nn.Module, plan_path: str | Path, weights_path: str | Path) -> nn.Module:
    """The pruned model from its two files; `model` is the dense one, its weights do not matter.

    Args:
        model: a dense model of the architecture that was pruned; it is not touched.
        plan_path: JSON of `plan_document`.
        weights_path: safetensors of the pruned model's state dict; of tied tensors one is enough.

    Raises:
        PlanError: the plan is malformed or made for another architecture.
        WeightsError: the weights are unreadable, or do not fit the pruned model.
    """
    document = _read_document(Path(plan_path))
    tensors = named_tensors(model)
    pruned = copy_with(
        model,
        {
            name: _resized(name, tensors.get(name), shape)
            for name, shape in document["tensors"].items()
        },
    )
    _set_attributes(pruned, document["modules"])
    _load_weights(pruned, Path(weights_path))
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
    if units[-1] >= group.width:
        raise PlanError(f"units of {group.name!r} must be < {group.width}, but got {units[-1]}")
    if group.status == "frozen" and len(units) < group.width:
        raise PlanError(
            f"{group.name!r} must keep all {group.width} units ({group.reason}), but got "
            f"{len(units)}"
        )


def _check_model(model: nn.Module, graph: PruningGraph) -> None:
    tensors = named_tensors(model)
    for name, shape in graph.shapes.items():
        found = tuple(tensors[name].shape) if name in tensors else "no such tensor"
        if found != shape:
            raise PlanError(f"{name!r} must have the traced shape {shape}, but got {found}")


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer, tied ones under each of their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


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
    }


def _cut_shape(graph: PruningGraph, name: str, dims: Mapping[int, list[int]]) -> tuple[int, ...]:
    return tuple(
        len(dims[dim]) if dim in dims else size for dim, size in enumerate(graph.shapes[name])
    )


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


def _module_edits(model: nn.Module, shapes: Shapes) -> dict[str, Attributes]:
    """Module -> attributes that change with `shapes`; a tied tensor changes all its owners."""
    tensors = named_tensors(model)
    by_identity = {id(tensors[name]): shape for name, shape in shapes.items()}
    edits: dict[str, Attributes] = {}
    for name, module in model.named_modules():
        own = {**module._parameters, **module._buffers}
        held = {key: tensor for key, tensor in own.items() if tensor is not None}
        if any(id(tensor) in by_identity for tensor in held.values()):
            edits[name] = attributes_of(
                module, {key: by_identity.get(id(t), tuple(t.shape)) for key, t in held.items()}
            )
    return {name: attributes for name, attributes in edits.items() if attributes}


def _set_attributes(model: nn.Module, edits: Mapping[str, Attributes]) -> None:
    modules = dict(model.named_modules())
    for name, attributes in edits.items():
        for attribute, value in attributes.items():
            if not hasattr(modules.get(name), attribute):
                raise PlanError(f"the plan edits {name}.{attribute}, but the model has none")
            setattr(modules[name], attribute, tuple(value) if isinstance(value, list) else value)


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PlanError(f"{path} must be a readable JSON file, but got: {error}") from None
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise PlanError(f"{path} must be a plan of version {VERSION} with its edits")
    Plan.from_document(document.get("plan"))
    for name, shape in _mapping(document, "tensors", path).items():
        if not _is_shape(shape):
            raise PlanError(
                f"tensors[{name!r}] must be a list of sizes ≥ 1, but got {shape!r:.80}"
            )
    for name, attributes in _mapping(document, "modules", path).items():
        if not isinstance(attributes, dict) or not all(map(_is_attribute, attributes.values())):
            raise PlanError(f"modules[{name!r}] must map to sizes, but got {attributes!r:.80}")
    return document


def _mapping(document: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    value = document.get(key)
    if not isinstance(value, dict):
        raise PlanError(f"{key!r} in {path} must be a JSON object, but got {value!r:.80}")
    return value


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and size >= 1 for size in value)


def _is_attribute(value: Any) -> bool:
    return _is_shape(value) or (type(value) is int and value >= 1)


def _resized(name: str, tensor: Tensor | None, shape: list[int]) -> Tensor:
    if tensor is None:
        raise PlanError(f"the plan shrinks {name!r}, but the model has no such tensor")
    fits = len(shape) == tensor.ndim and all(
        size <= dense for size, dense in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        raise PlanError(
            f"{name!r} must shrink to a shape within {tuple(tensor.shape)}, but got {shape}"
        )
    return tensor.detach().new_zeros(shape)


def _load_weights(model: nn.Module, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{path} must be a readable safetensors file, but got: {error}"
        ) from None
    wanted = model.state_dict(keep_vars=True)
    given = {id(wanted[name]) for name in weights if name in wanted}
    missing = [name for name, value in wanted.items() if id(value) not in given]
    unexpected = sorted(weights.keys() - wanted.keys())
    wrong = [
        f"{name}: {tuple(value.shape)} instead of {tuple(wanted[name].shape)}"
        for name, value in weights.items()
        if name in wanted and value.shape != wanted[name].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "wrong shapes": wrong}
    if any(problems.values()):
        listed = "; ".join(
            f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names
        )
        raise WeightsError(f"{path} must hold the weights of the pruned model, but got {listed}")
    model.load_state_dict(weights, strict=False)
