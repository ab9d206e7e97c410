"""Values while a graph runs: tensors, and numbers that are known from shapes alone.

| symbol | meaning |
|---|---|
| Numbers | an array of Python numbers, dtype object: sizes, axes, indices, scalar constants |
| Value | a tensor or Numbers |

A free batch size is a symbol of torch.export; it passes through Numbers unharmed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search.errors import OnnxError

Numbers: TypeAlias = NDArray[np.object_]
Value: TypeAlias = Tensor | Numbers
Op: TypeAlias = "Callable[[NodeCall], Value | tuple[Value, ...]]"
Entry: TypeAlias = tuple[str, tuple[int, ...]]

MAX_NUMBERS = 4096


@dataclass(frozen=True)
class NodeCall:
    """One operator call as its function sees it.

    Attributes:
        op: the operator.
        opset: the version that its semantics follow.
        attributes: of the node, by name.
        inputs: None where an input is left out.
        outputs: how many outputs the node names.
        dtype: of the model's floats.
        device: of the model's tensors.
        pattern: how the sizes of the output follow from those of the input, see `following`.
    """

    op: str
    opset: int
    attributes: Mapping[str, Any]
    inputs: tuple[Value | None, ...]
    outputs: int
    dtype: torch.dtype
    device: torch.device
    pattern: tuple[Entry, ...] | None = None

    def has(self, place: int) -> bool:
        """Whether that input is given."""
        return place < len(self.inputs) and self.inputs[place] is not None

    def value(self, place: int) -> Value:
        """An input that must be there."""
        value = self.inputs[place] if place < len(self.inputs) else None
        if value is None:
            raise OnnxError(f"input {place} must be given")
        return value

    def tensor(self, place: int) -> Tensor:
        """An input as a tensor."""
        return self.as_tensor(self.value(place))

    def numbers(self, place: int) -> Numbers:
        """An input that must be known from shapes alone."""
        value = self.value(place)
        if isinstance(value, Tensor):
            raise OnnxError(
                f"input {place} must be a constant or follow from shapes, "
                "but is computed from values"
            )
        return value

    def ints(self, place: int) -> list[int]:
        """Those numbers as a list of ints."""
        return list(self.numbers(place).reshape(-1))

    def number(self, place: int) -> Any:
        """A single number."""
        entries = self.ints(place)
        if len(entries) != 1:
            raise OnnxError(f"input {place} must be one number, but got {len(entries)}")
        return entries[0]

    def given(self, place: int, name: str, since: int) -> list[int] | None:
        """Ints that are an attribute before opset `since`, and an input from there on."""
        if self.opset < since:
            value = self.attributes.get(name)
            return None if value is None else list(value)
        return self.ints(place) if self.has(place) else None

    @property
    def on_numbers(self) -> bool:
        """Whether no input is a tensor."""
        return not any(isinstance(value, Tensor) for value in self.inputs)

    def as_tensor(self, value: Value) -> Tensor:
        """Numbers become a constant."""
        if isinstance(value, Tensor):
            return value
        if any(isinstance(entry, torch.SymInt | torch.SymFloat) for entry in value.flat):
            raise OnnxError("the batch size must not become a tensor")
        entries = value.tolist()
        sample = next(iter(value.flat), 0)
        kinds: dict[type, torch.dtype] = {float: self.dtype, bool: torch.bool}
        return torch.tensor(
            entries, dtype=kinds.get(type(sample), torch.int64), device=self.device
        )

    def operands(self) -> tuple[Any, ...]:
        """All inputs; a single number that meets a tensor is a Python number."""
        rank = max((v.ndim for v in self.inputs if isinstance(v, Tensor)), default=0)
        return tuple(
            value.item()
            if isinstance(value, np.ndarray) and value.size == 1 and value.ndim <= rank
            else self.as_tensor(value)
            for value in self.inputs
            if value is not None
        )


def numbers(entries: Iterable[Any] | Any) -> Numbers:
    """Python numbers as an array; nesting gives dimensions."""
    listed = list(entries) if isinstance(entries, Iterable) else entries
    if isinstance(listed, list) and listed and not isinstance(listed[0], list):
        array = np.empty(len(listed), object)
        array[:] = listed
        return array
    return np.array(listed, dtype=object)


def from_constant(tensor: Tensor) -> Numbers:
    """The values of a small constant tensor."""
    array = np.empty(tuple(tensor.shape), object)
    array[...] = np.array(tensor.tolist(), dtype=object)
    return array


def check_count(count: int) -> None:
    """Raises OnnxError where an operator would make more than `MAX_NUMBERS` numbers."""
    if count > MAX_NUMBERS:
        raise OnnxError(f"numbers must be ≤ {MAX_NUMBERS}, but got {count}")


def each(function: Callable[..., Any], *operands: Numbers) -> Numbers:
    """`function` on every entry, broadcast."""
    if math.prod(np.broadcast_shapes(*(array.shape for array in operands))) > MAX_NUMBERS:
        raise OnnxError(f"numbers must be ≤ {MAX_NUMBERS}, but are more")
    result = np.frompyfunc(function, len(operands), 1)(*operands)
    return result if isinstance(result, np.ndarray) else numbers(result)


def axis_of(axis: int, rank: int) -> int:
    """An axis as a number ≥ 0."""
    if not -rank <= axis < max(rank, 1):
        raise OnnxError(f"axis must be in [{-rank}, {rank}), but got {axis}")
    return axis % rank if rank else 0


def following(source: Sequence[int], target: Sequence[int], batch: int = 1) -> tuple[Entry, ...]:
    """How a reshape makes the sizes `target` of the sizes `source`.

    Runs of dimensions with equal products belong together. A target dimension that is a run of
    its own is the product of its sources, whatever their sizes; of one source of dimension 0 cut
    into several, the first multiple of `batch` follows; other dimensions are as the model states.

    Returns:
        Per target dimension ("product", dims), ("quotient", (dim, divisor)) or ("given", ()).
    """
    entries: list[Entry] = []
    for sources, targets in _runs(source, target):
        if len(targets) == 1 and sources:
            entries.append(("product", tuple(sources)))
        elif targets and sources == [0]:
            free = next((dim for dim in targets if target[dim] % batch == 0), targets[0])
            rest = math.prod(target[dim] for dim in targets if dim != free)
            entries += [
                ("quotient", (0, rest)) if dim == free else ("given", ()) for dim in targets
            ]
        else:
            entries += [("given", ())] * len(targets)
    return tuple(entries)


def _runs(source: Sequence[int], target: Sequence[int]) -> Iterable[tuple[list[int], list[int]]]:
    """Shortest runs (dims of source, dims of target) with equal products.

    A target of size 1 stands alone, unless it meets a source of size 1 or leads the batch.
    """
    left, right = 0, 0
    while left < len(source) or right < len(target):
        sources: list[int] = []
        targets: list[int] = []
        one = two = 1
        while not (sources and targets and one == two):
            unit = right < len(target) and target[right] == 1
            if unit and (left == len(source) or source[left] != 1) and (left or sources):
                targets.append(right)
                right += 1
                if not sources:
                    break
            elif left < len(source) and (one <= two or right == len(target)):
                sources.append(left)
                one *= source[left]
                left += 1
            elif right < len(target):
                targets.append(right)
                two *= target[right]
                right += 1
            else:
                break
        yield sources, targets
