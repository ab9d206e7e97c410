"""MobileNetV2 with its ImageNet weights and pictures without labels: does a search over widths and
int8 keep as many of the dense network's answers as plain int8 does, and is it faster?

    python -m benchmarks.unlabelled --pictures DIR --weights FILE --out DIR [--part 0.9]

`benchmarks.pictures` says where pictures and weights come from. 500 pictures are for fitting, the
others are judged, once, after the choice. The budget is `--part` of what plain int8 takes here.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

import secateur
from benchmarks.joint.__main__ import cell_of, quantizable, rounded, versions
from benchmarks.joint.cells import Cell
from benchmarks.pictures import mobilenet_v2, pictures
from latency_probes.machine import read as read_machine

FITTED = 500
SEARCH = {"levels": 3, "beam_width": 2, "children": 5, "staircase_points": 2, "refinements": 1}
# Pictures are few and large: small batches, and a rate that 0.05 at 128 would be for them.
FINETUNE = {"batch_size": 32, "learning_rate": 0.01, "shift": 8, "flip": True}


def answers(model: nn.Module, images: Tensor) -> Tensor:
    """The class that a network says of each picture, (N,)."""
    with torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in images.split(32)])


def compared(options: argparse.Namespace) -> list[Cell]:
    """Plain int8, and what is found at a part of its latency."""
    model, shown = mobilenet_v2(options.weights), pictures(options.pictures)
    fit, judged = ((part, answers(model, part)) for part in (shown[:FITTED], shown[FITTED:]))
    subject = quantizable("mobilenet_v2", model, fit, judged, options.steps)
    dense = subject.graph.dense_plan()
    plain = rounded(subject, 1.0, "int8", dense, model, time.monotonic())
    sys.stderr.write(f"int8: {plain.ratio:.3f}, {plain.accuracy:.2%}\n")
    budget = options.part * plain.ratio
    result = secateur.prune(
        model, fit[0], ratio=budget, precision="int8", search=SEARCH, tolerance=options.tolerance,
        finetune={"steps": options.steps, **FINETUNE},
    )  # fmt: skip
    return [plain, cell_of(subject, budget, "both", result)]


def table(cells: list[Cell], judged: int) -> str:
    lines = [
        "| way | latency ratio | answers kept | int8 layers | seconds |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {c.way} | {c.ratio:.3f} [{c.low:.3f}, {c.high:.3f}] | "
        f"{round(c.accuracy * judged)} of {judged} | {c.layers} | {c.seconds:.0f} |"
        for c in cells
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.unlabelled",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", type=float, default=0.9, help="of plain int8's latency")
    parser.add_argument("--steps", type=int, default=200, help="of fine-tuning")
    parser.add_argument("--tolerance", type=float, default=0.1, help="of the floors")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cells = compared(options)
    judged = len(list(options.pictures.rglob("*.png"))) - FITTED
    sys.stdout.write(table(cells, judged) + "\n")
    document = {
        "machine": read_machine(()),
        "versions": versions(),
        "cells": [asdict(cell) for cell in cells],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "unlabelled.json").write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
