"""Which criterion keeps the units that matter, and whether merging helps.

    python -m benchmarks.criteria --data DIR [--criteria l1 taylor] [--json OUT]

DIR holds Fashion-MNIST (`python -m examples.fetch_fashion_mnist --out DIR`). Every second group of
the trained ResNet-20 loses a part of its units by each criterion. Printed: the loss on held-out
training images after recalibration and after reconstruction on the calibration images, and the
seconds of scoring; then the same with merging, by how near units must be.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from benchmarks.joint.__main__ import images_of
from benchmarks.joint.networks import CHECKPOINT
from examples.resnet20 import resnet20
from search.candidates import candidate, recalibrated
from search.criteria import CRITERIA, best_units, score_channels
from search.evaluation import cross_entropy_loss
from search.graph import PruningGraph, trace
from search.merging import merged
from search.plan import Plan
from search.recalibration import recalibrate

REMOVED = (1 / 4, 1 / 2, 3 / 4)
COSINES = (0.8, 0.6, 0.4)  # of merging
MERGED = "redundancy"  # whose plans are merged
CALIBRATION, HELD_OUT = 512, 1000

Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Row:
    """One plan.

    Attributes:
        criterion: its name.
        seconds: of scoring.
        removed: the part of the units that is gone.
        cosine: how near merged units must be; None merges none.
        absorbed: how many units were merged.
        recalibrated, reconstructed: losses on held-out images.
    """

    criterion: str
    seconds: float
    removed: float
    cosine: float | None
    absorbed: int
    recalibrated: float
    reconstructed: float


def plan_of(graph: PruningGraph, scores: dict[str, Tensor], removed: float) -> Plan:
    """Every second prunable group keeps its best units."""
    kept = dict(graph.dense_plan().kept)
    for group in graph.prunable[::2]:
        width = max(group.min_width, round(group.width * (1 - removed)))
        kept[group.name] = best_units(scores[group.name], width, group.required_any_of)
    return Plan(kept)


def losses(
    graph: PruningGraph, plan: Plan, inputs: list[Tensor], held_out: Batches
) -> tuple[float, float]:
    """After recalibration, and after reconstruction."""
    plain = candidate(graph.model, graph, plan)
    recalibrate(plain, inputs)
    made = recalibrated(candidate(graph.model, graph, plan), graph.model, graph, plan, inputs)
    return cross_entropy_loss(plain, held_out), cross_entropy_loss(made, held_out)


def rows_of(graph: PruningGraph, criterion: str, train: tuple[Tensor, Tensor]) -> list[Row]:
    """All plans of a criterion."""
    calibration = _batches(*(each[:CALIBRATION] for each in train))
    held_out = _batches(*(each[-HELD_OUT:] for each in train))
    began = time.monotonic()
    scores = score_channels(graph.model, graph, criterion, calibration)
    seconds = time.monotonic() - began
    found = []
    for removed in REMOVED:
        plan = plan_of(graph, scores, removed)
        for cosine in (None, *COSINES) if criterion == MERGED else (None,):
            given = plan
            if cosine is not None:
                given = merged(graph.model, graph, plan, least_cosine=cosine)
            count = sum(len(units) for units in given.absorbed.values())
            loss = losses(graph, given, [images for images, _ in calibration], held_out)
            found.append(Row(criterion, seconds, removed, cosine, count, *loss))
    return found


def _batches(images: Tensor, labels: Tensor) -> Batches:
    return list(zip(images.split(128), labels.split(128), strict=True))


def table(rows: Sequence[Row]) -> str:
    """Losses after recalibration / after reconstruction."""
    heads = " | ".join(f"{removed:.0%} gone" for removed in REMOVED)
    lines = [f"| criterion | {heads} | seconds |", "|---" * (len(REMOVED) + 2) + "|"]
    for criterion in dict.fromkeys(row.criterion for row in rows):
        own = [row for row in rows if row.criterion == criterion and row.cosine is None]
        lines.append(f"| `{criterion}` | {_cells(own)} | {own[0].seconds:.2f} |")
    lines += ["", f"| merged where the cosine is | {heads} |", "|---" * (len(REMOVED) + 1) + "|"]
    for cosine in (None, *COSINES):
        own = [row for row in rows if row.criterion == MERGED and row.cosine == cosine]
        name = "not merged" if cosine is None else f"≥ {cosine}"
        lines.append(f"| {name} | {_cells(own)} |")
    return "\n".join(lines)


def _cells(rows: Sequence[Row]) -> str:
    return " | ".join(
        f"{row.recalibrated:.3f} / {row.reconstructed:.3f}"
        + ("" if row.cosine is None else f" ({row.absorbed} units)")
        for row in rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--criteria", nargs="+", choices=CRITERIA, default=CRITERIA)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    train = images_of(options.data, "train")
    model = resnet20()
    model.load_state_dict(load_file(CHECKPOINT))
    graph = trace(model.eval(), (train[0][:2],))
    rows: list[Row] = []
    for criterion in options.criteria:
        rows += rows_of(graph, criterion, train)
        sys.stderr.write(f"{criterion}: {rows[-1]}\n")
        if options.json:
            options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()
