"""from_onnx: an ONNX graph, node by node, as the steps and modules of an OnnxModule.

Every node is tried without memory (torch's meta device) while it is built: sizes are known then,
constants are folded, and what cannot run is refused with the node's name.

| symbol | meaning |
|---|---|
| PROBE | the size that a free batch has meanwhile, unlike any other size |
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from onnx import ModelProto, NodeProto
from torch import Tensor, nn
from torch.func import functional_call

from search.errors import OnnxError
from search.onnx_in.layers import LAYERS, Site, layer
from search.onnx_in.module import Held, OnnxModule, Source, Step, as_tuple, called
from search.onnx_in.ops.table import OPS, known
from search.onnx_in.reading import DOMAINS, SMALL, Graph, Input, Node, parsed, read
from search.onnx_in.recurrent import GATES
from search.onnx_in.values import Entry, NodeCall, Value, following, from_constant

PROBE = 23
MAX_FOLDED = 2**28
META, CPU = torch.device("meta"), torch.device("cpu")
TOLERANCE = 1e-4

WEIGHED = frozenset(
    ("Add", "Concat", "Conv", "Div", "Einsum", "Expand", "Gather", "Gemm", "MatMul", "Mul",
     "PRelu", "Sub")
)  # fmt: skip
MOVING = ("Expand", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
AS_NUMBERS = {"Clip": {1, 2}, "Pad": {2}, "Resize": {1, 2, 3}}


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
    try:  # unlike any other size, the batch is told from them where sizes are joined
        module = _built(_freed(graph), PROBE)
        _check_batch(module, fixed)
    except OnnxError:
        module = _built(graph, fixed)
        _check_batch(module, fixed)
    return module


def _built(graph: Graph, batch: int) -> OnnxModule:
    builder = _Builder(graph, batch)
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


class _Builder:
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
        self._module = OnnxModule(graph.opset, _freed(graph).inputs)

    def add(self, node: Node) -> None:
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

    def _from_zeros(self, node: Node) -> Node:
        """A recurrent layer starts from zeros anyway."""
        states = node.inputs[5:7] if node.op in GATES else ()
        for name in filter(None, states):
            if not self._is_zero(name):
                raise OnnxError(f"{node.title} must start from zeros, but starts from {name!r}")
        left = tuple("" for _ in states)
        return replace(node, inputs=(*node.inputs[:5], *left, *node.inputs[7:])) if left else node

    def _makes_zeros(self, node: Node) -> bool:
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

    def _fold(self, node: Node) -> None:
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
            raise OnnxError(f"{step.node.title} cannot run: {_first_line(e)}") from e
        except ValueError as error:
            raise OnnxError(f"{step.node.title} cannot run: {error}") from error

    def _layer_step(self, node: Node) -> tuple[Step, tuple[Value, ...]] | None:
        moving = [name for name in node.inputs if name and name not in self._constants]
        value = self._values[moving[0]]
        if len(moving) != 1 or not isinstance(value, Tensor):
            return None
        found = {p: self._constants[n] for p, n in enumerate(node.inputs) if n in self._constants}
        node, found = self._with_bias(node, found)
        key = (node.op, *sorted((p, id(c)) for p, c in found.items()), repr(node.attributes))
        name = self._layers.get(key)
        if name is None:
            site = Site(node, found, tuple(value.shape), self._graph.opset)
            made = layer(site, bias=self._biases)
            if made is None:
                return None
            name = _free(self._module, _layer_name(node))
            self._module.add_module(name, made)
            if any(c.ndim > 1 for c in found.values()):
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
            raise OnnxError(f"{step.node.title} cannot run: {_first_line(error)}") from error
        return as_tuple(made)

    def _with_bias(self, node: Node, found: dict[int, Tensor]) -> tuple[Node, dict[int, Tensor]]:
        """A product and the vector that is added to it are one linear layer."""
        readers = self._readers.get(node.outputs[0], [])
        if node.op != "MatMul" or 1 not in found or found[1].ndim != 2 or len(readers) != 1:
            return node, found
        add = readers[0]
        if add is None or add.op != "Add":
            return node, found
        (other,) = [name for name in add.inputs if name != node.outputs[0]] or ("",)
        vector = self._constants.get(self._same.get(other, other))
        width = found[1].shape[1]
        if vector is None or vector.numel() != width or tuple(vector.shape[-1:]) != (width,):
            return node, found
        if vector.ndim > self._values[self._same.get(node.inputs[0], node.inputs[0])].ndim:
            return node, found
        joined = replace(node, outputs=add.outputs)
        return joined, {**found, 2: vector.reshape(-1)}

    def _function_step(self, node: Node) -> tuple[Step, tuple[Value, ...]]:
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

    def _source(self, node: Node, place: int, name: str, by_numbers: bool) -> Source:
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

    def _hold(self, node: Node, name: str, constant: Tensor) -> Held:
        """Matrices that several nodes read are one tensor; vectors are each node's own."""
        vector = constant.numel() == max(constant.shape, default=1)
        if id(constant) not in self._held or vector:
            holder = self._module.held
            attribute = _free(holder, _held_name(node, name))
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


def _freed(graph: Graph) -> Graph:
    """The graph with a free batch."""
    own = graph.inputs[0].shape[0]
    inputs = (
        replace(each, shape=(None, *each.shape[1:])) if each.shape[0] in (None, own) else each
        for each in graph.inputs
    )
    return replace(graph, inputs=tuple(inputs))


def _sizes(given: Input, batch: int) -> list[int]:
    return [batch if size is None else size for size in given.shape]


def _readers(graph: Graph) -> Mapping[str, list[Node | None]]:
    """Value -> the nodes that read it; None stands for an output of the model."""
    readers: dict[str, list[Node | None]] = {}
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
    node: Node, inputs: tuple[Value | None, ...], outputs: tuple[Value, ...], batch: int
) -> tuple[Entry, ...] | None:
    """How the output's sizes follow from the first input's, where a node is told sizes."""
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


def _free(module: nn.Module, name: str) -> str:
    """The name, or the first with a number that the module does not have."""
    free, number = name, 2
    while hasattr(module, free):
        free, number = f"{name}_{number}", number + 1
    return free


def _layer_name(node: Node) -> str:
    weight = node.inputs[0 if node.op == "Gather" else 1]
    stem, _, leaf = weight.rpartition(".")
    if stem and leaf == "weight":
        return _sanitized(stem)
    return _sanitized(node.name) or f"{node.op}_{_sanitized(weight)}"


def _held_name(node: Node, name: str) -> str:
    """A vector that is added is called a bias."""
    plain = _sanitized(name) or f"{node.op}_constant"
    return f"{plain}_bias" if node.op in ("Add", "Sub") and "bias" not in plain else plain


def _sanitized(name: str) -> str:
    """A name that a module can have: `/layer1/0/Conv` is layer1_0_Conv."""
    plain = re.sub(r"\W+", "_", name.rpartition("::")[2]).strip("_")
    return f"value_{plain}" if plain[:1].isdigit() else plain


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _check_batch(module: OnnxModule, size: int) -> None:
    """Raises OnnxError unless two batches together give what each gives alone.

    The batch may be any dimension of the outputs: what a recurrent layer makes begins with steps.
    """
    first, second = (module.example_inputs(size, seed) for seed in (0, 1))
    try:
        with torch.no_grad():
            alone = [as_tuple(module(*inputs)) for inputs in (first, second)]
            joined = tuple(
                torch.cat(pair) if each.shape[0] is None else pair[0]
                for each, *pair in zip(module.inputs, first, second, strict=True)
            )
            together = as_tuple(module(*joined))
        close = all(_joins(*three) for three in zip(together, *alone, strict=True))
        problem = "its outputs mix the examples"
    except (OnnxError, RuntimeError, IndexError) as error:
        close, problem = False, _first_line(error)
    if not close:
        raise OnnxError(
            f"the batch must be free, but the model holds for batches of {size} only "
            f"({problem}): export it with a dynamic first dimension"
        )


def _joins(found: Tensor, first: Tensor, second: Tensor) -> bool:
    """Whether it is the two, one after the other in one dimension."""
    longer = [dim for dim in range(found.ndim) if found.shape[dim] != first.shape[dim]]
    return len(longer) == 1 and _close(found, torch.cat((first, second), longer[0]))


def _close(found: Tensor, wanted: Tensor) -> bool:
    if found.shape != wanted.shape:
        return False
    scale = float(wanted.double().abs().max()) or 1.0
    return float((found - wanted).double().abs().max()) <= TOLERANCE * scale
