"""The model of a plan before it is trained: pruned, and recalibrated as every candidate is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import Tensor, nn

from search.plan import Plan
from search.recalibration import DenseOrigin, recalibrate
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
    inputs: Iterable[Tensor],
) -> nn.Module:
    """The same network, recalibrated in place on these inputs.

    Args:
        pruned: of `candidate`.
        model: the dense model, whose means and scales a network without batch norm gets back.
        graph: its analysis.
        plan: what `pruned` is pruned to.
        inputs: batches (B, …) of calibration images.

    Raises:
        ConfigError: there is something to recalibrate, but no batch.
    """
    recalibrate(pruned, inputs, DenseOrigin(model, kept_indices(graph, plan)))
    return pruned
