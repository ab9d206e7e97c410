"""The list's own networks run, and torchvision's missing operators compute what they should."""

from __future__ import annotations

import pytest
import torch

from benchmarks.coverage.__main__ import LIST
from benchmarks.coverage.names import read_names
from benchmarks.coverage.oracle import outputs_of
from benchmarks.coverage.subjects import load
from workers.loaders.errors import ArchitectureError
from workers.loaders.torchvision_operators import suppressed

OWN = [name for name in read_names([str(LIST)]) if name.startswith("python:")]


@pytest.mark.parametrize("name", [name for name in OWN if "mtcnn" not in name])
def test_network_of_the_list_runs_on_its_examples(name: str) -> None:
    model, inputs = load(name)
    outputs = outputs_of(model, inputs)
    assert outputs
    assert all(bool(value.isfinite().all()) for value in outputs)


def test_zoo_that_is_not_installed_is_named() -> None:
    with pytest.raises(ArchitectureError, match="torchvision.models is not installed"):
        load("torchvision:resnet18")


def test_overlapping_boxes_are_suppressed_best_first() -> None:
    boxes = torch.tensor(
        [[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30], [0, 0, 9, 10], [20, 20, 30, 40]]
    )
    scores = torch.tensor([0.5, 0.9, 0.8, 0.1, 0.3])
    assert suppressed(boxes, scores, 0.5).tolist() == [1, 2, 4]
    assert suppressed(boxes, scores, 0.49).tolist() == [1, 2]
    assert suppressed(boxes[:0], scores[:0], 0.5).tolist() == []
