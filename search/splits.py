"""Cuts training data into fit, calibration and validation by seed. Knows only the image count."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from search.errors import ConfigError


@dataclass(frozen=True)
class Splits:
    """Disjoint image indices, each sorted, that together cover the training data."""

    fit: Tensor
    calibration: Tensor
    validation: Tensor


def split_indices(
    count: int, *, seed: int, calibration: int = 512, validation: int = 2000
) -> Splits:
    """Draws the three parts; the same arguments always give the same parts.

    A held-out part never takes more than a fifth of the images, so that small data sets keep
    something to fit on.

    Raises:
        ConfigError: fewer than five images, or a held-out part smaller than one image.
    """
    if count < 5:
        raise ConfigError(f"count must be ≥ 5 to be split in three, but got {count}")
    if calibration < 1 or validation < 1:
        raise ConfigError(
            f"calibration and validation must be ≥ 1, but got {calibration} and {validation}"
        )
    calibration, validation = min(calibration, count // 5), min(validation, count // 5)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held_out = calibration + validation
    return Splits(
        fit=order[held_out:].sort().values,
        calibration=order[:calibration].sort().values,
        validation=order[calibration:held_out].sort().values,
    )
