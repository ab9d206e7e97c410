"""Runs a whole search in this process: a notebook needs no service.

It knows nothing of devices: `latency` measures skeletons (`latency_probes.LocalProbe` does). The
calibration batches recalibrate every candidate and give its loss.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from search.constraints import Constraints, constrained
from search.criteria import score_channels
from search.errors import ConfigError, SkeletonError
from search.evaluation import loss_with_error
from search.explorer import Candidate, Explorer, Failed, Node, Scored, SearchConfig, Start
from search.explorer.segments import INT8, Segment
from search.finetuning import FinetuneConfig
from search.floors import layer_floors
from search.graph import PruningGraph
from search.lineage import Origin
from search.objectives import CLASSIFICATION, Objective
from search.plan import Plan
from search.quantization import Format, precision_segments
from search.sensitivity import RATIOS, Sensitivity, layer_sensitivity, small_rise
from search.skeleton import Skeleton, operators, skeleton
from search.time_limit import keep_time
from search.tuning import Tuner

Latency = Callable[[Sequence[Skeleton]], Sequence[Any]]
Evaluate = Callable[[nn.Module], float | tuple[float, float]]


@dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    Attributes:
        plan: The best plan within the budget; None when there is none.
        model: The model pruned by it, recalibrated, not fine-tuned; layers in int8 are rounded.
        ratio: Its measured ratio to the dense model.
        loss: Its calibration loss; None if it could not be evaluated.
        dense_loss: The dense model's, recalibrated likewise.
        finalists: The best nodes within the budget, best first.
        front: The Pareto front of ratio and loss.
        tree: Every node as a JSON object.
        floors: The floors in force at the end.
        sensitivity: The measured loss rises, to be given to a later search; None where the search
            was over before they were asked.
        staircases: The measured single-group ratios, to be given to a later search.
        int8_staircases: Those with all layers in int8, likewise.
        origin: What a finalist is cut from, by its `start_of_children`; None: the dense model.
        infeasible: Why no plan meets the budget, else None.
        answer: The dense model in int8, where it is as good as in float: it needs no training.
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
    sensitivity: Sensitivity | None
    staircases: Mapping[str, Mapping[str, float]]
    int8_staircases: Mapping[str, Mapping[str, float]]
    origin: Callable[[Start | None], Origin | None]
    infeasible: Mapping[str, Any] | None
    answer: Node | None


def run_search(
    model: nn.Module,
    graph: PruningGraph,
    latency: Latency,
    batches: Sequence[tuple[Tensor, Tensor]],
    config: SearchConfig,
    *,
    evaluate: Evaluate | None = None,
    criterion: str = "l1",
    tolerance: float = 0.1,
    batch_size: int = 1,
    exclude: Sequence[str] = (),
    prune_frozen: bool = False,
    sensitivity: Sensitivity | None = None,
    staircases: Mapping[str, Mapping[str, float]] | None = None,
    int8_staircases: Mapping[str, Mapping[str, float]] | None = None,
    form: Format | None = None,
    objective: Objective = CLASSIFICATION,
    fit: tuple[Tensor, Tensor] | None = None,
    finetune: FinetuneConfig | None = None,
    time_limit_s: float | None = None,
    progress: Callable[[Mapping[str, Any]], None] | None = None,
) -> SearchResult:
    """Prunes a model to a latency budget that `latency` measures.

    Args:
        model: The dense model; not touched.
        graph: Its graph, from `trace`.
        latency: Measures skeletons; each answer has `ratio`, `ratio_low`, `ratio_high` and
            `latency_ms`, or `error`.
        batches: Calibration data, inputs and labels: every candidate is recalibrated on the
            inputs before its loss is taken, and so is the result. Some criteria need them too.
        config: Budget, beam, children, levels.
        evaluate: The loss of a model, lower is better, alone or with its standard error; the cross
            entropy on `batches` by default.
        criterion: One of `search.criteria.CRITERIA`.
        tolerance: τ of the layer floors, doubled until they leave room for the budget.
        batch_size: Batch size of the skeletons.
        exclude: Layers that keep all of their channels, see `Constraints`.
        prune_frozen: Prune layers that do not require gradients too.
        sensitivity: Measured earlier; skips that phase.
        staircases: Measured earlier; skips that phase.
        int8_staircases: Measured earlier with all layers in int8, likewise.
        form: The integers of int8 layers, one of `search.quantization.FORMATS`: then the precision
            of each layer is searched beside the widths. None: all stays float.
        objective: What models are judged by; `batches` hold its targets.
        fit: Inputs (N, …) and targets (N, …) to train on, for `config.entwined`.
        finetune: How to train them; `config.entwined` is the number of steps.
        time_limit_s: Of the search and a fine-tuning that follows, see `search.time_limit`: the
            search takes the shortest way to its budget, and ends with the best so far.
        progress: Called with `Explorer.progress()` after each round.

    Raises:
        ConfigError: There are no batches, or they are not inputs and labels; nothing to fit on is
            given where it is needed; the constraints name no layer or exclude each other.
        SearchError: A part of the library refused its input.
    """
    batches, config = _checked(batches), replace(config, batch_size=batch_size)
    if config.entwined and fit is None:
        raise ConfigError(f"entwined must be 0 without data to fit on, but got {config.entwined}")
    limits = constraints_of(config, exclude, prune_frozen=prune_frozen)
    graph = constrained(graph, limits)
    inputs = [images for images, _ in batches]
    scored = evaluate or partial(loss_with_error, batches=batches, objective=objective)

    def loss_of(model: nn.Module) -> float:
        return _score(scored(model)).loss

    segments: tuple[Segment, ...] = ()
    if form is not None:
        segments = precision_segments(graph, operators(graph, batch_size=batch_size), limits)
    scores = score_channels(
        model, graph, criterion, batches, blocks=config.blocks, objective=objective
    )
    tuner = Tuner(
        model, graph, batches, fit, finetune or FinetuneConfig(0), criterion, form,
        config.blocks, objective,
    )  # fmt: skip
    answers = _Answers(graph, latency, batch_size, form, tuner, lambda m: _score(scored(m)))
    if segments and sensitivity is None:
        first = Explorer(config, graph, scores, {}, segments=segments)
        while not first.done and first.progress()["phase"] == "feasibility":
            answers.tell(first)
        if first.done:  # whatever a layer can lose
            return _result(first, None, tuner)
    if sensitivity is None:
        sensitivity = layer_sensitivity(
            model, graph, loss_of, scores=scores, ratios=RATIOS, recalibration_batches=inputs,
            segments=segments, form=form, negligible=negligible_rise(scored, model, segments),
            small=small_rise(tolerance, len(scores)),
        )  # fmt: skip
    relax = soft_floors(graph, config.blocks, segments, sensitivity, tolerance)
    explorer = Explorer(
        config, graph, scores, relax(0),
        relax=relax, sensitivity=sensitivity, staircases=staircases,
        segments=segments, int8_staircases=int8_staircases,
        scores_at=tuner.scores,
    )  # fmt: skip
    began_s = time.monotonic()
    while not explorer.done:
        keep_time(explorer, time.monotonic() - began_s, time_limit_s)
        answers.tell(explorer)
        if progress is not None:
            progress(explorer.progress())
    return _result(explorer, sensitivity, tuner)


def soft_floors(
    graph: PruningGraph,
    blocks: bool,
    segments: Sequence[Segment],
    sensitivity: Sensitivity,
    tolerance: float,
) -> Callable[[int], dict[str, int]]:
    """How often the tolerance was doubled -> the floors of all that is searched."""
    searched = graph.searched(blocks=blocks)
    widths = {group.name: group.width for group in searched}
    widths |= {segment.name: segment.width for segment in segments}
    least = {group.name: group.min_width for group in searched}
    least |= {segment.name: INT8 for segment in segments}

    def relax(times: int) -> dict[str, int]:
        return layer_floors(sensitivity, tolerance * 2.0**times, widths=widths, least=least)

    return relax


def constraints_of(
    config: SearchConfig, exclude: Sequence[str] = (), *, prune_frozen: bool = False
) -> Constraints:
    """The constraints of a search, of which its settings name the limits."""
    return Constraints(
        exclude=tuple(exclude),
        prune_frozen=prune_frozen,
        multiple=config.multiple,
        max_parameters=config.max_parameters,
        max_memory_mb=config.max_memory_mb,
        batch_size=config.batch_size,
        blocks=config.blocks,
    )


def negligible_rise(scored: Evaluate, model: nn.Module, segments: Sequence[Segment]) -> float:
    """A rise by int8 that is not told from chance: the standard error of the dense loss."""
    return (_score(scored(model)).standard_error or 0.0) if segments else 0.0


def _score(told: float | tuple[float, float]) -> Scored:
    return Scored(*map(float, told)) if isinstance(told, tuple) else Scored(float(told))


def _checked(batches: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """The batches as a list, which can be read as often as there are candidates."""
    if callable(batches):
        raise ConfigError(
            "batches must be calibration data, (inputs, labels) each, but got a function: a loss "
            "of your own goes to `evaluate`"
        )
    listed = list(batches)
    pairs = (isinstance(batch, list | tuple) and len(batch) == 2 for batch in listed)
    if not listed or not all(pairs):
        raise ConfigError(
            "batches must hold at least one batch, (inputs, labels) each, but got "
            f"{f'another kind among {len(listed)}' if listed else 'none'}"
        )
    return [(images, labels) for images, labels in listed]


@dataclass
class _Answers:
    """Answers what explorers ask; the same question of another one is not asked again."""

    graph: PruningGraph
    latency: Latency
    batch_size: int
    form: Format | None
    tuner: Tuner
    scored: Callable[[nn.Module], Scored]
    known: dict[tuple[str, str], Any] = field(default_factory=dict)

    def tell(self, explorer: Explorer) -> None:
        """Answers all that it asks now."""
        asked = explorer.ask()
        new = [each for each in asked if each.key not in self.known]
        self._measure([each for each in new if each.needs == "latency"])
        for each in new:
            if each.needs == "loss":
                built = self.tuner.built(each.plan, each.start)
                self.known[each.key] = self.scored(built)
            elif each.needs == "weights":
                self.known[each.key] = self.tuner.tuned(each, self.scored)
        for each in asked:
            explorer.tell(each, self.known[each.key])

    def _measure(self, candidates: Sequence[Candidate]) -> None:
        ready: list[tuple[Candidate, Skeleton]] = []
        for each in candidates:
            try:
                made = skeleton(self.graph, each.plan, batch_size=self.batch_size, form=self.form)
                ready.append((each, made))
            except SkeletonError as error:
                self.known[each.key] = Failed("skeleton", str(error))
        outcomes = self.latency([made for _, made in ready]) if ready else ()
        for (each, _), outcome in zip(ready, outcomes, strict=True):
            self.known[each.key] = outcome


def _result(explorer: Explorer, sensitivity: Sensitivity | None, tuner: Tuner) -> SearchResult:
    finalists = explorer.finalists()
    best, made = finalists[0] if finalists else None, None
    if best is not None:
        made = tuner.built(best.plan, best.start_of_children)
        made.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return SearchResult(
        plan=best.plan if best else None,
        model=made,
        ratio=best.ratio if best else None,
        loss=best.loss if best else None,
        dense_loss=explorer.root.loss,
        finalists=tuple(finalists),
        front=tuple(explorer.front()),
        tree=tuple(explorer.tree()),
        floors=explorer.floors,
        sensitivity=sensitivity,
        staircases=explorer.staircases(),
        int8_staircases=explorer.int8_staircases(),
        origin=tuner.origin,
        infeasible=explorer.infeasible,
        answer=explorer.answer,
    )
