"""A graph as code that runs, and as pickle can keep it: operators by name, nodes by reference.

It knows torch.fx and nothing of pruning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch.fx.node import map_aggregate
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class _Reference:
    """The node of that name."""

    name: str


@dataclass(frozen=True)
class _Operator:
    """An overload of an operator, "aten::add" and "Tensor"."""

    name: str
    overload: str


class Steps:
    """A graph that is never changed: copies share it, and it can be pickled.

    Attributes:
        graph: it.
        run: a function of a module and of the values of the placeholders: what the graph computes
            with the tensors and submodules of that module.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.run = _compiled(graph)

    def by(self, run: Callable[..., Any]) -> Steps:
        """The same graph, run by another function."""
        made = Steps.__new__(Steps)
        made.graph, made.run = self.graph, run
        return made

    def __deepcopy__(self, memo: object) -> Steps:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _read, ([_written(node) for node in self.graph.nodes],)


@dataclass(frozen=True)
class Nesting:
    """How outputs are nested; shared by copies, because a spec of one leaf cannot be copied."""

    spec: pytree.TreeSpec

    def __deepcopy__(self, memo: object) -> Nesting:
        return self


def _compiled(graph: fx.Graph) -> Callable[..., Any]:
    """The function that torch.fx writes for a graph: Python as a forward by hand would be."""
    code = graph.python_code("self")
    names = dict(code.globals)
    exec(compile(code.src, "<pruned graph>", "exec"), names)
    written: Callable[..., Any] = names["forward"]
    return written


def _written(node: fx.Node) -> tuple[Any, ...]:
    target: Any = node.target
    if isinstance(target, OpOverload):
        target = _Operator(target._schema.name, target._overloadname)
    arguments = map_aggregate((node.args, node.kwargs), _without_nodes)
    return node.name, node.op, target, arguments


def _without_nodes(value: Any) -> Any:
    return _Reference(value.name) if isinstance(value, fx.Node) else value


def _read(written: list[tuple[Any, ...]]) -> Steps:
    graph, nodes = fx.Graph(), {}
    for name, op, target, arguments in written:
        if isinstance(target, _Operator):
            namespace, _, operator = target.name.partition("::")
            packet = getattr(getattr(torch.ops, namespace), operator)
            target = getattr(packet, target.overload)
        args, kwargs = map_aggregate(
            arguments, lambda value: nodes[value.name] if isinstance(value, _Reference) else value
        )
        nodes[name] = graph.create_node(op, target, args, kwargs, name=name)
    return Steps(graph)
