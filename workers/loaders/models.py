"""A user's network, built, filled with its weights and tried once on an example input.

An ONNX file is both network and weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jobs.spec import ModelSpec
from search.errors import GraphError, OnnxError
from search.onnx_in import OnnxModule, from_onnx
from search.scores import scores_of, scores_only
from workers.loaders.architectures import build
from workers.loaders.errors import ArchitectureError, OnnxFileError
from workers.loaders.feed import Feed
from workers.loaders.weights import load_weights

TRACE_BATCH = 2
# Words by which an error is about the input's shape, and not about the network.
OF_SHAPES = re.compile(r"shape|size|dimension|channel|resolution|input|\bdim\b", re.IGNORECASE)


def load_model(
    spec: ModelSpec,
    weights: Path,
    *,
    allow: Collection[str],
    note: Callable[[str, str], None] = lambda name, told: None,
) -> nn.Module:
    """The trained network in eval mode, on the CPU.

    One that returns an output object, dict or tuple returns its class scores alone from here on,
    see `search.scores`.

    Args:
        note: is given what was adapted: `weights` or `output`, and a sentence about it.

    Raises:
        LoadError: It cannot be built, its weights do not fit, or it does not run.
    """
    if spec.is_onnx:
        model: nn.Module = load_onnx(weights, spec.input_shape)
    else:
        model = build(spec.architecture, spec.kwargs, allow=allow)
        if (told := load_weights(model, weights)) is not None:
            note("weights", told)
    output = _try_once(model, spec)
    if isinstance(output, Tensor):
        return model
    note("output", f"of {type(output).__name__} the class scores alone are used")
    return scores_only(model)


def load_onnx(path: Path, input_shape: tuple[int, ...] | None) -> OnnxModule:
    """The network in an ONNX file.

    Raises:
        OnnxFileError: It cannot be read or run, takes several inputs or other things than images,
            gives several outputs, or its weights are not finite.
    """
    try:
        shapes = None if input_shape is None else [input_shape]
        model = from_onnx(path.read_bytes(), input_shapes=shapes)
    except (OnnxError, OSError) as error:
        raise OnnxFileError(f"the ONNX file cannot be used: {error}") from error
    if len(model.inputs) != 1:
        first, *others = [repr(each.name) for each in model.inputs]
        raise OnnxFileError(
            f"the ONNX file must take one input, the images, but takes {first} and "
            f"{', '.join(others)}, for which a data set has nothing: prune it by "
            "search.from_onnx, or make the others constants"
        )
    if len(model.outputs) != 1:
        raise OnnxFileError(
            "the ONNX file must give one output, the class scores, but gives "
            f"{', '.join(map(repr, model.outputs))}: cut the others off, as by "
            "onnx.utils.extract_model, because what they are made of would be pruned as well"
        )
    Feed.of(model.example_inputs(1)[0].shape[1:], model.inputs[0].dtype)
    broken = [name for name, value in model.named_parameters() if not bool(value.isfinite().all())]
    if broken:
        raise OnnxFileError(f"weights must be finite, but {broken[0]} holds values that are not")
    return model


def input_shape(model: nn.Module, spec: ModelSpec) -> tuple[int, ...]:
    """Of one example, without the batch, as the spec or else the ONNX file says."""
    if spec.input_shape is not None:
        return spec.input_shape
    (example,) = example_inputs(model, spec)
    return tuple(example.shape[1:])


def example_inputs(model: nn.Module, spec: ModelSpec) -> tuple[Tensor, ...]:
    """Seeded noise (2, *input_shape) in [0, 1]."""
    if isinstance(model, OnnxModule):
        return model.example_inputs(TRACE_BATCH)
    generator = torch.Generator().manual_seed(0)
    return (torch.rand((TRACE_BATCH, *(spec.input_shape or ())), generator=generator),)


def input_part(model: nn.Module, spec: ModelSpec) -> dict[str, Any]:
    """What the report of a model says of its input: name, type, layout, and `notes`."""
    (example,) = example_inputs(model, spec)
    feed = Feed.of(input_shape(model, spec), example.dtype)
    part: dict[str, Any] = {"dtype": feed.dtype, "layout": feed.layout}
    if isinstance(model, OnnxModule):
        part |= {"name": model.inputs[0].name, "stored": model.inputs[0].stored}
        part |= {"notes": list(model.notes)}
    return part


def _try_once(model: nn.Module, spec: ModelSpec) -> Any:
    """What the network returns; raises ArchitectureError unless that holds class scores."""
    try:
        with torch.no_grad():
            output = model(*example_inputs(model, spec))
    except Exception as error:
        told = str(error) or type(error).__name__
        hint = "; correct input_shape (without the batch)" if OF_SHAPES.search(told) else ""
        raise ArchitectureError(
            f"{spec.architecture} does not run on inputs of shape "
            f"{list(input_shape(model, spec))}: {told}{hint}"
        ) from error
    try:
        scores = scores_of(output)
    except GraphError as error:
        raise ArchitectureError(f"{spec.architecture}: {error}") from error
    if scores.ndim != 2:
        raise ArchitectureError(
            f"{spec.architecture} must return class scores (batch, classes), but returned "
            f"{list(scores.shape)}"
        )
    return output
