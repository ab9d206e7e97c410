"""Scales and integers: the arithmetic that torch and ONNX files share. Knows neither.

| symbol | meaning |
|---|---|
| s, z | scale and zero point: x ≈ s (q − z), q = round(x / s) + z, cut to the integers' range |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.errors import QuantizationError
from search.quantization.formats import IntegerType

LEAST_SCALE = 2.0**-100  # of constant zeros: 1 / s is finite in single precision


@dataclass(frozen=True)
class Affine:
    """s and z of one tensor."""

    scale: float
    zero: int


def affine(low: float, high: float, kind: IntegerType) -> Affine:
    """The scale of values between `low` and `high`; zero is always a number of its own.

    Raises:
        QuantizationError: the range is not finite.
    """
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise QuantizationError(f"a range must be finite, but got {low} to {high}")
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32(max((high - low) / (kind.high - kind.low), LEAST_SCALE))
    zero = int(np.clip(np.rint(kind.low - low / scale), kind.low, kind.high))
    return Affine(float(scale), zero)


def weight_scale(weight: NDArray[Any], axis: int, kind: IntegerType) -> NDArray[np.float32]:
    """One scale per channel, shape (channels,): the largest value takes the largest integer."""
    others = tuple(dim for dim in range(weight.ndim) if dim != axis)
    largest = np.abs(weight).max(axis=others, initial=0.0)
    scale: NDArray[np.float32] = np.maximum(largest / kind.reach, LEAST_SCALE).astype(np.float32)
    return scale


def weight_integers(
    weight: NDArray[Any], axis: int, kind: IntegerType
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """A weight in integers, and its scales per channel.

    Raises:
        QuantizationError: a value is not finite.
    """
    if not np.isfinite(weight).all():
        raise QuantizationError("weights must be finite, but some are not")
    scale = weight_scale(weight, axis, kind)
    along = scale.reshape([-1 if dim == axis else 1 for dim in range(weight.ndim)])
    rounded = np.clip(np.rint(weight / along), -kind.reach, kind.reach) + kind.middle
    return rounded.astype(kind.name), scale


def bias_integers(bias: NDArray[Any], scale: NDArray[np.float32]) -> NDArray[np.int32]:
    """A bias in integers of 32 bits."""
    limits = np.iinfo(np.int32)
    return np.clip(np.rint(bias.astype(np.float64) / scale), limits.min, limits.max).astype(
        np.int32
    )
