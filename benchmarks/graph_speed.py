"""How long the analysis and the cutting of a network take, and how much memory.

    python -m benchmarks.graph_speed --json OUT

Beside Torch-Pruning's dependency graph on the same machine, where it is installed. Every tool
runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.coverage.plans import half_plan, random_plan
from benchmarks.coverage.subjects import load

REPEATS = 5
KIBIBYTE = 1024


@dataclass(frozen=True)
class Figure:
    """One measured quantity.

    Attributes:
        limit: what the issue allows; None where it names none.
    """

    name: str
    value: float
    unit: str
    limit: float | None = None


def measure_secateur(name: str) -> list[Figure]:
    """Trace with verification, prune from a plan, and the skeleton of a new plan."""
    from search import prune, trace
    from search.skeleton.factory import SkeletonFactory

    model, inputs = load(name)
    model(*inputs)
    before = peak_bytes()
    cpu_before = time.process_time()
    graph, trace_s = timed(lambda: trace(model, inputs, time_limit_s=600))
    cpu_s = time.process_time() - cpu_before
    used = peak_bytes() - before
    plan = half_plan(graph)
    pruned = prune(model, graph, plan)
    prune_s = best(lambda: prune(model, graph, plan))
    copy_s = best(lambda: copy.deepcopy(pruned))
    factory = SkeletonFactory(graph)
    _, first_s = timed(lambda: factory.derive(plan))
    plans = iter([random_plan(graph, seed) for seed in range(REPEATS)])
    skeleton_s = best(lambda: factory.derive(next(plans)))
    return [
        Figure("trace and verify", trace_s, "s", 8.0),
        Figure("processor time of it", cpu_s, "s"),
        Figure("prune, beyond copying", max(0.0, prune_s - copy_s), "s", 0.1),
        Figure("copying", copy_s, "s"),
        Figure("peak memory over model", used / model_bytes(model, inputs), "×", 4.0),
        Figure("first skeleton", first_s, "s"),
        Figure("skeleton of a new plan", 1e3 * skeleton_s, "ms", 30.0),
    ]


def measure_torch_pruning(name: str) -> list[Figure]:
    """Its dependency graph, and pruning every group that it allows to half width."""
    torch_pruning = importlib.import_module("torch_pruning")
    model, inputs = load(name)
    model(*inputs)
    before = peak_bytes()
    graph = torch_pruning.DependencyGraph()
    _, trace_s = timed(lambda: graph.build_dependency(model, example_inputs=inputs))
    used = peak_bytes() - before
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    pruner = torch_pruning.pruner.MagnitudePruner(
        model,
        inputs,
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=0.5,
        ignored_layers=last,
    )
    _, prune_s = timed(pruner.step)
    return [
        Figure("trace and verify", trace_s, "s"),
        Figure("prune, beyond copying", prune_s, "s"),
        Figure("peak memory over model", used / model_bytes(model, inputs), "×"),
    ]


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """What `action` returns, and its seconds."""
    begun = time.perf_counter()
    result = action()
    return result, time.perf_counter() - begun


def best(action: Callable[[], Any]) -> float:
    """The least seconds of REPEATS runs: noise only ever adds."""
    return min(timed(action)[1] for _ in range(REPEATS))


def peak_bytes() -> int:
    """The largest resident memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBIBYTE


def model_bytes(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """The model and a batch of its inputs."""
    held = [*model.parameters(), *model.buffers(), *inputs]
    return sum(tensor.numel() * tensor.element_size() for tensor in held)


TOOLS: Mapping[str, Callable[[str], list[Figure]]] = {
    "secateur": measure_secateur,
    "torch-pruning": measure_torch_pruning,
}


def _in_child(tool: str, name: str, threads: int, pipe: Connection) -> None:
    torch.set_num_threads(threads)
    try:
        pipe.send(TOOLS[tool](name))
    except ImportError:
        pipe.send([])


def measured(tool: str, name: str, threads: int) -> list[Figure]:
    """The figures of one tool, from a fresh process; none where it is not installed."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_in_child, args=(tool, name, threads, sending))
    process.start()
    sending.close()
    try:
        figures: list[Figure] = receiving.recv()
    except EOFError:
        raise SystemExit(f"{tool} died while it measured {name}") from None
    finally:
        process.join()
    return figures


def table(found: Mapping[str, list[Figure]]) -> str:
    """A line per figure, a column per tool."""
    values = {tool: {figure.name: figure for figure in figures} for tool, figures in found.items()}
    lines = [f"{'':24}" + "".join(f"{tool:>18}" for tool in found) + f"{'limit':>10}"]
    for figure in found["secateur"]:
        line = f"{figure.name:24}"
        for tool in found:
            own = values[tool].get(figure.name)
            line += f"{f'{own.value:.3f} {own.unit}' if own else '–':>18}"
        line += f"{'' if figure.limit is None else f'{figure.limit:g} {figure.unit}':>10}"
        lines.append(line.rstrip())
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="torchvision:resnet50")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = {tool: measured(tool, options.model, options.threads) for tool in TOOLS}
    sys.stdout.write(table(found))
    if options.json:
        document = {tool: [vars(figure) for figure in figures] for tool, figures in found.items()}
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
