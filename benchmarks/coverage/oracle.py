"""Whether a pruned model computes what the dense one does without the removed units.

Imports nothing of the library's verification. Two independent ways, both in float64 on redrawn
weights: the dense module with the columns that read removed units zeroed, which is exact for
groups that no norm or mean runs over; and, where that does not apply, the dense graph with the
removed units absent (see `absence`).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from benchmarks.coverage.absence import AbsentUnits
from benchmarks.coverage.plans import other_plan
from benchmarks.coverage.redraw import noise, redrawn, tensors_of
from search import Plan, PruningGraph

TOLERANCE = 1e-8
CONTROL = 100

Outputs = list[Tensor]


class WrongOutput(Exception):
    """The pruned model computes something else."""


@dataclass(frozen=True)
class Verdict:
    """How far off the pruned model is, and how far the negative control."""

    way: str
    error: float
    control: float


class Oracle:
    """Judges plans of one model.

    Args:
        model: the dense model; it is not touched.
        inputs: a batch of examples.
        graph: its groups: names, statuses and members are all that is used.
        prune: what is under test.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Sequence[Tensor],
        graph: PruningGraph,
        prune: Callable[[nn.Module, PruningGraph, Plan], nn.Module],
        seed: int = 1,
    ) -> None:
        self._dense = redrawn(model, seed)
        self._inputs = noise(inputs, seed)
        self._graph, self._prune = graph, prune
        self._absent: AbsentUnits | None = None

    def judge(self, plan: Plan) -> Verdict:
        """The verdict on `plan`.

        Raises:
            WrongOutput: neither way agrees with the pruned model, or the negative control does,
                so that the comparison proves nothing.
        """
        found = outputs_of(self._prune(self._dense, self._graph, plan), self._inputs)
        ways = [self._masked_outputs, self._absent_outputs]
        errors = []
        for way in ways[self._is_approximate(plan) :]:
            name = way.__name__.strip("_").removesuffix("_outputs")
            error = relative_error(found, way(plan))
            if error <= TOLERANCE:
                return self._controlled(way, name, plan, found, error)
            errors.append(f"{error:.1e} ({name})")
        raise WrongOutput(f"the pruned model is off by {', '.join(errors)}")

    def _controlled(
        self,
        way: Callable[[Plan], Outputs],
        name: str,
        plan: Plan,
        found: Outputs,
        error: float,
    ) -> Verdict:
        other = other_plan(self._graph, plan)
        if other == plan:
            return Verdict(name, error, float("inf"))
        control = relative_error(found, way(other))
        if control < CONTROL * TOLERANCE:
            raise WrongOutput(f"with other units removed it is off by {control:.1e} only")
        return Verdict(name, error, control)

    def _is_approximate(self, plan: Plan) -> bool:
        return any(
            group.status == "approximate" and len(plan.kept[group.name]) < group.width
            for group in self._graph.groups
        )

    def _masked_outputs(self, plan: Plan) -> Outputs:
        """The dense module's outputs when no weight reads a removed unit."""
        return outputs_of(self._marked(plan, 0.0, {"consumer"}), self._inputs)

    def _absent_outputs(self, plan: Plan) -> Outputs:
        if self._absent is None:
            self._absent = AbsentUnits(self._dense, self._inputs)
        marked = self._marked(plan, float("nan"), {"producer", "consumer", "follower"})
        return self._absent.outputs(marked, self._inputs)

    def _marked(self, plan: Plan, value: float, roles: set[str]) -> nn.Module:
        """A dense copy; what belongs to removed units, in members of `roles`, is `value`."""
        marked = copy.deepcopy(self._dense)
        tensors = tensors_of(marked)
        for group in self._graph.groups:
            gone = set(range(group.width)) - set(plan.kept[group.name])
            for member in group.members if gone else ():
                tensor = tensors[member.tensor]
                if member.role in roles and tensor.is_floating_point():
                    places = [index for unit in gone for index in member.indices[unit]]
                    tensor.index_fill_(
                        member.dim, torch.tensor(sorted(places), dtype=torch.long), value
                    )
        return marked


def outputs_of(model: nn.Module, inputs: Sequence[Tensor]) -> Outputs:
    """All tensors that the model returns."""
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        return tensors_in(model(*(value.clone() for value in inputs)))


def tensors_in(outputs: object) -> Outputs:
    """The tensors among nested outputs."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def relative_error(found: Outputs, expected: Outputs) -> float:
    """The largest difference, relative to the largest value of the same output."""
    if [value.shape for value in found] != [value.shape for value in expected]:
        return float("inf")
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        if one.numel():
            scale = float(other.abs().max().double()) or 1.0
            error = float((one.double() - other.double()).abs().max()) / scale
            worst = max(worst, error if error == error else float("inf"))
    return worst
