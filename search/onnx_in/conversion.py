"""from_onnx: reads a file, settles the sizes of its inputs and its batch, and has it built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnx import ModelProto, NodeProto

from search.errors import OnnxError
from search.onnx_in.building import PROBE, Builder
from search.onnx_in.free_batch import check_batch, with_free_batch
from search.onnx_in.layers import LAYERS
from search.onnx_in.module import OnnxModule
from search.onnx_in.ops.table import OPS
from search.onnx_in.reading import DOMAINS, Graph, parsed, read


def from_onnx(
    data: bytes | ModelProto,
    *,
    input_shapes: Sequence[Sequence[int]] | None = None,
    any_batch: bool = True,
) -> OnnxModule:
    """The module that computes what an ONNX model does, in float32 and evaluation mode.

    The first dimension of the first input is the batch. It stays free; a model exported for a
    fixed batch is freed, and tried.

    Args:
        data: the file's bytes, or the parsed model.
        input_shapes: without the batch, for inputs whose other sizes the file leaves open.
        any_batch: whether a fixed batch must turn out to be free; else it may stay fixed.

    Raises:
        OnnxError: the file is damaged or absurd, or holds what cannot be run or pruned: unknown
            or custom operators, control flow, other types than float32, external data.
    """
    graph = _with_sizes(read(data), input_shapes)
    fixed = graph.inputs[0].shape[0]
    if fixed is None or not any_batch:
        return _built(graph, fixed or PROBE)
    try:  # a batch of a size unlike any other is recognised where sizes are joined
        module = _built(with_free_batch(graph), PROBE)
        check_batch(module, fixed)
    except OnnxError:
        module = _built(graph, fixed)
        check_batch(module, fixed)
    return module


def _built(graph: Graph, batch: int) -> OnnxModule:
    builder = Builder(graph, batch)
    for node in graph.nodes:
        builder.add(node)
    return builder.finished()


def unknown_operators(data: bytes) -> tuple[str, ...]:
    """The operators of a model that `from_onnx` has nothing for, sorted.

    Raises:
        OnnxError: the file is no ONNX model.
    """
    names = (_operator(node) for node in parsed(data).graph.node)
    return tuple(sorted({name for name in names if name not in OPS and name not in LAYERS}))


def _operator(node: NodeProto) -> str:
    """With its domain where that is not the standard one."""
    return node.op_type if node.domain in DOMAINS else f"{node.domain}.{node.op_type}"


def _with_sizes(graph: Graph, shapes: Sequence[Sequence[int]] | None) -> Graph:
    if shapes is not None and len(shapes) != len(graph.inputs):
        raise OnnxError(f"input_shapes must be {len(graph.inputs)}, but got {len(shapes)}")
    inputs = []
    for place, each in enumerate(graph.inputs):
        given = each.shape[1:] if shapes is None else tuple(shapes[place])
        if len(given) != len(each.shape) - 1 or any(
            own not in (None, size) for own, size in zip(each.shape[1:], given, strict=True)
        ):
            raise OnnxError(
                f"input {each.name!r} must have shape {list(each.shape[1:])} without the batch, "
                f"but got {list(given)}"
            )
        if None in given:
            raise OnnxError(
                f"only the batch of input {each.name!r} may be free, but its shape is "
                f"{['free' if size is None else size for size in each.shape]}: give input_shape"
            )
        inputs.append(replace(each, shape=(each.shape[0], *given)))
    return replace(graph, inputs=tuple(inputs))
