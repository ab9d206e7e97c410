"""Output shapes of the operators that decide a convolutional network's cost. Not a full shape
inference: an operator without a rule passes the shape of its first input on, which is right for
elementwise ones.
"""

import math
from collections.abc import Mapping

from latency_probes.onnx_reader import Node, OnnxFormatError, Structure

Dims = tuple[int, ...]
Shapes = Mapping[str, Dims]


def count(dims: Dims) -> int:
    """The number of elements."""
    return math.prod(dims)


def infer(structure: Structure) -> Shapes:
    """The dims of every value in the graph that can be told; sizes that are free count as one.

    Raises:
        OnnxFormatError: an input's rank is not known.
    """
    known: dict[str, Dims] = {name: t.dims for name, t in structure.initializers.items()}
    for value in structure.inputs:
        if not value.dims:
            raise OnnxFormatError(
                f"input {value.name!r} must have a fixed shape, but got {value.dims}"
            )
        known[value.name] = tuple(size or 1 for size in value.dims)
    for node in structure.nodes:
        dims = _output(node, [known.get(name, ()) for name in node.inputs])
        known.update(dict.fromkeys(node.outputs, dims))
    return known


def _output(node: Node, inputs: list[Dims]) -> Dims:
    first = inputs[0] if inputs else ()
    second = inputs[1] if len(inputs) > 1 else ()
    if node.op == "Conv" and len(first) >= 3 and len(second) == len(first):
        return (first[0], second[0], *_window(node, first[2:], second[2:]))
    if node.op in {"MaxPool", "AveragePool"} and len(first) >= 3:
        return (*first[:2], *_window(node, first[2:], node.attributes.get("kernel_shape", ())))
    if node.op.startswith("Global") and len(first) >= 3:
        return (*first[:2], *(1 for _ in first[2:]))
    if node.op == "ReduceMean" and len(first) == 4:
        return first[:2] if node.attributes.get("keepdims") == (0,) else (*first[:2], 1, 1)
    if node.op in {"Flatten", "Reshape"} and first:
        return (first[0], count(first[1:]))
    if node.op == "Gemm" and len(second) == 2 and first:
        return (first[0], second[0] if node.attributes.get("transB") == (1,) else second[1])
    if node.op == "MatMul" and len(second) == 2 and first:
        return (*first[:-1], second[1])
    if node.op == "Concat" and first:
        return _concatenated(node, inputs)
    return max(inputs, key=count, default=()) if node.op in {"Add", "Mul", "Sub"} else first


def _window(node: Node, sizes: Dims, kernel: Dims) -> Dims:
    """(size + padding - reach) / stride + 1, rounded down, along each spatial axis."""
    axes = len(sizes)
    strides = node.attributes.get("strides", (1,) * axes)
    dilations = node.attributes.get("dilations", (1,) * axes)
    pads = node.attributes.get("pads", (0,) * (2 * axes))
    if not len(kernel) == len(strides) == len(dilations) == len(pads) // 2 == axes:
        raise OnnxFormatError(f"{node.op} must have one kernel size and stride per axis")
    found = []
    for axis, size in enumerate(sizes):
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        padding = pads[axis] + pads[axis + axes]
        found.append(max((size + padding - reach) // max(strides[axis], 1) + 1, 1))
    return tuple(found)


def _concatenated(node: Node, inputs: list[Dims]) -> Dims:
    axis = node.attributes.get("axis", (1,))[0]
    first = inputs[0]
    if any(len(dims) != len(first) for dims in inputs) or not -len(first) <= axis < len(first):
        return first
    total = sum(dims[axis] for dims in inputs)
    return tuple(total if i == axis % len(first) else d for i, d in enumerate(first))
