"""The pruned model from the files that a job, or `Result.save`, wrote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.errors import SecateurError

if TYPE_CHECKING:
    from torch import nn

PLAN, WEIGHTS = "plan.json", "model.safetensors"


def load(files: str | Path | Sequence[str | Path], model: nn.Module | str | Path) -> nn.Module:
    """The pruned model, in eval mode.

    Args:
        files: The folder of the result, or its `plan.json` and `model.safetensors` in any order.
        model: A dense network of the architecture that was pruned, as your code builds it; its
            weights do not matter, and it is not touched. Of a network that came as an ONNX file,
            that file.

    Returns:
        Your own class with smaller tensors, or a `PrunedGraph` where `plan.json` says
        `"form": "graph"`: a module with the same names that trains and exports.

    Raises:
        SecateurError: A file is missing.
        search.errors.PlanError: The plan is malformed or made for another architecture.
        search.errors.WeightsError: The weights do not fit the pruned model.
    """
    from search.loading import load_pruned

    plan, weights = _paths(files)
    if isinstance(model, str | Path):
        model = _of_onnx_file(Path(model), plan)
    pruned = load_pruned(_like_the_traced(model, plan), plan, weights)
    return pruned.eval()


def _paths(files: str | Path | Sequence[str | Path]) -> tuple[Path, Path]:
    if isinstance(files, str | Path):
        folder = Path(files)
        if not folder.is_dir():
            raise SecateurError(f"files must be the folder of a result, but got {folder}")
        found = [folder / PLAN, folder / WEIGHTS]
    else:
        found = [Path(each) for each in files]
    plans = [each for each in found if each.suffix == ".json" and each.is_file()]
    weights = [each for each in found if each.suffix == ".safetensors" and each.is_file()]
    if len(plans) != 1 or len(weights) != 1:
        told = ", ".join(str(each) for each in found)
        raise SecateurError(
            f"files must hold one {PLAN} and one {WEIGHTS}, but got {told}, of which "
            f"{len(plans)} plans and {len(weights)} weights are there"
        )
    return plans[0], weights[0]


def _like_the_traced(model: nn.Module, plan: Path) -> nn.Module:
    """The network as it was traced: one that returns an output object was traced for its class
    scores alone, and an exported graph has to be exported from the same."""
    import copy

    import torch

    from search.scores import scores_only

    try:
        document = json.loads(plan.read_text(encoding="utf-8"))
        if document.get("form") != "graph":
            return model
        inputs = [
            torch.zeros(each["shape"], dtype=getattr(torch, each["dtype"]))
            for each in document["inputs"]
        ]
        with torch.no_grad():
            output = copy.deepcopy(model).eval()(*inputs)
    except Exception:
        return model  # the error that loading has to tell is clearer
    return model if isinstance(output, torch.Tensor) else scores_only(copy.deepcopy(model))


def _of_onnx_file(path: Path, plan: Path) -> nn.Module:
    from search.onnx_in import from_onnx

    document = json.loads(plan.read_text(encoding="utf-8"))
    shapes = [tuple(each["shape"][1:]) for each in document["inputs"]]
    return from_onnx(path, input_shapes=shapes)
