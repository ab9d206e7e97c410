"""from_onnx: reads a file, settles the sizes of its inputs and its batch, and has it built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from onnx import ModelProto, NodeProto

from search.errors import OnnxError, first_line
from search.onnx_in.building import PROBE, Builder
from search.onnx_in.files import load_file, parsed
from search.onnx_in.free_batch import check_batch, with_free_batch
from search.onnx_in.layers import LAYERS
from search.onnx_in.module import OnnxModule
from search.onnx_in.ops.table import OPS
from search.onnx_in.reading import DOMAINS, Graph, read

PROBES = (PROBE, 41)  # some other size of the model may be the first by chance
_DAMAGE = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RecursionError,
    RuntimeError, TypeError, ValueError,
)  # fmt: skip


def from_onnx(
    data: bytes | ModelProto | str | Path,
    *,
    input_shapes: Sequence[Sequence[int]] | None = None,
    any_batch: bool = True,
) -> OnnxModule:
    """The module that computes what an ONNX model does, in float32 and evaluation mode.

    The first dimension of the first input is the batch. It stays free; a model exported for a
    fixed batch is freed, and tried. Sizes of -1 and 0 are free, as names are. Float16 is computed
    in float32, which the module's `notes` say.

    Args:
        data: the path of a file, whose external data lies beside it; the file's bytes; or the
            parsed model.
        input_shapes: without the batch, for inputs whose other sizes the file leaves open.
        any_batch: whether a fixed batch must turn out to be free; else it may stay fixed.

    Raises:
        OnnxError: the file is damaged or absurd, or holds what cannot be run or pruned: unknown
            or custom operators, control flow, quantized weights, external data that is not there.
    """
    try:
        model = load_file(data) if isinstance(data, str | Path) else data
        return _module(_with_sizes(read(model), input_shapes), any_batch)
    except OnnxError:
        raise
    except _DAMAGE as error:  # whatever a damaged file makes of numbers, names and sizes
        what = f"{type(error).__name__}: {first_line(error)}"
        raise OnnxError(f"the file must be a sound ONNX model, but: {what}") from error


def _module(graph: Graph, any_batch: bool) -> OnnxModule:
    fixed = graph.inputs[0].shape[0]
    if fixed is None or not any_batch:
        return _built(graph, fixed or PROBE)
    for probe in PROBES:  # a batch of a size unlike any other is recognised where sizes are joined
        try:
            module = _built(with_free_batch(graph), probe)
            check_batch(module, fixed)
        except OnnxError:
            continue
        return module
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
