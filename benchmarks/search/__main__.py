"""The tree against other ways to prune: accuracy at equal latency and equal fine-tuning.

    python -m benchmarks.search --data DIR --out DIR [--quick] [--networks resnet20 mobilenet vit]

DIR of `--data` holds Fashion-MNIST (`python -m examples.fetch_fashion_mnist --out DIR`). Every way
measures on this machine, with as many steps of fine-tuning in all; those that the tree spends
between its levels are counted. What Torch-Pruning does needs `pip install torch-pruning==1.6.1`.
The cells lie in `--out`, one JSON each; a run that was ended goes on. Without `--networks`,
ResNet-20 and a MobileNet-like network at 0.35 and three seeds, and a ViT-like one at 0.6 and one.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks.joint.__main__ import versions
from benchmarks.kept import kept
from benchmarks.search.cells import Cell, packed, table
from benchmarks.search.subject import Device, Subject
from benchmarks.search.ways import WAYS, Found
from latency_probes.machine import read as read_machine

BUDGETS = {"resnet20": 0.35, "mobilenet": 0.35, "vit": 0.6}
SEEDS = {"resnet20": 3, "mobilenet": 3, "vit": 1}
TRIED = 4  # models of a way whose latency is confirmed before the fastest of them is taken
QUICK = ("tree", "beam of one", "uniform l1", "torch-pruning taylor")


def cell_of(subject: Subject, budget: float, way: str, seed: int) -> Cell:
    """Searches, trains, measures and tests."""
    began, device = time.monotonic(), subject.device()
    try:
        found = _confirmed(subject, WAYS[way](subject, budget, seed, device), budget, device)
        model = subject.finetune(found.model, seed, subject.steps - found.steps)
        measured = device.strictly(subject.file(model))
    finally:
        device.close()
    right = subject.right(model)
    return Cell(
        network=subject.name,
        budget=budget,
        way=way,
        seed=seed,
        ratio=measured.ratio,
        low=measured.ratio_low,
        high=measured.ratio_high,
        accuracy=sum(right) / len(right),
        right=packed(right),
        images=len(right),
        measured=device.measured,
        steps=max(subject.steps, found.steps),
        seconds=time.monotonic() - began,
        device_s=device.seconds,
    )


def _confirmed(subject: Subject, models: Iterable[Found], budget: float, device: Device) -> Found:
    """The first whose strict interval is within the budget, else the fastest of those tried."""
    tried: list[tuple[float, int, Found]] = []
    for number, found in enumerate(islice(models, TRIED)):
        measured = device.strictly(subject.file(found.model))
        if measured.ratio_high <= budget:
            return found
        tried.append((measured.ratio, number, found))
    if not tried:
        raise SystemExit("the way found no model within the budget")
    return min(tried, key=lambda each: each[:2])[2]


def _document(subject: Subject, budget: float, way: str, seed: int) -> dict[str, Any]:
    return cell_of(subject, budget, way, seed).document()


def cells_of(subject: Subject, options: argparse.Namespace) -> list[Cell]:
    """Every way and seed of one network."""
    cells = []
    budget = options.budget or BUDGETS[subject.name]
    for seed in range(options.seeds or SEEDS[subject.name]):
        for way in options.ways:
            name = f"{subject.name}-{budget:g}-{way.replace(', ', '-').replace(' ', '-')}-{seed}"
            make = partial(_document, subject, budget, way, seed)
            cell = Cell(**kept(options.out / "cells", name, make))
            sys.stderr.write(
                f"{name}: {cell.ratio:.3f}, {cell.accuracy:.2%}, {cell.measured} measured, "
                f"{cell.seconds:.0f} s\n"
            )
            cells.append(cell)
    return cells


def plot(cells: Sequence[Cell], path: Path) -> None:
    """Accuracy over the latency ratio, one panel a network; bars are 95 % intervals."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(cell.network for cell in cells))
    figure = Figure(figsize=(5 * len(names), 4), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for way in WAYS:
            own = [cell for cell in cells if cell.network == name and cell.way == way]
            spread = [1.96 * (c.accuracy * (1 - c.accuracy) / c.images) ** 0.5 for c in own]
            axis.errorbar(
                [c.ratio for c in own], [100 * c.accuracy for c in own],
                xerr=[[c.ratio - c.low for c in own], [c.high - c.ratio for c in own]],
                yerr=[100 * each for each in spread], fmt="o", label=way, capsize=2,
            )  # fmt: skip
        axis.set(title=name, xlabel="latency, as a part of dense", ylabel="test accuracy, %")
        axis.legend(fontsize="small")
    figure.savefig(path)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.search",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", choices=BUDGETS, default=list(BUDGETS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--budget", type=float, help="the ratio, for all networks")
    parser.add_argument("--seeds", type=int, help="how many, from 0")
    parser.add_argument("--steps", type=int, default=600, help="of fine-tuning")
    parser.add_argument("--core", type=int, help="core to measure on; by default any")
    parser.add_argument("--quick", action="store_true", help="ResNet-20, four ways, 200 steps")
    options = parser.parse_args()
    if options.quick:
        options.networks, options.ways = ["resnet20"], list(QUICK)
        options.seeds, options.steps = 1, 200
    if importlib.util.find_spec("torch_pruning") is None:
        left = [way for way in options.ways if way.startswith("torch-pruning")]
        options.ways = [way for way in options.ways if way not in left]
        if left:
            sys.stderr.write(f"left out, as torch-pruning is not installed: {', '.join(left)}\n")
    return options


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    cells: list[Cell] = []
    cores = None if options.core is None else (options.core,)
    for name in options.networks:
        subject = Subject.of(name, options.data, options.out, options.steps, cores)
        cells += cells_of(subject, options)
    sys.stdout.write(table(cells) + "\n")
    document = {
        "machine": read_machine(()),
        "versions": versions(),
        "cells": [cell.document() for cell in cells],
    }
    (options.out / "search.json").write_text(json.dumps(document, indent=1))
    plot(cells, options.out / "search.png")


if __name__ == "__main__":
    main()
