"""Error messages for a model that cannot be analysed, with the line of its code that is the cause.

It looks at modules and exceptions; it knows neither graphs nor pruning.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from search.errors import ExportError, GraphError
from search.tensors import named_tensors

_LIBRARIES = (f"{Path(torch.__file__).parent}{os.sep}", f"{Path(__file__).parents[2]}{os.sep}")
_LONGEST = 200


def check_model(model: nn.Module) -> None:
    """Refuse what no analysis can help.

    Raises:
        GraphError: it is compiled or scripted, has no parameters, or holds a tensor that is not
            a dense tensor of finite numbers.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise GraphError(
            "the model must be a plain nn.Module, but got a TorchScript module: submit the module "
            "that it was made from"
        )
    if hasattr(model, "_orig_mod"):
        raise GraphError(
            "the model must not be compiled yet, but got the result of torch.compile: trace and "
            "prune the module itself, then compile the pruned one"
        )
    if not isinstance(model, nn.Module):
        raise GraphError(f"the model must be an nn.Module, but got {type(model).__name__}")
    _check_quantized(model)
    for name, tensor in named_tensors(model).items():
        _check_tensor(name, tensor)
    if not any(True for _ in model.parameters()):
        raise GraphError("the model must have parameters to prune, but got none")


def _check_quantized(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if ".quantized" in type(module).__module__:
            raise GraphError(
                f"the model must be pruned before it is quantized, but {name or 'it'!r} is a "
                f"quantized {type(module).__name__}"
            )


def _check_tensor(name: str, tensor: Tensor) -> None:
    if nn.parameter.is_lazy(tensor):
        raise GraphError(
            f"every parameter must have a shape, but {name!r} is lazy: run the model once first"
        )
    if tensor.is_quantized or tensor.layout is not torch.strided:
        kind = "quantized" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
        raise GraphError(f"parameters and buffers must be dense, but {name!r} is {kind}")
    if tensor.is_meta:
        raise GraphError(f"parameters must have values, but {name!r} is on the meta device")
    if isinstance(tensor, nn.Parameter) and not bool(torch.isfinite(tensor.detach()).all()):
        count = int((~torch.isfinite(tensor.detach())).sum())
        raise GraphError(
            f"the weights must be finite numbers, but {name!r} holds {count} that "
            f"{'is' if count == 1 else 'are'} not"
        )


def check_inputs(inputs: Sequence[Tensor]) -> None:
    """Refuse inputs that hide everything behind them.

    Raises:
        GraphError: an input holds values that are not finite numbers.
    """
    for place, value in enumerate(inputs):
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise GraphError(
                f"example_inputs must be finite numbers, but number {place} holds others"
            )


def check_outputs(graph: fx.Graph, *, reads_parameters: bool) -> None:
    """Refuse a model whose outputs do not depend on its parameters.

    Raises:
        GraphError: it returns no tensor, or reads none of its parameters.
    """
    if not graph.output_node().all_input_nodes:
        raise GraphError("the model must return tensors, but got none")
    if not reads_parameters:
        raise GraphError("the model's output must depend on its parameters, but it reads none")


def refusal(model: nn.Module, inputs: Sequence[Tensor], failure: Exception) -> GraphError:
    """Why torch.export fails: the model does not run, its flow depends on values, or else."""
    if isinstance(failure, GuardOnDataDependentSymNode):
        return ExportError(
            "the model's forward must not depend on the values of tensors, but it does"
            f"{_place(failure)}: use torch.where, or move this out of the part to be pruned"
        )
    own = _own_failure(model, inputs)
    if own is None:
        what = "the model must be traceable by torch.export"
        return ExportError(f"{what}, but got: {summary_of(failure)}{_place(failure)}")
    hint = (
        "; the analysis runs in float64, so tensors must be created with the dtype of the input"
        if "double" in str(own).lower() and "long" not in str(own).lower()
        else ""
    )
    what = "the model must run on its example inputs"
    return GraphError(f"{what}, but got: {summary_of(own)}{_place(own)}{hint}")


def _own_failure(model: nn.Module, inputs: Sequence[Tensor]) -> Exception | None:
    try:
        with torch.no_grad():
            model(*(value.clone() for value in inputs))
    except Exception as error:  # whatever the forward of a user's module raises
        return error
    return None


def summary_of(error: Exception) -> str:
    """The type of an error and the first line of its message."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:_LONGEST]}" if text else type(error).__name__


def _place(error: Exception) -> str:
    """The last line of code on the way to the error that is neither torch's nor ours."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((*_LIBRARIES, "<"))
    ]
    if not frames:
        return ""
    last = frames[-1]
    place = f"{Path(last.filename).name}:{last.lineno} in {last.name}"
    return f" ({place}: `{last.line}`)" if last.line else f" ({place})"
