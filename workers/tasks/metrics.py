"""The numbers that tasks compute on a job's splits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search.plan import Plan
from search.sensitivity import pruned_loss
from search.training import cross_entropy_loss
from workers.loaders.datasets import Images
from workers.work import Work

BATCH = 128
Batches = list[tuple[Tensor, Tensor]]


def batches(images: Images, index: Tensor) -> Batches:
    """Network inputs and labels of `index`, in batches."""
    return [images.select(part) for part in torch.split(index, BATCH)]


def calibration_loss(work: Work, plan: Plan) -> float:
    """The loss of the pruned model on the calibration images, after recalibrating on them."""
    data = work.data
    calibration = batches(data.images, data.splits.calibration)

    def evaluate(model: nn.Module) -> float:
        return cross_entropy_loss(model, calibration)

    inputs = [images for images, _ in calibration]
    return pruned_loss(work.graph.model, work.graph, plan, evaluate, inputs)
