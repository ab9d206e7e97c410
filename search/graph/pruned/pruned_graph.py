"""PrunedGraph: a pruned model as its exported graph, for models whose own forward holds constants.

| symbol | meaning |
|---|---|
| program | the exported graph of the dense model in its own dtype, with its labels |
| body | the user's module with smaller tensors, whose forward is not used |
| owner | the module whose forward called an operator |
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils import _pytree as pytree

from search.graph.dependency.labels import FIXED, Atoms, KeepMask, dense
from search.graph.dependency.operators.attention import ATTENTION
from search.graph.dependency.operators.registry import OPERATORS
from search.graph.dependency.propagation import Propagation
from search.graph.exported.export import BATCH, Exported
from search.graph.exported.nodes import module_path, operator_name
from search.graph.exported.vmap_levels import levels_closed
from search.graph.pruned.inputs import traced_inputs
from search.graph.pruned.pickling import Steps
from search.graph.pruned.rewrite import rewritten
from search.tensors import drop_unread, named_tensors

_MOMENTUM = 6
_DROPOUTS = ("dropout", "dropout_p", "attn_drop", "attention_dropout", "attn_dropout")
CONSTANTS = "lifted_constants"

Owners = dict[str, tuple[str, float]]  # node -> path of its owner, attention dropout of that one


@dataclass(frozen=True, eq=False)
class Program:
    """The exported graph of a dense model and what is known of its values."""

    exported: Exported
    propagation: Propagation

    def limited(self, *, fixed: bool) -> Program:
        """This one for no single example, and, where the number is `fixed`, for two alone."""
        most = dict.fromkeys(self.exported.most, BATCH) if fixed else self.exported.most
        return replace(self, exported=replace(self.exported, single=False, most=most))

    @property
    def limits(self) -> dict[str, bool] | None:
        """What `limited` has to know to do the same again; None where nothing is limited."""
        if self.exported.single or not self.exported.dynamic:
            return None
        return {"fixed": max(self.exported.most.values(), default=BATCH) <= BATCH}

    def uneven(self, group_of: Atoms, unit_of: Atoms) -> set[int]:
        """Groups with a value that carries some units more often than others, or not at all.

        The sizes of such a value depend on which units are kept, not on their number alone.
        """
        axes = {
            id(axis): axis
            for outputs in self.propagation.values.values()
            for labels in outputs
            for axis in labels.axes
            if axis is not None
        }
        uneven: set[int] = set()
        for axis in axes.values():
            groups, units = group_of[axis[axis >= 0]], unit_of[axis[axis >= 0]]
            for group in set(groups.tolist()) - uneven - {-1}:
                width = int(unit_of[group_of == group].max()) + 1
                counts = np.bincount(units[groups == group], minlength=width)
                if counts.min() != counts.max():
                    uneven.add(group)
        return uneven

    def pruned(self, whole: nn.Module, body: nn.Module, kept: KeepMask) -> PrunedGraph:
        """The model that computes with the tensors of `body`, of which atoms in `kept` are left.

        Args:
            whole: the model before it was cut: statistics of its weights stay.
            body: taken over, not copied.
            kept: atom -> whether it stays, shape (atoms,).
        """
        made = rewritten(self.exported.graph_module.graph, self.propagation, kept)
        dense, left = _read(self.exported.graph_module.graph), _read(made.graph)
        left |= made.replaced & self.exported.integers.keys()
        tensors = named_tensors(body)
        before, after = (
            {id(tensors[source]) for name, source in self.exported.sources.items() if name in read}
            for read in (dense, left)
        )
        drop_unread(body, before - after, after)
        constants = self.exported.constants_for(named_tensors(whole))
        constants = {name: constant for name, constant in constants.items() if name in left}
        constants = self._cut(constants, kept) | dict(made.indices)
        kind = _called_like(self.exported.signature)
        return kind(made.graph, body, self.exported, constants)

    def _cut(self, constants: Mapping[str, Tensor], kept: KeepMask) -> dict[str, Tensor]:
        """Constants of which units take their part: a fixed filter per channel, say."""
        nodes = self.exported.graph_module.graph.find_nodes(op="placeholder")
        labels = {node.name: self.propagation.values[node][0] for node in nodes}
        cut = {}
        for name, constant in constants.items():
            for dim in labels[name].labelled:
                axis = dense(labels[name].axes[dim], constant.shape[dim])
                stays = torch.from_numpy(((axis == FIXED) | kept[axis]).nonzero()[0])
                constant = constant.index_select(dim, stays.to(constant.device))
            cut[name] = constant
        return cut


def _read(graph: fx.Graph) -> set[str]:
    """The placeholders that some operator reads."""
    return {node.name for node in graph.find_nodes(op="placeholder") if node.users}


class PrunedGraph(nn.Module):
    """Runs an exported graph on the modules of the pruned model, which keep their names and kinds.

    It trains like the dense model (batch norm, dropout, attention dropout, each by the training
    flag of its own module), takes any batch size that the dense model takes, exports, and can be
    copied and pickled. It is called as the dense model is, by place or by name, with inputs like
    those that were traced: the same sizes but that of the batch, the same dtypes (those of decimal
    numbers follow the weights), the defaults of all other arguments. All else is an InputError.

    What Python code decided while the dense model was traced stays decided: a stochastic depth,
    for example, is gone, and hooks of its modules are not called. Statistics of weights that were
    standardised stay what they were when the model was pruned, and are part of its state.
    """

    def __init__(
        self,
        graph: fx.Graph,
        body: nn.Module,
        exported: Exported,
        constants: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        _take_over(self, body)
        self._steps = Steps(graph)
        self._outputs = _Nesting(exported.outputs)
        self._sources = dict(exported.sources)
        self._owners = _owners(exported, body)
        self._dtype = _dtype_of(exported)
        self._inputs = traced_inputs(exported, self._dtype)
        device = next((tensor.device for tensor in named_tensors(body).values()), None)
        lifted = nn.Module()
        for name, constant in constants.items():
            self._sources[name] = f"{CONSTANTS}.{name}"
            own = constant.to(device, copy=True)  # the exported graph and other models have it too
            lifted.register_buffer(name, own, persistent=name in exported.computed)
        self.add_module(CONSTANTS, lifted)
        self.training = body.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        run = _Run(self, self._steps.graph, self._owners, self._dtype)
        given = iter(self._inputs.tensors_of(args, kwargs, run.dtype))
        values = [
            operator.attrgetter(self._sources[node.name])(self)
            if node.name in self._sources
            else next(given)
            for node in self._steps.graph.find_nodes(op="placeholder")
        ]
        with levels_closed():
            outputs = run.run(*values)
        return pytree.tree_unflatten(list(outputs), self._outputs.spec)

    def __reduce__(self) -> tuple[Any, ...]:
        return _empty, (self._inputs.signature,), self.__dict__


def _called_like(signature: inspect.Signature) -> type[PrunedGraph]:
    """A class of pruned graphs whose forward shows a signature: torch.export and others look up
    there which argument has which name."""

    def forward(self: PrunedGraph, *args: Any, **kwargs: Any) -> Any:
        return PrunedGraph.forward(self, *args, **kwargs)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    shown = signature.replace(parameters=[own, *signature.parameters.values()])
    forward.__signature__ = shown  # type: ignore[attr-defined]
    body = {"forward": forward, "__doc__": PrunedGraph.__doc__, "__module__": __name__}
    return type(PrunedGraph.__name__, (PrunedGraph,), body)


def _empty(signature: inspect.Signature) -> PrunedGraph:
    """One that a copy or a pickle fills."""
    kind = _called_like(signature)
    return kind.__new__(kind)


@dataclass(frozen=True)
class _Nesting:
    """How outputs are nested; shared by copies, because a spec of one leaf cannot be copied."""

    spec: pytree.TreeSpec

    def __deepcopy__(self, memo: object) -> _Nesting:
        return self


class _Run(fx.Interpreter):
    """One forward: flags as the modules have them, new tensors like the weights."""

    def __init__(
        self, module: nn.Module, graph: fx.Graph, owners: Owners, dtype: torch.dtype | None
    ) -> None:
        super().__init__(module, graph=graph)
        self._root, self._owners, self._exported_dtype = module, owners, dtype
        weights = [*module.parameters(), *module.buffers()]
        decimal = (tensor.dtype for tensor in weights if tensor.is_floating_point())
        self._device = next((tensor.device for tensor in weights), None)
        self.dtype = next(decimal, None)

    def run_node(self, n: fx.Node) -> Any:
        if n.op != "call_function":
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if self._device is not None:
            args = tuple(map(self._moved, args))
            kwargs = {name: self._moved(value) for name, value in kwargs.items()}
        if n.name in self._owners:
            path, dropout = self._owners[n.name]
            owner = self._root.get_submodule(path)
            if owner.training and operator_name(n) == ATTENTION:
                args, kwargs = _attention_in_training(args, kwargs, dropout)
            elif owner.training:
                args = _in_training(operator_name(n), args, owner)
        return n.target(*args, **kwargs)  # type: ignore[operator]

    def _moved(self, argument: Any) -> Any:
        """Device and dtype of the weights in place of those that the model was exported with."""
        if isinstance(argument, torch.device):
            return self._device
        is_theirs = isinstance(argument, torch.dtype) and argument == self._exported_dtype
        return self.dtype if is_theirs and self.dtype is not None else argument


def _attention_in_training(
    args: tuple[Any, ...], kwargs: dict[str, Any], probability: float
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of an attention that drops weights."""
    if len(args) > 4:
        return (*args[:4], probability, *args[5:]), kwargs
    return args, {**kwargs, "dropout_p": probability}


def _in_training(name: str, args: tuple[Any, ...], owner: nn.Module) -> tuple[Any, ...]:
    """The arguments that an operator has when its owner is training."""
    place = OPERATORS[name].training_flag
    if place is None:
        return args
    args = (*args[:place], True, *args[place + 1 :])
    if isinstance(owner, _NormBase) and owner.num_batches_tracked is not None:
        owner.num_batches_tracked.add_(1)
        if owner.momentum is None:
            average = 1.0 / float(owner.num_batches_tracked)
            args = (*args[:_MOMENTUM], average, *args[_MOMENTUM + 1 :])
    return args


def _dtype_of(exported: Exported) -> torch.dtype | None:
    """That of the weights when the model was exported; None where they had several."""
    values = (
        node.meta["val"].dtype
        for node in exported.graph_module.graph.find_nodes(op="placeholder")
        if node.name in exported.sources
    )
    dtypes = {dtype for dtype in values if dtype.is_floating_point}
    return dtypes.pop() if len(dtypes) == 1 else None


def _dropout_of(owner: nn.Module) -> float:
    """The probability with which a module drops attention weights in training."""
    values = (getattr(owner, name, None) for name in _DROPOUTS)
    plain = (getattr(value, "p", value) for value in values)
    return next((value for value in plain if isinstance(value, float)), 0.0)


def _owners(exported: Exported, body: nn.Module) -> Owners:
    """Where operators behave differently in training."""
    modules = dict(body.named_modules())
    owners = {}
    for node in exported.graph_module.graph.nodes:
        name = operator_name(node) if node.op == "call_function" else ""
        place = OPERATORS[name].training_flag if name in OPERATORS else None
        if name == ATTENTION or (place is not None and len(node.args) > place):
            path = module_path(node) if module_path(node) in modules else ""
            owners[node.name] = path, _dropout_of(modules[path])
    return owners


def _take_over(root: nn.Module, body: nn.Module) -> None:
    """Give `root` the children, parameters and buffers of `body`, under all of their names."""
    kept = body.state_dict().keys()
    for name, child in body._modules.items():
        root.add_module(name, child)
    for name, parameter in body._parameters.items():
        root.register_parameter(name, parameter)
    for name, buffer in body._buffers.items():
        root.register_buffer(name, buffer, persistent=name in kept)
