"""Training and validation data as people hold it: two tensors, a data set, a loader, batches.

| symbol | meaning | shape |
|---|---|---|
| inputs | what the network takes | (N, …) |
| labels | class indices | (N,) int64 |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from search.objectives import CLASSIFICATION, UNLABELLED, Objective, scores_of
from search.splits import split_indices
from secateur.errors import DataError

BATCH = 128
FORM = (
    "inputs and labels: two tensors, a data set of pairs, a DataLoader, or a list of batches; or "
    "inputs alone: a tensor or a list of tensors"
)


@dataclass(frozen=True)
class Labelled:
    """Examples in memory."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def judged_by(self, dense: nn.Module) -> Labelled:
        """The same with the scores of the dense network as targets, see `UNLABELLED`."""
        return Labelled(self.inputs, scores_of(dense, self.inputs.split(BATCH)))

    def select(self, index: Tensor) -> Labelled:
        """Those examples alone."""
        return Labelled(self.inputs[index], self.labels[index])

    def batches(self, size: int = BATCH) -> list[tuple[Tensor, Tensor]]:
        """In batches."""
        return list(zip(self.inputs.split(size), self.labels.split(size), strict=True))


@dataclass(frozen=True)
class Parts:
    """Disjoint parts: to fit on, to calibrate on, and to choose by."""

    fit: Labelled
    calibration: Labelled
    validation: Labelled
    objective: Objective = CLASSIFICATION

    def judged_by(self, dense: nn.Module) -> Parts:
        """Without labels, the dense network's scores in their place."""
        if self.objective is not UNLABELLED:
            return self
        fit, calibration, validation = (
            part.judged_by(dense) for part in (self.fit, self.calibration, self.validation)
        )
        return Parts(fit, calibration, validation, UNLABELLED)


def labelled(data: Any, name: str) -> Labelled:
    """The examples, all in memory.

    Raises:
        DataError: They are no inputs and labels.
    """
    if _is_pair(data):
        return _checked(data[0], data[1], name)
    if _is_bare(data):
        return _unlabelled(data)
    if isinstance(data, Tensor):
        raise DataError(f"{name} must be {FORM}, but got a tensor of shape {tuple(data.shape)}")
    loader = data if isinstance(data, Iterable) else None
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not _has_batches(data):
        pairs = [data[index] for index in range(len(data))]
        if not pairs or not all(len(pair) == 2 for pair in pairs):
            raise DataError(f"{name} must be {FORM}")
        inputs = torch.stack([torch.as_tensor(pair[0]) for pair in pairs])
        return _checked(inputs, torch.as_tensor([int(pair[1]) for pair in pairs]), name)
    batches = list(loader) if loader is not None else []
    if not batches or not all(_is_pair(batch) for batch in batches):
        raise DataError(f"{name} must be {FORM}, but got {type(data).__name__}")
    return _checked(
        torch.cat([batch[0] for batch in batches]),
        torch.cat([batch[1] for batch in batches]),
        name,
    )


def parts_of(train: Any, val: Any | None, *, calibration: int, seed: int) -> Parts:
    """Cuts what is needed off the training data.

    Args:
        val: Without it the validation part is cut off too.
    """
    is_bare = _is_bare(train)
    if val is not None and _is_bare(val) != is_bare:
        raise DataError("train and val must both have labels or both have none, but do not")
    given = labelled(train, "train")
    splits = split_indices(len(given), seed=seed, calibration=calibration)
    held = given.select(splits.validation) if val is None else labelled(val, "val")
    fit = splits.fit if val is None else torch.cat([splits.fit, splits.validation])
    objective = UNLABELLED if is_bare else CLASSIFICATION
    return Parts(given.select(fit), given.select(splits.calibration), held, objective)


def _is_bare(data: Any) -> bool:
    """Inputs without labels: a tensor, or a list of batches of one shape."""
    if isinstance(data, Tensor):
        return data.ndim > 1 and len(data) > 0
    if not isinstance(data, list) or _is_pair(data):
        return False
    shapes = {each.shape[1:] if isinstance(each, Tensor) else None for each in data}
    return len(shapes) == 1 and None not in shapes and data[0].ndim > 1


def _unlabelled(data: Any) -> Labelled:
    """Inputs alone, with numbers that stand for no label."""
    inputs = data if isinstance(data, Tensor) else torch.cat(list(data))
    return Labelled(inputs.detach().cpu(), torch.zeros(len(inputs), dtype=torch.long))


def _is_pair(data: Any) -> bool:
    return (
        isinstance(data, Sequence)
        and len(data) == 2
        and all(isinstance(part, Tensor) for part in data)
        and data[1].ndim <= 1
        and len(data[0]) == data[1].numel()
    )


def _has_batches(data: Any) -> bool:
    """Whether its entries are batches already."""
    return len(data) > 0 and _is_pair(data[0]) and data[0][1].ndim == 1


def _checked(inputs: Tensor, labels: Tensor, name: str) -> Labelled:
    if len(inputs) != len(labels) or len(labels) == 0:
        raise DataError(
            f"{name} must have one label an input, but got {len(inputs)} inputs and "
            f"{len(labels)} labels"
        )
    if labels.ndim != 1 or labels.is_floating_point():
        raise DataError(
            f"labels of {name} must be class indices (N,), but got {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    return Labelled(inputs.detach().cpu(), labels.detach().cpu().long())
