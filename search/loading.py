"""Writes a plan with its edits down, and rebuilds a pruned model from that and its weights.

The analysis loads only where it is needed: a model of the user's own class is rebuilt without it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from search.attributes import shape_with
from search.errors import PlanError, WeightsError
from search.plan import Plan
from search.surgery import check_model_shapes, check_plan, kept_indices, module_edits
from search.tensors import copy_with, load_tensors, named_tensors, set_attributes

if TYPE_CHECKING:
    from search.graph.pruning_graph import PruningGraph
    from search.quantization import QuantizedModel

VERSION = 1


def plan_document(
    model: nn.Module, graph: PruningGraph, plan: Plan, rounded: QuantizedModel | None = None
) -> dict[str, Any]:
    """The plan, and every edit that turns `model` into the pruned one, as JSON.

    Returns:
        `plan`, `form`, `tensors` (name -> shape of every tensor that shrinks), `modules` (name ->
        attribute -> value), `inputs` (shape and dtype of the example inputs), `batch` (which
        numbers of examples a graph is limited to, see `Program.limits`) and `sizes` (whether it
        takes inputs of other sizes than the traced ones, "free" or "traced"). `load_pruned` reads
        it; only for the form "graph" it has to export the model again. Of a model with layers in
        int8 (`rounded`) also `quantization`: its format, and the ranges of its values.

    Raises:
        PlanError: the plan does not fit the graph, or the graph does not fit the model.
    """
    check_plan(graph, plan)
    check_model_shapes(model, graph)
    kept = kept_indices(graph, plan)
    form = graph.form(plan)
    document = {
        "version": VERSION,
        "form": form,
        "batch": graph.whole_program.limits if form == "graph" else None,
        "sizes": "free" if form == "graph" and graph.free_program is not None else "traced",
        "plan": json.loads(plan.to_json()),
        "tensors": {
            name: list(shape_with(graph.shapes[name], dims)) for name, dims in kept.items()
        },
        "modules": module_edits(model, kept),
        "inputs": [
            {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
            for value in graph.example_inputs
        ],
    }
    if rounded is not None:
        ranges = {key: list(ends) for key, ends in sorted(rounded.ranges.items())}
        document["quantization"] = {"format": rounded.form.name, "ranges": ranges}
    return document


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
    resized = {
        name: _resized(name, tensors.get(name), shape)
        for name, shape in document["tensors"].items()
    }
    if document.get("form") == "graph":
        model = copy_with(model, _integers(tensors, Path(weights_path)))
    pruned = copy_with(model, resized)
    set_attributes(pruned, document["modules"])
    if document.get("form") == "graph":
        pruned = _as_graph(model, pruned, document)
    _load_weights(pruned, Path(weights_path))
    return pruned


def _as_graph(model: nn.Module, body: nn.Module, document: Mapping[str, Any]) -> nn.Module:
    """A `PrunedGraph`: the model is exported again, and its groups are those of the plan."""
    from search.graph.dependency.grouping import kept_atoms
    from search.graph.free_sizes import with_free_sizes
    from search.graph.native_program import program_of

    inputs = _example_inputs(document)
    program, grouping = program_of(model, inputs)
    if document.get("batch") is not None:  # zeros and other weights may not show it
        program = program.limited(fixed=bool(document["batch"].get("fixed")))
    kept = Plan.from_document(document["plan"]).kept
    widths = {group.name: group.width for group in grouping.groups}
    fits = widths.keys() == kept.keys()
    if not fits or any(max(units, default=-1) >= widths[name] for name, units in kept.items()):
        raise PlanError("the plan must be made for this model, but has other groups or units")
    atoms = kept_atoms(grouping.groups, grouping.group_of, grouping.unit_of, kept)
    is_free = document.get("sizes") == "free"
    free = with_free_sizes(program, grouping, model, inputs) if is_free else None
    return program.pruned(model, body, atoms, free)


def _example_inputs(document: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Zeros: an exported graph depends on shapes alone."""
    try:
        return tuple(
            torch.zeros(value["shape"], dtype=getattr(torch, value["dtype"]))
            for value in document["inputs"]
        )
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        raise PlanError(f"inputs must be a list of shapes and dtypes, but got {error}") from None


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


def _integers(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The fitting vectors of integers in the file: an index of units identifies groups."""
    known = {name: t for name, t in tensors.items() if t.ndim and not t.is_floating_point()}
    weights = _read_weights(path) if known else {}
    return {
        name: weights[name]
        for name, tensor in known.items()
        if name in weights
        and (weights[name].shape, weights[name].dtype) == (tensor.shape, tensor.dtype)
    }


def _read_weights(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{path} must be a readable safetensors file, but got: {error}"
        ) from None


def _load_weights(model: nn.Module, path: Path) -> None:
    weights = _read_weights(path)
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
    load_tensors(model, weights, strict=False)
