"""What a file promises to the code that loads it: names, order, types and sizes of inputs and
outputs, and the texts beside them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from onnx import ModelProto, StringStringEntryProto, TensorProto, ValueInfoProto, helper
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from search.onnx_in.reading import DOMAINS

Size = int | str | None  # fixed, free by a name, free
BATCH = "batch"


@dataclass(frozen=True)
class Port:
    """An input or output.

    Attributes:
        kind: its type of elements, as ONNX numbers it.
        sizes: None where the rank is unknown.
    """

    name: str
    kind: int = TensorProto.FLOAT
    sizes: tuple[Size, ...] | None = None
    doc: str = ""


@dataclass(frozen=True)
class Interface:
    """Of a file that came in, or of a torch model.

    Attributes:
        opset: of the standard operators; None where nothing came in.
        texts: fields of the model and of its graph that are plain text.
        metadata: entries of `metadata_props`.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opset: int | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def free_batch(self) -> bool:
        """Whether the first input takes any number of examples."""
        sizes = self.inputs[0].sizes
        return not sizes or not isinstance(sizes[0], int)

    @classmethod
    def of(cls, proto: ModelProto) -> Interface:
        """That of a file."""
        graph = proto.graph
        held = {tensor.name for tensor in graph.initializer}
        opset = next(each.version for each in proto.opset_import if each.domain in DOMAINS)
        texts = {name: getattr(proto, name) for name in _TEXTS}
        texts |= {f"graph.{name}": getattr(graph, name) for name in ("name", "doc_string")}
        return cls(
            tuple(_port(value) for value in graph.input if value.name not in held),
            tuple(_port(value) for value in graph.output),
            opset,
            texts,
            {entry.key: entry.value for entry in proto.metadata_props},
        )

    @classmethod
    def of_module(cls, model: nn.Module, examples: tuple[Tensor, ...]) -> Interface:
        """That of a torch model: the names of its forward's arguments, and those of its outputs
        by their nesting: `output`, `output_0`, or the keys of a dictionary."""
        with torch.no_grad():
            made = model(*examples)
        names = _argument_names(model, len(examples))
        inputs = tuple(Port(name, _kind(x)) for name, x in zip(names, examples, strict=True))
        return cls(inputs, tuple(Port(name) for name in output_names(made)))

    def put_back(self, proto: ModelProto, *, batched: Sequence[bool]) -> None:
        """Gives an exported file this interface, in place; casts stand where types differ.

        Args:
            batched: which inputs have the batch as their first dimension.
        """
        graph = proto.graph
        ports = zip(graph.input, self.inputs, batched, strict=True)
        for value, port, has_batch in ports:
            _with_cast_behind(proto, value, port)
            _set_batch(value, port if has_batch else None, free=self.free_batch)
            _name_free_sizes(value, port)
        for value, port in zip(graph.output, self.outputs, strict=True):
            _with_cast_before(proto, value, port)
            if port.sizes is not None:
                _set_sizes(value, port.sizes)
        for name, text in self.texts.items():
            owner = graph if name.startswith("graph.") else proto
            setattr(owner, name.removeprefix("graph."), text)
        del proto.metadata_props[:]
        for key, text in self.metadata.items():
            proto.metadata_props.append(StringStringEntryProto(key=key, value=text))


_TEXTS = ("producer_name", "producer_version", "domain", "doc_string")


def output_names(made: Any) -> list[str]:
    """`output` for one tensor; for several, their places and keys, joined by a point."""
    leaves, _ = pytree.tree_flatten_with_path(made)
    tensors = [(path, leaf) for path, leaf in leaves if isinstance(leaf, Tensor)]
    if len(tensors) == 1 and not tensors[0][0]:
        return ["output"]
    found = []
    for path, _ in tensors:
        parts = [_word(key) for key in path]
        name = ".".join(parts)
        found.append(f"output_{name}" if parts[0].isdigit() else name)
    return found


def _word(key: Any) -> str:
    """A step of a path in a nest: the key, the place or the field."""
    for name in ("key", "idx", "name"):
        if hasattr(key, name):
            return str(getattr(key, name))
    return str(key)


def _argument_names(model: nn.Module, count: int) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        parameters = ()  # type: ignore[assignment]
    names = [each.name for each in parameters if each.kind in kinds]
    return [names[place] if place < len(names) else f"input_{place}" for place in range(count)]


def _kind(tensor: Tensor) -> int:
    kind: int = helper.np_dtype_to_tensor_dtype(tensor[:0].detach().cpu().numpy().dtype)
    return kind


def _port(value: ValueInfoProto) -> Port:
    kind = value.type.tensor_type
    sizes = tuple(_size(dim) for dim in kind.shape.dim) if kind.HasField("shape") else None
    return Port(value.name, kind.elem_type, sizes, value.doc_string)


def _size(dim: Any) -> Size:
    if dim.HasField("dim_value"):
        return int(dim.dim_value) if dim.dim_value > 0 else None
    return str(dim.dim_param) or None


def _set_batch(value: ValueInfoProto, port: Port | None, *, free: bool) -> None:
    """Only the batch: other sizes of an exported graph are what it was exported for."""
    dims = value.type.tensor_type.shape.dim
    if port is None or not free or not dims:
        return
    size = port.sizes[0] if port.sizes else BATCH
    dims[0].Clear()
    if isinstance(size, str):
        dims[0].dim_param = size


def _name_free_sizes(value: ValueInfoProto, port: Port) -> None:
    """Those beside the batch that the exporter left free are named as they were."""
    dims = value.type.tensor_type.shape.dim
    for dim, size in list(zip(dims, port.sizes or (), strict=False))[1:]:
        if not dim.HasField("dim_value"):
            dim.Clear()
            if isinstance(size, str):
                dim.dim_param = size


def _set_sizes(value: ValueInfoProto, sizes: Sequence[Size]) -> None:
    dims = value.type.tensor_type.shape.dim
    del dims[:]
    for size in sizes:
        dim = dims.add()
        if isinstance(size, int):
            dim.dim_value = size
        elif size is not None:
            dim.dim_param = size


def _with_cast_behind(proto: ModelProto, value: ValueInfoProto, port: Port) -> None:
    """The input under its name; where its type is another one, cast to what the graph takes."""
    graph, old = proto.graph, value.name
    kind = value.type.tensor_type.elem_type
    if port.kind != kind and port.kind:
        inner = _free(proto, f"{port.name}_cast")
        _rename(proto, old, inner)
        node = helper.make_node("Cast", [port.name], [inner], to=kind)
        graph.node.insert(0, node)
        value.type.tensor_type.elem_type = port.kind
    elif old != port.name:
        _rename(proto, port.name, _free(proto, f"{port.name}_inner"))
        _rename(proto, old, port.name)
    _label(value, port)


def _label(value: ValueInfoProto, port: Port) -> None:
    value.name = port.name
    value.ClearField("doc_string")
    if port.doc:
        value.doc_string = port.doc


def _with_cast_before(proto: ModelProto, value: ValueInfoProto, port: Port) -> None:
    graph, old = proto.graph, value.name
    kind = value.type.tensor_type.elem_type
    if port.kind != kind and port.kind and port.sizes is not None:
        graph.node.append(helper.make_node("Cast", [old], [port.name], to=port.kind))
        value.type.tensor_type.elem_type = port.kind
    elif old != port.name:
        if old in {each.name for each in graph.input} or _reads(proto, port.name):
            graph.node.append(helper.make_node("Identity", [old], [port.name]))
        else:
            _rename(proto, old, port.name)
    _label(value, port)


def _reads(proto: ModelProto, name: str) -> bool:
    return any(name in (*node.input, *node.output) for node in proto.graph.node)


def _rename(proto: ModelProto, old: str, new: str) -> None:
    graph = proto.graph
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for tensor in graph.initializer:
        if tensor.name == old:
            tensor.name = new


def _free(proto: ModelProto, name: str) -> str:
    taken = {each for node in proto.graph.node for each in (*node.input, *node.output)}
    while name in taken:
        name += "_"
    return name
