"""A split of a data set as tensors, and as the network takes it. How it is stored: `sources`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from workers.loaders.feed import Feed
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
    feed: Feed = field(default_factory=Feed)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Tensor) -> Tensor:
        """Those images as the network takes them: float32, [0, 1] from uint8, normalised, unless
        its feed says otherwise."""
        return self.feed.formed(self.images[index], self.mean, self.std)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image as the network gets it."""
        return tuple(self.feed.formed(self.images[:1], self.mean, self.std).shape[1:])

    def select(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Network inputs (n, C, H, W), or as the feed says, and labels (n,) of `index`."""
        return self.batch(index), self.labels[index]

    def slice(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Network inputs and labels of the images from `start` up to `stop`."""
        return self.select(torch.arange(start, min(stop, len(self))))


@dataclass(frozen=True)
class Source(ArraySource):
    """A data set whose splits are read as tensors, for a network with this feed."""

    feed: Feed = field(default_factory=Feed)

    def read(self, split: SplitName) -> Images:
        """Reads and checks one split; raises DatasetError as `arrays` does."""
        images, labels = self.arrays(split)
        pixels = torch.tensor(np.ascontiguousarray(images))
        return Images(pixels, torch.from_numpy(labels), self.mean, self.std, self.feed)
