"""An ONNX file pruned where it stands: weights and the numbers that name their sizes are replaced,
and everything else is what came in: names, order, opset, layout, metadata, doc strings.

Which numbers follow is read off both networks: a size that a node is told, and that is another one
in the pruned network, becomes that one. Where the pruned network is of the file's own steps, both
run once on the same inputs; where it is its exported graph, the labels of that tell what is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor

from search.errors import SkeletonError
from search.onnx_in.functions import inlined
from search.onnx_in.module import Held, OnnxModule, Step
from search.onnx_in.reading import MAX_NODES
from search.onnx_in.values import Numbers, Value
from search.onnx_out.document import Array, Document, set_attribute
from search.onnx_out.kept_values import KeptValues
from search.onnx_out.numbers import SIZED, Computed, Shapes, Site, computed, edit_numbers
from search.onnx_out.values import layer_values

DEFAULTS = {"group": 1, "alpha": 1.0, "beta": 1.0}
PASSING = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze")


def edited(
    source: ModelProto,
    dense: OnnxModule,
    pruned: OnnxModule,
    inputs: tuple[Tensor, ...],
    kept: KeptValues | None = None,
) -> ModelProto:
    """The file of `pruned`, made from the file that `dense` was read from.

    Args:
        source: the model that came in; it is not touched.
        pruned: the steps of `dense` on the layers of the pruned network.
        inputs: an example for both, of the fixed batch where the file has one.
        kept: what is left of each value, where the pruned network is its exported graph; `pruned`
            is not run then.

    Raises:
        SkeletonError: the file cannot say what the pruned network does.
    """
    document = Document(inlined(source, MAX_NODES))
    before, numbers = _seen(dense, inputs)
    if kept is None:
        own = _Edit(document, pruned, before, _seen(pruned, inputs)[0])
        for step in pruned.steps:
            own.node(step)
    else:
        after = {
            name: shape if name in numbers else kept.shape(name, shape)
            for name, shape in before.items()
        }
        given = {each.name: tuple(x.shape) for each, x in zip(dense.inputs, inputs, strict=True)}
        made = computed(dense, after, numbers, given)
        graph = _Edit(document, pruned, before, after, made)
        site = Site(document, dense, kept, before, after, numbers, made)
        for output, shortcut in kept.sums.items():
            document.hand_on(output, shortcut)
        for step in filter(kept.is_read, pruned.steps):
            if step.output not in kept.sums:
                graph.node(step)
                edit_numbers(site, step)
    document.apply()
    return document.proto


def _seen(module: OnnxModule, inputs: tuple[Tensor, ...]) -> tuple[Shapes, Computed]:
    """The shapes of all values of a network, and those that are numbers."""
    shapes: dict[str, tuple[int, ...]] = {}
    numbers: dict[str, Numbers] = {}

    def note(step: Step, made: tuple[Value, ...]) -> None:
        for name, value in zip(step.node.outputs, made, strict=False):
            shapes[name] = tuple(value.shape)
            if not isinstance(value, Tensor):
                numbers[name] = value

    with torch.no_grad():
        module.run(inputs, note)
    return shapes, numbers


@dataclass(frozen=True)
class _Edit:
    """Edits a file node by node.

    Attributes:
        before: the shapes of all values in the dense network; `after`: in the pruned one.
        computed: what the file computes from the sizes of the pruned network, where known.
    """

    document: Document
    module: OnnxModule
    before: Shapes
    after: Shapes
    computed: Computed | None = None

    def node(self, step: Step) -> None:
        """The weights of a node, and the sizes that it is told."""
        if step.layer is not None:
            _edit_layer(self.document, step, self.module)
            return
        for number, source in enumerate(step.sources):
            if isinstance(source, Held):
                held: Tensor = getattr(self.module.held, source.attribute)
                self.document.want(step.output, number, held.detach().cpu().numpy())
        if SIZED.get(step.node.op, len(step.node.inputs)) < len(step.node.inputs):
            self._sizes(step)

    def _sizes(self, step: Step) -> None:
        """Where they changed; those that the file computes follow by themselves, unless what it
        makes of them is another number."""
        output, number = step.output, SIZED[step.node.op]
        old, new = self.before[output], self.after[output]
        if old == new and self.computed is None:
            return
        document, name = self.document, self.document.node(output).input[number]
        made = (self.computed or {}).get(document.root(name))
        given = _entries(document, name, (output, number), self.before)
        lead = len(old) - len(given)  # Expand aligns on the right
        for dim, slot in enumerate(given, lead):
            held = document.constant(slot.name)
            if held is None:
                if made is not None and made.reshape(-1)[dim - lead] != new[dim]:
                    _give_number(document, slot, new[dim])
            elif old[dim] != new[dim] and int(held.reshape(-1)[slot.index]) == old[dim]:
                _set_number(document, slot, new[dim])  # 0 and −1 follow by themselves


def _edit_layer(document: Document, step: Step, module: OnnxModule) -> None:
    layer = module.get_submodule(step.layer or "")
    values, attributes = layer_values(step, layer, module.opset)
    output = step.output
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


@dataclass(frozen=True)
class Slot:
    """Where an entry of a vector of sizes is written down, or computed.

    Attributes:
        name: the constant or computed value that holds it.
        index: its place in there.
        shape: of that value.
        reader: the output of the node that reads it, and the place among its inputs.
    """

    name: str
    index: int
    shape: tuple[int, ...]
    reader: tuple[str, int]


def _entries(document: Document, name: str, reader: tuple[str, int], shapes: Shapes) -> list[Slot]:
    held = document.constant(name)
    if held is not None:
        return [Slot(name, index, held.shape, reader) for index in range(held.size)]
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
    shape = shapes.get(name, (1,))
    return [Slot(name, index, shape, reader) for index in range(int(np.prod(shape)))]


def _set_number(document: Document, slot: Slot, value: int) -> None:
    output, place = slot.reader
    held = document.wanted(output, place)
    if held is None:
        held = document.constant(slot.name)
    if held is not None:
        changed = held.copy()
        changed.reshape(-1)[slot.index] = value
        document.want(output, place, changed)


def _give_number(document: Document, slot: Slot, value: int) -> None:
    """A number in place of one that the file computes from a size that is another one now."""
    if int(np.prod(slot.shape)) != 1:
        raise SkeletonError(f"{slot.name!r} must make {value}, but is computed with other sizes")
    document.want(*slot.reader, np.full(slot.shape, value, np.int64))
