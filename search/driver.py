"""Runs a whole search in this process: a notebook needs no service.

It knows nothing of devices: `latency` measures skeletons (`latency_probes.LocalProbe` does), and
`evaluate` gives the calibration loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from search.criteria import score_channels
from search.errors import SkeletonError
from search.explorer import Candidate, Explorer, Failed, Node, Scored, SearchConfig
from search.floors import layer_floors
from search.graph import PruningGraph
from search.plan import Plan
from search.sensitivity import RATIOS, Sensitivity, layer_sensitivity
from search.skeleton import Skeleton, skeleton
from search.surgery import kept_indices, prune
from search.training import Reference, recalibrate

Latency = Callable[[Sequence[Skeleton]], Sequence[Any]]
Evaluate = Callable[[nn.Module], float]


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        plan: The best plan within the budget; None when there is none.
        model: The model pruned by it, recalibrated, not fine-tuned.
        ratio: Its measured ratio to the dense model.
        loss: Its calibration loss; None if it could not be evaluated.
        dense_loss: The dense model's.
        finalists: The best nodes within the budget, best first.
        front: The Pareto front of ratio and loss.
        tree: Every node as a JSON object.
        floors: The floors in force at the end.
        sensitivity: The measured loss rises, to be given to a later search.
        staircases: The measured single-group ratios, to be given to a later search.
        infeasible: Why no plan meets the budget, else None.
    """

    plan: Plan | None
    model: nn.Module | None
    ratio: float | None
    loss: float | None
    dense_loss: float | None
    finalists: tuple[Node, ...]
    front: tuple[Node, ...]
    tree: tuple[Mapping[str, Any], ...]
    floors: Mapping[str, int]
    sensitivity: Sensitivity
    staircases: Mapping[str, Mapping[str, float]]
    infeasible: Mapping[str, Any] | None


def run_search(
    model: nn.Module,
    graph: PruningGraph,
    latency: Latency,
    evaluate: Evaluate,
    config: SearchConfig,
    *,
    criterion: str = "l1",
    batches: Sequence[tuple[Tensor, Tensor]] = (),
    tolerance: float = 0.1,
    recalibration_batches: Sequence[Tensor] | None = None,
    batch_size: int = 1,
    sensitivity: Sensitivity | None = None,
    staircases: Mapping[str, Mapping[str, float]] | None = None,
    progress: Callable[[Mapping[str, Any]], None] | None = None,
) -> SearchResult:
    """Prunes a model to a latency budget that `latency` measures.

    Args:
        model: The dense model; not touched.
        graph: Its graph, from `trace`.
        latency: Measures skeletons; each answer has `ratio`, `ratio_low`, `ratio_high` and
            `latency_ms`, or `error`.
        evaluate: Loss on calibration data; lower is better.
        config: Budget, beam, children, levels.
        criterion: Name of an importance criterion.
        batches: Images and labels, for criteria that need them.
        tolerance: τ of the layer floors, doubled until they leave room for the budget.
        recalibration_batches: Inputs for `recalibrate`; None leaves it out.
        batch_size: Batch size of the skeletons.
        sensitivity: Measured earlier; skips that phase.
        staircases: Measured earlier; skips that phase.
        progress: Called with `Explorer.progress()` after each round.

    Raises:
        SearchError: A part of the library refused its input.
    """
    scores = score_channels(model, graph, criterion, batches, blocks=config.blocks)
    if sensitivity is None:
        sensitivity = layer_sensitivity(
            model, graph, evaluate, scores=scores, ratios=RATIOS,
            recalibration_batches=recalibration_batches,
        )  # fmt: skip
    searched = graph.searched(blocks=config.blocks)
    widths = {group.name: group.width for group in searched}
    least = {group.name: group.least for group in searched}

    def relax(times: int) -> dict[str, int]:
        return layer_floors(sensitivity, tolerance * 2.0**times, widths=widths, least=least)

    explorer = Explorer(
        config, graph, scores, relax(0),
        relax=relax, sensitivity=sensitivity, staircases=staircases,
    )  # fmt: skip
    while not explorer.done:
        asked = explorer.ask()
        _tell_latencies(explorer, graph, latency, batch_size, asked)
        for candidate in asked:
            if candidate.needs == "loss":
                pruned = _pruned(model, graph, candidate.plan, recalibration_batches)
                explorer.tell(candidate, Scored(float(evaluate(pruned))))
        if progress is not None:
            progress(explorer.progress())
    return _result(model, graph, explorer, sensitivity, recalibration_batches)


def _tell_latencies(
    explorer: Explorer,
    graph: PruningGraph,
    latency: Latency,
    batch_size: int,
    asked: Sequence[Candidate],
) -> None:
    ready: list[tuple[Candidate, Skeleton]] = []
    for candidate in asked:
        if candidate.needs != "latency":
            continue
        try:
            ready.append((candidate, skeleton(graph, candidate.plan, batch_size=batch_size)))
        except SkeletonError as error:
            explorer.tell(candidate, Failed("skeleton", str(error)))
    if not ready:
        return
    outcomes = latency([each for _, each in ready])
    for (candidate, _), outcome in zip(ready, outcomes, strict=True):
        explorer.tell(candidate, outcome)


def _pruned(
    model: nn.Module, graph: PruningGraph, plan: Plan, batches: Sequence[Tensor] | None
) -> nn.Module:
    pruned = prune(model, graph, plan)
    if batches is not None:
        recalibrate(pruned, batches, Reference(model, kept_indices(graph, plan)))
    return pruned


def _result(
    model: nn.Module,
    graph: PruningGraph,
    explorer: Explorer,
    sensitivity: Sensitivity,
    batches: Sequence[Tensor] | None,
) -> SearchResult:
    finalists = explorer.finalists()
    best = finalists[0] if finalists else None
    return SearchResult(
        plan=best.plan if best else None,
        model=_pruned(model, graph, best.plan, batches) if best else None,
        ratio=best.ratio if best else None,
        loss=best.loss if best else None,
        dense_loss=explorer.root.loss,
        finalists=tuple(finalists),
        front=tuple(explorer.front()),
        tree=tuple(explorer.tree()),
        floors=explorer.floors,
        sensitivity=sensitivity,
        staircases=explorer.staircases(),
        infeasible=explorer.infeasible,
    )
