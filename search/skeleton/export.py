"""A module as an ONNX graph whose structure depends on shapes alone, never on weight values.

The exporter's own optimiser is off, because it looks at values (a bias of zeros vanishes). Knows
nothing of plans.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import onnx_ir
import onnxscript.optimizer
import torch
from onnx import ModelProto
from onnx_ir.passes import common
from torch import Tensor, nn
from torch._export import utils as operator_tables  # private: see _operators_listed_once
from torch.onnx._internal.exporter import _core, _registration  # private: see _registry

from search.errors import ConfigError, InputError, SkeletonError
from search.graph.exported.export import batched, without_stack_traces
from search.skeleton.folding import simplify
from search.training_flags import in_evaluation

OPSET = 20
_UNLIMITED = 1 << 40
_LAYER_OPS = frozenset(("Conv", "Gemm", "MatMul"))
_SHAPE_OPS = frozenset(("Shape", "Size"))


def export_onnx(
    model: nn.Module, example_inputs: tuple[Tensor, ...], *, batch_size: int = 1
) -> bytes:
    """The model in eval mode as ONNX, with its weights and a fixed batch size.

    Every float initializer of the result is a weight; other float constants are `Constant`
    nodes. The bytes hold no names of files, versions or source lines.

    Args:
        model: left as it is, training flags included.
        example_inputs: tensors; the first dimension of the first one is the batch, and that of
            all others that have as many entries.
        batch_size: the batch size of the result, whatever that of the examples.

    Raises:
        ConfigError: batch_size is below 1.
        SkeletonError: the model cannot be exported.
    """
    proto = export_proto(model, example_inputs, batch_size=batch_size)
    onnx_bytes: bytes = proto.SerializeToString(deterministic=True)
    return onnx_bytes


def export_proto(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    *,
    batch_size: int = 1,
    free_batch: bool = False,
    opset: int = OPSET,
    free_sizes: Sequence[Sequence[int]] = (),
) -> ModelProto:
    """What `export_onnx` serialises.

    Args:
        free_batch: the first dimension of inputs that have the batch is left open; `batch_size`
            is then what the exporter sees, and must be 2 or more.
        opset: of the standard operators, 18 or more.
        free_sizes: of each input, dimensions beside the batch that are left open where the model
            allows it.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be ≥ 1, but got {batch_size}")
    names = {name for name, _ in model.named_parameters()}
    names |= {name for name, buffer in model.named_buffers() if buffer.is_floating_point()}
    inputs = _with_batch(example_inputs, batch_size)
    ir = _exported(model, inputs, opset, batch_size if free_batch else None, free_sizes)
    common.InlinePass()(ir)
    weights = _depending_on(ir, names)
    layers = _name_layers(ir, names)
    onnxscript.optimizer.fold_constants(
        ir, input_size_limit=_UNLIMITED, output_size_limit=_UNLIMITED
    )
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(ir)
    common.RemoveUnusedNodesPass()(ir)
    common.ClearMetadataAndDocStringPass()(ir)
    proto: ModelProto = onnx_ir.to_proto(ir)
    for node in proto.graph.node:
        node.name = node.name if node.name in layers else ""
    simplify(proto, weights)
    return proto


def _name_layers(ir: onnx_ir.Model, parameters: set[str]) -> set[str]:
    """Name convolutions and products of matrices by their weight; the names that were given."""
    layers = set()
    for node in ir.graph:
        if node.op_type in _LAYER_OPS and len(node.inputs) > 1:
            weight = _parameter_of(node.inputs[1], parameters)
            if weight is not None:
                node.name = weight.removesuffix(".weight")
                layers.add(node.name)
    return layers


def _parameter_of(value: onnx_ir.Value | None, parameters: set[str]) -> str | None:
    """The parameter that a value is, as it stands or transposed."""
    while value is not None and value.name not in parameters:
        maker = value.producer()
        value = maker.inputs[0] if maker is not None and maker.op_type == "Transpose" else None
    return None if value is None else value.name


def _with_batch(examples: tuple[Tensor, ...], batch_size: int) -> tuple[Tensor, ...]:
    return tuple(
        example[:1].repeat(batch_size, *[1] * (example.ndim - 1))
        if batched(example, len(examples[0]))
        else example
        for example in examples
    )


def _exported(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    opset: int,
    free: int | None,
    free_sizes: Sequence[Sequence[int]],
) -> onnx_ir.Model:
    """With the batch open where `free` is its size in the inputs."""
    sizes: tuple[Any, ...] | None = None
    batch = torch.export.Dim("batch")
    each = tuple(
        ({0: batch} if free is not None and batched(value, free) else {})
        | dict.fromkeys(dims, torch.export.Dim.AUTO)
        for value, dims in zip(inputs, free_sizes or [()] * len(inputs), strict=True)
    )
    if any(each):
        sizes = _as_arguments(model, tuple(size or None for size in each))
    try:
        with (
            in_evaluation(model),
            _exporter_hushed(),
            _operators_listed_once(),
            without_stack_traces(),
            torch.no_grad(),
        ):
            program = _core.export(
                model,
                inputs,
                registry=_registry(opset),
                dynamic_shapes=sizes,
                optimize=False,
                verbose=False,
                opset_version=opset,
            )
            if sizes is not None:
                program._rename_dynamic_axes(sizes)
    except torch.onnx.OnnxExporterError as error:
        cause = error.__cause__ if isinstance(error.__cause__, InputError) else error
        raise SkeletonError(f"a model must export to ONNX, but got: {cause}") from error
    return program.model


@cache
def _registry(opset: int) -> _registration.ONNXRegistry:
    """The exporter's table of operators. `torch.onnx.export` reads all of it from source code
    again in each call, which takes as long as the export of a small network."""
    return _registration.ONNXRegistry.from_torchlib(opset)


@contextmanager
def _operators_listed_once() -> Iterator[None]:
    """Inside, torch lists the operators of its dispatcher once, not once for each of its two dozen
    name spaces and twice over, which took an eighth of the export of a small network."""
    listed = operator_tables._materialize_cpp_cia_ops
    operator_tables._materialize_cpp_cia_ops = cache(listed)
    try:
        yield
    finally:
        operator_tables._materialize_cpp_cia_ops = listed


def _as_arguments(model: nn.Module, sizes: tuple[Any, ...]) -> tuple[Any, ...]:
    """As torch.export wants them: those of `*inputs` are one argument."""
    parameters = inspect.signature(model.forward).parameters.values()
    kinds = [each.kind for each in parameters]
    return (sizes,) if kinds[:1] == [inspect.Parameter.VAR_POSITIONAL] else sizes


@contextmanager
def _exporter_hushed() -> Iterator[None]:
    """The exporter warns of its own deprecations and of packages it does not need."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _depending_on(ir: onnx_ir.Model, names: set[str]) -> set[str]:
    """Names of all values computed from the named ones, except through their shape or type."""
    tainted = set(names)
    for node in ir.graph:
        read = node.inputs[:1] if node.op_type == "CastLike" else node.inputs
        used = {value.name for value in read if value is not None}
        if node.op_type not in _SHAPE_OPS and used & tainted:
            tainted |= {value.name for value in node.outputs if value.name is not None}
    return tainted
