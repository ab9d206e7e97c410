"""Judges whether stored pixels reach the network as it was trained, by their type and range.

| stored | the network gets |
|---|---|
| uint8 | values / 255, normalised |
| bool | 0 and 1, normalised |
| float, scaled | the values themselves, normalised |
| other whole numbers; unscaled floats | refused, unless `std` says that they are meant so |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.loaders.errors import DatasetError

# Floats up to here may be scaled by rules of their own; above half of 255 they are pixels.
LARGEST_SCALED = 127.0
# Two draws from one source differ by far less than this; [0, 1] against 0..255 by 255, [0, 1]
# against [-1, 1] in the share of negative pixels.
MOST_SPREAD = 4.0
MOST_NEGATIVE = 0.05


def checked_pixels(
    images: NDArray[Any], what: str, *, mean: Sequence[float] = (), std: Sequence[float] = ()
) -> NDArray[Any]:
    """The images (N, C, H, W) as uint8 or float32.

    Raises:
        DatasetError: They are no numbers, not finite, not scaled, or of other channels than
            `mean` and `std`.
    """
    for name, given in (("mean", mean), ("std", std)):
        if len(given) not in (0, 1, images.shape[1]):
            raise DatasetError(
                f"{name} must have one entry per channel, {images.shape[1]} in {what}, "
                f"but got {len(given)}"
            )
    if images.dtype == np.bool_:
        return images.astype(np.float32)
    if images.dtype.kind not in "uif":
        raise DatasetError(f"{what} must hold uint8 or float32 pixels, but got {images.dtype}")
    if images.dtype == np.uint8:
        if images.max() == 1:
            raise DatasetError(
                f"{what} holds uint8 pixels of 0 and 1 only, which would be divided by 255: "
                "store them as bool or float32, or as 0 and 255"
            )
        return images
    with np.errstate(over="ignore"):
        values = images.astype(np.float32)
    if not np.isfinite(values).all():
        raise DatasetError(f"{what} has pixels that are not finite")
    if is_unscaled(images) and not (len(std) and min(std) >= 1):
        raise DatasetError(
            f"{what} holds {images.dtype} pixels of {images.min():g}..{images.max():g}, which "
            "would reach the network as they are: store pixels of 0..255 as uint8, which are "
            "divided by 255, or scale them as in training and store float32; if the network "
            "takes these very numbers, say so with a std of 1 or more per channel"
        )
    return values


def refuse_other_scale(train: NDArray[Any], other: NDArray[Any], what: str) -> None:
    """Raises DatasetError where float pixels are of another scale than those of `train`."""
    spread, others = float(train.std()), float(other.std())
    negative, negatives = float((train < 0).mean()), float((other < 0).mean())
    is_scaled = spread and others and not 1 / MOST_SPREAD < others / spread < MOST_SPREAD
    is_shifted = min(negative, negatives) == 0 and max(negative, negatives) > MOST_NEGATIVE
    if is_scaled or is_shifted:
        raise DatasetError(
            f"{what} must be scaled and normalised as x_train is (standard deviation "
            f"{spread:.3g}, {negative:.0%} negative), but has {others:.3g} and {negatives:.0%}"
        )


def is_unscaled(images: NDArray[Any]) -> bool:
    """Whether these are numbers as a camera or a file format gives them: integers, or floats
    none of which is negative and that are large, or whole numbers beyond 1."""
    if images.dtype.kind in "ui":
        return True
    if images.min() < 0 or images.max() <= 1:
        return False
    return bool(images.max() > LARGEST_SCALED) or bool((images == np.floor(images)).all())
