"""Builds the steps and modules of an OnnxModule from a checked ONNX graph, node by node.

Every node is tried without memory (torch's meta device) while it is built: sizes are known then,
constants are folded, and what cannot run is refused with the node's name.

| symbol | meaning |
|---|---|
| PROBE | the size of a free batch during the build, unlike any other size |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from search.errors import OnnxError, first_line
from search.onnx_in.free_batch import with_free_batch
from search.onnx_in.layers import Site, layer
from search.onnx_in.module import Held, OnnxModule, Source, Step, as_tuple, called
from search.onnx_in.naming import constant_name, free_name, layer_name
from search.onnx_in.ops.table import known
from search.onnx_in.reading import Graph, Input, OnnxNode
from search.onnx_in.recurrent import GATES
from search.onnx_in.tensors import SMALL
from search.onnx_in.values import Entry, NodeCall, Value, following, from_constant

PROBE = 23
MAX_FOLDED = 2**28
META, CPU = torch.device("meta"), torch.device("cpu")

WEIGHED = frozenset(
    ("Add", "Concat", "Conv", "Div", "Einsum", "Expand", "Gather", "Gemm", "MatMul", "Mul",
     "PRelu", "Sub")
)  # fmt: skip
MOVING = ("Expand", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
AS_NUMBERS = {"Clip": {1, 2}, "Pad": {2}, "Resize": {1, 2, 3}, "Upsample": {1}}


class Builder:
    """Turns nodes into steps, in their order, and tries each one on the meta device.

    Args:
        graph: the model, each node behind those that it reads.
        batch: the size of the batch during the build; `PROBE` where it is free.
    """

    def __init__(self, graph: Graph, batch: int) -> None:
        self._graph, self._batch = graph, batch
        self._constants = dict(graph.constants)
        self._weights = {name for name, c in graph.constants.items() if c.is_floating_point()}
        self._same: dict[str, str] = {}
        self._zeros: set[str] = set()
        self._values: dict[str, Value] = {
            each.name: torch.zeros(_sizes(each, batch), dtype=each.dtype, device=META)
            for each in graph.inputs
        }
        self._readers = _readers(graph)
        self._steps: list[Step] = []
        self._layers: dict[object, str] = {}
        self._held: dict[int, Held] = {}
        self._folded = 0
        self._biases = not any(node.op == "BatchNormalization" for node in graph.nodes)
        self._module = OnnxModule(graph.opset, with_free_batch(graph).inputs, graph.notes)

    def add(self, node: OnnxNode) -> None:
        """Builds and tries one node."""
        if node.outputs[0] in self._same or node.outputs[0] in self._values:
            return  # a bias that became part of the product before it
        node = replace(node, inputs=tuple(self._same.get(name, name) for name in node.inputs))
        node = self._from_zeros(node)
        for name in filter(None, node.inputs):
            if name not in self._constants and name not in self._values:
                raise OnnxError(f"{name!r}, which {node.title} reads, is not computed")
        if all(name in self._constants for name in node.inputs if name):
            self._fold(node)
            return
        step, outputs = self._layer_step(node) or self._function_step(node)
        if self._makes_zeros(node):
            self._zeros.update(node.outputs)
        self._keep(step, outputs)

    def finished(self) -> OnnxModule:
        """The module with all its steps."""
        names = [self._same.get(name, name) for name in self._graph.outputs]
        for name in names:
            if name in self._constants:
                raise OnnxError(f"outputs must depend on inputs, but {name!r} is a constant")
            if name not in self._values:
                raise OnnxError(f"{name!r}, which is an output, is not computed")
        self._module.set_steps(_with_last(self._steps, names), tuple(names))
        return self._module.eval()

    def _from_zeros(self, node: OnnxNode) -> OnnxNode:
        """A recurrent layer starts from zeros anyway."""
        states = node.inputs[5:7] if node.op in GATES else ()
        for name in filter(None, states):
            if not self._is_zero(name):
                raise OnnxError(f"{node.title} must start from zeros, but starts from {name!r}")
        left = tuple("" for _ in states)
        return replace(node, inputs=(*node.inputs[:5], *left, *node.inputs[7:])) if left else node

    def _makes_zeros(self, node: OnnxNode) -> bool:
        """Whether all that a node computes is zeros, of a size that may be free."""
        if node.op == "ConstantOfShape":
            return not bool(torch.as_tensor(node.attributes.get("value", 0.0)).any())
        return node.op in MOVING and self._is_zero(node.inputs[0])

    def _is_zero(self, name: str) -> bool:
        constant = self._constants.get(name)
        return name in self._zeros if constant is None else not bool(constant.any())

    def _keep(self, step: Step, outputs: tuple[Value, ...]) -> None:
        first = next((s for s in step.sources if isinstance(s, str)), None)
        if first is not None and outputs[0] is self._values[first]:
            self._same[step.node.outputs[0]] = first
            return
        for name, value in zip(step.node.outputs, outputs, strict=False):
            if isinstance(value, Tensor) and value.numel() > MAX_FOLDED * PROBE:
                raise OnnxError(f"{step.node.title} must be smaller: {list(value.shape)}")
            if name:
                self._values[name] = value
        self._steps.append(step)

    def _fold(self, node: OnnxNode) -> None:
        """Computes a node of constants alone."""
        inputs = tuple(_small(self._constants[name]) if name else None for name in node.inputs)
        step = Step(node, known(node), None, ())
        held = {id(v) for v in inputs if isinstance(v, Tensor)}
        tried = self._tried(step, tuple(_on_meta(value) for value in inputs))
        self._folded += sum(v.numel() for v in tried if isinstance(v, Tensor))
        if self._folded > MAX_FOLDED:
            raise OnnxError(f"constants must be smaller, but {node.title} makes {self._folded}")
        outputs = called(step, self._graph.opset, inputs, torch.float32, CPU)
        weighs = any(name in self._weights for name in node.inputs)
        for name, value in zip(node.outputs, outputs, strict=False):
            call = NodeCall(node.op, self._graph.opset, {}, (), 1, torch.float32, CPU)
            tensor = call.as_tensor(value)
            self._constants[name] = tensor if id(tensor) in held else tensor.contiguous()
            if weighs and tensor.is_floating_point():
                self._weights.add(name)

    def _tried(self, step: Step, inputs: tuple[Value | None, ...]) -> tuple[Value, ...]:
        try:
            return called(step, self._graph.opset, inputs, torch.float32, META)
        except (ArithmeticError, LookupError, NotImplementedError, RuntimeError, TypeError) as e:
            raise OnnxError(f"{step.node.title} cannot run: {first_line(e)}") from e
        except ValueError as error:
            raise OnnxError(f"{step.node.title} cannot run: {error}") from error

    def _layer_step(self, node: OnnxNode) -> tuple[Step, tuple[Value, ...]] | None:
        moving = [name for name in node.inputs if name and name not in self._constants]
        value = self._values[moving[0]]
        if len(moving) != 1 or not isinstance(value, Tensor):
            return None
        constants = {
            p: self._constants[n] for p, n in enumerate(node.inputs) if n in self._constants
        }
        node, constants = self._with_bias(node, constants)
        key = (node.op, *sorted((p, id(c)) for p, c in constants.items()), repr(node.attributes))
        name = self._layers.get(key)
        if name is None:
            site = Site(node, constants, tuple(value.shape), self._graph.opset)
            made = layer(site, bias=self._biases)
            if made is None:
                return None
            name = free_name(self._module, layer_name(node))
            self._module.add_module(name, made)
            if any(c.ndim > 1 for c in constants.values()):
                self._layers[key] = name
        step = Step(node, None, name, (moving[0],))
        return step, self._try_layer(step, value)

    def _try_layer(self, step: Step, value: Tensor) -> tuple[Value, ...]:
        module = self._module.get_submodule(step.layer or "")
        held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        state = {name: tensor.to(META) for name, tensor in held.items()}
        try:
            with torch.no_grad():
                made = functional_call(module.eval(), state, (value,))
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise OnnxError(f"{step.node.title} cannot run: {first_line(error)}") from error
        return as_tuple(made)

    def _with_bias(
        self, node: OnnxNode, constants: dict[int, Tensor]
    ) -> tuple[OnnxNode, dict[int, Tensor]]:
        """A product and the vector that is added to it are one linear layer."""
        readers = self._readers.get(node.outputs[0], [])
        weight = constants.get(1)
        if node.op != "MatMul" or weight is None or weight.ndim != 2 or len(readers) != 1:
            return node, constants
        add = readers[0]
        if add is None or add.op != "Add":
            return node, constants
        (other,) = [name for name in add.inputs if name != node.outputs[0]] or ("",)
        vector = self._constants.get(self._same.get(other, other))
        width = weight.shape[1]
        if vector is None or vector.numel() != width or tuple(vector.shape[-1:]) != (width,):
            return node, constants
        if vector.ndim > self._values[self._same.get(node.inputs[0], node.inputs[0])].ndim:
            return node, constants
        joined = replace(node, outputs=add.outputs)
        return joined, {**constants, 2: vector.reshape(-1)}

    def _function_step(self, node: OnnxNode) -> tuple[Step, tuple[Value, ...]]:
        function = known(node)
        moving = [self._values[n] for n in node.inputs if n and n not in self._constants]
        by_numbers = not any(isinstance(value, Tensor) for value in moving)
        sources = tuple(
            self._source(node, place, name, by_numbers) for place, name in enumerate(node.inputs)
        )
        step = Step(node, function, None, sources)
        inputs = tuple(self._fetched(source) for source in sources)
        outputs = self._tried(step, inputs)
        return replace(step, pattern=_pattern(node, inputs, outputs, self._batch)), outputs

    def _source(self, node: OnnxNode, place: int, name: str, by_numbers: bool) -> Source:
        constant = self._constants.get(name)
        if constant is None:
            return name or None
        whole = not constant.is_floating_point()
        small = constant.numel() <= SMALL and (whole or constant.ndim < 2)
        if small and (by_numbers or whole or place in AS_NUMBERS.get(node.op, ())):
            return from_constant(constant)
        if constant.numel() == 1:
            return from_constant(constant)
        return self._hold(node, name, constant)

    def _hold(self, node: OnnxNode, name: str, constant: Tensor) -> Held:
        """Matrices that several nodes read are one tensor; vectors are each node's own."""
        vector = constant.numel() == max(constant.shape, default=1)
        if id(constant) not in self._held or vector:
            holder = self._module.held
            attribute = free_name(holder, constant_name(node, name))
            if node.op in WEIGHED and name in self._weights:
                holder.register_parameter(attribute, nn.Parameter(constant.clone()))
            else:
                holder.register_buffer(attribute, constant.clone())
            self._held[id(constant)] = Held(attribute)
        return self._held[id(constant)]

    def _fetched(self, source: Source) -> Value | None:
        if isinstance(source, Held):
            held: Tensor = getattr(self._module.held, source.attribute)
            return held.detach().to(META)
        return self._values[source] if isinstance(source, str) else source


def _sizes(given: Input, batch: int) -> list[int]:
    return [batch if size is None else size for size in given.shape]


def _readers(graph: Graph) -> Mapping[str, list[OnnxNode | None]]:
    """Value -> the nodes that read it; None stands for an output of the model."""
    readers: dict[str, list[OnnxNode | None]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    for name in graph.outputs:
        readers.setdefault(name, []).append(None)
    return readers


def _small(constant: Tensor) -> Value:
    whole = not constant.is_floating_point()
    few = constant.numel() <= (SMALL if whole else 1)
    return from_constant(constant) if few and constant.ndim <= 1 else constant


def _on_meta(value: Value | None) -> Value | None:
    return value.to(META) if isinstance(value, Tensor) else value


def _pattern(
    node: OnnxNode, inputs: tuple[Value | None, ...], outputs: tuple[Value, ...], batch: int
) -> tuple[Entry, ...] | None:
    """How the output's sizes follow from the first input's, where a node takes sizes."""
    x, out = inputs[0], outputs[0]
    if not isinstance(x, Tensor) or not isinstance(out, Tensor) or 0 in x.shape:
        return None
    if node.op == "Reshape":
        return following(x.shape, out.shape, batch)
    if node.op in ("Expand", "Resize"):
        old = [1] * (out.ndim - x.ndim) + list(x.shape)
        return tuple(
            ("product", (dim,)) if size == old[dim] else ("given", ())
            for dim, size in enumerate(out.shape)
        )
    return None


def _with_last(steps: Sequence[Step], outputs: Iterable[str]) -> tuple[Step, ...]:
    """The steps, each with the values that nobody reads after it."""
    later = set(outputs)
    result = []
    for step in reversed(steps):
        read_ = {source for source in step.sources if isinstance(source, str)}
        made = {name for name in step.node.outputs if name}
        result.append(replace(step, last=tuple(sorted((read_ | made) - later))))
        later |= read_
    return tuple(reversed(result))
