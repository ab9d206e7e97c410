"""What is known of an ATen operator: one record, which the module of its family holds.

An operator is named without its namespace, its overload and the underscore of in-place ones. What
a record leaves out is what holds for most operators, so few records are long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from torch import Tensor, fx

from search.graph.dependency.labels import Axis, Labels
from search.graph.dependency.op_call import OpCall, PropagationRule

Arguments: TypeAlias = dict[str, Any]  # by their schema names; nodes of the new graph for tensors
Operands: TypeAlias = Mapping[str, Any]  # by their schema names; Labels for tensors
SizedAxis: TypeAlias = tuple[Axis, int]  # the atoms along a dimension, and its size
MacCounter: TypeAlias = Callable[[Operands, Labels], Iterable[Sequence[SizedAxis]]]
ZeroRule: TypeAlias = Callable[[OpCall, Labels], bool]
Kept: TypeAlias = Mapping[int, Tensor]  # dimension that loses units -> the indices that stay


class Sizes(Protocol):
    """What rewriting an operator starts from: the labels of the dense graph, and new sizes."""

    outputs: tuple[Labels, ...]

    @property
    def graph(self) -> fx.Graph:
        """The graph that is written; operators that a rule adds go here."""

    @property
    def epsilon(self) -> float:
        """What a norm adds whose arguments name no number: that of the output's dtype."""

    def input(self, name: str) -> Labels | None:
        """The labels of a tensor argument."""

    def item(self, name: str, place: int) -> Labels | None:
        """The labels of a tensor in a list."""

    def count(self, axis: Axis, stop: int | None = None) -> int:
        """How many of the first `stop` indices of an axis stay."""

    def parts(self, axis: Axis, parts: int) -> int:
        """How many of the equal parts of an axis keep something."""

    def shrinks(self, axis: Axis) -> bool:
        """Whether an axis loses indices."""

    def scaled(self, sizes: Sequence[Any], out: Labels, start: int) -> list[Any]:
        """The new sizes of the dimensions of `out` from `start` on."""

    def moved(self, name: str, dim: int, index: Labels | None) -> fx.Node | None:
        """A new index of the units along a dimension; None where the old one will do."""

    def counted(self, name: str, dims: Sequence[int]) -> int | None:
        """How many values a statistic over `dims` counts, removed units among them; None where
        it counts none of these."""


RewriteRule: TypeAlias = Callable[[Sizes, Arguments], Arguments | fx.Node | None]


@dataclass(frozen=True)
class Statistic:
    """How a mean, a variance or a norm is computed over the units that are kept alone.

    Attributes:
        gather: the arguments by place, and what is kept -> arguments without the removed units;
            None where they change nothing.
        reduces: the result lacks the dimensions that the statistic runs over.
        counts_removed: it can count removed units as zeros instead, see `masked_statistics`.
    """

    gather: Callable[[Sequence[Any], Kept], list[Any] | None]
    reduces: bool = False
    counts_removed: bool = False


@dataclass(frozen=True)
class Operator:
    """All that is known of an operator, or of several that are alike.

    Attributes:
        names: the operators.
        propagate: its arguments with labels -> the labels of its outputs, and an effect. None: a
            pointwise operator ties what it broadcasts, any other one freezes what it touches.
        rewrite: its arguments -> those for the units that are kept, another node, or None where
            they stay. None: no argument holds a size.
        macs: one list of dimensions per product of matrices: their sizes multiplied are the
            multiply-accumulates. None: it multiplies no matrices.
        zeros: whether its output is zero where a unit is removed, if all that belongs to the unit
            is zero. None: it is not.
        statistic: set for a mean, a variance or a norm over units.
        is_producer: its outputs are units that its weights create; influence is measured there.
        reads_parameters: it takes parameters as they are, so that these need no mask.
        is_view: its output holds all elements of its first argument, and may share its memory.
        repeats: its view holds elements several times, so a mask of its operand is not enough.
        picks: its output holds elements of its operand alone, so the mask of that is enough.
        training_flag: the place of its training flag among the arguments.
    """

    names: tuple[str, ...]
    propagate: PropagationRule | None = None
    rewrite: RewriteRule | None = None
    macs: MacCounter | None = None
    zeros: ZeroRule | None = None
    statistic: Statistic | None = None
    is_producer: bool = False
    reads_parameters: bool = False
    is_view: bool = False
    repeats: bool = False
    picks: bool = False
    training_flag: int | None = None


def registry(*families: Iterable[Operator]) -> Mapping[str, Operator]:
    """Operator -> its record.

    Raises:
        ValueError: an operator has two records.
    """
    records: dict[str, Operator] = {}
    for record in (record for family in families for record in family):
        for name in record.names:
            if name in records:
                raise ValueError(f"an operator must have one record, but {name!r} has two")
            records[name] = record
    return records


def sized(labels: Labels) -> list[SizedAxis]:
    """Every dimension of a value."""
    return list(zip(labels.axes, labels.shape, strict=True))


def always(call: OpCall, out: Labels) -> bool:
    """Zeros of an operator with weights: all that makes the unit is zero, so the unit is."""
    return True


def of_all_inputs(call: OpCall, out: Labels) -> bool:
    """Zeros of an operator that makes zeros of zeros."""
    return bool(call.inputs) and all(labels.vanishes for labels in call.inputs)


def covers(operand: Labels, out: Labels) -> bool:
    """Whether an operand has an entry of its own for every unit of the output."""
    lead = len(out.shape) - len(operand.shape)
    return all(dim >= lead and operand.axes[dim - lead] is not None for dim in out.labelled)


def by_output(name: str) -> RewriteRule:
    """Rewrites the list of sizes `name`, which stands for the last dimensions of the output."""

    def rule(sizes: Sizes, given: Arguments) -> Arguments:
        (out,) = sizes.outputs
        listed = list(given[name])
        return given | {name: sizes.scaled(listed, out, len(out.shape) - len(listed))}

    return rule


def gathered(x: Tensor, kept: Kept) -> Tensor:
    """A tensor without the removed units."""
    for dim, indices in kept.items():
        x = x.index_select(dim, indices)
    return x


def gather_each(values: Sequence[Any], kept: Kept) -> list[Any]:
    """The same of every tensor among arguments."""
    return [gathered(value, kept) if isinstance(value, Tensor) else value for value in values]
