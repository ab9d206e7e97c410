"""The networks of the comparison, and their training on Fashion-MNIST."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

import examples
from examples.resnet20 import resnet20

CHECKPOINT = Path(examples.__file__).parent / "checkpoints/resnet20_fashion_mnist.safetensors"
BATCH, RATE = 128, 3e-3


class Encoder(nn.Module):
    """One block of a vision transformer on tokens (B, N, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        count, tokens, _ = x.shape
        split = self.qkv(self.norm1(x)).reshape(count, tokens, 3, self.heads, -1)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(mixed.transpose(1, 2).reshape(count, tokens, -1))
        out: Tensor = x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))
        return out


class SmallViT(nn.Module):
    """49 tokens of 4 × 4 pixels; (B, 1, 28, 28) -> (B, 10)."""

    def __init__(self, width: int = 96, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, stride=4)
        self.position = nn.Parameter(torch.randn(1, 49, width) * 0.02)
        self.blocks = nn.ModuleList(Encoder(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x).mean(1))
        return logits


class Inverted(nn.Module):
    """Expansion, depthwise convolution, projection (MobileNetV2)."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        inner = 4 * width
        self.skips = stride == 1 and width == out
        self.expand = nn.Sequential(
            nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6()
        )
        depthwise = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
        self.depthwise = nn.Sequential(depthwise, nn.BatchNorm2d(inner), nn.ReLU6())
        self.project = nn.Sequential(nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + out if self.skips else out


class SmallMobileNet(nn.Module):
    """Seven inverted residuals; (B, 1, 28, 28) -> (B, 10)."""

    PLAN = ((16, 1), (24, 2), (24, 1), (40, 2), (40, 1), (64, 1), (64, 1))

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()
        )
        widths = [16, *(out for out, _ in self.PLAN)]
        self.blocks = nn.Sequential(
            *(
                Inverted(width, out, stride)
                for width, (out, stride) in zip(widths[:-1], self.PLAN, strict=True)
            )
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return logits


class SmallVGG(nn.Module):
    """Six plain convolutions with batch norm, pooled after every second; (B, 1, 28, 28) ->
    (B, 10)."""

    def __init__(self, widths: tuple[int, ...] = (16, 16, 32, 32, 64, 64)) -> None:
        super().__init__()
        inputs = (1, *widths[:-1])
        self.convs = nn.ModuleList(
            nn.Conv2d(width, out, 3, padding=1, bias=False)
            for width, out in zip(inputs, widths, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(out) for out in widths)
        self.hidden, self.head = nn.Linear(widths[-1], 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        for place, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = functional.relu(norm(conv(x)))
            x = functional.max_pool2d(x, 2) if place in (1, 3) else x
        logits: Tensor = self.head(functional.relu(self.hidden(x.mean((2, 3)))))
        return logits


class Dense(nn.Module):
    """Batch norm and a convolution, whose output is put behind its input (DenseNet)."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(functional.relu(self.norm(x)))], 1)


class SmallDenseNet(nn.Module):
    """Two dense blocks of four layers with a transition between; (B, 1, 28, 28) -> (B, 10)."""

    def __init__(self, growth: int = 12, depth: int = 4) -> None:
        super().__init__()
        grown = growth * depth
        self.stem = nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False)
        self.first = nn.Sequential(*(Dense(16 + growth * at, growth) for at in range(depth)))
        self.norm = nn.BatchNorm2d(16 + grown)
        self.transition = nn.Conv2d(16 + grown, 32, 1, bias=False)
        self.second = nn.Sequential(*(Dense(32 + growth * at, growth) for at in range(depth)))
        self.last, self.head = nn.BatchNorm2d(32 + grown), nn.Linear(32 + grown, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.first(self.stem(x))))
        x = self.second(functional.avg_pool2d(self.transition(x), 2))
        logits: Tensor = self.head(functional.relu(self.last(x)).mean((2, 3)))
        return logits


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet20": resnet20,
    "vit": SmallViT,
    "mobilenet": SmallMobileNet,
    "vgg": SmallVGG,
    "densenet": SmallDenseNet,
}


def trained(name: str, folder: Path, images: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    """The network with its weights: those of the demo, or of a file in `folder`, which is trained
    where it is not there."""
    torch.manual_seed(0)
    model = NETWORKS[name]()
    path = CHECKPOINT if name == "resnet20" else folder / f"{name}.safetensors"
    if not path.exists():
        _train(model, images, labels, epochs)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(model.state_dict()), path)
    model.load_state_dict(load_file(path))
    return model.eval()


def _train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """AdamW with a one-cycle schedule; images are mirrored and shifted by up to two pixels."""
    steps = epochs * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    source = torch.Generator().manual_seed(0)
    model.train()
    for epoch in range(epochs):
        began, total = time.monotonic(), 0.0
        for index in torch.randperm(len(images), generator=source).split(BATCH):
            if len(index) < BATCH:
                continue
            batch = functional.pad(images[index], (2, 2, 2, 2), value=float(images.min()))
            top, left = (int(torch.randint(0, 5, (), generator=source)) for _ in range(2))
            batch = batch[:, :, top : top + 28, left : left + 28]
            batch = batch.flip(3) if float(torch.rand((), generator=source)) < 0.5 else batch
            loss = functional.cross_entropy(model(batch), labels[index], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        seconds = time.monotonic() - began
        sys.stderr.write(
            f"epoch {epoch + 1} of {epochs}: {total * BATCH / len(images):.4f}, {seconds:.0f} s\n"
        )
