"""How a network takes its images: which dimension has the channels, and of which type pixels are.

Read from the shape and the type of its input; data sets are stored channels first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.loaders.errors import DatasetError, OnnxFileError

MOST_CHANNELS = 4
TYPES = {"float32": torch.float32, "uint8": torch.uint8}


@dataclass(frozen=True)
class Feed:
    """The form of a batch of images.

    Attributes:
        dtype: float32 (scaled and normalised as the data set says) or uint8 (0 to 255, as stored).
        channels_last: (N, H, W, C) instead of (N, C, H, W).
    """

    dtype: str = "float32"
    channels_last: bool = False

    @classmethod
    def of(cls, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Feed:
        """Of an input of `shape`, without the batch: channels are last where the last dimension,
        and not the first, is small enough for channels of an image.

        Raises:
            OnnxFileError: its type is none of images.
        """
        name = str(dtype).removeprefix("torch.")
        if name not in TYPES:
            raise OnnxFileError(
                f"the input must be images of float32, float16 or uint8, but is {name}"
            )
        return cls(name, len(shape) == 3 and shape[-1] <= MOST_CHANNELS < shape[0])

    @classmethod
    def reported(cls, report: Mapping[str, Any] | None, shape: Sequence[int] | None) -> Feed:
        """As the report of a model says; reports of before say nothing."""
        told = (report or {}).get("input") or {}
        dtype = TYPES.get(str(told.get("dtype")), torch.float32)
        return cls.of(shape or (), dtype)

    @property
    def layout(self) -> str:
        """The word of reports."""
        return "channels last" if self.channels_last else "channels first"

    def image_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """(C, H, W) of an input of `shape`, without the batch."""
        return (shape[-1], *shape[:-1]) if self.channels_last else tuple(shape)

    def formed(self, pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
        """Stored pixels (N, C, H, W) as the network takes them.

        Raises:
            DatasetError: the network takes uint8, and the data set holds other pixels, or
                normalises them.
        """
        images = self._bytes(pixels, mean, std) if self.dtype == "uint8" else _floats(pixels)
        if self.dtype != "uint8" and (mean or std):
            shift = torch.tensor(mean or (0.0,)).view(1, -1, 1, 1)
            images = (images - shift) / torch.tensor(std or (1.0,)).view(1, -1, 1, 1)
        return images.permute(0, 2, 3, 1).contiguous() if self.channels_last else images

    def _bytes(self, pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
        if pixels.dtype != torch.uint8 or mean or std:
            got = str(pixels.dtype).removeprefix("torch.")
            beside = " with mean or std" if mean or std else ""
            raise DatasetError(
                "this model takes uint8 pixels and scales them itself, so that its data set must "
                f"hold uint8 images without mean and std, but it holds {got}{beside}"
            )
        return pixels


def _floats(pixels: Tensor) -> Tensor:
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
