"""Observers: from the values of an activation to the range that its integers cover.

| name | range |
|---|---|
| minmax | all values seen |
| percentile | all but 1 of 10 000 at each end |
| mse | the part of the range, around zero, that rounds with the least mean squared error |
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from search.errors import QuantizationError
from search.quantization.formats import IntegerType
from search.quantization.scales import affine

_SAMPLE = 1 << 13  # values kept of each batch
_TAIL = 1e-4
_PARTS = tuple(step / 20 for step in range(6, 21))

Range = tuple[float, float]


class Observer:
    """The least and greatest value of a tensor over batches, and a sample of the values."""

    def __init__(self) -> None:
        self._low, self._high = float("inf"), float("-inf")
        self._samples: list[Tensor] = []

    def see(self, value: Tensor) -> None:
        flat = value.detach().flatten()
        if not len(flat):
            return
        low, high = torch.aminmax(flat)
        self._low, self._high = min(self._low, float(low)), max(self._high, float(high))
        self._samples.append(flat[:: max(1, len(flat) // _SAMPLE)].float())

    def range(self, name: str, kind: IntegerType) -> Range:
        """The range by one of `OBSERVERS`.

        Raises:
            QuantizationError: nothing was seen, or values that are not finite.
        """
        if not self._samples:
            raise QuantizationError("a range must be observed on at least one batch, but was not")
        low, high = self._low, self._high
        if not (abs(low) < float("inf") and abs(high) < float("inf")):
            raise QuantizationError(f"values must be finite, but lie between {low} and {high}")
        return OBSERVERS[name](low, high, torch.cat(self._samples), kind)


def within(seen: Range, limits: Range) -> Range:
    """The part of a range between limits; the range itself where they have nothing in common."""
    low, high = max(seen[0], limits[0]), min(seen[1], limits[1])
    return (low, high) if low < high else seen


def _minmax(low: float, high: float, sample: Tensor, kind: IntegerType) -> Range:
    return low, high


def _percentile(low: float, high: float, sample: Tensor, kind: IntegerType) -> Range:
    ordered = sample.sort().values
    skipped = int(_TAIL * (len(ordered) - 1))
    return float(ordered[skipped]), float(ordered[len(ordered) - 1 - skipped])


def _mse(low: float, high: float, sample: Tensor, kind: IntegerType) -> Range:
    def error(part: float) -> float:
        found = affine(part * low, part * high, kind)
        rounded = torch.fake_quantize_per_tensor_affine(
            sample, found.scale, found.zero, kind.low, kind.high
        )
        return float((rounded - sample).square().mean())

    part = min(_PARTS, key=error)
    return part * low, part * high


OBSERVERS: dict[str, Callable[[float, float, Tensor, IntegerType], Range]] = {
    "minmax": _minmax,
    "percentile": _percentile,
    "mse": _mse,
}
