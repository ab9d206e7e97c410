"""Checks the analysis by doing it: a pruned copy must compute what the dense graph does masked.

| symbol | meaning |
|---|---|
| TOLERANCE | the largest relative error of a correct mapping in float64 |
| CONTROL | zeroing units must matter by at least this many tolerances |
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from search.errors import PlanError
from search.graph.exporting import Exported
from search.graph.propagation import Propagation
from search.graph.pruning_graph import PruningGraph
from search.graph.reference import Reference
from search.graph.types import Group
from search.plan import Plan
from search.surgery import named_tensors, prune

TOLERANCE = 1e-8
CONTROL = 100
SEEDS = (1, 2)


@dataclass(frozen=True)
class Subject:
    """What is verified: a graph whose model is the redrawn float64 copy, and how it came about."""

    graph: PruningGraph
    exported: Exported
    found: Propagation


def verify(subject: Subject, expired: Callable[[], bool]) -> dict[str, str]:
    """Find the groups that cannot be trusted.

    All prunable groups are cut at once by a random plan; on failure the set is bisected. Then a
    negative control: the output must depend on the units of every group.

    Args:
        subject: the analysis on the redrawn copy.
        expired: tells that the time is over; asked before every step.

    Returns:
        Group name -> the reason why it must be frozen.
    """
    check = _Check(subject, expired)
    names = [group.name for group in subject.graph.prunable]
    for seed in SEEDS:
        names = check.bisect(names, seed)
    if names:
        check.control(names)
    return check.reasons


class _Check:
    def __init__(self, subject: Subject, expired: Callable[[], bool]) -> None:
        self.reasons: dict[str, str] = {}
        self._graph = subject.graph
        self._expired = expired
        self._reference = Reference(subject.exported, subject.found)
        self._tensors = named_tensors(subject.graph.model)

    def bisect(self, names: list[str], seed: int) -> list[str]:
        """The largest part of `names` that the halving finds to be right, checked jointly."""
        problem = self._problem(names, seed)
        if problem is None:
            return names
        if len(names) == 1 or self._expired():
            self.reasons |= dict.fromkeys(names, f"unverified: {problem}")
            return []
        half = len(names) // 2
        first, second = self.bisect(names[:half], seed), self.bisect(names[half:], seed)
        if not first or not second or (problem := self._problem(first + second, seed)) is None:
            return first + second
        self.reasons |= dict.fromkeys(
            second, f"unverified: right alone, but not together with {first[0]}: {problem}"
        )
        return first

    def control(self, names: list[str]) -> None:
        """Freeze the groups on whose kept units the output does not depend."""
        if self._expired():
            self.reasons |= dict.fromkeys(names, "unverified: the time limit was reached first")
            return
        influence = self._influence(random_plan(self._graph.groups, names, SEEDS[0]))
        for name in names:
            if not influence[name] >= CONTROL * TOLERANCE:
                self.reasons[name] = "unverified: the output does not depend on its units"

    def _problem(self, names: list[str], seed: int) -> str | None:
        """What is wrong with a random plan that cuts the groups `names`; None if nothing is."""
        if not names:
            return None
        if self._expired():
            return "the time limit was reached first"
        plan = random_plan(self._graph.groups, names, seed)
        try:
            pruned = _run(prune(self._graph.model, self._graph, plan), self._graph.example_inputs)
        except PlanError as error:
            return str(error)
        except Exception as error:  # whatever the forward of a user's module raises
            return f"the model's own forward fails on smaller tensors ({_first_line(error)})"
        error_ = relative_error(pruned, self._expected(plan))
        return None if error_ <= TOLERANCE else f"the pruned model is off by {error_:.1e}"

    def _expected(self, plan: Plan) -> list[Tensor]:
        kept = self._graph.kept_atoms(plan)
        with torch.no_grad(), _quiet():
            outputs = self._reference.run_masked(self._tensors, self._graph.example_inputs, kept)
        return _tensors(outputs)

    def _influence(self, plan: Plan) -> dict[str, float]:
        """Group -> the largest relative change of the output by zeroing a unit, to first order."""
        graph = self._graph
        device = graph.example_inputs[0].device
        gains = torch.ones(
            len(graph.group_of), dtype=torch.float64, device=device, requires_grad=True
        )
        with torch.enable_grad(), _quiet():
            outputs = self._reference.run_masked(
                self._tensors, graph.example_inputs, graph.kept_atoms(plan), gains
            )
            projection = _projection(_tensors(outputs))
        (change,) = torch.autograd.grad(projection, gains)
        return {
            group.name: float(_by_unit(change, graph, number, group.width).abs().max())
            for number, group in enumerate(graph.groups)
        }


def _by_unit(change: Tensor, graph: PruningGraph, number: int, width: int) -> Tensor:
    own = torch.from_numpy(graph.group_of == number).to(change.device)
    units = torch.from_numpy(graph.unit_of).to(change.device)[own]
    return change.new_zeros(width).index_add_(0, units, change[own])


def random_plan(groups: Sequence[Group], names: Sequence[str], seed: int) -> Plan:
    """About half of the units of each group in `names`, at random; all of the others."""
    kept = dict(Plan.dense(groups).kept)
    for group in groups:
        if group.name in names:
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {group.name}".encode()))
            order = torch.randperm(group.width, generator=generator).tolist()
            kept[group.name] = tuple(sorted(order[: max(1, group.width // 2)]))
    return Plan(kept)


def relative_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference, relative to the largest value of the same output."""
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
        return float("inf")
    errors = [0.0]
    for left, right in zip(found, expected, strict=True):
        if right.numel():
            scale = right.abs().max().double().clamp_min(1e-300)
            error = float((left.double() - right.double()).abs().max() / scale)
            errors.append(error if error == error else float("inf"))
    return max(errors)


def _projection(outputs: Sequence[Tensor]) -> Tensor:
    """A random projection of all outputs, each divided by its norm."""
    total = torch.zeros((), dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for output in outputs:
        if output.is_floating_point() and output.requires_grad:
            direction = torch.randn(output.shape, generator=generator, dtype=torch.float64)
            unit = output / output.detach().norm().clamp_min(1e-300)
            total = total.to(output.device) + (unit * direction.to(output.device)).sum()
    return total


def _run(model: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    with torch.no_grad(), _quiet():
        return _tensors(model(*(value.clone() for value in inputs)))


def _tensors(outputs: object) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _quiet() -> warnings.catch_warnings[None]:
    return warnings.catch_warnings(action="ignore")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def frozen_by(graph: PruningGraph, reasons: dict[str, str]) -> PruningGraph:
    """The graph with the groups of `reasons` frozen."""
    groups = tuple(
        replace(group, status="frozen", reason=reasons[group.name])
        if group.name in reasons
        else group
        for group in graph.groups
    )
    return replace(graph, groups=groups)
