"""Trains the ResNet-20 checkpoint of the demo on Fashion-MNIST, seeded: about half an hour on one core.

    python -m examples.train_resnet20 --data DIR --out examples/checkpoints/resnet20_fashion_mnist.safetensors

DIR holds the four IDX files of the data set. The test images are read once, after the last epoch.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from examples.resnet20 import resnet20


def read_idx(path: Path) -> Tensor:
    """One gzipped IDX file as a uint8 tensor."""
    raw = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
    return torch.from_numpy(
        np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape).copy()
    )


def read_split(folder: Path, prefix: str) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28) in [0, 1] and labels (N,)."""
    images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
    return images[:, None].float() / 255, labels.long()


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random shift by up to two pixels and random horizontal flip, both per image."""
    count, _, height, width = images.shape
    padded = nn.functional.pad(images, (2, 2, 2, 2))
    top, left = torch.randint(0, 5, (2, count, 1), generator=generator)
    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    flipped = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(flipped, columns.flip(1), columns)
    index = torch.arange(count)[:, None, None]
    return padded[index, 0, rows[:, :, None], columns[:, None, :]][:, None]


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images classified right, in eval mode and float32."""
    model.eval()
    with torch.no_grad():
        right = sum(
            int((model(x).argmax(1) == y).sum())
            for x, y in zip(images.split(500), labels.split(500), strict=True)
        )
    return right / len(labels)


def train(model: nn.Module, images: Tensor, labels: Tensor, *, epochs: int, seed: int) -> None:
    """SGD with Nesterov momentum on a one-cycle schedule, label smoothing 0.1, bfloat16 autocast."""
    generator = torch.Generator().manual_seed(seed)
    batch_size, count = 128, len(labels)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * (count // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.15, steps, pct_start=0.2)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)
    for epoch in range(epochs):
        start, total = time.monotonic(), 0.0
        model.train()
        for batch in torch.randperm(count, generator=generator).split(batch_size)[
            : count // batch_size
        ]:
            x = augment(images[batch], generator).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(model(x), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        mean = total / (count // batch_size)
        seconds = time.monotonic() - start
        sys.stdout.write(f"epoch {epoch + 1}/{epochs}: loss {mean:.4f} in {seconds:.0f} s\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    model = resnet20().to(memory_format=torch.channels_last)
    train(model, *read_split(options.data, "train"), epochs=options.epochs, seed=options.seed)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, options.out)
    test = accuracy(model, *read_split(options.data, "t10k"))
    sys.stdout.write(f"test accuracy {test:.4f}; weights in {options.out}\n")


if __name__ == "__main__":
    main()
