"""What tasks hand back to the phases, as it is kept in the database."""

from __future__ import annotations

import json
import math
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from search.explorer import Node
from search.plan import Plan
from workers.starts import start_document

# Networks that were trained on mirrored images lose nothing by it (ResNet-20 of the demo 95.3 ->
# 95.7 %, a small one 86.8 -> 87.1 %); others lose far more: Fashion-MNIST 86.2 -> 65.1 %, its
# images' orientation 96.1 -> 33.9 %, digits 97.0 -> 28.8 %.
MOST_LOST_MIRRORED = 0.05


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def document(self) -> dict[str, Any]:
        """The JSON object that is stored."""
        return self.model_dump(mode="json")


class Blob(_Result):
    """An ONNX model in the artifact store, named by the SHA-256 of its bytes."""

    digest: str
    size: int
    location: str


class Chance(_Result):
    """How the dense model's answers compare with guessing, on the validation images.

    Attributes:
        accuracy: That of the same answers, had they nothing to do with the images.
        loss: That of all classes being equally likely, in every image.
        loss_error: The standard error of the dense model's own loss.
    """

    images: int
    accuracy: float
    loss: float
    loss_error: float


class Prepared(_Result):
    """What is known of the dense model before anything is measured.

    Attributes:
        calibration_accuracy: On the calibration images.
        mirrored_accuracy: On the same, mirrored left to right.
        seconds_per_image: What one forward pass took on the worker, for the time left.
    """

    groups: list[str]
    dense_digest: str
    dense_skeleton: Blob
    scores: str
    calibration_loss: float
    validation_loss: float
    validation_accuracy: float
    chance: Chance | None = None  # results stored before there was one lack it
    seconds_per_image: float | None = None
    calibration_accuracy: float | None = None
    mirrored_accuracy: float | None = None

    @property
    def mirrors(self) -> bool:
        """Whether the dense model knows its images mirrored, so that training may mirror them."""
        plain, mirrored = self.calibration_accuracy, self.mirrored_accuracy
        if plain is None or mirrored is None:
            return True
        return mirrored >= plain - MOST_LOST_MIRRORED


class SegmentFound(_Result):
    """Layers that share a precision; `shares` is the part of each group that lies in them."""

    name: str
    layers: tuple[str, ...]
    shares: dict[str, float]


class Segments(_Result):
    """What may be in int8; `problem` says why nothing may."""

    segments: tuple[SegmentFound, ...]
    problem: str = ""


class Runtimes(_Result):
    """The runtimes that take part where a job chooses one, with the formats of int8 of each."""

    runtimes: dict[str, tuple[str, ...]]


class Chosen(_Result):
    """A finalist: a plan whose latency has been confirmed.

    Attributes:
        start: the weights that it starts from, see `workers.starts`; None: the dense model's.
        is_answer: it is the dense model in int8, as good as in float: it is not trained.
    """

    digest: str
    plan: dict[str, Any]
    ratio: float | None
    loss: float | None
    start: dict[str, Any] | None = None
    is_answer: bool = False

    @classmethod
    def of(cls, node: Node, *, is_answer: bool = False) -> Self:
        """A node of the tree as a finalist."""
        plan = json.loads(node.plan.to_json())
        return cls(
            digest=node.digest, plan=plan, ratio=node.ratio, loss=node.loss,
            start=start_document(node.start_of_children), is_answer=is_answer,
        )  # fmt: skip

    def to_plan(self) -> Plan:
        """The plan itself."""
        return Plan.from_document(self.plan)


class Finetuned(_Result):
    """A finalist with its final weights.

    Attributes:
        untrained: They are those of before the training, which made them worse.
    """

    weights: str
    steps: int
    validation_loss: float
    validation_accuracy: float
    untrained: bool = False


class Training(_Result):
    """How a slice of fine-tuning went: means over its batches, which are augmented.

    Attributes:
        loss: Of the distillation.
        accuracy: Of the student on the training images.
    """

    loss: float
    accuracy: float


class Packaged(_Result):
    """A finalist as files: checked ONNX, weights and plan. Results of before lack the last ones.

    Attributes:
        way: `edited` where it stands, `exported` anew, or `kept` as it came in.
        reason: Why it was not edited.
        notes: What of the interface could not be kept.
        batches: At which it was compared.
        sizes: Input -> its shape without the batch, as it is measured.
        validation_accuracy: Of the file itself, where layers are in int8.
    """

    onnx: Blob
    files: dict[str, str]
    worst_difference: float
    way: str = ""
    reason: str = ""
    opset: int | None = None
    notes: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    sizes: dict[str, tuple[int, ...]] | None = None
    validation_accuracy: float | None = None


class Finished(_Result):
    """The accuracies on the test images, which are read here for the first time.

    Attributes:
        duty: Of each device by its id, see `jobs.duty`.
    """

    test_images: int
    dense_accuracy: float
    accuracy: float
    duty: dict[str, float] = {}


def finite(value: float) -> float | None:
    """The number, or None where it is infinite or none at all, which JSON cannot hold."""
    return value if math.isfinite(value) else None
