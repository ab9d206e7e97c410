"""A split of a data set as tensors, and as the network takes it. How it is stored: `sources`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workers.loaders.sources import ArraySource, SplitName


@dataclass(frozen=True)
class Images:
    """One split.

    | symbol | meaning | shape |
    |---|---|---|
    | images | pixels as stored, uint8 or float32 | (N, C, H, W) |
    | labels | class indices | (N,) int64 |
    """

    images: Tensor
    labels: Tensor
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Tensor) -> Tensor:
        """Those images as the network takes them: float32, [0, 1] from uint8, normalised."""
        pixels = self.images[index]
        values = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
        if self.mean or self.std:
            shift = torch.tensor(self.mean or (0.0,)).view(1, -1, 1, 1)
            values = (values - shift) / torch.tensor(self.std or (1.0,)).view(1, -1, 1, 1)
        return values

    def select(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Network inputs (n, C, H, W) and labels (n,) of `index`."""
        return self.batch(index), self.labels[index]

    def slice(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Network inputs and labels of the images from `start` up to `stop`."""
        return self.select(torch.arange(start, min(stop, len(self))))


class Source(ArraySource):
    """A data set whose splits are read as tensors."""

    def read(self, split: SplitName) -> Images:
        """Reads and checks one split; raises DatasetError as `arrays` does."""
        images, labels = self.arrays(split)
        pixels = torch.tensor(np.ascontiguousarray(images))
        return Images(pixels, torch.from_numpy(labels), self.mean, self.std)
