"""Cheap estimates of sensitivities: what a removal costs, without pruning and measuring a model.

After the criteria that SAfER compares (Yvinec et al. 2023, arXiv 2308.04753). A removal sets some
elements of some weights to zero: of a group, the columns that read the units that go (where
nothing reads them, the rows that make them); of a layer, its whole weight.

| symbol | meaning |
|---|---|
| w, m | a weight, and 1 where it is removed, else 0; both of its shape |
| g(w) | gradient of the loss by w, in evaluation mode |
| x_j | input of the layer along column j of w |
| gradient | mean over parts of Σ m · abs(w · g(w)); a part is `PART` images |
| integrated gradients | −Σ m · w · ∫ g((1 − t m) · w) dt, t over `STEPS` midpoints |
| weight norm, weight share | norm of m · w; its square as a part of that of w |
| activation norm, activation share | norm of the x_j with removed columns; the same as a part |

The first two are in units of the loss, before any recalibration; the others only rank. Shares
cannot rank whole layers: there they are 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import mean
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd

from search.criteria.reduction import scoring_members
from search.errors import ConfigError
from search.objectives import CLASSIFICATION, Objective
from search.perturbations import weighted_layers
from search.sensitivity import RATIOS, Sensitivity, check_ratios, sensitivity_plan
from search.tensors import named_tensors
from search.training_flags import in_evaluation

if TYPE_CHECKING:
    from search.graph import PruningGraph
    from search.plan import Plan

Estimator = Literal[
    "gradient",
    "integrated gradients",
    "weight norm",
    "weight share",
    "activation norm",
    "activation share",
]
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)
PART = 8  # images of which one gradient is taken: those of many cancel in a trained model
STEPS = 4

Batches = Sequence[tuple[Tensor, Tensor]]
Removal = Mapping[str, Tensor]  # weight -> m
Estimate = Callable[[Removal], float]


def estimated_sensitivity(
    model: nn.Module,
    graph: PruningGraph,
    estimator: Estimator,
    batches: Batches,
    *,
    scores: Mapping[str, Tensor],
    ratios: Sequence[float] = RATIOS,
    objective: Objective = CLASSIFICATION,
) -> Sensitivity:
    """What `layer_sensitivity` measures, estimated: one number per group of units and ratio.

    Args:
        model: the traced model; not touched.
        graph: its graph.
        estimator: one of `ESTIMATORS`.
        batches: images and targets of the objective; norms of weights look at none.
        scores: from `score_channels`; the same units go as in `sensitivity_plan`. Groups without
            scores are left out, and so are blocks, which hold no tensors.
        ratios: shares to remove, ascending in (0, 1).
        objective: what the model is judged by.

    Raises:
        ConfigError: an unknown estimator, ratios that are not ascending, or no batch.
    """
    check_ratios(ratios)
    names = [group.name for group in graph.prunable if group.name in scores]
    removals = {
        name: [_removal(graph, sensitivity_plan(graph, scores, name, r), name) for r in ratios]
        for name in names
    }
    tensors = {tensor for each in removals.values() for m in each for tensor in m}
    estimate = _estimate(model, estimator, batches, sorted(tensors), objective)
    rises = {name: tuple(estimate(m) for m in each) for name, each in removals.items()}
    return Sensitivity(tuple(ratios), rises)


def estimated_layers(
    model: nn.Module,
    estimator: Estimator,
    batches: Batches,
    objective: Objective = CLASSIFICATION,
) -> dict[str, float]:
    """What the removal of a layer's whole weight would cost, for each of `weighted_layers`.

    Raises:
        ConfigError: an unknown estimator, or no batch.
    """
    tensors = named_tensors(model)
    names = {layer: f"{layer}.weight" for layer in weighted_layers(model)}
    estimate = _estimate(model, estimator, batches, list(names.values()), objective)
    return {
        layer: estimate({name: torch.ones_like(tensors[name])}) for layer, name in names.items()
    }


def filled_in(measured: Sensitivity, estimate: Sensitivity) -> Sensitivity:
    """Sensitivities at the ratios of an estimate, from ones that were measured at fewer.

    Between measured points the estimate is scaled by what was measured of it: the factor is
    interpolated over the ratio, and constant beyond the first and the last point. A group whose
    estimate is not positive everywhere is interpolated over the ratio itself, from 0 at 0.

    Args:
        measured: at some of the ratios; groups without an estimate are interpolated too.
        estimate: at all ratios.
    """
    rises = {}
    for name, known in measured.rises.items():
        guess = estimate.rises.get(name, ())
        usable = bool(guess) and all(math.isfinite(value) and value > 0 for value in guess)
        shape = dict(zip(estimate.ratios, guess if usable else estimate.ratios, strict=True))
        factors = [
            (ratio, rise / shape[ratio])
            for ratio, rise in zip(measured.ratios, known, strict=True)
        ]
        rises[name] = tuple(shape[r] * _between(factors, r) for r in estimate.ratios)
    return Sensitivity(estimate.ratios, rises)


def _between(points: Sequence[tuple[float, float]], at: float) -> float:
    if at <= points[0][0]:
        return points[0][1]
    for (low, first), (high, second) in pairwise(points):
        if at == high:
            return second
        if at < high:
            return first + (second - first) * (at - low) / (high - low)
    return points[-1][1]


def _removal(graph: PruningGraph, plan: Plan, name: str) -> Removal:
    """m of every weight that reads the units which a plan takes from a group."""
    group = next(each for each in graph.groups if each.name == name)
    gone = set(range(group.width)) - set(plan.kept[name])
    readers = [m for m in group.members if m.role == "consumer"] or scoring_members(group)
    removal: dict[str, Tensor] = {}
    for member in readers:
        mask = removal.setdefault(member.tensor, torch.zeros(graph.shapes[member.tensor]))
        index = [index for unit in gone for index in member.indices[unit]]
        mask.index_fill_(member.dim, torch.tensor(index, dtype=torch.long), 1.0)
    return removal


def _estimate(
    model: nn.Module,
    estimator: Estimator,
    batches: Batches,
    names: Sequence[str],
    objective: Objective,
) -> Estimate:
    tensors = named_tensors(model)
    weights = {name: tensors[name].detach() for name in names}
    match estimator:
        case "gradient":
            effects = _effects(model, weights, batches, objective)
            return lambda m: sum(float((effects[name] * each).sum()) for name, each in m.items())
        case "integrated gradients":
            return lambda m: _integrated(model, weights, m, batches, objective)
        case "weight norm" | "weight share":
            squares = {name: weight.square() for name, weight in weights.items()}
        case "activation norm" | "activation share":
            squares = _input_squares(model, weights, batches)
        case _:
            raise ConfigError(f"estimator must be one of {ESTIMATORS}, but got {estimator!r}")
    return _share(squares) if estimator.endswith("share") else _norm(squares)


def _norm(squares: Mapping[str, Tensor]) -> Estimate:
    return lambda m: sum(float((squares[name] * each).sum()) for name, each in m.items()) ** 0.5


def _share(squares: Mapping[str, Tensor]) -> Estimate:
    """The mean over weights, so that large ones do not speak for all."""

    def share(m: Removal) -> float:
        parts = [
            float((squares[name] * each).sum()) / max(float(squares[name].sum()), 1e-30)
            for name, each in m.items()
        ]
        return mean(parts) if parts else 0.0

    return share


def _gradients(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    images: Tensor,
    targets: Tensor,
    objective: Objective,
) -> dict[str, Tensor]:
    """g of each weight at these values of them; 0 where the loss does not depend on one."""
    leaves = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    loss = objective.saliency(functional_call(model, leaves, (images,)).float(), targets)
    found = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def _effects(
    model: nn.Module, weights: Mapping[str, Tensor], batches: Batches, objective: Objective
) -> dict[str, Tensor]:
    """Mean over parts of abs(w · g) per weight."""
    totals = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    count = 0
    with in_evaluation(model):
        for images, targets in batches:
            for part in zip(images.split(PART), targets.split(PART), strict=True):
                for name, gradient in _gradients(model, weights, *part, objective).items():
                    totals[name] += (weights[name] * gradient).abs()
                count += 1
    if count == 0:
        raise ConfigError("an estimate by gradients must be given at least one batch")
    return {name: total / count for name, total in totals.items()}


def _integrated(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    removal: Removal,
    batches: Batches,
    objective: Objective,
) -> float:
    """The change of the loss on the straight path to the removed state."""
    if not batches:
        raise ConfigError("an estimate by gradients must be given at least one batch")
    total, count = 0.0, 0
    with in_evaluation(model):
        for images, targets in batches:
            for step in range(STEPS):
                t = (step + 0.5) / STEPS
                there = {name: (1 - t * m) * weights[name] for name, m in removal.items()}
                gradients = _gradients(model, there, images, targets, objective)
                effect = sum(
                    float((m * weights[name] * gradients[name]).sum())
                    for name, m in removal.items()
                )
                total -= effect * len(images) / STEPS
            count += len(images)
    return total / count


def _input_squares(
    model: nn.Module, weights: Mapping[str, Tensor], batches: Batches
) -> dict[str, Tensor]:
    """Mean of x_j² over images and places, at the first row and place of column j, so that a
    column counts once; 0 of a weight that is not a convolution's or a linear layer's."""
    squares = {name: torch.zeros(weight.shape) for name, weight in weights.items()}
    count = 0
    hooks = [
        model.get_submodule(layer).register_forward_pre_hook(_watch(squares[f"{layer}.weight"]))
        for layer in weighted_layers(model)
        if f"{layer}.weight" in weights
    ]
    try:
        with in_evaluation(model), torch.no_grad():
            for images, _ in batches:
                model(images)
                count += len(images)
    finally:
        for hook in hooks:
            hook.remove()
    if count == 0:
        raise ConfigError("an estimate by activations must be given at least one batch")
    return {name: total / count for name, total in squares.items()}


def _watch(squares: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """Adds the squares of what goes into a layer, summed over images, mean over places."""
    first = squares.view(*squares.shape[:2], -1)[0, :, 0]

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        value = inputs[0].detach().square()
        if isinstance(module, _ConvNd):
            energy = value.flatten(2).mean(2).sum(0).reshape(module.groups, -1).sum(0)
        else:
            energy = value.reshape(len(value), -1, value.shape[-1]).mean(1).sum(0)
        first.add_(energy)

    return hook
