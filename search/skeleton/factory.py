"""Derives the skeleton of any plan in milliseconds from a few true exports.

The dense model and a few probe-pruned ones are exported; every number in which they differ is
solved as an affine function of widths and checked on exports that had no part in solving. Blocks
are removed from the derived graph, which is checked likewise. Where that fails, each skeleton is a
true export. Knows nothing of latency.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING

from onnx import ModelProto

from search.errors import SkeletonError
from search.plan import Plan
from search.quantization.formats import FORMATS, USUAL, Format
from search.quantization.onnx_graph import ops_of, with_precision
from search.quantization.places import Op
from search.skeleton.affine import is_regular, sizes, solve
from search.skeleton.block_removal import (
    BlockRemoval,
    MatrixSizes,
    find_removals,
    is_matrix,
    remove_blocks,
)
from search.skeleton.derivation import Derivation
from search.skeleton.export import export_proto
from search.skeleton.numbers import numbers, structure
from search.skeleton.weightless import Skeleton, canonical, serialised
from search.surgery import check_plan, prune

if TYPE_CHECKING:
    from search.graph import PruningGraph

PROBES = 2
MOST_PROBES = 8
CHECKS = 2
NARROW = 8  # units: groups up to this width have too few widths to differ in one probe
PROBES_BY_DIGIT = 4


class SkeletonFactory:
    """Skeletons of plans of one graph at one batch size.

    Nothing is exported before the first `derive`. Plans of equal widths share a skeleton.

    Attributes:
        problem: why every skeleton is a true export; None while nothing stands against deriving.
        block_problem: why those of plans that remove blocks are.
    """

    def __init__(self, graph: PruningGraph, *, batch_size: int = 1) -> None:
        self._graph, self._batch_size = graph, batch_size
        self._irregular = [
            group for group in graph.groups if group.name in graph.uneven or not is_regular(group)
        ]
        self.problem: str | None = None
        self._derivation: Derivation | None = None
        self._solved = False
        self.block_problem: str | None = None
        self._removals: dict[str, BlockRemoval] | None = None
        self._cache: dict[object, Skeleton] = {}

    def derive(self, plan: Plan, form: Format | None = None) -> Skeleton:
        """The skeleton of the pruned model.

        Args:
            plan: the kept units of every group, and the layers in int8.
            form: the integers of these layers; u8s8 by default.

        Raises:
            PlanError: the plan is not one of this graph.
            QuantizationError: a layer in int8 is none of the model.
            SkeletonError: the pruned model cannot be exported.
        """
        check_plan(self._graph, plan)
        regular = all(plan.widths[g.name] == g.width for g in self._irregular)
        widths = tuple(sorted(plan.widths.items())) if regular else plan.digest
        form = (form or FORMATS[USUAL]) if plan.precision else None
        key = (widths, tuple(sorted(plan.precision)), form)
        if key not in self._cache:
            made = self._made(plan, regular)
            if form is not None:
                made = with_precision(made, plan.precision.keys() & _layers(made), form)
            self._cache[key] = serialised(made)
        return self._cache[key]

    def operators(self) -> list[Op]:
        """The operators of the dense model's graph, with the names of its layers.

        Raises:
            SkeletonError: the model cannot be exported.
        """
        dense = self._graph.dense_plan()
        return ops_of(self._made(dense, regular=True).graph)

    def to_json(self) -> str:
        """The solved derivation, so that another process can skip its exports: see `from_json`."""
        derivation = self._solve()
        return "null" if derivation is None else derivation.to_json()

    @classmethod
    def from_json(cls, graph: PruningGraph, text: str, *, batch_size: int = 1) -> SkeletonFactory:
        """The factory that wrote `text`, for the same model and batch size.

        Raises:
            SkeletonError: `text` was not written by `to_json`.
        """
        factory = cls(graph, batch_size=batch_size)
        factory._derivation = None if text == "null" else Derivation.from_json(text)
        factory._solved = True
        return factory

    def _made(self, plan: Plan, regular: bool) -> ModelProto:
        """The canonical graph of the pruned model, all of it float."""
        derivation = self._solve() if regular else None
        if derivation is None:
            return self._exported(plan)
        if all(plan.kept.values()):
            return derivation.graph(plan.widths)
        try:
            return self._without_blocks(derivation, plan, self._solve_removals(derivation))
        except SkeletonError:
            return self._exported(plan)

    def _without_blocks(
        self, derivation: Derivation, plan: Plan, removals: Mapping[str, BlockRemoval]
    ) -> ModelProto:
        """The derived graph of a plan that removes blocks."""
        gone = [name for name, units in plan.kept.items() if not units]
        missing = [name for name in gone if name not in removals]
        if missing:
            raise SkeletonError(f"blocks must have a removal, but {missing} have none")
        widths = {**plan.widths, **dict.fromkeys(gone, 1)}
        return remove_blocks(derivation.graph(widths), [removals[name] for name in gone])

    def _solve_removals(self, derivation: Derivation) -> Mapping[str, BlockRemoval]:
        """Where each block ends; nothing where two true exports disagree."""
        if self._removals is None:
            try:
                self._removals = self._checked_removals(derivation)
            except SkeletonError as error:
                self._removals, self.block_problem = {}, str(error)
        return self._removals

    def _checked_removals(self, derivation: Derivation) -> dict[str, BlockRemoval]:
        graph = self._graph
        blocks = [group.name for group in graph.removable]
        dense = derivation.graph(graph.dense_plan().widths)
        removals = find_removals(dense, {name: _matrices(graph, name) for name in blocks})
        for check in range(CHECKS):
            gone = dict.fromkeys(_share(blocks, check), ())
            plan = Plan({**self._probe(MOST_PROBES + CHECKS + check).kept, **gone})
            derived = serialised(self._without_blocks(derivation, plan, removals))
            if derived != serialised(self._exported(plan)):
                raise SkeletonError(
                    "a graph without blocks must equal the true export, but differs"
                )
        return removals

    def _solve(self) -> Derivation | None:
        if not self._solved:
            try:
                self._derivation = self._derived()
            except SkeletonError as error:
                self.problem = str(error)
            self._solved = True
        return self._derivation

    def _derived(self) -> Derivation:
        dense = self._graph.dense_plan()
        template = self._exported(dense)
        frame = structure(template)
        regular = [group for group in self._graph.groups if group not in self._irregular]
        known = sizes([group for group in regular if group.kind != "block"])
        samples, widths = [numbers(template)], [dense.widths]
        for probe in range(MOST_PROBES):
            plan = self._probe(probe)
            samples.append(self._numbers(plan, frame))
            widths.append(plan.widths)
            solved = solve(samples, widths, known) if probe + 1 >= PROBES else None
            if solved is not None:
                break
        else:
            raise SkeletonError(f"sizes must be told apart by {MOST_PROBES} probes, but were not")
        derivation = Derivation(template, solved)
        for check in range(CHECKS):
            plan = self._probe(MOST_PROBES + check)
            if derivation.skeleton(plan.widths) != serialised(self._exported(plan)):
                raise SkeletonError("a derived skeleton must equal the true export, but differs")
        return derivation

    def _numbers(self, plan: Plan, frame: bytes) -> list[int]:
        proto = self._exported(plan)
        if structure(proto) != frame:
            raise SkeletonError("pruned models must differ in numbers only, but got another graph")
        return numbers(proto)

    def _exported(self, plan: Plan) -> ModelProto:
        graph = self._graph
        dense = plan == graph.dense_plan() and graph.program is None
        model = (
            graph.model
            if dense
            else prune(graph.model, graph, plan, form="graph", free_sizes=False)
        )
        proto = export_proto(model, graph.example_inputs, batch_size=self._batch_size)
        return canonical(proto)

    def _probe(self, number: int) -> Plan:
        """Random widths, distinct between the groups as far as there are enough.

        Narrow groups of the same width differ by the digits of their place among them.
        """
        source = random.Random(number)
        prunable = {group.name for group in self._graph.prunable}
        irregular = {group.name for group in self._irregular}
        taken: set[int] = set()
        places: Counter[int] = Counter()
        kept = {}
        for group in self._graph.groups:
            width = group.width
            if group.name in prunable - irregular and width > 1:
                width = _probe_width(width, places[width], number, source, taken)
                places[group.width] += 1
            kept[group.name] = tuple(range(width))
        return Plan(kept)


def _matrices(graph: PruningGraph, block: str) -> MatrixSizes:
    """The elements of each matrix that only the block reads, ascending."""
    left = graph.kept_units({block: ()})
    names = [name for name, _ in graph.model.named_parameters() if name in graph.shapes]
    sizes = (
        prod(graph.shapes[name])
        for name, product in zip(names, graph.parameter_counts, strict=True)
        if is_matrix(graph.shapes[name]) and product.at(left) == 0
    )
    return tuple(sorted(sizes))


def _share(blocks: Sequence[str], check: int) -> list[str]:
    """Half of the blocks, at random; the next check has the other half."""
    order = random.Random(check // 2).sample(list(blocks), len(blocks))
    half = (len(blocks) + 1) // 2
    return order[half:] if check % 2 else order[:half]


def _probe_width(
    width: int, place: int, number: int, source: random.Random, taken: set[int]
) -> int:
    """A width below the full one, unless the group is narrow."""
    if width <= NARROW and number < PROBES_BY_DIGIT:
        digit: int = place // width**number % width
        return digit + 1
    choices = range(1, width + 1) if width <= NARROW else range(2, width)
    chosen = source.choice([w for w in choices if w not in taken] or choices)
    if width > NARROW:
        taken.add(chosen)
    return chosen


@lru_cache(maxsize=4)
def _factory(graph: PruningGraph, batch_size: int) -> SkeletonFactory:
    return SkeletonFactory(graph, batch_size=batch_size)


def _layers(proto: ModelProto) -> set[str]:
    """Names of the layers that are left; those of removed blocks are gone."""
    return {node.name for node in proto.graph.node if node.name}


def skeleton(
    graph: PruningGraph, plan: Plan, *, batch_size: int = 1, form: Format | None = None
) -> Skeleton:
    """The skeleton of a plan, from a factory that is remembered for the next call."""
    return _factory(graph, batch_size).derive(plan, form)


def operators(graph: PruningGraph, *, batch_size: int = 1) -> list[Op]:
    """The operators of the dense model, from the factory of `skeleton`."""
    return _factory(graph, batch_size).operators()
