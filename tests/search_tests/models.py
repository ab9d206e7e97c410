"""Small networks, one per shape of dependency, that the tests of search share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Plain(nn.Module):
    """Convolutions, batch norm and a head; (B, 3, 8, 8) -> (B, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        logits: Tensor = self.fc(torch.relu(self.conv2(out)).mean((2, 3)))
        return logits


class Residual(nn.Module):
    """Two residual blocks on one stem, as in ResNet; (B, 3, 8, 8) -> (B, 5)."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, 4, 1, bias=False),
                nn.BatchNorm2d(4),
                nn.ReLU(inplace=True),
                nn.Conv2d(4, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
            )
            for _ in range(2)
        )
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = self.stem(x)
        for block in self.blocks:
            out = torch.relu(block(out) + out)
        logits: Tensor = self.fc(nn.functional.adaptive_avg_pool2d(out, 1).flatten(1))
        return logits


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, squeeze-and-excitation, projection (MobileNetV2/V3)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.expand = nn.Conv2d(6, 12, 1, bias=False)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.squeeze = nn.Conv2d(12, 3, 1)
        self.excite = nn.Conv2d(3, 12, 1)
        self.project = nn.Conv2d(12, 6, 1)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(6, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.hardswish(self.stem(x))
        out = nn.functional.relu6(self.norm(self.depthwise(self.expand(x))))
        gate = torch.relu(self.squeeze(out.mean((2, 3), keepdim=True)))
        out = x + self.project(out * nn.functional.hardsigmoid(self.excite(gate)))
        logits: Tensor = self.head(out.mean((2, 3)))
        return logits


class Dense(nn.Module):
    """Concatenation of all that came before, the input among it (DenseNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + 4 * i, 4, 3, padding=1) for i in range(3))
        self.norm = nn.BatchNorm2d(15)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(15 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, torch.relu(layer(x))], 1)
        logits: Tensor = self.fc(self.pool(self.norm(x)).flatten(1))
        return logits


class Shuffle(nn.Module):
    """Split, a branch, concatenation and channel shuffle (ShuffleNetV2)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.branch = nn.Sequential(
            nn.Conv2d(4, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 4, 1)
        )
        self.last = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, dim=1)
        out = torch.cat([left, self.branch(right)], 1)
        batch, channels, height, width = out.shape
        out = out.view(batch, 2, channels // 2, height, width).transpose(1, 2)
        logits: Tensor = self.last(out.reshape(batch, channels, height, width)).mean((2, 3))
        return logits


class Grouped(nn.Module):
    """A grouped convolution between two plain ones (ResNeXt): a unit is a conv group."""

    def __init__(self, groups: int = 4) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(3, 8, 1)
        self.grouped = nn.Conv2d(8, 16, 3, padding=1, groups=groups)
        self.norm = nn.BatchNorm2d(16)
        self.expand = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.expand(torch.relu(self.norm(self.grouped(self.reduce(x)))))
        return out.mean((2, 3))


class UNet(nn.Module):
    """Down, up by a transposed convolution and by resizing, with skip concatenations."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 6, 3, padding=1)
        self.deep = nn.Conv2d(6, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.mix = nn.Conv2d(10, 8, 3, padding=1)
        self.out = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = torch.relu(self.down(x))
        deep = torch.relu(self.deep(nn.functional.max_pool2d(skip, 2)))
        out = torch.relu(self.mix(torch.cat([skip, self.up(deep)], 1)))
        wide = nn.functional.interpolate(deep, scale_factor=2.0)
        result: Tensor = self.out(torch.cat([out, wide], 1))
        return result


class FixedView(nn.Module):
    """A forward that holds a width as a constant, which does not shrink with its group."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 6, 3, padding=1)
        self.fc1 = nn.Linear(6 * 16, 7)
        self.fc2 = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = nn.functional.max_pool2d(torch.relu(self.conv2(self.conv1(x))), 2)
        logits: Tensor = self.fc2(torch.relu(self.fc1(out.view(-1, 96))))
        return logits


class Tied(nn.Module):
    """One weight under two names, and one module called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 6)
        self.first = nn.Linear(6, 6, bias=False)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.mlp = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = self.second(torch.tanh(self.first(torch.tanh(self.stem(x)))))
        logits: Tensor = self.head(self.mlp(self.mlp(out)))
        return logits


def layer_normed() -> nn.Sequential:
    """A layer norm over few of the units; (B, 3) -> (B, 2)."""
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 32), nn.Linear(32, 2))


class Normed(nn.Module):
    """Group norms over channels: their groups are approximate."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.group_norm = nn.GroupNorm(2, 8)
        self.conv2 = nn.Conv2d(8, 6, 3, padding=1)
        self.last_norm = nn.GroupNorm(1, 6)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(torch.relu(self.group_norm(self.conv1(x))))
        logits: Tensor = self.fc(self.last_norm(out).mean((2, 3)))
        return logits


def image(channels: int = 3, size: int = 8) -> tuple[Tensor]:
    """One example input."""
    return (torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(0)),)
