"""Networks that no zoo of the list has: detectors, heatmaps, several inputs, recurrent layers.

Each function returns the model and an example of every input.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from workers.loaders.architectures import zoo

Subject = tuple[nn.Module, tuple[Tensor, ...]]


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class CenterNet(nn.Module):
    """A backbone, transposed convolutions up again, and a head per quantity of an object."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(*(block(a, b, 2) for a, b in ((3, 16), (16, 32), (32, 64))))
        self.up = nn.ConvTranspose2d(64, 48, 4, 2, 1)
        sizes = {"heatmap": 10, "size": 2, "offset": 2}
        self.heads = nn.ModuleDict(
            {name: nn.Sequential(block(48, 32), nn.Conv2d(32, n, 1)) for name, n in sizes.items()}
        )

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.up(self.down(image)).relu()
        return {name: head(features) for name, head in self.heads.items()}


class Heatmaps(nn.Module):
    """Stages that each refine the heatmaps of the one before, beside the same features."""

    def __init__(self, points: int = 9, stages: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(block(3, 24, 2), block(24, 32, 2))
        self.first = nn.Sequential(block(32, 32), nn.Conv2d(32, points, 1))
        self.later = nn.ModuleList(
            nn.Sequential(block(32 + points, 40), nn.Conv2d(40, points, 1))
            for _ in range(stages - 1)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        features = self.features(image)
        maps = [self.first(features)]
        for stage in self.later:
            maps.append(stage(torch.cat([features, maps[-1]], 1)))
        return maps


class TwoInputs(nn.Module):
    """An image, and measurements that scale its channels and are read beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(block(3, 24, 2), block(24, 32, 2))
        self.measured = nn.Sequential(nn.Linear(7, 20), nn.ReLU())
        self.gate = nn.Linear(20, 32)
        self.last = nn.Linear(52, 5)

    def forward(self, image: Tensor, measured: Tensor) -> Tensor:
        known = self.measured(measured)
        gates = self.gate(known).sigmoid()[:, :, None, None]
        pooled = (self.image(image) * gates).mean((2, 3))
        classes: Tensor = self.last(torch.cat([pooled, known], 1))
        return classes


class Tagger(nn.Module):
    """Embedding, a recurrent layer, a class per word."""

    def __init__(self, recurrent: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.words = nn.Embedding(100, 32)
        self.mixed = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.recurrent = recurrent(32, 24, batch_first=True, bidirectional=True)
        self.last = nn.Sequential(nn.Linear(48, 96), nn.ReLU(), nn.Linear(96, 7))

    def forward(self, words: Tensor) -> Tensor:
        states, _ = self.recurrent(self.mixed(self.words(words)))
        tags: Tensor = self.last(states)
        return tags


class Volumes(nn.Module):
    """A U-Net of three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv3d(1, 12, 3, 1, 1), nn.InstanceNorm3d(12), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv3d(12, 24, 3, 2, 1), nn.InstanceNorm3d(24), nn.ReLU())
        self.up = nn.ConvTranspose3d(24, 12, 2, 2)
        self.last = nn.Sequential(nn.Conv3d(24, 16, 3, 1, 1), nn.ReLU(), nn.Conv3d(16, 3, 1))

    def forward(self, volume: Tensor) -> Tensor:
        wide = self.first(volume)
        labels: Tensor = self.last(torch.cat([wide, self.up(self.deep(wide))], 1))
        return labels


def centernet() -> Subject:
    return CenterNet(), (torch.randn(1, 3, 64, 64),)


def heatmaps() -> Subject:
    return Heatmaps(), (torch.randn(1, 3, 64, 64),)


def two_inputs() -> Subject:
    return TwoInputs(), (torch.randn(1, 3, 32, 32), torch.randn(1, 7))


def lstm_tagger() -> Subject:
    return Tagger(nn.LSTM), (torch.arange(12)[None],)


def gru_tagger() -> Subject:
    return Tagger(nn.GRU), (torch.arange(12)[None],)


def volumes() -> Subject:
    return Volumes(), (torch.randn(1, 1, 16, 16, 16),)


def mtcnn_proposals() -> Subject:
    """The first of the three networks of PyPI's `facenet-pytorch`."""
    return zoo("facenet_pytorch.models.mtcnn").PNet(pretrained=False), (torch.randn(1, 3, 48, 48),)


def mtcnn_refinement() -> Subject:
    """The second; its last feature map is flattened in an order of its own."""
    return zoo("facenet_pytorch.models.mtcnn").RNet(pretrained=False), (torch.randn(1, 3, 24, 24),)


def mtcnn_output() -> Subject:
    """The third, with landmarks."""
    return zoo("facenet_pytorch.models.mtcnn").ONet(pretrained=False), (torch.randn(1, 3, 48, 48),)
