"""The same models pruned by other tools, where those are installed.

Only what can be asked of any tool is: that the pruned model runs forward and backward, and how
many multiply-accumulates went. Their outputs are not compared with anything.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from benchmarks.coverage import checks
from benchmarks.coverage.oracle import outputs_of
from benchmarks.coverage.rows import Row, is_enough
from benchmarks.coverage.stages import Stages
from benchmarks.coverage.subjects import load

Inputs = tuple[Tensor, ...]


def examine_peer(tool: str, name: str, folder: Path) -> Row:
    """The row that `tool` earns on `name`; its name is `tool/name`."""
    stages, removed = Stages(folder), 0.0
    failure = ""
    try:
        with stages.stage("build"):
            model, inputs = load(name)
        dense = checks.macs_of(model, inputs)
        with stages.stage("prune"):
            pruned = PEERS[tool](model, inputs)
        with stages.stage("forward"):
            outputs_of(pruned, inputs)
            removed = round(1 - checks.macs_of(pruned, inputs) / max(1, dense), 4)
        with stages.stage("train"):
            checks.train_once(pruned, model, inputs)
    except Exception as error:  # every failure is a row
        failure = f"{stages.current}: {checks.said(error)}"
    enough = is_enough(removed, 0.0)
    return Row(
        name=f"{tool}/{name}",
        status="failed" if failure else "ok" if enough else "frozen",
        macs_removed=removed,
        seconds=round(stages.analysis_s, 2),
        reason=failure or ("" if enough else "it removes too little"),
        detail={"traced": "forward" in stages.seconds, "stages": stages.seconds},
    )


def _torch_pruning(model: nn.Module, inputs: Inputs) -> nn.Module:
    """Half of the channels of every group but those of the last linear layer or convolution."""
    library = importlib.import_module("torch_pruning")
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    pruner: Any = library.pruner.MagnitudePruner(
        model,
        inputs,
        importance=library.importance.MagnitudeImportance(p=1),
        pruning_ratio=0.5,
        ignored_layers=layers[-1:],
    )
    pruner.step()
    return model


def _fastnas(model: nn.Module, inputs: Inputs) -> nn.Module:
    """The smallest network of ModelOpt's search space."""
    library = importlib.import_module("modelopt.torch.nas")
    space = library.convert(model, mode="fastnas")
    library.sample(space, sample_func=min)
    smallest: nn.Module = library.export(space)
    return smallest


PEERS: Mapping[str, Callable[[nn.Module, Inputs], nn.Module]] = {
    "modelopt-fastnas": _fastnas,
    "torch-pruning": _torch_pruning,
}
