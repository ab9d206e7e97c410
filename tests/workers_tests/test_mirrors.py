"""Whether training mirrors its images: only where the dense model knows them mirrored."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jobs.spec import JobSpec
from tests.workers_tests.workshop import Workshop
from workers.phases.facts import prepared_result
from workers.results import Prepared
from workers.tasks.finetune import finetune_config
from workers.tasks.prepare import mirrored_accuracy

JOB = {"model": "net", "dataset": "data", "budget": "60%"}


class Sided(nn.Module):
    """Says which side is brighter, of images (N, C, H, W) or (N, H, W, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        left, right = (half.flatten(1).mean(1) for half in x.chunk(2, self.width))
        return torch.stack([left, right], 1)


@pytest.mark.parametrize(("shape", "width"), [((6, 3, 5, 8), 3), ((6, 5, 8, 3), 2)])
def test_images_are_mirrored_left_to_right(shape: tuple[int, ...], width: int) -> None:
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    model = Sided(width)
    labels = model(images).argmax(1)
    last = width == 2
    assert mirrored_accuracy(model, [(images, labels)], channels_last=last) == (1.0, 0.0)


def prepared(plain: float | None, mirrored: float | None) -> Prepared:
    fields: dict[str, Any] = {
        "groups": [], "dense_digest": "d", "scores": "s", "calibration_loss": 1.0,
        "dense_skeleton": {"digest": "d", "size": 1, "location": "l"},
        "validation_loss": 1.0, "validation_accuracy": 0.9,
    }  # fmt: skip
    return Prepared(**fields, calibration_accuracy=plain, mirrored_accuracy=mirrored)


@pytest.mark.parametrize(
    ("plain", "mirrored", "flip"),
    [(0.95, 0.94, True), (0.95, 0.5, False), (0.95, 0.97, True), (None, None, True)],
)
def test_what_the_dense_model_does_not_know_mirrored_is_not_mirrored(
    plain: float | None, mirrored: float | None, flip: bool
) -> None:
    known = prepared(plain, mirrored).document()
    assert JobSpec.model_validate(JOB).finetune.flip == "auto"
    for asked, given in (("auto", flip), (True, True), (False, False)):
        spec = JobSpec.model_validate(JOB | {"finetune": {"flip": asked}})
        job: Any = SimpleNamespace(spec=spec, result={"prepare": known}.get)
        assert finetune_config(job).flip is given


def test_a_job_asks_its_dense_model(workshop: Workshop) -> None:
    job_id = workshop.submit()
    workshop.play(job_id, until=lambda: workshop.snapshot(job_id).result("prepare") is not None)
    found = prepared_result(workshop.snapshot(job_id))
    assert found.calibration_accuracy is not None
    assert found.mirrored_accuracy is not None
