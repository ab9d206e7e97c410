"""How well scores before training rank plans by their loss after it.

    python -m benchmarks.scoring --data DIR [--plans 24] [--steps 200] [--json OUT]

DIR holds Fashion-MNIST (`python -m examples.fetch_fashion_mnist --out DIR`). Random plans of the
trained ResNet-20, every group at a quarter, a half or three quarters of its width, of which those
with the least spread of multiply-accumulates are taken, so that size alone does not rank them.
Each is fine-tuned by distillation, from the weights that are left and from reconstructed ones.
Printed: Kendall's τ between each score and the validation loss after training, with a bootstrap
interval over plans, the seconds of one score, and the ceiling, which is τ between two trainings of
the same plans by other seeds.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.joint.__main__ import images_of
from benchmarks.joint.networks import CHECKPOINT
from examples.resnet20 import resnet20
from search.candidates import candidate, recalibrated
from search.criteria import best_units, score_channels
from search.evaluation import cross_entropy_loss
from search.finetuning import Finetune, FinetuneConfig
from search.graph import PruningGraph, trace
from search.plan import Plan
from search.recalibration import recalibrate

PARTS = (1 / 4, 1 / 2, 3 / 4)
DRAWN = 400
BOOTSTRAPS = 2000


@dataclass
class Row:
    """One plan.

    Attributes:
        macs: multiply-accumulates, as a part of the dense model's.
        plain, reconstructed: calibration losses before training, with their seconds.
        trained: validation losses after training: from plain weights, from reconstructed ones, and
            from these by another seed.
    """

    macs: float
    plain: float
    plain_s: float
    reconstructed: float
    reconstructed_s: float
    trained: tuple[float, float, float]


def plans(graph: PruningGraph, scores: dict[str, Tensor], count: int) -> list[Plan]:
    """Random plans of nearly the same multiply-accumulates."""
    source = random.Random(0)
    drawn = []
    for _ in range(DRAWN):
        kept = {}
        for group in graph.groups:
            width = group.width
            if group.name in scores:
                width = max(1, int(width * source.choice(PARTS)))
                kept[group.name] = best_units(scores[group.name], width, group.required_any_of)
            else:
                kept[group.name] = tuple(range(width))
        drawn.append(Plan(kept))
    by_size = sorted(drawn, key=graph.macs)
    start = min(
        range(DRAWN // 10, DRAWN - count),
        key=lambda at: graph.macs(by_size[at + count - 1]) - graph.macs(by_size[at]),
    )
    return by_size[start : start + count]


def row_of(graph: PruningGraph, plan: Plan, train: tuple[Tensor, Tensor], steps: int) -> Row:
    """Scores of a plan, and what training makes of it."""
    images, labels = train
    calibration = list(zip(images[:512].split(128), labels[:512].split(128), strict=True))
    validation = list(zip(images[-2000:].split(200), labels[-2000:].split(200), strict=True))
    inputs = [each for each, _ in calibration]

    def start(reconstructs: bool) -> nn.Module:
        pruned = candidate(graph.model, graph, plan)
        if reconstructs:
            return recalibrated(pruned, graph.model, graph, plan, inputs)
        recalibrate(pruned, inputs)
        return pruned

    def scored(reconstructs: bool) -> tuple[float, float]:
        began = time.monotonic()
        return cross_entropy_loss(start(reconstructs), calibration), time.monotonic() - began

    def trained(reconstructs: bool, seed: int) -> float:
        student = start(reconstructs)
        config = FinetuneConfig(steps=steps, seed=seed)
        Finetune(student, graph.model, images[512:-2000], labels[512:-2000], config).run()
        return cross_entropy_loss(student, validation)

    (plain, plain_s), (found, found_s) = scored(False), scored(True)
    after = trained(False, 0), trained(True, 0), trained(True, 1)
    return Row(
        graph.macs(plan) / graph.macs(graph.dense_plan()), plain, plain_s, found, found_s, after
    )


def kendall(first: Sequence[float], second: Sequence[float]) -> float:
    """τ-a of two rankings without ties."""
    count, agreed = len(first), 0
    for i in range(count):
        for j in range(i):
            agreed += 1 if (first[i] - first[j]) * (second[i] - second[j]) > 0 else -1
    return 2 * agreed / (count * (count - 1))


def interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """95 % by drawing plans with replacement; one that is drawn twice counts once."""
    source, found = random.Random(1), []
    places = range(len(first))
    for _ in range(BOOTSTRAPS):
        drawn = sorted(set(source.choices(places, k=len(first))))
        found.append(kendall([first[i] for i in drawn], [second[i] for i in drawn]))
    found.sort()
    return found[BOOTSTRAPS // 40], found[-BOOTSTRAPS // 40]


def table(rows: Sequence[Row]) -> str:
    """τ of every score, and what reconstruction gains."""
    after = [row.trained[1] for row in rows]
    scores: dict[str, Callable[[Row], float]] = {
        "calibration loss": lambda row: row.plain,
        "calibration loss, reconstructed": lambda row: row.reconstructed,
        "multiply-accumulates": lambda row: -row.macs,
        "ceiling: another seed of training": lambda row: row.trained[2],
    }
    seconds = [mean(row.plain_s for row in rows), mean(row.reconstructed_s for row in rows)]
    lines = ["| score | Kendall τ | 95 % | seconds |", "|---|---|---|---|"]
    for number, (name, score) in enumerate(scores.items()):
        given = [score(row) for row in rows]
        low, high = interval(given, after)
        took = f"{seconds[number]:.2f}" if number < len(seconds) else ""
        lines.append(
            f"| {name} | {kendall(given, after):.2f} | {low:.2f} to {high:.2f} | {took} |"
        )
    plain, made = (mean(row.trained[at] for row in rows) for at in (0, 1))
    better = sum(row.trained[1] < row.trained[0] for row in rows)
    lines += [
        "",
        f"Validation loss after training: {plain:.4f} from the weights that are left, {made:.4f} "
        f"from reconstructed ones ({made / plain - 1:+.1%}), lower in {better} of {len(rows)}.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--plans", type=int, default=24)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    train = images_of(options.data, "train")
    model = resnet20()
    model.load_state_dict(load_file(CHECKPOINT))
    graph = trace(model.eval(), (train[0][:2],))
    scores = score_channels(graph.model, graph, "l1")
    rows = []
    for number, plan in enumerate(plans(graph, scores, options.plans), start=1):
        rows.append(row_of(graph, plan, train, options.steps))
        sys.stderr.write(f"{number} of {options.plans}: {rows[-1]}\n")
        if options.json:
            options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()
