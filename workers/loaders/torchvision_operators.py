"""The operators of torchvision that a CPU-only torch lacks, written with plain tensors.

torchvision looks two of them up while it is imported, and its detectors suppress boxes with one.
Where torchvision's own are there, nothing is touched.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
OPERATORS = ("nms", "qnms")


def declare_operators() -> None:
    """Make torchvision importable, and its detectors runnable: to be called before the import."""
    for name in OPERATORS:
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", SCHEMA)
            torch.library.impl(f"torchvision::{name}", "CPU", suppressed)


def accept_operators() -> None:
    """Tell an imported torchvision that its operators are there: it only looks for its binary."""
    extension: Any = sys.modules.get("torchvision.extension")
    if extension is not None and not extension._has_ops():
        extension._has_ops = lambda: True


def suppressed(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that no better one overlaps by more than `iou_threshold`.

    Args:
        boxes: x1, y1, x2, y2, shape (boxes, 4).
        scores: shape (boxes,).
        iou_threshold: intersection over union.

    Returns:
        Indices, best score first, shape (kept boxes,).
    """
    order = scores.argsort(descending=True, stable=True)
    overlaps = _overlaps(boxes[order]) > iou_threshold
    stays = torch.ones(len(order), dtype=torch.bool, device=boxes.device)
    for place in range(len(order)):
        if stays[place]:
            stays[place + 1 :] &= ~overlaps[place, place + 1 :]
    return order[stays]


def _overlaps(boxes: Tensor) -> Tensor:
    """Intersection over union of all pairs, shape (boxes, boxes)."""
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    common = (high - low).clamp_min(0).prod(2)
    return common / (areas[:, None] + areas[None] - common)
