"""Trials of a random plan: what a pruned copy computes, against the dense graph with units zeroed.

| symbol | meaning |
|---|---|
| influence | the largest relative change of the output by moving one unit, to first order |
| CONTROL | a unit must matter by at least this many tolerances, or the comparison proves nothing |
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch._export.utils import _compiling_state_context
from torch.utils import _pytree as pytree

from search.errors import PlanError
from search.graph.costs import Kept
from search.graph.deadline import Interruptible, OutOfTime
from search.graph.exporting import BATCH, Exported, batched
from search.graph.propagation import Propagation
from search.graph.pruning_graph import PruningGraph
from search.graph.redrawing import redraw
from search.graph.reference import Reference
from search.graph.refusals import told
from search.graph.types import Group
from search.plan import Plan, best_of
from search.surgery import prune
from search.tensors import copy_with, named_tensors

CONTROL = 100
LATE = "unverified: the time limit was reached first"
TOLERANCE = 1e-8
TINY = 1e-300
SLAB = 2**24  # numbers


class ShapeTrial:
    """Runs pruned copies on the meta device: shapes only, so it costs next to nothing.

    They run as an export would see them: a forward may take another way there (the attention of
    transformers repeats its keys by a constant then).
    A batch of another size than the traced one shows sizes that do not follow it. Where even the
    dense copy does not run there (constants on another device, sizes that depend on data),
    `possible` is false.
    """

    def __init__(self, graph: PruningGraph) -> None:
        self._graph = graph
        tensors = named_tensors(graph.model)
        self._model = copy_with(graph.model, {name: t.to("meta") for name, t in tensors.items()})
        traced = [value.to("meta") for value in graph.example_inputs]
        larger = [value[[0, 1, 1]] if batched(value, BATCH) else value for value in traced]
        self.possible = False
        for inputs in (larger, traced) if graph.dynamic_batch else (traced,):
            self._inputs = inputs
            self.possible = self.problem([]) is None
            if self.possible:
                break

    def problem(self, names: Sequence[str]) -> str | None:
        """What goes wrong when the groups `names` are cut; None if nothing does."""
        return self._problem(random_plan(self._graph.groups, names, 0))

    def problem_of_fewest(self, names: Sequence[str]) -> str | None:
        """What goes wrong when the groups `names` keep as little as they may."""
        kept = dict(self._graph.dense_plan().kept)
        for group in self._graph.groups:
            if group.name in names:
                kept[group.name] = best_of(range(group.width), group.least, group.parts)
        return self._problem(Plan(kept))

    def _problem(self, plan: Plan) -> str | None:
        try:
            with torch.device("meta"), _compiling_state_context():
                outputs_of(prune(self._model, self._graph, plan), self._inputs)
        except Exception as error:  # whatever the forward of a user's module raises
            return _told(error)
        return None


class NumberTrial:
    """Compares numbers, on parameters drawn by `seed` and `scale`; the graph's copy is redrawn.

    Args:
        graph: the analysis of a float64 copy.
        exported: the dense graph.
        found: its labels.
        seed: of the parameters and of the plan.
        scale: of the weights.
        alone: try the first example alone, which costs half as much; what goes wrong with it is
            tried again with both, until that has once given the same answer.
        watched: tell the influence.
        expired: tells that the time is over; asked before every operator.

    Attributes:
        influence: group -> the influence of its units; of all groups and blocks, once a trial of
            some went well.
    """

    def __init__(
        self,
        graph: PruningGraph,
        exported: Exported,
        found: Propagation,
        seed: int,
        scale: float = 1.0,
        *,
        alone: bool = False,
        watched: bool = True,
        expired: Callable[[], bool] = bool,
    ) -> None:
        redraw(graph.model, seed, scale)
        self.influence: dict[str, float] = {}
        self._graph = graph
        self._seed = seed
        self._reference = Reference(exported, found)
        self._has_inner = bool(exported.graph_module.graph.find_nodes(op="get_attr"))
        self._blocks = [block.atom for block in found.blocks]
        self._tensors = named_tensors(graph.model)
        self._watched, self._expired = watched, expired
        one = first_examples(graph.dynamic_batch, graph.example_inputs)
        self._fewest = graph.example_inputs if one is None else one
        self._first = one if alone else None
        self._one_tells = False

    def problem(self, names: Sequence[str]) -> str | None:
        """What goes wrong when the groups `names` are cut, LATE among it; None if nothing does."""
        try:
            with Interruptible(self._expired):
                return self._problem_of_any(names)
        except OutOfTime:
            return LATE

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
        try:
            pruned = outputs_of(prune(self._graph.model, self._graph, plan), inputs)
        except Exception as error:  # whatever the forward of a user's module raises
            return _told(error)
        return self._compare(names, plan, inputs, pruned)

    def moved_by(self, names: Sequence[str]) -> set[str]:
        """Those of the groups `names` without half the units of which the dense graph computes
        something else: what `influence` cannot see where a gradient is zero or does not exist."""
        try:
            with Interruptible(self._expired):
                kept = self._graph.kept_atoms(self._graph.dense_plan())
                inputs = self._graph.example_inputs
                return self._moved_by(list(names), self._expected(inputs, kept))
        except OutOfTime:
            return set()

    def _moved_by(self, names: list[str], dense: list[Tensor]) -> set[str]:
        groups = {group.name: group for group in self._graph.groups}
        kept = dict(self._graph.dense_plan().kept)
        for name in names:
            group = groups[name]
            count = (group.width + 1) // 2 if group.least else 0
            kept[name] = best_of(range(group.width), count, group.parts)
        cut = self._graph.kept_atoms(Plan(kept))
        if not names or relative_error(self._expected(self._graph.example_inputs, cut), dense) < (
            CONTROL * TOLERANCE
        ):
            return set()
        half = len(names) // 2
        if not half:
            return set(names)
        return self._moved_by(names[:half], dense) | self._moved_by(names[half:], dense)

    def dense_error(self) -> float:
        """How far the model itself is from its exported graph, with nothing cut; 0 if the graph
        does not run, or the time is over before that is known."""
        try:
            with Interruptible(self._expired):
                return self._dense_error_of_any()
        except OutOfTime:
            return 0.0

    def _dense_error_of_any(self) -> float:
        for inputs in (self._first, self._graph.example_inputs):
            if inputs is not None:  # a graph that was exported for two may have no sizes for one
                with suppress(Exception):
                    return self._dense_error(inputs)
        return 0.0

    def _dense_error(self, inputs: Sequence[Tensor]) -> float:
        kept = self._graph.kept_atoms(self._graph.dense_plan())
        return relative_error(outputs_of(self._graph.model, inputs), self._expected(inputs, kept))

    def _compare(
        self, names: Sequence[str], plan: Plan, inputs: Sequence[Tensor], pruned: list[Tensor]
    ) -> str | None:
        kept = self._graph.kept_atoms(plan)
        is_watched = self._watched and not self.influence.keys() >= set(names)
        is_whole = bool(kept[self._blocks].all())
        nudges = None
        if is_watched and is_whole and inputs is self._fewest:  # one forward serves both ends
            nudges = self._nudges()
        expected = self._expected(inputs, kept, nudges)
        off = relative_error(pruned, expected)
        if off > TOLERANCE:
            return f"the pruned model is off by {off:.1e}"
        if is_watched:
            changes = None if nudges is None else _gradient(expected, nudges, kept)
            del expected
            if changes is None or not bool(changes.isfinite().all()):
                kept[self._blocks] = True  # one that is gone changes nothing
                changes = self._changes(kept)
            self.influence |= _largest_per_group(changes, self._graph)
        return None

    def _changes(self, kept: Kept) -> Tensor:
        """What moving each atom changes, of one example where that will do: half the memory."""
        batch = self._graph.example_inputs
        for inputs in (batch,) if self._fewest is batch else (self._fewest, batch):
            nudges = self._nudges()
            try:
                changes = _gradient(self._expected(inputs, kept, nudges), nudges, kept)
            except (IndexError, RuntimeError):
                if inputs is batch:
                    raise
            else:
                if bool(changes.isfinite().all()):
                    break
        return changes

    def _nudges(self) -> Tensor:
        like = self._graph.example_inputs[0]
        count = len(self._graph.group_of)
        return torch.zeros(count, dtype=torch.float64, device=like.device, requires_grad=True)

    def _expected(
        self, inputs: Sequence[Tensor], kept: Kept, nudges: Tensor | None = None
    ) -> list[Tensor]:
        """What the dense graph makes of `inputs` with only `kept`; see `run_masked`."""
        memory: AbstractContextManager[Any] = torch.no_grad()
        if nudges is not None:  # operators that call other graphs take no hooks
            memory = torch.enable_grad() if self._has_inner else _ShortMemory(self._expired)
        with memory, _quiet():
            return _tensors(self._reference.run_masked(self._tensors, inputs, kept, nudges))


class _ShortMemory(torch.autograd.graph.saved_tensors_hooks):
    """Autograd keeps a quarter of the bytes: an influence needs no digits, only its order.

    They are kept in large slabs, because small pieces between the activations, which come and go,
    would keep the heap from giving back anything. A backward pass has no other place to stop than
    where it asks for them.
    """

    def __init__(self, expired: Callable[[], bool]) -> None:
        super().__init__(self._pack, self._unpack)
        self._expired = expired
        self._slab = torch.empty(0, dtype=torch.bfloat16)
        self._used = 0

    def _pack(self, saved: Tensor) -> tuple[Tensor, torch.dtype]:
        source = saved if saved._base is None else saved._base
        if isinstance(source, nn.Parameter) or saved.dtype != torch.float64:
            return saved, saved.dtype
        size = saved.numel()
        if size > len(self._slab) - self._used or saved.device != self._slab.device:
            self._slab = torch.empty(max(size, SLAB), dtype=torch.bfloat16, device=saved.device)
            self._used = 0
        kept = self._slab[self._used : self._used + size].view(saved.shape).copy_(saved)
        self._used += size
        return kept, saved.dtype

    def _unpack(self, packed: tuple[Tensor, torch.dtype]) -> Tensor:
        if self._expired():
            raise OutOfTime
        kept, dtype = packed
        return kept.to(dtype)


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


def _gradient(outputs: Sequence[Tensor], nudges: Tensor, kept: Kept) -> Tensor:
    """What moving each atom changes: the gradient of a random projection of the outputs.

    Zeros where an operator has no derivative.
    """
    try:
        changes = torch.autograd.grad(_projection(outputs, nudges), nudges)[0].cpu()
    except (NotImplementedError, RuntimeError):
        changes = torch.zeros(nudges.shape, dtype=nudges.dtype)
    changes[torch.from_numpy(~kept)] = 0.0  # a division by a zeroed unit is not a number
    return changes


def _projection(outputs: Sequence[Tensor], nudges: Tensor) -> Tensor:
    """A random projection of all outputs, each divided by its norm."""
    total = 0.0 * nudges.sum()
    generator = torch.Generator().manual_seed(0)
    for output in outputs:
        if output.requires_grad:
            output = torch.view_as_real(output.resolve_conj()) if output.is_complex() else output
            output = torch.where(output.isfinite(), output, 0.0)
            direction = torch.randn(output.shape, generator=generator, dtype=torch.float64)
            unit = output / output.detach().norm().clamp_min(TINY)
            total = total + (unit * direction.to(output.device)).sum()
    return total


def _largest_per_group(change: Tensor, graph: PruningGraph) -> dict[str, float]:
    """The largest |sum of `change` over the atoms of a unit| that can go, in every group."""
    largest: dict[str, float] = {}
    for number, group in enumerate(graph.groups):
        own = torch.from_numpy((graph.group_of == number).nonzero()[0])
        units = torch.from_numpy(graph.unit_of)[own]
        sums = torch.zeros(group.width, dtype=torch.float64)
        sums.index_add_(0, units, change[own])
        sums[[part[0] for part in group.parts if len(part) == 1]] = 0.0
        largest[group.name] = float(sums.abs().max())
    return largest


def outputs_of(model: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The tensors that the model returns."""
    with torch.no_grad(), _quiet():
        return _tensors(model(*(value.clone() for value in inputs)))


def _quiet() -> AbstractContextManager[None]:
    return warnings.catch_warnings(action="ignore")


def _tensors(outputs: object) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _told(error: Exception) -> str:
    if isinstance(error, PlanError):
        return str(error)
    return f"the model's own forward fails on smaller tensors ({told(error)})"
