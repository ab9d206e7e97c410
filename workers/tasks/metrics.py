"""The numbers that tasks compute on a job's splits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from search.candidates import rounded_candidate
from search.evaluation import loss_with_error
from search.lineage import Origin
from search.plan import Plan
from search.quantization import Format
from workers.loaders.datasets import Images
from workers.loaders.errors import LoadError
from workers.results import Chance
from workers.work import Work

BATCH = 128
Batches = list[tuple[Tensor, Tensor]]


def batches(images: Images, index: Tensor) -> Batches:
    """Network inputs and labels of `index`, in batches."""
    return [images.select(part) for part in torch.split(index, BATCH)]


def calibration_loss(
    work: Work, plan: Plan, form: Format | None = None, origin: Origin | None = None
) -> tuple[float, float]:
    """The loss of the pruned model on the calibration images, after recalibrating on them, and its
    standard error; `form` is that of layers in int8, `origin` what the model is cut from."""
    data = work.data
    calibration = batches(data.images, data.splits.calibration)
    inputs = [images for images, _ in calibration]
    model = rounded_candidate(work.graph.model, work.graph, plan, inputs, form, origin=origin)
    return loss_with_error(model, calibration)


def origin_of(work: Work) -> Origin | None:
    """What the task's candidate is cut from; None is the dense model."""
    start = work.payload.get("start")
    if start is None:
        return None
    plan = Plan.from_document(start["plan"])
    return work.library.origin(work.snapshot, plan, start["checkpoint"])


@dataclass(frozen=True)
class Answers:
    """What a network says of some images.

    | symbol | meaning | shape |
    |---|---|---|
    | losses | cross entropy | (N,) |
    | classes | of the largest logit | (N,) |
    | labels | true classes | (N,) |
    """

    losses: Tensor
    classes: Tensor
    labels: Tensor

    @property
    def loss(self) -> float:
        """Mean cross entropy."""
        return float(self.losses.mean())

    @property
    def accuracy(self) -> float:
        """Share of images whose label has the largest logit."""
        return float((self.classes == self.labels).double().mean())

    def chance(self, classes: int) -> Chance:
        """What guessing would give on these images, for a network of so many logits."""
        count = len(self.labels)
        said = torch.bincount(self.classes, minlength=classes).double() / count
        true = torch.bincount(self.labels, minlength=classes).double() / count
        return Chance(
            images=count,
            accuracy=float(said @ true),
            loss=math.log(classes),
            loss_error=float(self.losses.std(correction=0)) / count**0.5,
        )


def answers(model: nn.Module, given: Batches) -> Answers:
    """What the network, which is in eval mode, says of the images.

    Raises:
        LoadError: It says what is no number.
    """
    with torch.no_grad():
        logits = torch.cat([model(images).float() for images, _ in given])
    labels = torch.cat([each for _, each in given])
    losses = functional.cross_entropy(logits, labels, reduction="none").double()
    if not bool(losses.isfinite().all()):
        raise LoadError(
            "the dense model must give finite scores on the validation images, but does not: "
            "look at the scale of the pixels, at mean and std, and at the weights"
        )
    return Answers(losses, logits.argmax(1), labels)
