"""How well scores before training rank plans by their loss after it.

    python -m benchmarks.scoring --data DIR [--network NAME] [--plans N] [--steps N] [--json OUT]

DIR holds Fashion-MNIST (`python -m examples.fetch_fashion_mnist --out DIR`). Random plans of a
trained network, every group at a quarter, a half or three quarters of its width, of which those
with the least spread of multiply-accumulates are taken, so that size alone does not rank them.
Each is fine-tuned by distillation, from the weights that are left and from reconstructed ones.
Printed: Kendall's τ between each score and the validation loss after training, with a bootstrap
interval over plans, the seconds of one score, and the ceiling, which is τ between two trainings of
the same plans by other seeds. A run that was ended goes on from its JSON.
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

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.joint.networks import NETWORKS
from benchmarks.ranking import interval, kendall, told
from benchmarks.search.subject import Subject
from search.candidates import candidate, rounded_candidate
from search.criteria import best_units
from search.evaluation import cross_entropy_loss
from search.graph import PruningGraph
from search.plan import Plan
from search.recalibration import recalibrate

PARTS = (1 / 4, 1 / 2, 3 / 4)
DRAWN = 400
SHORT = 10  # steps, for the score that trains a little
CHOSEN = "calibration loss, reconstructed"  # what the search goes by


@dataclass
class Row:
    """One plan.

    Attributes:
        macs: multiply-accumulates, as a part of the dense model's.
        scores: name -> value before training; lower is better.
        seconds: name -> what it took.
        trained: validation losses after training: from the weights that are left, from
            reconstructed ones, and from these by another seed.
    """

    macs: float
    scores: dict[str, float]
    seconds: dict[str, float]
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


def row_of(subject: Subject, plan: Plan, steps: int) -> Row:
    """Scores of a plan, and what training makes of it."""
    graph = subject.graph

    def left() -> nn.Module:
        pruned = candidate(subject.model, graph, plan)
        recalibrate(pruned, subject.inputs)
        return pruned

    def made() -> nn.Module:
        return rounded_candidate(subject.model, graph, plan, subject.inputs)

    scores: dict[str, Callable[[], float]] = {
        "calibration loss": lambda: subject.loss(left()),
        CHOSEN: lambda: subject.loss(made()),
        "distance to dense scores, reconstructed": lambda: _distance(subject, made()),
        f"calibration loss, reconstructed, {SHORT} steps": lambda: subject.loss(
            subject.finetune(made(), 0, SHORT)
        ),
    }
    found, seconds = {}, {}
    for name, score in scores.items():
        began = time.monotonic()
        found[name] = score()
        seconds[name] = time.monotonic() - began

    def trained(model: nn.Module, seed: int) -> float:
        return cross_entropy_loss(subject.finetune(model, seed, steps), subject.validation)

    after = trained(left(), 0), trained(made(), 0), trained(made(), 1)
    return Row(graph.macs(plan) / graph.macs(graph.dense_plan()), found, seconds, after)


def _distance(subject: Subject, model: nn.Module) -> float:
    """The mean Kullback-Leibler divergence from the dense model's answers, at temperature 1."""
    rows = []
    with torch.no_grad():
        for images in subject.inputs:
            dense, pruned = (functional.log_softmax(m(images), 1) for m in (subject.model, model))
            rows.append((dense.exp() * (dense - pruned)).sum(1))
    return float(torch.cat(rows).mean())


def table(rows: Sequence[Row]) -> str:
    """τ of every score, and what reconstruction gains."""
    after = [row.trained[1] for row in rows]
    given = {name: [row.scores[name] for row in rows] for name in rows[0].scores}
    given["multiply-accumulates"] = [-row.macs for row in rows]
    given["ceiling: another seed of training"] = [row.trained[2] for row in rows]
    lines = ["| score | Kendall τ | 95 % | seconds |", "|---|---|---|---|"]
    for name, values in given.items():
        low, high = interval(values, after)
        took = f"{mean(row.seconds[name] for row in rows):.2f}" if name in rows[0].scores else ""
        lines.append(
            f"| {name} | {told(kendall(values, after))} | {low:.2f} to {high:.2f} | {took} |"
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
    parser.add_argument("--network", choices=NETWORKS, default="resnet20")
    parser.add_argument("--out", type=Path, default=Path(".scoring"), help="of trained networks")
    parser.add_argument("--plans", type=int, default=24)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    subject = Subject.of(options.network, options.data, options.out, options.steps, None)
    rows = []
    if options.json and options.json.exists():
        rows = [Row(**each) for each in json.loads(options.json.read_text())]
    chosen = plans(subject.graph, subject.scores, options.plans)
    for number, plan in enumerate(chosen[len(rows) :], start=len(rows) + 1):
        rows.append(row_of(subject, plan, options.steps))
        sys.stderr.write(f"{number} of {options.plans}: {rows[-1]}\n")
        if options.json:
            options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()
