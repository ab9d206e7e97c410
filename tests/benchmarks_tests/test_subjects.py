"""What a model of a zoo is run on."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from benchmarks.coverage import subjects


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        ({"input_size": (3, 768, 768), "fixed_input_size": False}, (1, 3, 384, 384)),
        ({"input_size": (3, 1024, 1024), "fixed_input_size": True}, (1, 3, 1024, 1024)),
        ({"input_size": (1, 192, 192)}, (1, 1, 192, 192)),
        ({}, (1, 3, 224, 224)),
    ],
)
def test_large_images_are_made_smaller_where_any_size_will_do(
    monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], shape: tuple[int, ...]
) -> None:
    model = nn.Identity()
    model.pretrained_cfg = config  # type: ignore[assignment]
    monkeypatch.setattr(subjects, "build", lambda name, kwargs, *, allow: model)
    found, (example,) = subjects.load("timm:some")
    assert found is model
    assert tuple(example.shape) == shape
