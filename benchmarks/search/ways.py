"""The ways to prune that are compared. Each gets the network, a budget, a seed and a device, and
gives back models before fine-tuning, the best first by what it knows."""

from __future__ import annotations

import copy
import importlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from benchmarks.search.subject import Device, Subject
from latency_probes.local import LocalModel, Measured
from search.candidates import rounded_candidate
from search.criteria import best_units
from search.driver import run_search
from search.explorer import SearchConfig
from search.finetuning import FinetuneConfig
from search.lineage import Origin
from search.plan import Plan
from search.recalibration import recalibrate
from search.skeleton import skeleton

WINDOW = (0.955, 0.995)  # of the budget, as the search has it
HALVINGS = 7
DRAWS = 160  # as many as the tree measures, near enough


@dataclass(frozen=True)
class Found:
    """A model of a way, not trained to its end.

    Attributes:
        steps: of fine-tuning that it has had.
    """

    model: nn.Module
    steps: int = 0


Way = Callable[[Subject, float, int, Device], Iterator[Found]]


def _searched(config: SearchConfig, entwined: int = 0, criterion: str = "l1") -> Way:
    """A way that is a setting of the search."""

    def way(subject: Subject, budget: float, seed: int, device: Device) -> Iterator[Found]:
        settings = replace(config, budget=budget, seed=seed, entwined=entwined)
        result = run_search(
            subject.model, subject.graph, device, subject.calibration, settings,
            criterion=criterion, fit=subject.fit,
            sensitivity=subject.sensitivity(criterion, blocks=config.blocks),
            finetune=FinetuneConfig(max(entwined, 1), seed=seed),
        )  # fmt: skip
        for node in result.finalists:
            start = node.start_of_children
            built = _built(subject, node.plan, result.origin(start))
            yield Found(built, 0 if start is None else start.steps)

    return way


def _netadapt(subject: Subject, budget: float, seed: int, device: Device) -> Iterator[Found]:
    """Every group proposes a cut at each of 20 levels, and one node is kept."""
    config = SearchConfig.netadapt(budget, len(subject.graph.prunable))
    yield from _searched(config)(subject, budget, seed, device)


def _uniform(subject: Subject, budget: float, seed: int, device: Device) -> Iterator[Found]:
    """The same part of every group, best L1 first; the part is found by halving."""

    def plan(part: float) -> Plan:
        return _plan(subject, {g.name: part for g in subject.graph.prunable})

    def ratio(part: float) -> float:
        return _ratio(device, skeleton(subject.graph, plan(part)))

    yield Found(_built(subject, plan(_halved(ratio, budget))))


def _random(subject: Subject, budget: float, seed: int, device: Device) -> Iterator[Found]:
    """Random widths, all scaled by one factor so that they land near the budget; of those in its
    window the one of the least calibration loss."""
    source, found = random.Random(seed), list[tuple[float, int, Plan]]()
    scale = budget
    for number in range(DRAWS):
        drawn = {g.name: source.uniform(0.2, 1.0) for g in subject.graph.prunable}
        plan = _scaled(subject, drawn, scale)
        ratio = _ratio(device, skeleton(subject.graph, plan))
        if WINDOW[0] * budget <= ratio <= WINDOW[1] * budget:
            found.append((subject.loss(_built(subject, plan)), number, plan))
        scale *= (budget * 0.975 / ratio) ** 0.2  # multiply-accumulates that take about the budget
    for _, _, plan in sorted(found, key=lambda each: each[:2]):
        yield Found(_built(subject, plan))


def _torch_pruning(importance: str) -> Way:
    """Torch-Pruning's global pruner; its ratio is found by halving the measured latency."""

    def way(subject: Subject, budget: float, seed: int, device: Device) -> Iterator[Found]:
        def model(kept: float) -> nn.Module:
            return _cut_by_torch_pruning(subject, importance, 1.0 - kept)

        def ratio(kept: float) -> float:
            return _ratio(device, LocalModel(subject.file(model(kept))))

        yield Found(model(_halved(ratio, budget)))

    return way


def _cut_by_torch_pruning(subject: Subject, importance: str, ratio: float) -> nn.Module:
    library: Any = importlib.import_module("torch_pruning")
    model = copy.deepcopy(subject.model)
    criteria = {
        "magnitude": lambda: library.importance.MagnitudeImportance(p=1),
        "taylor": lambda: library.importance.TaylorImportance(),
    }
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    pruner = library.pruner.MagnitudePruner(
        model, subject.train[0][:1], importance=criteria[importance](), pruning_ratio=ratio,
        global_pruning=True, ignored_layers=layers[-1:],
    )  # fmt: skip
    if importance == "taylor":
        for images, labels in subject.calibration:
            nn.functional.cross_entropy(model(images), labels).backward()
    pruner.step()
    model.zero_grad()
    recalibrate(model, subject.inputs)
    return model.eval()


def _halved(ratio: Callable[[float], float], budget: float) -> float:
    """The largest part that takes at most the budget, as far as halving finds it: latency does not
    always fall with the part."""
    low, high, best = 0.0, 1.0, 0.02
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if ratio(middle) <= WINDOW[1] * budget:
            low = best = middle
        else:
            high = middle
    return best


def _ratio(device: Device, model: Any) -> float:
    (found,) = device([model])
    return found.ratio if isinstance(found, Measured) else float("inf")


def _plan(subject: Subject, parts: dict[str, float]) -> Plan:
    kept = dict(subject.graph.dense_plan().kept)
    for group in subject.graph.prunable:
        width = max(group.min_width, 1, round(parts[group.name] * group.width))
        kept[group.name] = best_units(
            subject.scores[group.name], min(width, group.width), group.required_any_of
        )
    return Plan(kept)


def _scaled(subject: Subject, drawn: dict[str, float], part: float) -> Plan:
    """The drawn widths times one factor, so that this part of the multiply-accumulates is left."""
    graph, low, high = subject.graph, 0.0, 5.0
    dense = graph.macs(graph.dense_plan())
    for _ in range(12):
        middle = (low + high) / 2
        plan = _plan(subject, {name: min(1.0, middle * each) for name, each in drawn.items()})
        low, high = (low, middle) if graph.macs(plan) > part * dense else (middle, high)
    return _plan(subject, {name: min(1.0, low * each) for name, each in drawn.items()})


def _built(subject: Subject, plan: Plan, origin: Origin | None = None) -> nn.Module:
    """Pruned, reconstructed and recalibrated as the search's own candidates are."""
    return rounded_candidate(subject.model, subject.graph, plan, subject.inputs, origin=origin)


ENTWINED = 30
TREE = SearchConfig(0.5)
WAYS: dict[str, Way] = {
    "tree": _searched(TREE),
    "tree, entwined": _searched(TREE, ENTWINED),
    "tree, taylor": _searched(TREE, criterion="taylor"),
    "tree, widths only": _searched(replace(TREE, blocks=False)),
    "beam of one": _searched(replace(TREE, beam_width=1)),
    "netadapt": _netadapt,
    "halp": _searched(SearchConfig.halp(0.5)),
    "random": _random,
    "uniform l1": _uniform,
    "torch-pruning magnitude": _torch_pruning("magnitude"),
    "torch-pruning taylor": _torch_pruning("taylor"),
}
