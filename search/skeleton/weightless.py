"""A skeleton: an ONNX graph without weights, with canonical names; its digest identifies it.

Two models with the same structure and shapes have the same skeleton, whatever their weights and
however their modules are called. Knows nothing of torch or of plans.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from onnx import AttributeProto, GraphProto, ModelProto, TensorProto

from search.errors import SkeletonError
from search.skeleton.folding import FLOATS

FILL = "secateur:fill"


@dataclass(frozen=True)
class Skeleton:
    """A candidate's ONNX graph without weights.

    Float initializers have name, dims and type; their data location is EXTERNAL and the key
    `location` holds "secateur:fill". A variance is input 4 of a `BatchNormalization` node: it must
    be filled with positive numbers. All other initializers hold their true values.
    """

    digest: str
    onnx_bytes: bytes

    @classmethod
    def of(cls, onnx_bytes: bytes) -> Skeleton:
        """The digest is the SHA-256 of the bytes, in hex."""
        return cls(hashlib.sha256(onnx_bytes).hexdigest(), onnx_bytes)


def weightless(onnx_bytes: bytes) -> Skeleton:
    """The skeleton of a model that `export_onnx` wrote.

    Raises:
        SkeletonError: the model holds control flow.
    """
    return serialised(canonical(ModelProto.FromString(onnx_bytes)))


def serialised(proto: ModelProto) -> Skeleton:
    """The skeleton of a canonical graph; names of layers are no part of it."""
    nameless = ModelProto()
    nameless.CopyFrom(proto)
    for node in nameless.graph.node:
        node.name = ""
    return Skeleton.of(nameless.SerializeToString(deterministic=True))


def canonical(proto: ModelProto) -> ModelProto:
    """A copy without weights, in which values are named by the order of their first use.

    Nodes keep their names: those of layers.
    """
    result = ModelProto()
    result.CopyFrom(proto)
    graph = result.graph
    for node in graph.node:
        if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute):
            raise SkeletonError(f"a model must have no control flow, but got {node.op_type}")
        for attribute in node.attribute:
            if attribute.HasField("t"):
                attribute.t.ClearField("name")
    _rename(graph)
    for tensor in graph.initializer:
        if tensor.data_type in FLOATS:
            _forget_values(tensor)
    return result


def _rename(graph: GraphProto) -> None:
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    names = {"": ""}
    for number, value in enumerate(graph.input):
        names[value.name] = value.name = f"x{number}"
    used: list[str] = []
    for node in graph.node:
        for name in node.input:
            if name not in names:
                names[name] = f"w{len(used)}"
                used.append(name)
        for name in node.output:
            names.setdefault(name, f"v{len(names)}")
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    for value in graph.output:
        value.name = names.get(value.name, value.name)
    ordered = [initializers[name] for name in used]
    for name, tensor in zip(used, ordered, strict=True):
        tensor.name = names[name]
    del graph.initializer[:]
    graph.initializer.extend(ordered)


def _forget_values(tensor: TensorProto) -> None:
    bare = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    bare.data_location = TensorProto.EXTERNAL
    bare.external_data.add(key="location", value=FILL)
    tensor.CopyFrom(bare)
