"""An ONNX file pruned where it stands: weights and the numbers that name their sizes are replaced,
and everything else is what came in: names, order, opset, layout, metadata, doc strings.

Which numbers follow is read off both networks, which run once on the same inputs: a size that a
node is told, and that is another one in the pruned network, becomes that one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor

from search.errors import SkeletonError
from search.onnx_in.functions import inlined
from search.onnx_in.module import Held, OnnxModule, Step
from search.onnx_in.reading import MAX_NODES
from search.onnx_in.values import Value
from search.onnx_out.document import Array, Document, set_attribute
from search.onnx_out.values import layer_values

Shapes = Mapping[str, tuple[int, ...]]
DEFAULTS = {"group": 1, "alpha": 1.0, "beta": 1.0}
SHAPE_INPUTS = {"Reshape": 1, "Expand": 1, "Resize": 3}
PASSING = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze")


def edited(
    source: ModelProto, dense: OnnxModule, pruned: OnnxModule, inputs: tuple[Tensor, ...]
) -> ModelProto:
    """The file of `pruned`, made from the file that `dense` was read from.

    Args:
        source: the model that came in; it is not touched.
        inputs: an example for both, of the fixed batch where the file has one.

    Raises:
        SkeletonError: the file cannot say what the pruned network does.
    """
    document = Document(inlined(source, MAX_NODES))
    before, after = _shapes(dense, inputs), _shapes(pruned, inputs)
    for step in pruned.steps:
        if step.layer is None:
            _edit_function(document, step, pruned)
            _edit_sizes(document, step, before, after)
        else:
            _edit_layer(document, step, pruned)
    document.apply()
    return document.proto


def _output(step: Step) -> str:
    """The first one that has a name."""
    return next(filter(None, step.node.outputs))


def _shapes(module: OnnxModule, inputs: tuple[Tensor, ...]) -> Shapes:
    shapes: dict[str, tuple[int, ...]] = {}

    def note(step: Step, made: tuple[Value, ...]) -> None:
        for name, value in zip(step.node.outputs, made, strict=False):
            shapes[name] = tuple(value.shape)

    with torch.no_grad():
        module.run(inputs, note)
    return shapes


def _edit_layer(document: Document, step: Step, module: OnnxModule) -> None:
    layer = module.get_submodule(step.layer or "")
    values, attributes = layer_values(step, layer, module.opset)
    output = _output(step)
    node = document.node(output)
    if node.op_type == "Add" and step.node.op == "MatMul":  # a bias that was joined to the product
        place = next(p for p, name in enumerate(node.input) if _is_matmul(document, name))
        _want(document, output, 1 - place, values.pop(2))
        output = document.root(node.input[place])
        node = document.node(output)
    if node.op_type != step.node.op:
        raise SkeletonError(f"{step.node.title} must be in the file, but is {node.op_type}")
    for place, value in values.items():
        absent = place >= len(node.input) or not node.input[place]
        if not (absent and not bool(value.any())):
            _want(document, output, place, value)
    for name, setting in attributes.items():
        given = any(each.name == name for each in node.attribute)
        if given or DEFAULTS.get(name) != setting:
            set_attribute(node, name, setting)


def _is_matmul(document: Document, name: str) -> bool:
    root = document.root(name)
    return root in document.makers and document.node(root).op_type == "MatMul"


def _want(document: Document, output: str, number: int, value: Tensor) -> None:
    """Vectors keep the number of dimensions that they have in the file, as (1, C, 1, 1)."""
    array: Array = value.detach().cpu().contiguous().numpy()
    node = document.node(output)
    held = document.constant(node.input[number]) if number < len(node.input) else None
    if held is not None and held.ndim != array.ndim and array.ndim <= 1:
        wide = [dim for dim, size in enumerate(held.shape) if size > 1]
        if len(wide) > 1:
            raise SkeletonError(f"{node.input[number]!r} must be a vector, but is {held.shape}")
        at = wide[0] if wide else held.ndim - 1
        array = array.reshape([-1 if dim == at else 1 for dim in range(held.ndim)])
    document.want(output, number, array)


def _edit_function(document: Document, step: Step, module: OnnxModule) -> None:
    for number, source in enumerate(step.sources):
        if isinstance(source, Held):
            held: Tensor = getattr(module.held, source.attribute)
            document.want(_output(step), number, held.detach().cpu().numpy())


def _edit_sizes(document: Document, step: Step, before: Shapes, after: Shapes) -> None:
    """Sizes that a node is told, where they changed."""
    output = _output(step)
    number = SHAPE_INPUTS.get(step.node.op)
    old, new = before[output], after[output]
    if number is None or old == new or number >= len(step.node.inputs):
        return
    node = document.node(output)
    given = _entries(document, node.input[number], (output, number), before)
    lead = len(old) - len(given)  # Expand aligns on the right
    for dim, slot in enumerate(given, lead):
        if slot is None or old[dim] == new[dim]:
            continue
        (name, index), _ = slot
        held = document.constant(name)
        if held is not None and int(held.reshape(-1)[index]) == old[dim]:
            _set_number(document, slot, new[dim])  # 0 and −1 follow by themselves


Slot = tuple[tuple[str, int], tuple[str, int]]  # (constant, index), (output of its reader, place)


def _entries(
    document: Document, name: str, reader: tuple[str, int], shapes: Shapes
) -> list[Slot | None]:
    """Where each entry of a vector of sizes is written down; None: it is computed."""
    held = document.constant(name)
    if held is not None:
        return [((name, index), reader) for index in range(held.size)]
    if name not in document.makers:
        raise SkeletonError(f"sizes must be constants or computed, but {name!r} is an input")
    node = document.node(name)
    if node.op_type == "Concat":
        return [
            entry
            for place, part in enumerate(node.input)
            for entry in _entries(document, part, (node.output[0], place), shapes)
        ]
    if node.op_type in PASSING:
        return _entries(document, node.input[0], (node.output[0], 0), shapes)
    return [None] * int(np.prod(shapes.get(name, (1,))))


def _set_number(document: Document, slot: Slot, value: int) -> None:
    (name, index), (output, place) = slot
    held = document.wanted(output, place)
    if held is None:
        held = document.constant(name)
    if held is not None:
        changed = held.copy()
        changed.reshape(-1)[index] = value
        document.want(output, place, changed)
