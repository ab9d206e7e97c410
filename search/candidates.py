"""The model of a plan before it is trained: pruned, reconstructed and recalibrated as every
candidate is, and with the layers rounded that its plan has in int8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from search.lineage import Origin
from search.memory_layout import lay_out
from search.plan import Plan
from search.quantization.examples import first_examples
from search.quantization.formats import Format
from search.quantization.model import NORMS, QuantizedModel, graph_form, quantizable_layers
from search.recalibration import DenseOrigin, recalibrate
from search.reconstruction import EXAMPLES, known_targets, reconstruct
from search.surgery import kept_indices, prune

if TYPE_CHECKING:
    from search.graph import PruningGraph


def candidate(model: nn.Module, graph: PruningGraph, plan: Plan) -> nn.Module:
    """The pruned copy, for inputs of the traced sizes; `recalibrated` comes before its loss."""
    return prune(model, graph, plan, free_sizes=False)


def recalibrated(
    pruned: nn.Module,
    model: nn.Module,
    graph: PruningGraph,
    plan: Plan,
    inputs: Sequence[Tensor],
    origin: Origin | None = None,
) -> nn.Module:
    """The same network, reconstructed and recalibrated in place on these inputs.

    Args:
        pruned: of `candidate`.
        model: the dense model, whose outputs the layers are fitted to, and whose means and scales
            a network without batch norm gets back.
        graph: its analysis.
        plan: what `pruned` is pruned to.
        inputs: batches (B, …) of calibration images.
        origin: what `pruned` was cut from, where that is not the model.

    Raises:
        ConfigError: there is something to recalibrate, but no batch.
    """
    kept = kept_indices(graph, plan)
    if kept and inputs:
        first = torch.cat(list(first_examples(inputs, EXAMPLES)))
        if origin is None:
            reconstruct(pruned, known_targets(model, first), kept, first)
        else:
            within = origin.kept_of_parent(graph, kept, graph.shapes)
            targets = known_targets(origin.parent, first)
            known = {name: targets[name] for name in targets.keys() & within.keys()}
            reconstruct(pruned, known, within, first)
    recalibrate(pruned, inputs, DenseOrigin(model, kept))
    return pruned


def rounded_candidate(
    model: nn.Module,
    graph: PruningGraph,
    plan: Plan,
    inputs: Sequence[Tensor],
    form: Format | None = None,
    *,
    origin: Origin | None = None,
) -> nn.Module:
    """A copy of the model under a plan, to be scored: its weights lie as `lay_out` leaves them.

    Args:
        model: the traced model; not touched.
        graph: its analysis.
        plan: kept units, and layers in int8.
        inputs: batches that recalibrate it and show the ranges of its values.
        form: the integers of int8 layers; None leaves all float.
        origin: from which it is cut; by default the model itself.

    Raises:
        ConfigError: no inputs, or a layer that is none of the model.
        PlanError: the plan does not fit the graph.
    """
    pruned = candidate(origin.full if origin else model, graph, plan)
    if inputs:
        lay_out(pruned, inputs[0])
    recalibrated(pruned, model, graph, plan, inputs, origin)
    if form is None or not plan.precision:
        return pruned
    return quantized(model, graph, plan, pruned, inputs, form)


def quantized(
    model: nn.Module,
    graph: PruningGraph,
    plan: Plan,
    pruned: nn.Module,
    inputs: Sequence[Tensor],
    form: Format,
    observer: str = NORMS,
) -> QuantizedModel:
    """A pruned model with the layers in int8 that its plan names, as far as they are left.

    Args:
        model: the traced model.
        graph: its analysis.
        plan: of `pruned`.
        pruned: float, trained or not; copied.
        inputs: batches that show the ranges of its values.
        form: the integers.
        observer: how ranges are chosen, see `QuantizedModel.observe`.
    """
    rounded = graph_form(model, graph, plan, pruned)
    left = plan.precision.keys() & set(quantizable_layers(rounded))
    made = QuantizedModel(rounded, left, form).eval()
    made.observe(inputs, observer)
    return made
