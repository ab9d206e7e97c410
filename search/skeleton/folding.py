"""Simplifies an exported ONNX graph by rules that never look at a weight's value.

Batch norm is folded into the convolution or linear layer before it; else into all layers behind
it, where that is exact ("To Fold or Not to Fold"). The zeros that stand for "no bias" are dropped.
Knows nothing of torch or of plans.

| symbol | meaning |
|---|---|
| s, t | γ / √(σ² + ε) and β − s · μ, per channel |
| W', b' | s · W, s · b + t: the layer before, after folding |
| W', b' | W · s (per input channel), b + Σ W · t: a layer behind, which pads nothing |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

FLOATS = frozenset(
    (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
)
SMALL = 16  # elements: a larger float constant counts as a weight, whatever it comes from


def simplify(proto: ModelProto, weights: set[str]) -> None:
    """Folds, drops what is unused and strips names of tools, in place.

    Afterwards every float initializer is a weight, and every other initializer a constant. Nodes
    keep their names, which are those of layers.

    Args:
        proto: an exported model; every constant is an initializer.
        weights: names of the values that depend on parameters.
    """
    graph = proto.graph
    _fold_batch_norms(graph, weights)
    _drop_zero_biases(graph, weights)
    _drop_unused_initializers(graph)
    _float_constants_to_nodes(graph, weights)
    del graph.value_info[:], proto.metadata_props[:], proto.functions[:]
    proto.producer_name, proto.producer_version = "secateur", ""
    proto.doc_string = graph.doc_string = ""
    graph.name = "model"
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*graph.input, *graph.output, *graph.initializer):
        del value.metadata_props[:]


def uses_of(graph: GraphProto) -> Counter[str]:
    """How often each value is read, as an output too."""
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(value.name for value in graph.output)
    return uses


def foldable_norms(
    graph: GraphProto, initializers: Mapping[str, TensorProto]
) -> Iterator[tuple[NodeProto, NodeProto]]:
    """Every batch norm that the layer before it can absorb: (layer, norm).

    When the next pair is requested, the norm is removed, and the layer gives its output.
    """
    makers = {name: node for node in graph.node for name in node.output}
    uses = uses_of(graph)
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        layer = makers.get(norm.input[0])
        if layer is None or uses[norm.input[0]] > 1 or not _absorbs(layer, initializers, uses):
            continue
        if all(name in initializers for name in norm.input[1:5]):
            yield layer, norm
            layer.output[0] = norm.output[0]
            makers[norm.output[0]] = layer
            graph.node.remove(norm)


def _fold_batch_norms(graph: GraphProto, weights: set[str]) -> None:
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    for layer, norm in foldable_norms(graph, initializers):
        _put(graph, layer, _folded(layer, norm, initializers), initializers, weights)
    for layers, norm in leading_norms(graph, initializers):
        for layer in layers:
            _put(graph, layer, _folded_behind(layer, norm, initializers), initializers, weights)


def _put(
    graph: GraphProto,
    layer: NodeProto,
    folded: tuple[NDArray[np.generic], NDArray[np.generic]],
    initializers: dict[str, TensorProto],
    weights: set[str],
) -> None:
    """Give a layer another weight and bias."""
    name = layer.input[1]
    bias_name = layer.input[2] if len(layer.input) > 2 else ""
    if not bias_name or bias_name not in weights:
        bias_name = _free_name(name.removesuffix("weight") + "bias", initializers)
    for made, value in zip((name, bias_name), folded, strict=True):
        tensor = numpy_helper.from_array(value, made)
        if made in initializers:
            initializers[made].CopyFrom(tensor)
        else:
            graph.initializer.append(tensor)
            initializers[made] = graph.initializer[-1]
        weights.add(made)
    del layer.input[2:]
    layer.input.append(bias_name)


def leading_norms(
    graph: GraphProto, initializers: Mapping[str, TensorProto]
) -> Iterator[tuple[list[NodeProto], NodeProto]]:
    """Every batch norm that all layers behind it can absorb: (layers, norm).

    When the next one is requested, the norm is removed, and the layers read what it read.
    """
    outputs = {value.name for value in graph.output}
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        uses = uses_of(graph)
        readers = [node for node in graph.node if norm.output[0] in node.input]
        if (
            norm.output[0] not in outputs
            and all(name in initializers for name in norm.input[1:5])
            and readers
            and all(_absorbs_before(each, norm.output[0], initializers, uses) for each in readers)
        ):
            yield readers, norm
            for layer in readers:
                layer.input[0] = norm.input[0]
            graph.node.remove(norm)


def kept_norms(graph: GraphProto) -> dict[str, str]:
    """The batch norms that are left in a simplified graph, by their names, and why."""
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = {}
    for norm in (node for node in graph.node if node.op_type == "BatchNormalization"):
        before = makers.get(norm.input[0])
        first = f"{before.op_type} lies before it" if before else "it reads an input"
        if before is not None and before.op_type in ("Conv", "Gemm"):
            first = f"others read the {before.op_type} before it, or share its weight"
        after = sorted({node.op_type for node in readers.get(norm.output[0], ())})
        last = f"{', '.join(after)} behind it" if after else "it gives an output"
        if after == ["Conv"]:
            last = "a Conv behind it pads with zeros, or shares its weight"
        found[norm.input[3].removesuffix(".running_mean")] = f"{first}; {last}"
    return found


def _absorbs(
    layer: NodeProto, initializers: Mapping[str, TensorProto], uses: Counter[str]
) -> bool:
    """Whether a batch norm behind this layer can become part of its weight and bias."""
    if layer.op_type == "Gemm":
        settings = {a.name: helper.get_attribute_value(a) for a in layer.attribute}
        plain = settings.get("alpha", 1.0) == 1.0 and settings.get("beta", 1.0) == 1.0
        if not (plain and settings.get("transB", 0) == 1):
            return False
    elif layer.op_type != "Conv":
        return False
    return all(name in initializers and uses[name] == 1 for name in layer.input[1:] if name)


def _absorbs_before(
    layer: NodeProto,
    value: str,
    initializers: Mapping[str, TensorProto],
    uses: Counter[str],
) -> bool:
    """Whether a batch norm before this layer can become part of its weight and bias: of a
    padded border it would be another number than zero."""
    if layer.op_type not in ("Conv", "Gemm") or not _absorbs(layer, initializers, uses):
        return False
    settings = {a.name: helper.get_attribute_value(a) for a in layer.attribute}
    is_plain = not settings.get("transA", 0) and settings.get("auto_pad", b"NOTSET") == b"NOTSET"
    return layer.input[0] == value and is_plain and not any(settings.get("pads", ()))


def _folded_behind(
    layer: NodeProto, norm: NodeProto, initializers: dict[str, TensorProto]
) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    stored = numpy_helper.to_array(initializers[layer.input[1]])
    scale, shift = _affine(norm, initializers)
    weight = stored.astype(np.float64).reshape(*stored.shape[:2], -1)
    groups = len(scale) // weight.shape[1]
    each = (
        np.repeat(values.reshape(groups, -1), len(weight) // groups, 0)[:, :, None]
        for values in (scale, shift)
    )
    scales, shifts = each
    bias = _read(initializers[layer.input[2]]) if len(layer.input) > 2 else 0.0
    moved = bias + (weight * shifts).sum((1, 2))
    return (weight * scales).reshape(stored.shape).astype(stored.dtype), moved.astype(stored.dtype)


def _affine(
    norm: NodeProto, initializers: Mapping[str, TensorProto]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """s and t of a norm."""
    gain, beta, mean, variance = (_read(initializers[name]) for name in norm.input[1:5])
    epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
    scale = gain / np.sqrt(variance + epsilon)
    return scale, beta - scale * mean


def _folded(
    layer: NodeProto, norm: NodeProto, initializers: dict[str, TensorProto]
) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    stored = numpy_helper.to_array(initializers[layer.input[1]])
    scale, shift = _affine(norm, initializers)
    bias = _read(initializers[layer.input[2]]) if len(layer.input) > 2 else 0.0
    weight = scale.reshape(-1, *[1] * (stored.ndim - 1)) * stored.astype(np.float64)
    return weight.astype(stored.dtype), (scale * bias + shift).astype(stored.dtype)


def _read(tensor: TensorProto) -> NDArray[np.float64]:
    return numpy_helper.to_array(tensor).astype(np.float64)


def _free_name(name: str, taken: dict[str, TensorProto]) -> str:
    while name in taken:
        name += "_"
    return name


def _drop_zero_biases(graph: GraphProto, weights: set[str]) -> None:
    """The exporter gives a convolution without bias a constant of zeros."""
    constants = {t.name: t for t in graph.initializer if t.name not in weights}
    for node in graph.node:
        if node.op_type != "Conv" or len(node.input) < 3 or node.input[2] not in constants:
            continue
        if not numpy_helper.to_array(constants[node.input[2]]).any():
            del node.input[2:]


def _float_constants_to_nodes(graph: GraphProto, weights: set[str]) -> None:
    moved = [
        tensor
        for tensor in graph.initializer
        if tensor.data_type in FLOATS
        and tensor.name not in weights
        and int(np.prod(tensor.dims)) <= SMALL
    ]
    for position, tensor in enumerate(moved):
        node = helper.make_node("Constant", [], [tensor.name], value=tensor)
        graph.initializer.remove(tensor)
        graph.node.insert(position, node)


def _drop_unused_initializers(graph: GraphProto) -> None:
    uses = uses_of(graph)
    kept = [tensor for tensor in graph.initializer if uses[tensor.name]]
    del graph.initializer[:]
    graph.initializer.extend(kept)
