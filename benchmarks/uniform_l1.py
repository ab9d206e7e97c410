"""The control: every group pruned alike by L1 to the latency of a finished job, fine-tuned alike.

    python -m benchmarks.uniform_l1 --report report.json --data DIR --json OUT --plot OUT.png

Uses the library without the service. DIR holds Fashion-MNIST; the network is that of the demo.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from examples.resnet20 import resnet20
from jobs.spec import JobSpec
from latency_probes.local import Failed, LocalProbe
from latency_probes.messages import Settings
from search.criteria import best_units, score_channels
from search.evaluation import accuracy
from search.finetuning import Finetune, FinetuneConfig
from search.graph import PruningGraph, trace
from search.plan import Plan
from search.recalibration import recalibrate
from search.skeleton import skeleton
from search.splits import split_indices
from search.surgery import prune
from workers.loaders.datasets import Images, Source
from workers.tasks.finetune import finetune_config

CHECKPOINT = Path("examples/checkpoints/resnet20_fashion_mnist.safetensors")
STEPS = 32
BATCH = 128


@dataclass(frozen=True)
class Trial:
    """One uniform plan and its measured ratio."""

    share: float
    plan: Plan
    ratio: float


def uniform_plan(graph: PruningGraph, scores: dict[str, Tensor], share: float) -> Plan:
    """The same share of every prunable group kept, best L1 first."""
    kept = dict(graph.dense_plan().kept)
    for group in graph.prunable:
        kept[group.name] = best_units(
            scores[group.name],
            max(group.min_width, round(share * group.width)),
            group.required_any_of,
        )
    return Plan(kept)


def closest(graph: PruningGraph, scores: dict[str, Tensor], ratio: float, cores: Any) -> Trial:
    """The widest uniform plan that is at most as slow as `ratio`, by strict measurement."""
    dense = skeleton(graph, graph.dense_plan()).onnx_bytes
    screen = LocalProbe(dense, cores=cores)
    strict = LocalProbe(dense, settings=Settings.strict(), cores=cores)
    trials = []
    for step in range(2, STEPS):
        plan = uniform_plan(graph, scores, step / STEPS)
        trials.append(Trial(step / STEPS, plan, measured(screen, graph, plan)))
        sys.stderr.write(f"share {step / STEPS:.3f}: ratio {trials[-1].ratio:.4f}\n")
    for trial in sorted(trials, key=lambda trial: -trial.share):
        if trial.ratio <= ratio * 1.02:
            confirmed = measured(strict, graph, trial.plan)
            if confirmed <= ratio * 1.005:
                return Trial(trial.share, trial.plan, confirmed)
    raise SystemExit(f"no uniform plan reaches the ratio {ratio:.4f}")


def measured(probe: LocalProbe, graph: PruningGraph, plan: Plan) -> float:
    """The plan's latency ratio; infinite where it could not be measured."""
    (outcome,) = probe([skeleton(graph, plan)])
    return float("inf") if isinstance(outcome, Failed) else outcome.ratio


def finetuned(graph: PruningGraph, plan: Plan, train: Images, config: FinetuneConfig) -> nn.Module:
    """The plan's model after the job's own fine-tuning, on the job's own split."""
    splits = split_indices(len(train), seed=config.seed)
    student = prune(graph.model, graph, plan)
    calibration = [train.batch(part) for part in torch.split(splits.calibration, BATCH)]
    recalibrate(student, calibration)
    Finetune(student, graph.model, *train.select(splits.fit), config).run()
    return student


def test_accuracy(model: nn.Module, test: Images) -> float:
    """Share of the test images classified right."""
    return accuracy(model, (test.slice(at, at + BATCH) for at in range(0, len(test), BATCH)))


def compare(report: dict[str, Any], data: Path, cores: Any) -> dict[str, Any]:
    """The control's numbers beside the job's."""
    torch.set_num_threads(1)
    job, result = report["job"]["spec"], report["result"]
    model = resnet20()
    model.load_state_dict(load_file(CHECKPOINT))
    graph = trace(model.eval(), (torch.rand(2, 1, 28, 28),))
    scores = score_channels(graph.model, graph, "l1")
    trial = closest(graph, scores, result["ratio"], cores)
    source = Source("idx", str(data))
    config = finetune_config(JobSpec.model_validate(job))
    student = finetuned(graph, trial.plan, source.read("train"), config)
    return {
        "budget_ratio": result["budget_ratio"],
        "dense_accuracy": result["dense_accuracy"],
        "secateur": {"ratio": result["ratio"], "accuracy": result["accuracy"]},
        "uniform_l1": {
            "ratio": trial.ratio,
            "accuracy": test_accuracy(student, source.read("test")),
            "share": trial.share,
        },
    }


def table(found: dict[str, Any]) -> str:
    """The comparison as text."""
    lines = ["            latency ratio   test accuracy"]
    lines.append(f"dense       {1.0:13.4f}   {found['dense_accuracy']:13.4f}")
    for name in ("secateur", "uniform_l1"):
        row = found[name]
        lines.append(f"{name:11s} {row['ratio']:13.4f}   {row['accuracy']:13.4f}")
    return "\n".join(lines) + "\n"


def plot(found: dict[str, Any], path: Path) -> None:
    """Accuracy over latency ratio."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.scatter([1.0], [found["dense_accuracy"]], label="dense")
    for name in ("secateur", "uniform_l1"):
        axes.scatter([found[name]["ratio"]], [found[name]["accuracy"]], label=name)
    axes.axvline(found["budget_ratio"], linestyle="--", color="grey")
    axes.set_xlabel("latency, ratio to dense")
    axes.set_ylabel("test accuracy")
    axes.legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--core", type=int, help="core to measure on; by default the last one")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    cores = None if options.core is None else (options.core,)
    found = compare(json.loads(options.report.read_text()), options.data, cores)
    sys.stdout.write(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    if options.plot:
        plot(found, options.plot)


if __name__ == "__main__":
    main()
