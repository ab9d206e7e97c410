"""Networks with residual blocks, one per shape of block, that the tests of blocks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class BasicBlock(nn.Module):
    """Two convolutions beside the input, or beside a projection of it where the width changes."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(ins, outs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outs)
        self.conv2 = nn.Conv2d(outs, outs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if ins != outs:
            self.downsample = nn.Sequential(
                nn.Conv2d(ins, outs, 1, bias=False), nn.BatchNorm2d(outs)
            )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x if self.downsample is None else self.downsample(x)
        out = self.relu(out)
        return out


class Bottleneck(nn.Module):
    """Narrow, convolve, widen, beside the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, 3, 1)
        self.conv2 = nn.Conv2d(3, 3, 3, padding=1)
        self.conv3 = nn.Conv2d(3, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv3(self.conv2(self.conv1(x).relu()).relu())
        return functional.relu(out + x)


class ResNet(nn.Module):
    """A stem, three blocks and a head; (B, 3, 8, 8) -> (B, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.layer1 = nn.Sequential(BasicBlock(4, 4), BasicBlock(4, 6))
        self.layer2 = Bottleneck(6)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(torch.relu(self.stem(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class Attention(nn.Module):
    """Two heads that the forward holds as a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, tokens, 8))
        return out


class Layer(nn.Module):
    """Pre-norm attention and MLP, each with a layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(8), Attention()
        self.norm2 = nn.LayerNorm(8)
        self.mlp = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
        self.scale1 = nn.Parameter(torch.full((8,), 0.5))
        self.scale2 = nn.Parameter(torch.full((8,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale1 * self.attn(self.norm1(x))
        mixed: Tensor = self.mlp(self.norm2(x))
        return x + self.scale2 * mixed


class ViT(nn.Module):
    """Patches with positions, two layers and a head; (B, 3, 8, 8) -> (B, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.position = nn.Parameter(torch.zeros(1, 4, 8))
        self.blocks = nn.Sequential(Layer(), Layer())
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        logits: Tensor = self.head(self.blocks(x).mean(1))
        return logits


class Pyramid(nn.Module):
    """FPN: coarse features are added to laterals of finer ones."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, 4, 3, padding=1)
        self.coarse = nn.Conv2d(4, 6, 3, 2, padding=1)
        self.lateral1, self.lateral2 = nn.Conv2d(4, 5, 1), nn.Conv2d(6, 5, 1)
        self.out1, self.out2 = nn.Conv2d(5, 2, 1), nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = torch.relu(self.fine(x))
        top = self.lateral2(torch.relu(self.coarse(fine)))
        up = functional.interpolate(top, scale_factor=2.0)
        return self.out1(self.lateral1(fine) + up), self.out2(top)


class Nested(nn.Module):
    """A residual branch that holds a residual block of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.outer = nn.ModuleDict({"first": nn.Conv2d(4, 4, 1), "inner": Bottleneck(4)})
        self.head = nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.outer["inner"](self.outer["first"](x).relu())
        out: Tensor = self.head(x)
        return out


class ReZero(nn.Module):
    """A branch times one learned number; it may write to what the addition reads."""

    def __init__(self, *, writes: bool = False) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.gain, self.head = nn.Parameter(torch.zeros(1)), nn.Conv2d(4, 5, 1)
        self._writes = writes

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        read = x.view(x.shape).relu_() if self._writes else x
        out: Tensor = self.head(x + self.gain * self.conv(read))
        return out
