"""Walks the exported graph, one rule per operator: the axes of every value, and their ties."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from search.graph.dependency.constant_integers import with_known
from search.graph.dependency.labels import (
    FREE,
    Atoms,
    Axis,
    Block,
    Effect,
    Labels,
    fixed,
    freeze_all,
    total,
)
from search.graph.dependency.op_call import OpCall, Outcome, PropagationRule
from search.graph.dependency.operators.elementwise import elementwise
from search.graph.dependency.operators.operator import Operator
from search.graph.dependency.operators.registry import OPERATORS
from search.graph.exported.export import BATCH, Exported, is_symbol
from search.graph.exported.nodes import module_path, operator_name

NO_CHOICES: Mapping[fx.Node, int] = MappingProxyType({})
NO_ATOMS: Atoms = np.empty(0, np.int64)


@dataclass
class Propagation:
    """The labels and effects of a whole graph.

    Attributes:
        operators: operator -> its record.
        values: node -> the labels of its outputs.
        tensors: parameter or buffer -> its labels; tied names appear once.
        effects: what each node did, in order.
        choices: node -> the atoms of a dimension that another one could carry instead, and how
            many dimensions could.
        atoms: how many atoms there are.
        counted: atoms that statistics count as zeros when they are gone; see `counting`.
        averaged: atoms that statistics of weights run over, which only an exported graph holds.
        held: how many of them, the first ones, are those of parameters, buffers and constants.
        blocks: the branches that can be left out; each has an atom, the last ones.
    """

    operators: Mapping[str, Operator]
    values: dict[fx.Node, tuple[Labels, ...]] = field(default_factory=dict)
    tensors: dict[str, Labels] = field(default_factory=dict)
    effects: list[Effect] = field(default_factory=list)
    choices: dict[fx.Node, tuple[Atoms, int]] = field(default_factory=dict)
    atoms: int = 0
    counted: Atoms = field(default_factory=lambda: NO_ATOMS)
    averaged: Atoms = field(default_factory=lambda: NO_ATOMS)
    held: int = 0
    blocks: tuple[Block, ...] = ()


def propagate(
    exported: Exported,
    aliases: Mapping[str, str],
    operators: Mapping[str, Operator] = OPERATORS,
    choices: Mapping[fx.Node, int] = NO_CHOICES,
) -> Propagation:
    """Apply the rules along the graph.

    Args:
        exported: the model's graph.
        aliases: name of a parameter -> the first name of the same tensor.
        operators: operator -> its record; a pointwise operator needs none.
        choices: node -> which of the dimensions that could carry its units does, best first.
    """
    propagation = Propagation(operators)
    for node in exported.graph_module.graph.nodes:
        if node.op == "placeholder":
            labels = _placeholder(node, exported, aliases, propagation)
            propagation.values[node] = with_known(node, [labels], propagation.values, exported)
            propagation.held = propagation.atoms
        elif node.op == "output":
            propagation.effects.append(_output(node, propagation))
        elif node.op == "call_function":
            outputs, effect = _visit(node, exported, propagation, choices.get(node, 0))
            settled = [_settled(labels, propagation) for labels in outputs]
            propagation.values[node] = with_known(node, settled, propagation.values, exported)
            propagation.effects.append(effect)
            for choice in effect.choices:
                propagation.choices[node] = choice
    propagation.averaged = _averaged(exported, propagation)
    return propagation


def _averaged(exported: Exported, propagation: Propagation) -> Atoms:
    averaged = [NO_ATOMS]
    for weight, dims in exported.averaged.items():
        for labels in propagation.values[weight]:
            averaged += [axis for dim in dims if (axis := labels.axes[dim]) is not None]
    return np.unique(np.concatenate(averaged))


def _settled(labels: Labels, propagation: Propagation) -> Labels:
    """Labels with an atom of its own for every index that is FREE."""
    if not any(axis is not None and bool((axis == FREE).any()) for axis in labels.axes):
        return labels
    axes: list[Axis] = []
    for axis in labels.axes:
        settled = None if axis is None else axis.copy()
        if settled is not None:
            places = np.flatnonzero(settled == FREE)
            settled[places] = np.arange(propagation.atoms, propagation.atoms + len(places))
            propagation.atoms += len(places)
        axes.append(settled)
    return replace(labels, axes=tuple(axes))


def _placeholder(
    node: fx.Node, exported: Exported, aliases: Mapping[str, str], propagation: Propagation
) -> Labels:
    blank = _blank(node.meta.get("val"), exported.dynamic)
    if node.name in exported.inputs:
        return blank
    source = exported.sources.get(node.name)
    if source is None:
        decimal = exported.constants[node.name].is_floating_point()
        return _fresh(blank.shape, propagation) if decimal else replace(blank, weight=True)
    name = aliases.get(source, source)
    if name not in propagation.tensors:
        propagation.tensors[name] = replace(_fresh(blank.shape, propagation), vanishes=True)
    return propagation.tensors[name]


def _fresh(shape: tuple[int, ...], propagation: Propagation) -> Labels:
    axes: list[Axis] = []
    for size in shape:
        axes.append(np.arange(propagation.atoms, propagation.atoms + size) if size > 1 else None)
        propagation.atoms += size if size > 1 else 0
    return Labels(shape, tuple(axes), weight=True)


def _output(node: fx.Node, propagation: Propagation) -> Effect:
    labels = (
        propagation.values[source]
        for source in node.all_input_nodes
        if source in propagation.values
    )
    reason = "its units are an output of the model"
    return total(freeze_all(value, reason) for values in labels for value in values)


def _visit(
    node: fx.Node,
    exported: Exported,
    propagation: Propagation,
    choice: int,
) -> Outcome:
    if node.target is operator.getitem:
        source, index = node.args
        return _item(propagation.values.get(source, ()), index), Effect()  # type: ignore[arg-type]
    call = replace(_bind(node, exported, propagation), choice=choice, held=propagation.held)
    record = propagation.operators.get(call.op)
    rule = _rule(node, call, record)
    try:
        outputs, effect = rule(call) if rule else call.give_frozen("there is no pruning rule")
    except (IndexError, KeyError, TypeError, ValueError) as error:
        outputs, effect = call.give_frozen(f"the pruning rule does not know this use: {error}")
    if outputs and record is not None and record.zeros and record.zeros(call, outputs[0]):
        outputs = tuple(replace(labels, vanishes=True) for labels in outputs)
    return outputs, effect.with_location(_title(node))


def _item(values: Sequence[Labels], index: Any) -> tuple[Labels, ...]:
    return (
        (values[index],) if isinstance(index, int) and -len(values) <= index < len(values) else ()
    )


def _rule(node: fx.Node, call: OpCall, record: Operator | None) -> PropagationRule | None:
    if call.outputs and record is not None and record.propagate is not None:
        return record.propagate
    if not call.inputs or not call.outputs:
        return lambda call: (call.outputs, Effect())
    return elementwise if _is_pointwise(node) else None


def _is_pointwise(node: fx.Node) -> bool:
    """By its own tags, or those of the operator that it does in place."""
    schema = getattr(node.target, "_schema", None)
    plain = None
    if schema is not None and schema.is_mutable and schema.name.startswith("aten::"):
        plain = getattr(torch.ops.aten, operator_name(node), None)
    twins = [getattr(plain, name) for name in plain.overloads()] if plain else []
    return any(torch.Tag.pointwise in getattr(each, "tags", ()) for each in (node.target, *twins))


def _bind(node: fx.Node, exported: Exported, propagation: Propagation) -> OpCall:
    """Arguments by their schema names, with Labels for tensors; defaults filled in."""

    def label(argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            values = propagation.values.get(argument, ())
            return values[0] if len(values) == 1 else list(values)
        if isinstance(argument, list | tuple):
            return [label(item) for item in argument]
        return argument

    schema = getattr(node.target, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema else []
    names += [f"argument{place}" for place in range(len(names), len(node.args))]
    defaults = {
        argument.name: argument.default_value
        for argument in (schema.arguments if schema else ())
        if argument.has_default_value()
    }
    given = dict(zip(names, map(label, node.args), strict=False))
    given |= {name: label(value) for name, value in node.kwargs.items()}
    arguments = {
        name: given.get(name, defaults.get(name)) for name in dict.fromkeys([*names, *given])
    }
    return OpCall(operator_name(node), arguments, _blanks(node.meta.get("val"), exported.dynamic))


def _title(node: fx.Node) -> str:
    path = module_path(node)
    return f"operator {operator_name(node)} in {path or 'the model itself'}"


def _blanks(value: Any, dynamic: bool) -> tuple[Labels, ...]:
    if isinstance(value, Tensor):
        return (_blank(value, dynamic),)
    if isinstance(value, list | tuple):
        return tuple(_blank(item, dynamic) for item in value)
    return ()


def _blank(value: Any, dynamic: bool) -> Labels:
    if not isinstance(value, Tensor):
        return fixed(())
    shape = [_hint(size) for size in value.shape]
    batch = {dim for dim, size in enumerate(value.shape) if is_symbol(size)}
    if not dynamic and shape and shape[0] == BATCH:
        batch = {0}
    return fixed(shape, frozenset(batch))


def _hint(size: int | torch.SymInt) -> int:
    """The traced size; one that depends on data counts as that of a batch."""
    hint = size if isinstance(size, int) else size.node.hint
    return BATCH if hint is None else int(hint)
