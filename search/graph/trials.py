"""Trials of a random plan: what a pruned copy computes, against the dense graph with units zeroed.

| symbol | meaning |
|---|---|
| TOLERANCE | a pruned copy that is off by more is wrong |
| CONTROL | a unit must matter by so many times what a trial is off by, or that proves nothing |
| EXACT | no trial counts as less off than this; what is further off must be due to the last bit |
| ROUNDING | by so many times what moving weights by their last bit changes, at most |
| CALMER | weights that make too much of the last bit are drawn anew, smaller by this factor |
| MOST_CALMING | how often at most |
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from functools import cached_property

import torch
from torch import Tensor, nn
from torch._export.utils import _compiling_state_context
from torch.utils import _pytree as pytree

from search.errors import PlanError
from search.graph.costs import Kept
from search.graph.deadline import LATE
from search.graph.exporting import BATCH, Exported, batched
from search.graph.propagation import Propagation
from search.graph.pruning_graph import PruningGraph
from search.graph.recurring import OneStep
from search.graph.redrawing import redraw
from search.graph.reference import Reference
from search.graph.refusals import told
from search.graph.types import Group
from search.graph.verdicts import Hearing, Told, problem_in
from search.plan import Plan, best_of
from search.surgery import prune
from search.tensors import copy_with, named_tensors

CONTROL = 100
TOLERANCE = 1e-8
EXACT = 1e-12
CALMER = 0.7
MOST_CALMING = 3
ROUNDING = 100
TINY = 1e-300


class ShapeTrial:
    """Runs pruned copies on the meta device: shapes only, so it costs next to nothing.

    They run as an export would see them: a forward may take another way there (the attention of
    transformers repeats its keys by a constant then).
    A batch of another size than the traced one shows sizes that do not follow it.

    Args:
        graph: the analysis of a float64 copy.
        hearing: of its trials.
    """

    def __init__(self, graph: PruningGraph, hearing: Hearing) -> None:
        self._graph, self._hearing = graph, hearing

    @property
    def possible(self) -> bool:
        """Whether the dense copy runs there: not with constants on another device, or with sizes
        that depend on data."""
        told = self._hearing.verdict("shapes", [], lambda: {"fit": self._batch is not None})
        return told is not None and bool(told["fit"])

    def problem(self, names: Sequence[str]) -> str | None:
        """What goes wrong when the groups `names` are cut, LATE among it; None if nothing does."""
        return self._heard("shapes of half", names, random_plan(self._graph.groups, names, 0))

    def problem_of_fewest(self, names: Sequence[str]) -> str | None:
        """What goes wrong when the groups `names` keep as little as they may, LATE among it."""
        kept = dict(self._graph.dense_plan().kept)
        for group in self._graph.groups:
            if group.name in names:
                kept[group.name] = best_of(range(group.width), group.least, group.parts)
        return self._heard("shapes of the fewest", names, Plan(kept))

    def _heard(self, trial: str, names: Sequence[str], plan: Plan) -> str | None:
        def hold() -> str | None:
            return None if self._batch is None else self._problem(plan, self._batch)

        return self._hearing.problem(trial, names, hold)

    @cached_property
    def _model(self) -> nn.Module:
        tensors = named_tensors(self._graph.model)
        return copy_with(self._graph.model, {name: t.to("meta") for name, t in tensors.items()})

    @cached_property
    def _batch(self) -> list[Tensor] | None:
        """Inputs that the dense copy runs on; None where there are none."""
        traced = [value.to("meta") for value in self._graph.example_inputs]
        larger = [value[[0, 1, 1]] if batched(value, BATCH) else value for value in traced]
        dense = self._graph.dense_plan()
        batches = [larger, traced] if self._graph.dynamic_batch else [traced]
        return next((each for each in batches if self._problem(dense, each) is None), None)

    def _problem(self, plan: Plan, inputs: Sequence[Tensor]) -> str | None:
        try:
            with torch.device("meta"), _compiling_state_context(), OneStep():
                outputs_of(prune(self._model, self._graph, plan), inputs)
        except Exception as error:  # whatever the forward of a user's module raises
            return _told(error)
        return None


class NumberTrial:
    """Compares numbers, on parameters drawn by `seed` and `scale`: the graph's copy is redrawn
    before the first trial that is held.

    Args:
        graph: the analysis of a float64 copy.
        exported: the dense graph.
        found: its labels.
        seed: of the parameters and of the plan.
        scale: of the weights.
        alone: try the first example alone, which costs half as much; what goes wrong with it is
            tried again with both, until that has once given the same answer.
        hearing: of its trials.

    Attributes:
        off: the largest error of the trials that went well.
        scale: of the weights; smaller than it was asked for where those made too much of the
            last bit, as a deep network without a half of its units may.
    """

    def __init__(
        self,
        graph: PruningGraph,
        exported: Exported,
        found: Propagation,
        seed: int,
        scale: float = 1.0,
        *,
        hearing: Hearing,
        alone: bool = False,
    ) -> None:
        self.off = 0.0
        self.scale = scale
        self._calming = MOST_CALMING
        self._graph = graph
        self._seed = seed
        self._is_drawn = False
        self._reference = Reference(exported, found)
        self._tensors = named_tensors(graph.model)
        self._hearing = hearing
        one = first_examples(graph.dynamic_batch, graph.example_inputs)
        self._first = one if alone else None
        self._one_tells = False

    def problem(self, names: Sequence[str]) -> str | None:
        """What goes wrong when the groups `names` are cut, LATE among it; None if nothing does."""

        def hold() -> Told:
            return {"problem": self._problem_of_any(names), **self._state()}

        told = self._heard("numbers", names, hold)
        if told is None:
            return LATE
        self._restore(told)
        return problem_in(told)

    def _heard(self, trial: str, names: Sequence[str], hold: Callable[[], Told]) -> Told | None:
        """What a trial tells that is held on the parameters drawn."""

        def hold_drawn() -> Told:
            if not self._is_drawn:
                redraw(self._graph.model, self._seed, self.scale)
                self._is_drawn = True
            return hold()

        return self._hearing.verdict(f"{trial} {self._seed} {self.scale}", names, hold_drawn)

    def _state(self) -> Told:
        """What a verdict changes for those after it."""
        return {
            "off": self.off,
            "scale": self.scale,
            "calming": self._calming,
            "alone": self._first is not None,
            "one_tells": self._one_tells,
        }

    def _restore(self, state: Told) -> None:
        self.off = state["off"]
        self.scale, self._calming = state["scale"], state["calming"]
        self._first = self._first if state["alone"] else None
        self._one_tells = state["one_tells"]

    def _problem_of_any(self, names: Sequence[str]) -> str | None:
        if self._first is None:
            return self._problem_of_both(names)
        try:
            one = self._problem(names, self._first)
            if one is None or self._one_tells:
                return one
        except Exception:  # a graph that was exported for two examples may have no sizes for one
            one = None
        both = self._problem_of_both(names)
        self._one_tells = one is not None and both is not None
        if not self._one_tells:
            self._first = None
        return both

    def _problem_of_both(self, names: Sequence[str]) -> str | None:
        try:
            return self._problem(names, self._graph.example_inputs)
        except Exception as error:  # the graph calls what the forward of a user's module calls
            return f"the exported graph does not run on the example inputs ({told(error)})"

    def _problem(self, names: Sequence[str], inputs: Sequence[Tensor]) -> str | None:
        plan = random_plan(self._graph.groups, names, self._seed)
        while True:
            try:
                outputs = outputs_of(prune(self._graph.model, self._graph, plan), inputs)
            except Exception as error:  # whatever the forward of a user's module raises
                return _told(error)
            off = relative_error(outputs, self._expected(inputs, self._graph.kept_atoms(plan)))
            if off <= EXACT:
                return None
            if off <= TOLERANCE or self._calming:
                pruned = prune(self._graph.model, self._graph, plan)
                bit = _last_bit(pruned, inputs, outputs)
                if off <= min(TOLERANCE, ROUNDING * bit):
                    self.off = max(self.off, off)
                    return None
                self._calming *= bit > EXACT
            if not self._calming:
                return f"the pruned model is off by {off:.1e}"
            self._calm()

    def _calm(self) -> None:
        """Draw the weights anew, smaller, because the last bit of them decides.

        One draw that is calm is enough: nothing is asked after that.
        """
        self._calming -= 1
        self.scale *= CALMER
        redraw(self._graph.model, self._seed, self.scale)

    def moved_by(self, names: Sequence[str]) -> set[str]:
        """Those of the groups `names` without half the units of which the dense graph computes
        something else: what `influence` cannot see where a gradient is zero or does not exist."""

        def hold() -> Told:
            moved = self._moved_by(names, self._without([]), self._without(names))
            return {"moved": sorted(moved)}

        told = self._heard("moved by", names, hold)
        return set() if told is None else set(told["moved"])

    def _moved_by(
        self, names: Sequence[str], before: list[Tensor], after: list[Tensor], first: int = 0
    ) -> set[str]:
        """Those of names[first:] that matter where names[:first] are cut already.

        Args:
            names: groups.
            before: what the graph computes without half the units of names[:first].
            after: what it computes without half of those of all `names`.
            first: how many of the groups are cut in `before`.
        """
        if relative_error(after, before) < CONTROL * TOLERANCE:
            return set()
        if len(names) - first == 1:
            return {names[first]}
        middle = (first + len(names)) // 2
        between = self._without(names[:middle])
        found = self._moved_by(names[:middle], before, between, first)
        return found | self._moved_by(names, between, after, middle)

    def _without(self, names: Sequence[str]) -> list[Tensor]:
        """What the graph computes without half the units of the groups `names`."""
        kept = dict(self._graph.dense_plan().kept)
        for group in self._graph.groups:
            if group.name in names:
                count = (group.width + 1) // 2 if group.least else 0
                kept[group.name] = best_of(range(group.width), count, group.parts)
        return self._expected(self._graph.example_inputs, self._graph.kept_atoms(Plan(kept)))

    def dense_error(self) -> float:
        """How far the model itself is from its exported graph, with nothing cut; 0 if the graph
        does not run, or the time is over before that is known."""
        told = self._heard("dense", [], lambda: {"off": self._dense_error_of_any()})
        return 0.0 if told is None else float(told["off"])

    def _dense_error_of_any(self) -> float:
        for inputs in (self._first, self._graph.example_inputs):
            if inputs is not None:  # a graph that was exported for two may have no sizes for one
                with suppress(Exception):
                    return self._dense_error(inputs)
        return 0.0

    def _dense_error(self, inputs: Sequence[Tensor]) -> float:
        kept = self._graph.kept_atoms(self._graph.dense_plan())
        return relative_error(outputs_of(self._graph.model, inputs), self._expected(inputs, kept))

    def _expected(self, inputs: Sequence[Tensor], kept: Kept) -> list[Tensor]:
        """What the dense graph makes of `inputs` with only `kept`; see `run_masked`."""
        with torch.no_grad(), quiet():
            return tensors_among(self._reference.run_masked(self._tensors, inputs, kept))


class FormTrial:
    """Compares the user's class with the exported graph, both without the same units.

    Args:
        graph: the analysis of a float64 copy, which is redrawn; it has a program.
        seed: of the parameters and of the plan.
        scale: of the weights.
        hearing: of its trials.

    Attributes:
        off: the largest error of the trials that went well.
    """

    def __init__(self, graph: PruningGraph, seed: int, scale: float, hearing: Hearing) -> None:
        self.off = 0.0
        self._graph, self._seed, self._hearing = graph, seed, hearing
        self.scale = scale
        self._is_drawn = False

    def problem(self, names: Sequence[str]) -> str | None:
        """What goes wrong when the groups `names` are cut, LATE among it; None if nothing does."""

        def hold() -> Told:
            if not self._is_drawn:
                redraw(self._graph.model, self._seed, self.scale)
                self._is_drawn = True
            return {"problem": self._problem_of_any(names), "off": self.off}

        told = self._hearing.verdict(f"forms {self._seed} {self.scale}", names, hold)
        if told is None:
            return LATE
        self.off = told["off"]
        return problem_in(told)

    def _problem_of_any(self, names: Sequence[str]) -> str | None:
        batch = self._graph.example_inputs
        one = first_examples(self._graph.dynamic_batch, batch)
        if one is not None:  # a graph that was exported for two may have no sizes for one
            with suppress(Exception):
                return self._problem(names, one)
        try:
            return self._problem(names, batch)
        except Exception as error:  # whatever the forward of a user's module raises
            return _told(error)

    def _problem(self, names: Sequence[str], inputs: Sequence[Tensor]) -> str | None:
        plan = random_plan(self._graph.groups, names, self._seed)
        by_class, by_graph = (
            outputs_of(prune(self._graph.model, self._graph, plan, form=form), inputs)
            for form in (None, "graph")
        )
        off = relative_error(by_class, by_graph)
        if off > EXACT:
            bit = _last_bit(prune(self._graph.model, self._graph, plan), inputs, by_class)
            if off > min(TOLERANCE, ROUNDING * bit):
                return f"the pruned model is off by {off:.1e}"
        self.off = max(self.off, off)
        return None


def _last_bit(model: nn.Module, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> float:
    """What the last bit of its weights, which are moved, changes in the outputs of a model."""
    _nudge(model)
    return relative_error(outputs_of(model, inputs), outputs)


def _nudge(model: nn.Module) -> None:
    """Move every parameter and statistic by about its last bit, in place."""
    generator = torch.Generator().manual_seed(0)
    bit = torch.finfo(torch.float64).eps
    for tensor in named_tensors(model).values():
        if tensor.dtype is torch.float64:
            moves = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.detach().mul_(1.0 + 2.0 * bit * moves.to(tensor.device))


def first_examples(dynamic: bool, inputs: Sequence[Tensor]) -> Sequence[Tensor] | None:
    """The first of two examples; None where the batch size is not `dynamic`."""
    if not dynamic:
        return None
    return [value[:1] if batched(value, BATCH) else value for value in inputs]


def random_plan(groups: Sequence[Group], names: Sequence[str], seed: int) -> Plan:
    """About half of the units of each group in `names`, at random; all of the others.

    A block that one seed removes the next seed keeps.
    """
    kept = dict(Plan.dense(groups).kept)
    for group in groups:
        if group.name in names:
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {group.name}".encode()))
            order = torch.randperm(group.width, generator=generator).tolist()
            count = (group.width + 1) // 2
            if group.kind == "block":
                count = (zlib.crc32(group.name.encode()) + seed) % 2
            kept[group.name] = best_of(order, count, group.parts)
    return Plan(kept)


def relative_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference, relative to the largest finite value of the same output."""
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
        return float("inf")
    pairs = zip(map(_reals, found), map(_reals, expected), strict=True)
    return max((_error(left, right) for left, right in pairs if right.numel()), default=0.0)


def _error(found: Tensor, expected: Tensor) -> float:
    """What is not finite must be the same."""
    odd = ~expected.isfinite()
    if bool(odd.any()):
        same = (found == expected) | (found.isnan() & expected.isnan())
        if not bool(same[odd].all()):
            return float("inf")
        found, expected = found.masked_fill(odd, 0.0), expected.masked_fill(odd, 0.0)
    error = float((found - expected).abs().max() / expected.abs().max().clamp_min(TINY))
    return error if error == error else float("inf")


def _reals(output: Tensor) -> Tensor:
    """In float64, real and imaginary parts side by side."""
    output = output.detach()
    return (torch.view_as_real(output.resolve_conj()) if output.is_complex() else output).double()


def outputs_of(model: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The tensors that the model returns."""
    with torch.no_grad(), quiet():
        return tensors_among(model(*(value.clone() for value in inputs)))


def quiet() -> AbstractContextManager[None]:
    return warnings.catch_warnings(action="ignore")


def tensors_among(outputs: object) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _told(error: Exception) -> str:
    if isinstance(error, PlanError):
        return str(error)
    return f"the model's own forward fails on smaller tensors ({told(error)})"
