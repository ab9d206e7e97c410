"""PruningGraph: the groups of a model, what they cost, and why some are frozen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from search.errors import GraphError
from search.graph.dependency.costs import Product
from search.graph.dependency.grouping import kept_atoms
from search.graph.dependency.groups import Form, Group
from search.graph.dependency.labels import Atoms, KeepMask
from search.graph.dependency.memory import Activations
from search.graph.exported.deadline import LATE
from search.graph.exported.export import TOO_LATE
from search.graph.pruned.pruned_graph import Program
from search.graph.report import describe
from search.graph.trial_log import Verdicts
from search.plan import Plan

BYTES = 4  # of a number in float32


@dataclass(frozen=True, eq=False)
class PruningGraph:
    """The analysis of one model.

    Attributes:
        model: the traced model, untouched.
        example_inputs: the inputs that it was traced with.
        groups: all groups, frozen ones too.
        shapes: parameter or buffer -> traced shape; of tied tensors the first name only.
        unused: parameters that the model does not use, neither in evaluation mode nor, where that
            can be traced, in training (auxiliary heads); they are never cut, so a branch that
            reads them may not fit after pruning.
        dynamic_batch: the batch size stayed free; else the analysis holds for a batch of two.
        group_of: atom -> number of its group, or -1.
        unit_of: atom -> its unit, or -1.
        parameter_counts: one product per parameter.
        mac_counts: the products of convolutions, linear layers and other products of matrices.
        activations: the values of the graph, and which of them are alive together.
        program: the exported graph, where a group of units has the form `graph`; else None.
        exporting: makes the exported graph when a plan removes a block, if there is none yet.
        freeing: makes the exported graph with free sizes of the inputs; None where it is not known
            how, or for a copy that is analysed.
        parts: the submodules that were traced where the whole could not be; else empty.
        obstacle: why the whole could not be traced; else empty.
        complete: everything was tried. Else the time was over before, and with more of it other
            groups may turn out to be prunable, or to leave the model in the user's own class.
        verdicts: the results of the trials; `trace` goes on from there.
    """

    model: nn.Module
    example_inputs: tuple[Tensor, ...]
    groups: tuple[Group, ...]
    shapes: Mapping[str, tuple[int, ...]]
    unused: tuple[str, ...]
    dynamic_batch: bool
    group_of: Atoms
    unit_of: Atoms
    parameter_counts: tuple[Product, ...]
    mac_counts: tuple[Product, ...]
    activations: Activations = Activations()
    program: Program | None = None
    exporting: Callable[[], Program] | None = None
    freeing: Callable[[PruningGraph], Program | None] | None = None
    parts: tuple[str, ...] = ()
    obstacle: str = ""
    complete: bool = True
    verdicts: Verdicts = Verdicts()

    @property
    def prunable(self) -> tuple[Group, ...]:
        """The groups that can lose some of their units, approximate ones among them."""
        return tuple(group for group in self.searched(blocks=True) if group.kind != "block")

    @property
    def removable(self) -> tuple[Group, ...]:
        """The blocks that can go."""
        return tuple(group for group in self.searched(blocks=True) if group.kind == "block")

    def searched(self, *, blocks: bool) -> tuple[Group, ...]:
        """What a search may cut: the prunable groups and, with `blocks`, the blocks."""
        free = (group for group in self.groups if group.status != "frozen")
        return tuple(group for group in free if blocks or group.kind != "block")

    @property
    def unfinished(self) -> tuple[str, ...]:
        """Names of the groups and blocks that are frozen only because the time was over."""
        return tuple(group.name for group in self.groups if group.reason in (LATE, TOO_LATE))

    @cached_property
    def whole_program(self) -> Program:
        """The exported graph; where only blocks need it, it is made on first use.

        Raises:
            GraphError: the model cannot be exported in its own dtype as it was in float64.
        """
        if self.program is not None:
            return self.program
        if self.exporting is None:
            raise GraphError("the graph must come from trace to remove a block, but does not")
        return self.exporting()

    @cached_property
    def free_program(self) -> Program | None:
        """The exported graph for other sizes of the inputs than the traced ones, made on first
        use; None where the model or its graph has none."""
        return None if self.freeing is None else self.freeing(self)

    @cached_property
    def uneven(self) -> frozenset[str]:
        """Names of the groups whose width alone does not give every size: cut into parts that do
        not keep the same units."""
        if self.program is None:
            return frozenset()
        numbers = self.program.uneven(self.group_of, self.unit_of)
        return frozenset(self.groups[number].name for number in numbers)

    def form(self, plan: Plan) -> Form:
        """What a model pruned to `plan` is: of the user's own class, or a `PrunedGraph`.

        One without some block is always a `PrunedGraph`.
        """
        cut = (group for group in self.groups if len(plan.kept[group.name]) < group.width)
        return "graph" if any(group.form == "graph" for group in cut) else "module"

    def dense_plan(self) -> Plan:
        """The plan that removes nothing."""
        return Plan.dense(self.groups)

    def parameters(self, plan: Plan) -> int:
        """How many parameters the model has under `plan`."""
        kept = self.kept_atoms(plan)
        return sum(product.at(kept) for product in self.parameter_counts)

    def kept_atoms(self, plan: Plan) -> KeepMask:
        """Atom -> whether it stays under `plan`; atoms of no group always do."""
        return self.kept_units(plan.kept)

    def macs(self, plan: Plan) -> int:
        """Multiply-accumulates of all products of matrices for one example under `plan`."""
        kept = self.kept_atoms(plan)
        return sum(product.at(kept) for product in self.mac_counts)

    def memory_bytes(self, plan: Plan, batch_size: int = 1) -> int:
        """What one call must hold at once under `plan`: weights, and the most values that are
        alive together, in float32. What a runtime needs for itself comes on top.

        Raises:
            GraphError: the model was traced in parts, so what lies between them is not known.
        """
        if self.parts:
            raise GraphError(f"memory needs a model that is traced whole, but {self.obstacle}")
        kept = self.kept_atoms(plan)
        weights = sum(product.at(kept) for product in self.parameter_counts)
        return BYTES * (weights + self.activations.peak(kept, batch_size))

    def report(self) -> dict[str, Any]:
        """What can be pruned, how much that is, and why the rest cannot be, as JSON.

        A weight counts as prunable, and so do its multiply-accumulates, when a unit of a
        prunable group creates or reads it. Shares named `exact` are of exact groups alone; those
        named `approximate` are what approximate groups add.

        Returns:
            `complete`: whether everything was tried; `unfinished`: the names of the groups that
            are frozen only because the time was over;
            `groups` in model order, each with the parameters and MACs that its units touch;
            `frozen`, the frozen ones by cause; totals, shares, and the shares that are gone with
            all prunable groups at `half_width`; `footprint`, see there.
        """
        return describe(self)

    def kept_units(self, kept: Mapping[str, Sequence[int]]) -> KeepMask:
        """Atom -> whether it stays when each group in `kept` has these units, the others all."""
        return kept_atoms(self.groups, self.group_of, self.unit_of, kept)


def frozen_by(graph: PruningGraph, reasons: Mapping[str, str]) -> PruningGraph:
    """The graph with the groups of `reasons` frozen."""
    groups = tuple(
        replace(group, status="frozen", reason=reasons[group.name])
        if group.name in reasons
        else group
        for group in graph.groups
    )
    return replace(graph, groups=groups)
