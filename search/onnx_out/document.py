"""An ONNX graph that is edited where it stands: who makes and reads a value, constants that are
replaced or given anew. Knows no torch module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from search.errors import SkeletonError
from search.skeleton.folding import uses_of

Array = NDArray[Any]
Place = tuple[int, int]  # node, place among its inputs


class Document:
    """A copy of a model that is being edited.

    Attributes:
        proto: the model, changed in place.
    """

    def __init__(self, source: ModelProto) -> None:
        self.proto = ModelProto()
        self.proto.CopyFrom(source)
        graph = self.proto.graph
        self.makers = {
            name: place for place, node in enumerate(graph.node) for name in node.output if name
        }
        self._held = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                self._held.update((node.output[0], each.t) for each in _tensors(node))
        self._types = {value.name: value for value in graph.value_info}
        self._readers: dict[str, list[Place]] = {}
        for place, node in enumerate(graph.node):
            if node.op_type != "Identity":
                for number, name in enumerate(node.input):
                    self._readers.setdefault(self.root(name), []).append((place, number))
        outputs = {self.root(value.name) for value in graph.output}
        self._names = {*self.makers, *self._held, *(value.name for value in graph.input)}
        self._fixed = outputs & self._held.keys()
        self._wanted: dict[str, dict[Place, Array]] = {}

    def node(self, output: str) -> NodeProto:
        """The node that makes a value."""
        if output not in self.makers:
            raise SkeletonError(f"{output!r} must be made by a node of the file, but is not")
        found: NodeProto = self.proto.graph.node[self.makers[output]]
        return found

    def root(self, name: str) -> str:
        """The value behind nodes that hand it on unchanged."""
        while name in self.makers:
            node = self.proto.graph.node[self.makers[name]]
            if node.op_type != "Identity":
                break
            name = node.input[0]
        return name

    def constant(self, name: str) -> Array | None:
        """The value of an initializer or a Constant node with a tensor; None of others."""
        tensor = self._held.get(self.root(name))
        return None if tensor is None else numpy_helper.to_array(tensor)

    def want(self, output: str, number: int, value: Array) -> None:
        """Asks that input `number` of the node that makes `output` holds `value`, in the type that
        it has."""
        place = self.makers[output]
        node = self.proto.graph.node[place]
        name = self.root(node.input[number]) if number < len(node.input) else ""
        self._wanted.setdefault(name, {})[place, number] = value

    def wanted(self, output: str, number: int) -> Array | None:
        """What was asked for that input so far."""
        place = self.makers[output], number
        return next((each[place] for each in self._wanted.values() if place in each), None)

    def hand_on(self, output: str, source: str) -> None:
        """Lets the node that makes `output` hand on another value in its place."""
        node = self.node(output)
        node.op_type = "Identity"
        node.input[:] = [source]
        del node.attribute[:]

    def apply(self) -> None:
        """Does what was asked for: constants that all readers want alike are replaced, others are
        given anew under a name of their own."""
        for name, places in self._wanted.items():
            tensor = self._held.get(name)
            alike = len({(value.shape, value.tobytes()) for value in places.values()}) == 1
            every = set(self._readers.get(name, ())) == places.keys() and name not in self._fixed
            if tensor is not None and alike and every:
                self._replace(tensor, next(iter(places.values())))
                continue
            for (place, number), value in places.items():
                if tensor is None or not _equal(numpy_helper.to_array(tensor), value):
                    self._give(self.proto.graph.node[place], number, name, value)
        self._drop_unread()
        self._forget_types()

    def _replace(self, tensor: TensorProto, value: Array) -> None:
        old = TensorProto()
        old.CopyFrom(tensor)
        dtype = helper.tensor_dtype_to_np_dtype(old.data_type)
        if _equal(numpy_helper.to_array(old), value.astype(dtype)):
            return
        tensor.CopyFrom(numpy_helper.from_array(value.astype(dtype), old.name))
        tensor.doc_string = old.doc_string
        tensor.metadata_props.extend(old.metadata_props)
        for given in self.proto.graph.input:  # before IR 4, initializers are inputs as well
            if given.name == old.name:
                _set_shape(given, value.shape)

    def _give(self, node: NodeProto, number: int, name: str, value: Array) -> None:
        if name in self._held or value.dtype.kind == "f":
            value = value.astype(self._type(node, name))
        free = base = f"{name or node.output[0]}_pruned"
        count = 2
        while free in self._names:
            free, count = f"{base}_{count}", count + 1
        self._names.add(free)
        self.proto.graph.initializer.append(numpy_helper.from_array(value, free))
        if self.proto.ir_version < 4:
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            self.proto.graph.input.append(helper.make_tensor_value_info(free, kind, value.shape))
        while len(node.input) <= number:
            node.input.append("")
        node.input[number] = free

    def _type(self, node: NodeProto, name: str) -> Any:
        """That of the constant before, or where it is computed or new, of what stands beside."""
        for each in (name, *map(self.root, node.input)):
            if each in self._held:
                return helper.tensor_dtype_to_np_dtype(self._held[each].data_type)
            known = self._types.get(each)
            if known is not None and known.type.tensor_type.elem_type:
                return helper.tensor_dtype_to_np_dtype(known.type.tensor_type.elem_type)
        return np.dtype(np.float32)

    def _drop_unread(self) -> None:
        """Nodes and constants that nobody reads any more, because weights came in their place."""
        graph = self.proto.graph
        before = uses_of(graph)
        while True:
            uses = uses_of(graph)
            dead = [node for node in graph.node if not any(uses[name] for name in node.output)]
            if not dead:
                break
            for node in dead:
                graph.node.remove(node)
        read = {*uses_of(graph), *(value.name for value in graph.input)}
        for tensor in [each for each in graph.initializer if each.name not in read]:
            if before[tensor.name] or tensor.name in self._wanted:
                graph.initializer.remove(tensor)

    def _forget_types(self) -> None:
        """Known shapes of values in between may be those of the dense model: told anew."""
        graph = self.proto.graph
        had = len(graph.value_info)
        del graph.value_info[:]
        if not had:
            return
        from onnx import shape_inference

        try:
            inferred = shape_inference.infer_shapes(self.proto)
        except (RuntimeError, ValueError):
            return
        graph.value_info.extend(inferred.graph.value_info)


def _tensors(node: NodeProto) -> Iterator[Any]:
    yield from (each for each in node.attribute if each.name == "value")


def _equal(one: Array, other: Array) -> bool:
    return one.shape == other.shape and bool(np.array_equal(one, other))


def _set_shape(value: ValueInfoProto, shape: tuple[int, ...]) -> None:
    dims = value.type.tensor_type.shape.dim
    del dims[:]
    for size in shape:
        dims.add(dim_value=size)


def set_attribute(node: NodeProto, name: str, value: Any) -> None:
    """In place of the one of that name; where there is none and the value is the default, not."""
    for each in node.attribute:
        if each.name == name:
            each.CopyFrom(helper.make_attribute(name, value))
            return
    node.attribute.append(helper.make_attribute(name, value))


def drop_attribute(node: NodeProto, name: str) -> None:
    """Of a node that may have it."""
    left = [each for each in node.attribute if each.name != name]
    del node.attribute[:]
    node.attribute.extend(left)
