"""PrunedGraph: a pruned model as its exported graph, for models whose own forward holds constants.

| symbol | meaning |
|---|---|
| program | the exported graph of the dense model in its own dtype, with its labels |
| body | the user's module with smaller tensors, whose forward is not used |
| owner | the module whose forward called an operator |
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from search.graph.dependency.labels import FIXED, Atoms, KeepMask, dense
from search.graph.dependency.propagation import Propagation
from search.graph.exported.export import BATCH, Exported
from search.graph.exported.vmap_levels import levels_closed, opens_levels
from search.graph.pruned.calls import Owners, owners_of, with_module_calls
from search.graph.pruned.inputs import TracedInputs, traced_inputs
from search.graph.pruned.pickling import Nesting, Steps
from search.graph.pruned.replacements import (
    check_modules,
    first_decimal,
    hooked_of,
    kinds_beside,
)
from search.graph.pruned.rewrite import rewritten
from search.tensors import drop_unread, named_tensors

CONSTANTS, FREE_CONSTANTS = "lifted_constants", "free_constants"


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

    def pruned(
        self, whole: nn.Module, body: nn.Module, kept: KeepMask, free: Program | None = None
    ) -> PrunedGraph:
        """The model that computes with the tensors of `body`, of which atoms in `kept` are left.

        Args:
            whole: the model before it was cut: statistics of its weights stay.
            body: taken over, not copied.
            kept: atom -> whether it stays, shape (atoms,).
            free: a program of the same atoms that holds for other sizes of the inputs too.
        """
        graph, constants = self._rewritten(whole, body, kept)
        made = _called_like(self.exported.signature)(graph, body, self.exported, constants)
        if free is not None:
            made.add_sizes(*free._rewritten(whole, body, kept), free.exported)
        return made

    def _rewritten(
        self, whole: nn.Module, body: nn.Module, kept: KeepMask
    ) -> tuple[fx.Graph, dict[str, Tensor]]:
        """The graph of what is left, and its constants; what `body` holds beside goes."""
        made = rewritten(self.exported.graph_module.graph, self.propagation, kept)
        dense, left = _read(self.exported.graph_module.graph), _read(made.graph)
        left |= made.replaced & self.exported.integers.keys()
        tensors = named_tensors(body)
        held = {name: own for name, own in self.exported.sources.items() if own in tensors}
        before, after = (
            {id(tensors[source]) for name, source in held.items() if name in read}
            for read in (dense, left)
        )
        drop_unread(body, before - after, after)
        constants = self.exported.constants_for(named_tensors(whole))
        constants = {name: constant for name, constant in constants.items() if name in left}
        return made.graph, self._cut(constants, kept) | dict(made.indices)

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


@dataclass(frozen=True)
class _FreeSizes:
    """The graph for other sizes of the inputs than the traced ones; copies share it."""

    steps: Steps
    inputs: TracedInputs
    opens_levels: bool

    def __deepcopy__(self, memo: object) -> _FreeSizes:
        return self


class PrunedGraph(nn.Module):
    """A pruned model whose forward is its exported graph, on modules that keep names and kinds.

    An operator that a submodule of torch.nn stands for is a call of that submodule: its hooks run,
    and what replaces it (an adapter, a quantized layer) takes effect. The others are operators
    that read tensors: a module whose forward is not called must not be replaced (a
    ReplacedError), and its hooks do nothing.

    It trains like the dense model (batch norm, dropout, attention dropout, each by the training
    flag of its own module), takes any batch size that the dense model takes, compiles, exports,
    and can be copied and pickled. It is called as the dense model is, by place or by name, with
    inputs like those that were traced: the same sizes but that of the batch, and other sizes where
    a graph with free sizes was made and holds for them; the same dtypes (those of decimal numbers
    follow the weights), the defaults of all other arguments. All else is an InputError.

    What Python code decided while the dense model was traced stays decided: a stochastic depth,
    for example, is gone. What hooks did stays in the graph, so modules that had some are not
    called. Statistics of weights that were standardised stay what they were when the model was
    pruned, and are part of its state.

    Attributes:
        called: the paths of the submodules that it calls.
    """

    _free: _FreeSizes | None = None

    def __init__(
        self,
        graph: fx.Graph,
        body: nn.Module,
        exported: Exported,
        constants: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        _take_over(self, body)
        self._outputs = Nesting(exported.outputs)
        self._dtype = _dtype_of(exported)
        self._inputs = traced_inputs(exported, self._dtype)
        sources = self._with_constants(CONSTANTS, constants, exported)
        self.training = body.training
        self._write(graph, sources, owners_of(exported.graph_module.graph, body))

    def _with_constants(
        self, holder: str, constants: Mapping[str, Tensor], exported: Exported
    ) -> dict[str, str]:
        """Keep constants in a module of their own; where all placeholders come from."""
        device = next((tensor.device for tensor in named_tensors(self).values()), None)
        lifted = nn.Module()
        for name, constant in constants.items():
            own = constant.to(device, copy=True)  # the exported graph and other models have it too
            lifted.register_buffer(name, own, persistent=name in exported.computed)
        self.add_module(holder, lifted)
        return {**exported.sources, **{name: f"{holder}.{name}" for name in constants}}

    def add_sizes(
        self, graph: fx.Graph, constants: Mapping[str, Tensor], exported: Exported
    ) -> None:
        """Take inputs of other sizes too, by another graph that calls the same modules.

        A graph that calls others, or reads what is not there, is left aside.
        """
        sources = self._with_constants(FREE_CONSTANTS, constants, exported)
        owners = owners_of(exported.graph_module.graph, self)
        made = with_module_calls(graph, self, sources, owners, self._dtype)
        read = {sources[name] for name in _read(graph) if name in sources}
        if made.called != self.called or not read <= named_tensors(self).keys():
            del self._modules[FREE_CONSTANTS]
            return
        inputs = traced_inputs(exported, self._dtype)
        self._free = _FreeSizes(Steps(made.graph), inputs, opens_levels(graph))
        self._kinds = kinds_beside(self, made.called)

    def _write(self, graph: fx.Graph, sources: Mapping[str, str], owners: Owners) -> None:
        """Make a rewritten graph the forward."""
        made = with_module_calls(graph, self, sources, owners, self._dtype)
        self._steps = Steps(made.graph)
        self.called = made.called
        self._opens_levels = opens_levels(graph)
        self._kinds = kinds_beside(self, made.called)
        self._hooked = hooked_of(self, self._kinds)

    @property
    def graph(self) -> fx.Graph:
        """What it runs: its placeholders are the device and the dtype of the weights, then the
        inputs; it returns a list."""
        return self._steps.graph

    def run_instead(self, graph: fx.Graph) -> None:
        """Take another graph of the same inputs and outputs, for the traced sizes alone."""
        self._steps, self._free = Steps(graph), None

    @contextmanager
    def run_by(self, run: Callable[..., Any]) -> Iterator[None]:
        """Meanwhile calls go to `run`, a function of this module and of the values of the graph's
        placeholders that returns what the graph returns."""
        steps = self._steps
        self._steps = steps.by(run)
        try:
            yield
        finally:
            self._steps = steps

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        like = first_decimal(self)
        device = None if like is None else like.device
        dtype = None if like is None or not like.is_floating_point() else like.dtype
        given = self._inputs.given(args, kwargs)
        steps, inputs, opens = self._steps, self._inputs, self._opens_levels
        free = self._free
        if free is not None and not inputs.take(given) and free.inputs.take(given):
            steps, inputs, opens = free.steps, free.inputs, free.opens_levels
        given = inputs.checked(given, dtype)
        check_modules(self, self._kinds, self._hooked)
        values = (device, self._dtype if dtype is None else dtype, *given)
        if opens:
            with levels_closed():
                outputs = steps.run(self, *values)
        else:
            outputs = steps.run(self, *values)
        return pytree.tree_unflatten(outputs, self._outputs.spec)

    def takes(self, *args: Any, **kwargs: Any) -> bool:
        """Whether the inputs of a call have sizes for which a graph was made.

        Raises:
            InputError: the call has other arguments than the traced one.
        """
        given = self._inputs.given(args, kwargs)
        if self._inputs.take(given):
            return True
        return self._free is not None and self._free.inputs.take(given)

    def at_free_sizes(self) -> PrunedGraph | None:
        """The same modules under the graph for other sizes alone, which an exporter can follow;
        None where there is no such graph."""
        free = self._free
        if free is None:
            return None
        made = _empty(self._inputs.signature)
        made.__dict__.update(self.__dict__)
        made._steps, made._inputs, made._opens_levels = free.steps, free.inputs, free.opens_levels
        made._free = None
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return _empty, (self._inputs.signature,), self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of a pickle from before modules were called, the graph is written anew."""
        sources, owners = state.pop("_sources", None), state.pop("_owners", {})
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if sources is not None:
            self._write(self._steps.graph, sources, owners)


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


def _dtype_of(exported: Exported) -> torch.dtype | None:
    """That of the weights when the model was exported; None where they had several."""
    values = (
        node.meta["val"].dtype
        for node in exported.graph_module.graph.find_nodes(op="placeholder")
        if node.name in exported.sources
    )
    dtypes = {dtype for dtype in values if dtype.is_floating_point}
    return dtypes.pop() if len(dtypes) == 1 else None


def _take_over(root: nn.Module, body: nn.Module) -> None:
    """Give `root` the children, parameters and buffers of `body`, under all of their names."""
    kept = body.state_dict().keys()
    for name, child in body._modules.items():
        root.add_module(name, child)
    for name, parameter in body._parameters.items():
        root.register_parameter(name, parameter)
    for name, buffer in body._buffers.items():
        root.register_buffer(name, buffer, persistent=name in kept)
