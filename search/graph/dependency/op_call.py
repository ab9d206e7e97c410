"""One operator call as a rule sees it: labels instead of tensors, arguments by their names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from search.graph.dependency.labels import Axis, Effect, Labels, freeze_all, tidy, total

Outcome: TypeAlias = tuple[tuple[Labels, ...], Effect]


@dataclass(frozen=True)
class OpCall:
    """An operator call.

    Attributes:
        op: the operator without its overload and without the underscore of in-place ones.
        arguments: every argument of the schema by name, defaults filled in; tensors are Labels.
        outputs: the outputs with nothing labelled yet: their shapes and batch dimensions.
        choice: which of several possible dimensions carries the units, best first.
        held: atoms below this number are those of parameters, buffers and constants.
    """

    op: str
    arguments: Mapping[str, Any]
    outputs: tuple[Labels, ...]
    choice: int = 0
    held: int = 0

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def inputs(self) -> tuple[Labels, ...]:
        """Every tensor among the arguments, also those in lists."""
        return tuple(_labels(self.arguments.values()))

    @property
    def first(self) -> Labels:
        """The first tensor argument."""
        return self.inputs[0]

    def dim(self, default: int = 0, rank: int | None = None) -> int:
        """The argument `dim` as a number ≥ 0; `rank` is that of the first tensor."""
        return int(self.arguments.get("dim", default)) % (rank or len(self.first.shape))

    @property
    def out(self) -> Labels:
        """The first output."""
        return self.outputs[0]

    def give(self, axes: Sequence[Axis], effect: Effect | None = None) -> Outcome:
        """The outcome of an operator: every output has the same `axes`."""
        return self.give_each([axes] * len(self.outputs), effect or Effect())

    def give_each(self, axes: Sequence[Sequence[Axis]], effect: Effect) -> Outcome:
        """The outcome of an operator whose outputs have different axes."""
        weight = all(labels.weight for labels in self.inputs)
        outputs = tuple(
            _labelled(out, own, weight) for out, own in zip(self.outputs, axes, strict=True)
        )
        return outputs, effect

    def give_frozen(self, reason: str) -> Outcome:
        """The outcome of an operator that freezes all that it touches."""
        return self.outputs, total(freeze_all(labels, reason) for labels in self.inputs)


PropagationRule: TypeAlias = Callable[[OpCall], Outcome]


def _labels(values: Iterable[Any]) -> Iterable[Labels]:
    for value in values:
        if isinstance(value, Labels):
            yield value
        elif isinstance(value, list | tuple):
            yield from _labels(value)


def _labelled(out: Labels, axes: Sequence[Axis], weight: bool) -> Labels:
    sizes = tuple(
        size if axis is None else len(axis) for axis, size in zip(axes, out.shape, strict=True)
    )
    if sizes != out.shape:
        raise ValueError(f"the axes must have the sizes {out.shape}, but got {sizes}")
    tidied = tuple(None if axis is None else tidy(axis) for axis in axes)
    return Labels(out.shape, tidied, out.batch, weight and not out.batch)
