"""A small residual network and a small data set, so that a whole job takes seconds."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

SHAPE = (1, 12, 12)
CLASSES = 4


class TinyResNet(nn.Module):
    """Two residual blocks, 16 and 32 channels wide."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.inner = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.inner_norm = nn.BatchNorm2d(32)
        self.outer = nn.Conv2d(32, 16, 3, padding=1, bias=False)
        self.outer_norm = nn.BatchNorm2d(16)
        self.wide = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        self.wide_norm = nn.BatchNorm2d(32)
        self.head = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        y = torch.relu(self.inner_norm(self.inner(x)))
        x = torch.relu(x + self.outer_norm(self.outer(y)))
        x = torch.relu(self.wide_norm(self.wide(x)))
        logits: Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


def tiny_resnet(classes: int = CLASSES) -> nn.Module:
    """What the specs of these tests name."""
    return TinyResNet(classes)


def images(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Stripes in one of four directions, with noise: uint8 (N, 12, 12) and labels (N,)."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    rows, columns = np.mgrid[0:12, 0:12]
    waves = np.stack([rows, columns, rows + columns, rows - columns])
    phase = random.uniform(0, 6.28, (count, 1, 1))
    clean = np.sin(waves[labels] * 1.3 + phase)
    noisy = 127 + 60 * clean + random.normal(0, 45, clean.shape)
    return noisy.clip(0, 255).astype(np.uint8), labels.astype(np.int64)


def write_dataset(path: Path, count: int = 1500) -> Path:
    """The data set as `.npz`."""
    x_train, y_train = images(count, seed=1)
    x_test, y_test = images(400, seed=2)
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


def write_weights(path: Path) -> Path:
    """The weights of a network that was trained, once in a process."""
    save_file(trained_weights(), path)
    return path


@cache
def trained_weights() -> dict[str, Tensor]:
    """Those of a network trained for a few seconds, seeded."""
    torch.manual_seed(0)
    pixels, labels = images(1500, seed=1)
    x, y = torch.from_numpy(pixels)[:, None].float() / 255, torch.from_numpy(labels)
    model = tiny_resnet()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(120):
        batch = torch.arange(64) + 64 * (step % 23)
        loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.state_dict()
