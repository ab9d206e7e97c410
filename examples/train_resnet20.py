"""Trains the checkpoint of the demo on Fashion-MNIST, seeded: about half an hour on one core.

    python -m examples.train_resnet20 --data DIR --out WEIGHTS.safetensors

DIR holds the four IDX files of the data set. The test images are read once, after the last epoch.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from examples.resnet20 import resnet20
from search.evaluation import accuracy
from search.finetuning import augment
from workers.loaders.datasets import Source

BATCH_SIZE = 128


def train(model: nn.Module, images: Tensor, labels: Tensor, *, epochs: int, seed: int) -> None:
    """SGD with Nesterov momentum on a one-cycle schedule, label smoothing 0.1, bfloat16."""
    generator = torch.Generator().manual_seed(seed)
    steps = len(labels) // BATCH_SIZE
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.15, epochs * steps, pct_start=0.2)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.1)
    for epoch in range(epochs):
        start, total = time.monotonic(), 0.0
        model.train()
        order = torch.randperm(len(labels), generator=generator)
        for batch in order[: steps * BATCH_SIZE].view(steps, BATCH_SIZE):
            x = augment(images[batch], shift=2, flip=True, generator=generator)
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(model(x), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.monotonic() - start
        sys.stdout.write(f"epoch {epoch + 1}/{epochs}: {total / steps:.4f} in {seconds:.0f} s\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    model = resnet20()
    nn.utils.convert_conv2d_weight_memory_format(model, torch.channels_last)
    source = Source("idx", str(options.data))
    fit = source.read("train")
    train(model, *fit.slice(0, len(fit)), epochs=options.epochs, seed=options.seed)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, options.out
    )
    test = source.read("test")
    batches = (test.slice(start, start + 500) for start in range(0, len(test), 500))
    sys.stdout.write(f"test accuracy {accuracy(model, batches):.4f}; weights in {options.out}\n")


if __name__ == "__main__":
    main()
