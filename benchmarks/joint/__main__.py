"""Widths and int8 in one search, against float pruning, int8, and one after the other.

    python -m benchmarks.joint --data DIR --out DIR [--quick] [--networks resnet20 vit mobilenet]

DIR of `--data` holds Fashion-MNIST (`python -m examples.fetch_fashion_mnist --out DIR`). All ways
get the same fine-tuning. The cells lie in `--out`, one JSON each; a run that was ended goes on.
Where the processor has no int8 instructions, the table says so.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import secateur
from benchmarks.joint.cells import WAYS, Cell, best_simple, verdict
from benchmarks.joint.networks import trained
from benchmarks.kept import kept
from latency_probes.local import Failed, LocalModel, LocalProbe
from latency_probes.machine import read as read_machine
from latency_probes.messages import Settings, Target
from search.candidates import quantized
from search.constraints import Constraints
from search.graph import PruningGraph, trace
from search.onnx_out import deliver_quantized, exact_file, file_accuracy
from search.plan import INT8, Plan
from search.quantization import Format, precision_segments
from search.skeleton import export_onnx, operators, skeleton
from secateur.precision import int8_here
from secateur.result import Result
from workers.loaders.arrays import read_idx

BUDGETS = {"resnet20": (0.42, 0.35, 0.25), "vit": (0.6,), "mobilenet": (0.5, 0.35)}
SEARCH = {"levels": 3, "beam_width": 3, "children": 6}
VNNI = {"avx512_vnni", "avx_vnni", "amx_int8", "neon"}


@dataclass(frozen=True)
class Subject:
    """A trained network with its data, its graph, and the layers that may be in int8."""

    name: str
    model: nn.Module
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    steps: int
    graph: PruningGraph
    form: Format
    layers: tuple[str, ...]

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.test[0].split(128), self.test[1].split(128), strict=True))


def images_of(folder: Path, kind: str) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28) in [0, 1], as the networks are trained on them, and labels (N,)."""
    (pixels,) = folder.rglob(f"{kind}-images-idx3-ubyte*")
    (labels,) = folder.rglob(f"{kind}-labels-idx1-ubyte*")
    values = torch.from_numpy(read_idx(pixels, dimensions=3)).float()[:, None] / 255
    return values, torch.from_numpy(read_idx(labels, dimensions=1)).long()


def pruned(subject: Subject, budget: float, precision: str) -> Result:
    """What `secateur.prune` makes of it."""
    return secateur.prune(
        subject.model,
        subject.train,
        ratio=budget,
        precision=precision,
        search=SEARCH,
        finetune={"steps": subject.steps, "shift": 2, "flip": True},
        progress=False,
    )


def cell_of(subject: Subject, budget: float, way: str, result: Result) -> Cell:
    low, high = result.ratio_interval
    reached = file_accuracy(exact_file(result.onnx), subject.batches())
    layers = len(result.plan.precision)
    return Cell(
        subject.name, budget, way, result.ratio, low, high, reached, layers, result.seconds
    )


def rounded(
    subject: Subject, budget: float, way: str, plan: Plan, model: nn.Module, began: float
) -> Cell:
    """A float network, pruned by a plan or not, with all of its layers in int8."""
    graph, form = subject.graph, subject.form
    whole = Plan(plan.kept, precision=dict.fromkeys(subject.layers, INT8))
    calibration = [subject.train[0][:512]]
    made = quantized(graph.model, graph, whole, model, calibration, form)
    file = deliver_quantized(
        made, model, graph.model, graph.example_inputs, lambda count: (subject.test[0][:count],)
    ).onnx_bytes
    dense = export_onnx(graph.model, graph.example_inputs)
    probe = LocalProbe(dense, settings=Settings.strict())
    (found,) = probe([LocalModel(file)])
    probe.close()
    if isinstance(found, Failed):
        raise SystemExit(f"{way} could not be measured: {found.message}")
    return Cell(
        subject.name, budget, way, found.ratio, found.ratio_low, found.ratio_high,
        file_accuracy(exact_file(file), subject.batches()), len(made.int8_layers),
        time.monotonic() - began,
    )  # fmt: skip


def subject_of(name: str, options: argparse.Namespace) -> Subject:
    """One of the networks of this comparison, with Fashion-MNIST."""
    train, test = (images_of(options.data, kind) for kind in ("train", "t10k"))
    model = trained(name, options.out, *train, options.epochs)
    return quantizable(name, model, train, test, options.steps)


def quantizable(
    name: str,
    model: nn.Module,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    steps: int,
) -> Subject:
    """The trained network, its graph, and its fastest format on this machine."""
    graph = trace(model, (train[0][:2],))
    probe = LocalProbe(skeleton(graph, graph.dense_plan()).onnx_bytes)
    found = int8_here(graph, Constraints(), Target(), probe, "int8", lambda form: None)
    probe.close()
    if found.form is None:
        raise SystemExit("ONNX Runtime must run the network in int8, but does not")
    sys.stderr.write(f"{name}: {dict(found.ratios)}\n")
    segments = precision_segments(graph, operators(graph), Constraints())
    layers = tuple(layer for each in segments for layer in each.layers)
    return Subject(name, model, train, test, steps, graph, found.form, layers)


def cells_of(subject: Subject, budgets: Sequence[float], out: Path) -> list[Cell]:
    """Every way at every budget."""

    def cell(budget: float, way: str, make: Callable[[], Cell]) -> Cell:
        name = f"{subject.name}-{budget:g}-{way.replace(', ', '-').replace(' ', '-')}"
        found = Cell(**kept(out / "cells", name, lambda: asdict(make())))
        sys.stderr.write(
            f"{name}: {found.ratio:.3f}, {found.accuracy:.2%}, {found.seconds:.0f} s\n"
        )
        return found

    graph = subject.graph
    dense = graph.dense_plan()
    cells = [
        cell(
            1.0,
            "int8",
            lambda: rounded(subject, 1.0, "int8", dense, graph.model, time.monotonic()),
        )
    ]
    for budget in budgets:
        cells += _at_budget(subject, budget, cell)
    return cells


def _at_budget(subject: Subject, budget: float, cell: Any) -> list[Cell]:
    began = time.monotonic()
    floats: list[Result] = []

    def in_float() -> Result:
        if not floats:
            floats.append(pruned(subject, budget, "float32"))
        return floats[0]

    def after() -> Cell:
        found = in_float()
        return rounded(subject, budget, "float, then int8", found.plan, found.model, began)

    return [
        cell(budget, "float", lambda: cell_of(subject, budget, "float", in_float())),
        cell(budget, "float, then int8", after),
        cell(
            budget,
            "both",
            lambda: cell_of(subject, budget, "both", pruned(subject, budget, "int8")),
        ),
    ]


def table(cells: Sequence[Cell]) -> str:
    """The cells, and what both together do better."""
    lines = [
        "| network | budget | way | latency ratio | test accuracy | int8 layers | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for c in cells:
        budget = "" if c.way == "int8" else f"{c.budget:g}"
        lines.append(
            f"| {c.network} | {budget} | {c.way} | {c.ratio:.3f} [{c.low:.3f}, {c.high:.3f}] | "
            f"{c.accuracy:.2%} | {c.layers} | {c.seconds:.0f} |"
        )
    lines += [
        "",
        "| network | budget | both | best simple way within it | points | latency | |",
        "|---|---|---|---|---|---|---|",
    ]
    for c in cells:
        if c.way != "both":
            continue
        simple = best_simple([each for each in cells if each.network == c.network], c.budget)
        said = verdict(c, simple)
        other = (
            "none"
            if simple is None
            else f"{simple.way}: {simple.ratio:.3f}, {simple.accuracy:.2%}"
        )
        points = "" if said["points"] is None else f"{said['points']:+.2f}"
        speed = "" if said["speed"] is None else f"{said['speed']:.2f}"
        lines.append(
            f"| {c.network} | {c.budget:g} | {c.ratio:.3f}, {c.accuracy:.2%} | {other} | {points} "
            f"| {speed} | {said['word']} |"
        )
    return "\n".join(lines)


def plot(cells: Sequence[Cell], path: Path) -> None:
    """Accuracy over the latency ratio, one panel a network."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    names = sorted({cell.network for cell in cells})
    figure, axes = pyplot.subplots(1, len(names), figsize=(6 * len(names), 4), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        for way in WAYS:
            own = [cell for cell in cells if cell.network == name and cell.way == way]
            errors = [[c.ratio - c.low for c in own], [c.high - c.ratio for c in own]]
            axis.errorbar(
                [c.ratio for c in own], [100 * c.accuracy for c in own], xerr=errors,
                fmt="o-", label=way, capsize=2,
            )  # fmt: skip
        axis.set(
            title=name, xlabel="latency, as a part of the dense model's", ylabel="test accuracy, %"
        )
        axis.legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", choices=BUDGETS, default=list(BUDGETS))
    parser.add_argument("--budgets", nargs="+", type=float)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument(
        "--epochs", type=int, default=10, help="of training, where a network is new"
    )
    parser.add_argument("--quick", action="store_true", help="ResNet-20 at one budget")
    options = parser.parse_args()
    if options.quick:
        options.networks, options.budgets = ["resnet20"], options.budgets or [0.35]
    cells = []
    for name in options.networks:
        budgets = options.budgets or BUDGETS[name]
        cells += cells_of(subject_of(name, options), budgets, options.out)
    machine = read_machine(())
    if not VNNI & set(machine["isa"] or ()):
        sys.stdout.write(
            "This processor has no int8 instructions: what int8 gains here is little.\n"
        )
    sys.stdout.write(table(cells) + "\n")
    document = {"machine": machine, "versions": versions(), "cells": [asdict(c) for c in cells]}
    (options.out / "joint.json").write_text(json.dumps(document, indent=1))
    plot(cells, options.out / "joint.png")


def versions() -> dict[str, str]:
    """Of what computes."""
    import onnxruntime

    return {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}


if __name__ == "__main__":
    main()
