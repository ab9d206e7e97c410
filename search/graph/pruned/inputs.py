"""Checks that the inputs of an exported graph are like those that it was traced with.

A graph holds the sizes, dtypes and decisions of its trace: other inputs would give other numbers
without an error. It knows nothing of pruning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from search.errors import InputError
from search.graph.exported.export import BATCH, Exported, is_symbol
from search.graph.exported.signatures import TracedCall
from search.graph.pruned.size_conditions import SizeConditions

Size = int | str  # a free one by its name: the same wherever the name is
BATCH_NAME = "batch"


@dataclass(frozen=True)
class TracedTensor:
    """One of the tensors that a model was traced with.

    Attributes:
        name: of its argument.
        sizes: of its dimensions.
        dtype: its dtype.
        follows: it had the dtype of the weights, and takes another with them.
    """

    name: str
    sizes: tuple[Size, ...]
    dtype: torch.dtype
    follows: bool


class TracedInputs:
    """The inputs that a model was traced with; copies share them.

    Attributes:
        signature: of the model's own forward, as `signature_of` keeps it.
    """

    def __init__(
        self,
        call: TracedCall,
        tensors: Sequence[TracedTensor],
        bounds: Mapping[str, tuple[int, float]],
        conditions: Sequence[str] = (),
    ) -> None:
        """
        Args:
            call: finds the tensors among the arguments.
            tensors: what they were.
            bounds: free size -> the least and the most for which the graph is the model's.
            conditions: what else must be true of the sizes, see `SizeConditions`.
        """
        self.signature = call.signature
        self._call, self._tensors, self._bounds = call, tuple(tensors), dict(bounds)
        self._conditions = SizeConditions(conditions)

    def __deepcopy__(self, memo: object) -> TracedInputs:
        return self

    def tensors_of(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], dtype: torch.dtype | None
    ) -> tuple[Tensor, ...]:
        """The tensors of a call, in the order in which the model was traced with them.

        Args:
            args: what forward got by place.
            kwargs: what it got by name.
            dtype: that of the weights now.

        Raises:
            InputError: the model was not traced with such inputs.
        """
        return self.checked(self.given(args, kwargs), dtype)

    def given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """What a call gives for the traced tensors; see `tensors_of`."""
        return self._call.tensors_of(args, kwargs)

    def take(self, given: tuple[Any, ...]) -> bool:
        """Whether tensors have sizes for which the graph is the model's."""
        bound: dict[str, int] = {}
        sizes: dict[str, tuple[int, ...]] = {}
        for traced, value in zip(self._tensors, given, strict=True):
            if not isinstance(value, Tensor) or value.ndim != len(traced.sizes):
                return False
            for size, actual in zip(traced.sizes, value.shape, strict=True):
                wanted = size if isinstance(size, int) else bound.setdefault(size, actual)
                if actual != wanted:
                    return False
                if size in self._bounds and not self._within(str(size), actual):
                    return False
            sizes[traced.name] = _with_two(value, traced)
        return self._conditions.hold(sizes)

    def _within(self, size: str, actual: int) -> bool:
        least, most = self._bounds[size]
        return least <= actual <= most

    def checked(self, given: tuple[Any, ...], dtype: torch.dtype | None) -> tuple[Tensor, ...]:
        """The tensors themselves; see `tensors_of`."""
        bound: dict[str, tuple[int, str]] = {}
        for traced, value in zip(self._tensors, given, strict=True):
            _check_dtype(traced, value, dtype)
            fits = value.ndim == len(traced.sizes) and all(
                self._fits(size, actual, traced.name, bound)
                for size, actual in zip(traced.sizes, value.shape, strict=True)
            )
            if not fits:
                raise self._other_shape(traced, value)
        return given

    def _fits(self, size: Size, actual: int, name: str, bound: dict[str, tuple[int, str]]) -> bool:
        """Whether a size is the traced one; `bound`: free ones met, and whose they are."""
        if isinstance(size, int):
            return actual == size
        first, owner = bound.setdefault(size, (actual, name))
        if actual != first:
            raise InputError(
                f"{name!r} must hold as many examples as {owner!r}, {first}, but got {actual}"
            )
        if size in self._bounds:
            self._check_bounds(*self._bounds[size], actual, name)
        return True

    def _check_bounds(self, least: int, most: float, actual: int, name: str) -> None:
        if not least <= actual <= most:
            known = {math.inf: f"{least} or more", least: str(least)}
            allowed = known.get(most, f"{least} to {most}")
            raise InputError(
                f"{name!r} must hold {allowed} examples, but got {actual}: the model was traced "
                f"with {BATCH}, and computes otherwise for other numbers of them"
            )

    def _other_shape(self, traced: TracedTensor, value: Tensor) -> InputError:
        actual, batch = tuple(value.shape), self._tensors[0].sizes[0]
        shown = f"({', '.join(map(str, traced.sizes))}{',' if len(traced.sizes) == 1 else ''})"
        remedy = (
            "the pruned graph holds these sizes, so trace the dense model with inputs of the "
            "other shape, prune it by the same plan and load the weights of this one"
        )
        if traced.sizes[:1] == (batch,) != (BATCH_NAME,) and actual[1:] == traced.sizes[1:]:
            remedy = (
                "forward computes with this number of examples as a constant, so give it as many, "
                "or write a forward that takes the number from its input, and trace that"
            )
        return InputError(
            f"{traced.name!r} must have the traced shape {shown}, but got {actual}: {remedy}"
        )


def traced_inputs(exported: Exported, weights: torch.dtype | None) -> TracedInputs:
    """What the inputs of an exported graph were.

    Args:
        exported: it.
        weights: dtype of the weights that were exported.
    """
    placeholders = exported.input_nodes
    call = TracedCall(exported.signature, len(placeholders))
    names: dict[str, str] = {}
    tensors = []
    for name, node in zip(call.names, placeholders, strict=True):
        value = node.meta["val"]
        sizes = tuple(_size(size, names) for size in value.shape)
        follows = value.is_floating_point() and value.dtype == weights
        tensors.append(TracedTensor(name, sizes, value.dtype, follows))
    least = 1 if exported.single else BATCH
    bounds = {
        names[symbol]: (exported.least.get(symbol, least), most)
        for symbol, most in exported.most.items()
    }
    bounded = {name: each for name, each in bounds.items() if each != (1, math.inf)}
    return TracedInputs(call, tensors, bounded, exported.conditions)


def _with_two(value: Tensor, traced: TracedTensor) -> tuple[int, ...]:
    """The sizes of a tensor; one example counts as two, for which the conditions were written."""
    first, *others = value.shape or (0,)
    alone = first == 1 and traced.sizes[:1] == (BATCH_NAME,)
    return (BATCH if alone else first, *others)


def _size(size: int | torch.SymInt, names: dict[str, str]) -> Size:
    """A number, or the name of a free size."""
    if not is_symbol(size):
        return int(size)
    new = f"{BATCH_NAME}_{len(names) + 1}" if names else BATCH_NAME
    return names.setdefault(str(size), new)


def _check_dtype(traced: TracedTensor, value: Any, weights: torch.dtype | None) -> None:
    if not isinstance(value, Tensor):
        raise InputError(f"{traced.name!r} must be a tensor, but got {type(value).__name__}")
    wanted = weights if traced.follows and weights is not None else traced.dtype
    if value.dtype == wanted or _cast_anyway(wanted, value):
        return
    whose = "of the weights" if traced.follows else "that was traced"
    raise InputError(
        f"{traced.name!r} must have the dtype {whose}, {wanted}, but got {value.dtype}: convert it"
    )


def _cast_anyway(wanted: torch.dtype, value: Tensor) -> bool:
    """Under autocast, any decimal dtype will do."""
    decimal = wanted.is_floating_point and value.is_floating_point()
    kind = value.device.type
    return decimal and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
