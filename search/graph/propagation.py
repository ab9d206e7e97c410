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

from search.graph.call import Call, Outcome, Rule
from search.graph.exporting import BATCH, Exported, is_symbol
from search.graph.knowing import with_known
from search.graph.labels import FREE, Atoms, Axis, Effect, Labels, fixed, freeze_all, total
from search.graph.rules.table import POINTWISE, RULES
from search.graph.vanishing import vanishes

NO_CHOICES: Mapping[fx.Node, int] = MappingProxyType({})
NO_ATOMS: Atoms = np.empty(0, np.int64)


@dataclass(frozen=True)
class Block:
    """A branch that can be left out: the sum that it ends in is replaced by its shortcut.

    Attributes:
        name: the module that computes the branch; two blocks may have the same.
        atom: stands for the branch as a whole; no axis of a value holds it.
        add: the addition.
        shortcut: the value that replaces it.
        branch: the value that goes.
        inner: the nodes that nothing but the branch uses, itself among them.
        written: an operator writes into the memory of the sum.
    """

    name: str
    atom: int
    add: fx.Node
    shortcut: fx.Node
    branch: fx.Node
    inner: frozenset[fx.Node]
    written: bool = False


@dataclass
class Propagation:
    """What the walk found.

    Attributes:
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
    rules: Mapping[str, Rule] = RULES,
    choices: Mapping[fx.Node, int] = NO_CHOICES,
) -> Propagation:
    """Apply the rules along the graph.

    Args:
        exported: the model's graph.
        aliases: name of a parameter -> the first name of the same tensor.
        rules: operator -> rule; a pointwise operator needs none.
        choices: node -> which of the dimensions that could carry its units does, best first.
    """
    found = Propagation()
    for node in exported.graph_module.graph.nodes:
        if node.op == "placeholder":
            labels = _placeholder(node, exported, aliases, found)
            found.values[node] = with_known(node, [labels], found.values, exported)
            found.held = found.atoms
        elif node.op == "output":
            found.effects.append(_output(node, found))
        elif node.op == "call_function":
            outputs, effect = _visit(node, exported, found, rules, choices.get(node, 0))
            settled = [_settled(labels, found) for labels in outputs]
            found.values[node] = with_known(node, settled, found.values, exported)
            found.effects.append(effect)
            for choice in effect.choices:
                found.choices[node] = choice
    found.averaged = _averaged(exported, found)
    return found


def _averaged(exported: Exported, found: Propagation) -> Atoms:
    averaged = [NO_ATOMS]
    for weight, dims in exported.averaged.items():
        for labels in found.values[weight]:
            averaged += [axis for dim in dims if (axis := labels.axes[dim]) is not None]
    return np.unique(np.concatenate(averaged))


def _settled(labels: Labels, found: Propagation) -> Labels:
    """Labels with an atom of its own for every index that is FREE."""
    if not any(axis is not None and bool((axis == FREE).any()) for axis in labels.axes):
        return labels
    axes: list[Axis] = []
    for axis in labels.axes:
        settled = None if axis is None else axis.copy()
        if settled is not None:
            places = np.flatnonzero(settled == FREE)
            settled[places] = np.arange(found.atoms, found.atoms + len(places))
            found.atoms += len(places)
        axes.append(settled)
    return replace(labels, axes=tuple(axes))


def _placeholder(
    node: fx.Node, exported: Exported, aliases: Mapping[str, str], found: Propagation
) -> Labels:
    blank = _blank(node.meta.get("val"), exported.dynamic)
    if node.name in exported.inputs:
        return blank
    source = exported.sources.get(node.name)
    if source is None:
        decimal = exported.constants[node.name].is_floating_point()
        return _fresh(blank.shape, found) if decimal else replace(blank, weight=True)
    name = aliases.get(source, source)
    if name not in found.tensors:
        found.tensors[name] = replace(_fresh(blank.shape, found), vanishes=True)
    return found.tensors[name]


def _fresh(shape: tuple[int, ...], found: Propagation) -> Labels:
    axes: list[Axis] = []
    for size in shape:
        axes.append(np.arange(found.atoms, found.atoms + size) if size > 1 else None)
        found.atoms += size if size > 1 else 0
    return Labels(shape, tuple(axes), weight=True)


def _output(node: fx.Node, found: Propagation) -> Effect:
    labels = (found.values[source] for source in node.all_input_nodes if source in found.values)
    reason = "its units are an output of the model"
    return total(freeze_all(value, reason) for values in labels for value in values)


def _visit(
    node: fx.Node,
    exported: Exported,
    found: Propagation,
    rules: Mapping[str, Rule],
    choice: int,
) -> Outcome:
    if node.target is operator.getitem:
        source, index = node.args
        return _item(found.values.get(source, ()), index), Effect()  # type: ignore[arg-type]
    call = replace(_bind(node, exported, found), choice=choice, held=found.held)
    rule = _rule(node, call, rules)
    try:
        outputs, effect = rule(call) if rule else call.give_frozen("there is no pruning rule")
    except (IndexError, KeyError, TypeError, ValueError) as error:
        outputs, effect = call.give_frozen(f"the pruning rule does not know this use: {error}")
    if vanishes(call, outputs):
        outputs = tuple(replace(labels, vanishes=True) for labels in outputs)
    return outputs, effect.said_of(_title(node))


def _item(values: Sequence[Labels], index: Any) -> tuple[Labels, ...]:
    return (
        (values[index],) if isinstance(index, int) and -len(values) <= index < len(values) else ()
    )


def _rule(node: fx.Node, call: Call, rules: Mapping[str, Rule]) -> Rule | None:
    if call.outputs and call.op in rules:
        return rules[call.op]
    if not call.inputs or not call.outputs:
        return lambda call: (call.outputs, Effect())
    return POINTWISE if _is_pointwise(node) else None


def _is_pointwise(node: fx.Node) -> bool:
    """By its own tags, or those of the operator that it does in place."""
    schema = getattr(node.target, "_schema", None)
    plain = None
    if schema is not None and schema.is_mutable and schema.name.startswith("aten::"):
        plain = getattr(torch.ops.aten, operator_name(node), None)
    twins = [getattr(plain, name) for name in plain.overloads()] if plain else []
    return any(torch.Tag.pointwise in getattr(each, "tags", ()) for each in (node.target, *twins))


def _bind(node: fx.Node, exported: Exported, found: Propagation) -> Call:
    """Arguments by their schema names, with Labels for tensors; defaults filled in."""

    def label(argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            values = found.values.get(argument, ())
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
    return Call(operator_name(node), arguments, _blanks(node.meta.get("val"), exported.dynamic))


def operator_name(node: fx.Node) -> str:
    """The ATen operator without namespace, overload and the underscore of in-place ones."""
    packet = getattr(node.target, "overloadpacket", None)
    name = str(getattr(packet or node.target, "__name__", node.target))
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def is_check(node: fx.Node) -> bool:
    """Whether the node computes nothing: an export asserts sizes, and dtypes before a cast."""
    return operator_name(node).startswith(("_assert", "sym_constrain"))


def module_path(node: fx.Node) -> str:
    """The module whose forward called the operator."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(path) for path, _ in stack.values()]
    return paths[-1] if paths else ""


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
    """The traced size; one that only the data tells counts as that of a batch."""
    hint = size if isinstance(size, int) else size.node.hint
    return BATCH if hint is None else int(hint)
