"""Makes a rewritten graph the forward of a module: operators that are a submodule's are its calls.

| symbol | meaning |
|---|---|
| leaf | a module that calls one operator, see `leaves` |
| owner | the module whose forward called an operator |

What is left are operators, which read tensors, training flags, device and dtype from the module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase

from search.attributes import is_conv1d
from search.graph.dependency.operators.attention import ATTENTION
from search.graph.dependency.operators.registry import OPERATORS
from search.graph.exported.nodes import module_path, operator_name
from search.graph.pruned.leaves import Leaf, calls_alike, is_changed, leaf_of
from search.tensors import named_tensors

Owners: TypeAlias = Mapping[str, tuple[str, float]]

DEVICE, DTYPE = "_device_of_weights", "_dtype_of_weights"
_MOMENTUM = 6
_DROPOUT_P = 4
_DROPOUTS = ("dropout", "dropout_p", "attn_drop", "attention_dropout", "attn_dropout")


@dataclass(frozen=True)
class ModuleCalls:
    """A graph that runs on a module.

    Attributes:
        graph: its placeholders are the device and the dtype of the weights, then the inputs; it
            returns a list.
        called: the paths of the modules that it calls.
    """

    graph: fx.Graph
    called: frozenset[str]


def with_module_calls(
    graph: fx.Graph,
    root: nn.Module,
    sources: Mapping[str, str],
    owners: Owners,
    dtype: torch.dtype | None,
) -> ModuleCalls:
    """The graph as the forward of `root`.

    Args:
        graph: a rewritten graph.
        root: the module that will run it.
        sources: placeholder -> the parameter, buffer or constant of `root`; others are inputs.
        owners: operator -> the path of its owner, and the probability with which that drops
            attention weights in training; as far as they are known.
        dtype: that of the weights in the graph; None where they have several.
    """
    writer = _Writer(root, sources, owners, dtype)
    for node in graph.nodes:
        writer.copy(node)
    writer.drop_unread()
    return ModuleCalls(writer.graph, frozenset(writer.called))


def chosen(training: bool, in_training: Any, otherwise: Any) -> Any:
    """An argument that depends on the training flag of an owner."""
    return in_training if training else otherwise


def momentum_of(norm: nn.Module, otherwise: float) -> float:
    """The momentum of a batch norm whose forward is not called; in training, counts the batch."""
    if not norm.training or not isinstance(norm, _NormBase) or norm.num_batches_tracked is None:
        return otherwise
    norm.num_batches_tracked.add_(1)
    return 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else otherwise


@dataclass
class _Call:
    """An operator of the graph with its arguments by their schema names."""

    node: fx.Node
    given: dict[str, Any]
    defaults: dict[str, Any]
    inplace: bool
    operands: tuple[str, ...] = field(default=())  # names of its tensor arguments

    @classmethod
    def of(cls, node: fx.Node) -> _Call | None:
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            return None
        defaults = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
        names = [argument.name for argument in schema.arguments]
        given = {**defaults, **dict(zip(names, node.args, strict=False)), **node.kwargs}
        tensors = tuple(a.name for a in schema.arguments if "Tensor" in str(a.type))
        return cls(node, given, defaults, schema.name.endswith("_"), tensors)


class _Writer:
    """Copies nodes one by one."""

    def __init__(
        self,
        root: nn.Module,
        sources: Mapping[str, str],
        owners: Owners,
        dtype: torch.dtype | None,
    ) -> None:
        self.graph, self.called = fx.Graph(), set[str]()
        self._sources, self._owners, self._dtype = sources, owners, dtype
        self._modules = dict(root.named_modules(remove_duplicate=False))
        self._tensors = named_tensors(root)
        self._holders = dict[int, list[str]]()
        for path, module in self._modules.items():
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None:
                    self._holders.setdefault(id(tensor), []).append(path)
        self._device = self.graph.placeholder(DEVICE)
        self._dtype_now = self.graph.placeholder(DTYPE)
        self._copies: dict[fx.Node, fx.Node] = {}
        self._firsts: list[fx.Node] = []

    def copy(self, node: fx.Node) -> None:
        if node.op == "output":
            self.graph.output(fx.map_arg(node.args[0], self._copies.__getitem__))
        elif node.op != "placeholder":
            made = self._module_call(node) or self._conv1d_call(node)
            self._copies[node] = made or self._operator(node)
        elif node.name in self._sources:
            self._copies[node] = self._attribute(self._sources[node.name])
        else:
            self._copies[node] = self.graph.placeholder(node.name)

    def drop_unread(self) -> None:
        """Forget the tensors that modules read themselves, and the first operators of theirs."""
        for node in [*self._firsts, *self.graph.find_nodes(op="get_attr")]:
            if not node.users:
                self.graph.erase_node(node)

    def _attribute(self, path: str) -> fx.Node:
        return self.graph.create_node("get_attr", path)

    def _module_call(self, node: fx.Node) -> fx.Node | None:
        """The call of the one submodule whose operator this is; None where there is none."""
        call = _Call.of(node)
        if call is None:
            return None
        for path in self._candidates(call):
            leaf = leaf_of(self._modules[path])
            if leaf is not None and self._is_of(call, path, leaf):
                (operand,) = self._other_operands(call, leaf)
                self.called.add(path)
                given = self._copies[call.given[operand]]
                return self.graph.create_node("call_module", path, (given,), name=node.name)
        return None

    def _conv1d_call(self, node: fx.Node) -> fx.Node | None:
        """The call of a `Conv1D`: view(addmm(bias, view(x, …), weight), …)."""
        path = self._owner(node)
        module = self._modules.get(path or "")
        if path is None or module is None or not is_conv1d(module) or is_changed(module):
            return None
        view = _given(node, "view")
        product = _given(view.get("self"), "addmm")
        flat = _given(product.get("mat1"), "view")
        same = all(
            self._tensor(product.get(name)) is own
            for name, own in (("self", module.bias), ("mat2", module.weight))
        )
        if not flat or not same or module.nf != module.weight.shape[-1]:
            return None
        self.called.add(path)
        self._firsts += (self._copies[view["self"]], self._copies[product["mat1"]])
        given = self._copies[flat["self"]]
        return self.graph.create_node("call_module", path, (given,), name=node.name)

    def _candidates(self, call: _Call) -> Iterator[str]:
        """The owner first, then the modules that hold the weight."""
        owner = self._owner(call.node)
        if owner is not None:
            yield owner
        tensor = self._tensor(call.given.get("weight"))
        yield from self._holders.get(id(tensor), ()) if tensor is not None else ()

    def _owner(self, node: fx.Node) -> str | None:
        path, _ = self._owners.get(node.name, (None, 0.0))
        return path if path in self._modules else None

    def _tensor(self, value: Any) -> Tensor | None:
        if not isinstance(value, fx.Node) or value.name not in self._sources:
            return None
        return self._tensors.get(self._sources[value.name])

    def _other_operands(self, call: _Call, leaf: Leaf) -> list[str]:
        return [name for name in call.operands if name not in leaf.tensors]

    def _is_of(self, call: _Call, path: str, leaf: Leaf) -> bool:
        """Whether the module, called with the operand alone, calls the operator like this."""
        module = self._modules[path]
        if operator_name(call.node) != leaf.operator:
            return False
        alone = not leaf.tensors or leaf.flag is not None
        if alone and self._owner(call.node) != path:
            return False
        others = self._other_operands(call, leaf)
        if len(others) != 1 or not isinstance(call.given[others[0]], fx.Node):
            return False
        for name in leaf.tensors:
            own = getattr(module, name, None)
            if own is not self._tensor(call.given.get(name)) or (
                own is None and call.given.get(name) is not None
            ):
                return False
        plain = {name: value for name, value in call.given.items() if name not in call.operands}
        return calls_alike(leaf, module, plain, call.defaults, inplace=call.inplace)

    def _operator(self, node: fx.Node) -> fx.Node:
        args, kwargs = fx.map_arg((node.args, node.kwargs), self._copies.__getitem__)
        if self._tensors:
            args = tuple(map(self._moved, args))
            kwargs = {name: self._moved(value) for name, value in kwargs.items()}
        args, kwargs = self._in_training(node, args, kwargs)
        return self.graph.create_node(node.op, node.target, args, kwargs, name=node.name)

    def _moved(self, argument: Any) -> Any:
        """Device and dtype of the weights in place of those that the model was exported with."""
        if isinstance(argument, torch.device):
            return self._device
        is_theirs = isinstance(argument, torch.dtype) and argument == self._dtype
        return self._dtype_now if is_theirs else argument

    def _in_training(
        self, node: fx.Node, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments that follow the training flag of the owner."""
        path = self._owner(node) or ""
        name, values = operator_name(node), list(args)
        if name == ATTENTION:
            _, dropped = self._owners.get(node.name, ("", 0.0))
            if len(values) > _DROPOUT_P:
                values[_DROPOUT_P] = self._chosen(path, dropped, values[_DROPOUT_P])
            else:
                given = kwargs.get("dropout_p", 0.0)
                kwargs = {**kwargs, "dropout_p": self._chosen(path, dropped, given)}
            return tuple(values), kwargs
        place = OPERATORS[name].training_flag if name in OPERATORS else None
        if place is None or len(values) <= place:
            return tuple(values), kwargs
        values[place] = self._chosen(path, True, values[place])
        if isinstance(self._modules[path], _NormBase) and len(values) > _MOMENTUM:
            norm = self._attribute(path)
            values[_MOMENTUM] = self._call(momentum_of, norm, values[_MOMENTUM])
        return tuple(values), kwargs

    def _chosen(self, path: str, in_training: Any, otherwise: Any) -> Any:
        flag = self._attribute(f"{path}.training".removeprefix("."))
        return self._call(chosen, flag, in_training, otherwise)

    def _call(self, function: Any, *args: Any) -> fx.Node:
        return self.graph.call_function(function, args)


def _given(node: Any, name: str) -> dict[str, Any]:
    """The arguments of an operator of that name; none of what is another."""
    call = _Call.of(node) if isinstance(node, fx.Node) and operator_name(node) == name else None
    return call.given if call is not None else {}


def owners_of(graph: fx.Graph, body: nn.Module) -> dict[str, tuple[str, float]]:
    """The owner of every operator of an exported graph, see `with_module_calls`."""
    modules = dict(body.named_modules(remove_duplicate=False))
    owners = {}
    for node in graph.nodes:
        if node.op == "call_function":
            path = module_path(node) if module_path(node) in modules else ""
            drops = operator_name(node) == ATTENTION
            owners[node.name] = path, _dropout_of(modules[path]) if drops else 0.0
    return owners


def _dropout_of(owner: nn.Module) -> float:
    """The probability with which a module drops attention weights in training."""
    values = (getattr(owner, name, None) for name in _DROPOUTS)
    plain = (getattr(value, "p", value) for value in values)
    return next((value for value in plain if isinstance(value, float)), 0.0)
