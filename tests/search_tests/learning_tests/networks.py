"""Tiny networks and data for the tests of this folder."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SmallNet(nn.Module):
    """Convolution, batch norm, dropout and a linear layer on (B, 2, 8, 8) images; 3 classes."""

    def __init__(self, width: int = 6, dropout: float = 0.2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = torch.relu(self.bn(self.conv(x))).mean((2, 3))
        logits: Tensor = self.fc(self.dropout(features))
        return logits


def small_net(seed: int = 0, width: int = 6) -> SmallNet:
    torch.manual_seed(seed)
    return SmallNet(width)


def striped_images(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise with a bright band whose place tells the class: learnable by a convolution."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=generator)
    images = 0.3 * torch.randn(count, 2, 8, 8, generator=generator)
    for index, label in enumerate(labels.tolist()):
        if label < 2:
            images[index, label] += 1.0
    return images, labels
