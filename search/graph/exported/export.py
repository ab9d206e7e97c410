"""Runs torch.export on a model and its example inputs. It knows nothing of pruning."""

from __future__ import annotations

import inspect
import io
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.fx.traceback import preserve_node_meta
from torch.utils import _pytree as pytree
from torch.utils._sympy.value_ranges import ValueRanges

from search.errors import GraphError, LateError
from search.graph.exported.deadline import NEVER, Deadline, Interruptible, OutOfTime
from search.graph.exported.diagnostics import refusal
from search.graph.exported.inline_subgraphs import in_line
from search.graph.exported.rnn_shapes import shapes_at_once
from search.graph.exported.signatures import signature_of
from search.tensors import shell_of

BATCH = 2
TOO_LATE = "the model must be exported within the time limit, but it was over before: allow more"


@dataclass(frozen=True)
class Exported:
    """An exported model.

    Attributes:
        graph_module: the ATen graph; its placeholders are parameters, buffers, constants, inputs.
        sources: placeholder -> parameter or buffer, as the state dict names it.
        constants: placeholder -> a tensor that no state dict holds.
        integers: placeholder -> a parameter or buffer of integers, as the model holds it.
        inputs: the placeholders of the model's inputs, in order.
        signature: of the model's forward, see `signature_of`.
        most: symbol of a free size of the inputs -> the largest for which the graph holds.
        outputs: how the model's outputs are nested.
        dynamic: the batch size is a symbol; else it was traced as 2, and the report states it.
        statistics: computes those of the constants that are statistics of weights; its
            placeholders and outputs are named like the placeholders here. None if there are none.
        averaged: a weight, or what is made of one -> the dimensions that those run over.
        single: the graph holds for one example too.
        least: symbol of a free size beside the batch -> the smallest for which the graph holds.
        conditions: what the graph takes for granted of the sizes of its inputs, as Python; known
            where sizes beside the batch are free.
    """

    graph_module: torch.fx.GraphModule
    sources: Mapping[str, str]
    constants: Mapping[str, Tensor]
    integers: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    signature: inspect.Signature
    most: Mapping[str, float]
    outputs: pytree.TreeSpec
    dynamic: bool
    statistics: fx.Graph | None = None
    averaged: Mapping[fx.Node, tuple[int, ...]] = field(default_factory=dict)
    single: bool = True
    least: Mapping[str, int] = field(default_factory=dict)
    conditions: tuple[str, ...] = ()

    @property
    def input_nodes(self) -> list[fx.Node]:
        """The placeholders of the model's inputs, in order."""
        return _named(self.graph_module.graph, self.inputs)

    @property
    def computed(self) -> frozenset[str]:
        """Those of the constants that are statistics of weights."""
        outputs = self.statistics.output_node().args[0] if self.statistics else {}
        return frozenset(outputs)  # type: ignore[arg-type]

    def constants_for(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The constants of a model with these parameters and buffers."""
        if self.statistics is None:
            return dict(self.constants)
        device = next(iter(tensors.values())).device
        given = [
            tensors[self.sources[node.name]].detach()
            if node.name in self.sources
            else self.constants[node.name].to(device)
            for node in self.statistics.find_nodes(op="placeholder")
        ]
        with torch.no_grad():
            statistics = fx.Interpreter(nn.Module(), graph=self.statistics).run(*given)
        return {**self.constants, **statistics}


def batch_of_two(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The first two examples, or the only one twice; the first input gives the batch size."""
    if not inputs or not all(isinstance(value, Tensor) for value in inputs):
        raise GraphError("example_inputs must be a tuple of tensors, but got something else")
    size = inputs[0].shape[0] if inputs[0].ndim else 0
    if size < 1:
        raise GraphError(
            "example_inputs must start with a non-empty batch dimension, but the first has shape "
            f"{tuple(inputs[0].shape)}"
        )
    return tuple(
        (torch.cat([value, value]) if size == 1 else value)[:BATCH]
        if batched(value, size)
        else value
        for value in inputs
    )


def batched(value: Tensor, size: int) -> bool:
    """Whether the first dimension of an input is that of a batch of `size`."""
    return value.ndim > 0 and value.shape[0] == size


def export(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    deadline: Deadline = NEVER,
    *,
    all_sizes: bool = False,
) -> Exported:
    """Export `model`, in the mode it is in, with a free batch size where the model allows it.

    Args:
        model: the module; its parameters are read, never changed.
        inputs: a batch of two, see `batch_of_two`.
        deadline: checked before every call of torch.
        all_sizes: leave every other size of the inputs free too, where the model allows it.

    Raises:
        GraphError: the model does not run on `inputs`.
        LateError: the time was over.
        ExportError: it does, but torch.export cannot trace it even at a fixed batch size.
    """
    wanted = _free(model, inputs, all_sizes=all_sizes)
    for shapes in (wanted, None):
        try:
            with (
                _quiet(),
                without_stack_traces(),
                shapes_at_once(),
                preserve_node_meta(),  # marks that a forward gives its operators
                Interruptible(deadline.is_over),
            ):
                program = torch.export.export(
                    shell_of(model), inputs, dynamic_shapes=shapes, strict=False
                )
        except OutOfTime:
            raise LateError(TOO_LATE) from None
        except Exception as error:  # torch.export raises whatever the model's forward raises
            failure = error
            if isinstance(error, GuardOnDataDependentSymNode):
                break  # a fixed batch changes nothing
        else:
            found = _described(program, signature_of(model.forward))
            return _with_conditions(found, program) if all_sizes else found
    raise refusal(shell_of(model), inputs, failure) from failure


def _free(model: nn.Module, inputs: tuple[Tensor, ...], *, all_sizes: bool) -> tuple[object, ...]:
    """One entry per parameter of `forward`; those that `*inputs` takes are one tuple."""
    free: tuple[object, ...] = tuple(
        dict.fromkeys(range(value.ndim if all_sizes else batched(value, BATCH)), Dim.AUTO) or None
        for value in inputs
    )
    kinds = [parameter.kind for parameter in inspect.signature(model.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return free
    first = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*free[:first], free[first:])


@contextmanager
def without_stack_traces() -> Iterator[None]:
    """Inside, torch notes no stack trace at each operator: nobody reads them, and they take an
    eighth of an export."""
    before = fx.config.do_not_emit_stack_traces
    fx.config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        fx.config.do_not_emit_stack_traces = before


@contextmanager
def _quiet() -> Iterator[None]:
    """A failure is an exception; torch would print the whole graph as well."""
    log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stderr(io.StringIO()):
            yield
    finally:
        log.setLevel(before)


def _described(program: ExportedProgram, signature: inspect.Signature) -> Exported:
    sources: dict[str, str] = {}
    constants: dict[str, Tensor] = {}
    integers: dict[str, Tensor] = {}
    inputs: list[str] = []
    for spec in program.graph_signature.input_specs:
        name = spec.arg.name
        if spec.kind is InputKind.USER_INPUT:
            inputs.append(name)
        elif spec.target in program.state_dict:
            sources[name] = spec.target
            if is_integer(program.state_dict[spec.target]):
                integers[name] = program.state_dict[spec.target]
        elif spec.target in program.constants:
            constants[name] = program.constants[spec.target]
    graph_module = program.graph_module
    most = _free_sizes(_named(graph_module.graph, inputs), program.range_constraints)
    in_line(graph_module)
    return Exported(
        graph_module,
        sources,
        constants,
        integers,
        tuple(inputs),
        signature,
        most,
        program.call_spec.out_spec,
        bool(most),
    )


def _with_conditions(exported: Exported, program: ExportedProgram) -> Exported:
    """What is known of the sizes that are free beside the batch."""
    sizes = [size for node in exported.input_nodes for size in node.meta["val"].shape[1:]]
    ranges = program.range_constraints
    bounds = {str(size): ranges.get(size.node.expr) for size in sizes if is_symbol(size)}
    least = {name: 0 if each is None else int(each.lower) for name, each in bounds.items()}
    conditions = tuple(getattr(program, "_guards_code", ()))
    return replace(exported, least=least, conditions=conditions)


def _named(graph: fx.Graph, names: Sequence[str]) -> list[fx.Node]:
    nodes = {node.name: node for node in graph.find_nodes(op="placeholder")}
    return [nodes[name] for name in names]


def _free_sizes(
    inputs: Sequence[fx.Node], ranges: Mapping[Any, ValueRanges[Any]]
) -> dict[str, float]:
    """Symbol -> the largest that it may be."""
    values = (node.meta.get("val") for node in inputs)
    sizes = (size for value in values if isinstance(value, Tensor) for size in value.shape)
    free: list[Any] = [size for size in sizes if is_symbol(size)]
    return {str(size): _largest(ranges.get(size.node.expr)) for size in free}


def _largest(bounds: ValueRanges[Any] | None) -> float:
    if bounds is None or not bounds.upper.is_Integer:
        return math.inf
    return int(bounds.upper)


def is_symbol(size: int | torch.SymInt) -> bool:
    """A size that stayed free; a symbol that the model has pinned to one value is not."""
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None


def is_integer(value: Tensor) -> bool:
    """Neither decimal nor complex nor of truths."""
    return not (value.is_floating_point() or value.is_complex() or value.dtype is torch.bool)
