"""PrunedGraph: a pruned model as its exported graph, for models whose own forward holds constants.

| symbol | meaning |
|---|---|
| program | the exported graph of the dense model in its own dtype, with its labels |
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from search.graph.costs import Kept
from search.graph.exporting import Exported
from search.graph.propagation import Propagation, module_path, operator_name
from search.graph.rewriting import shrunk
from search.tensors import named_tensors

# Operator -> the place of its flag in training. The dense model was exported for evaluation.
_FLAGS = {
    "alpha_dropout": 2,
    "batch_norm": 5,
    "dropout": 2,
    "feature_alpha_dropout": 2,
    "feature_dropout": 2,
    "gru": 6,
    "instance_norm": 5,
    "lstm": 6,
}
_ATTENTION = "scaled_dot_product_attention"
_DROPOUTS = ("dropout", "dropout_p", "attn_drop", "attention_dropout", "attn_dropout")
CONSTANTS = "lifted_constants"


@dataclass(frozen=True, eq=False)
class Program:
    """The exported graph of a dense model and what is known of its values."""

    exported: Exported
    found: Propagation

    def pruned(self, model: nn.Module, tensors: Mapping[str, Tensor], kept: Kept) -> PrunedGraph:
        """The model with other parameters and buffers, and the sizes that belong to them.

        Args:
            model: the dense model; tensors that are not replaced are copied from it.
            tensors: parameter or buffer -> its value after pruning.
            kept: atom -> whether it stays.
        """
        graph = shrunk(self.exported.graph_module.graph, self.found, kept)
        return PrunedGraph(graph, model, tensors, self.exported)


class PrunedGraph(nn.Module):
    """Runs an exported graph with parameters of its own, named as in the dense model.

    It trains like the dense model (batch norm, dropout, attention dropout), takes any batch size
    that the dense model takes, and exports. What Python code decided while the dense model was
    traced stays decided: a stochastic depth, for example, is gone.
    """

    def __init__(
        self, graph: fx.Graph, model: nn.Module, tensors: Mapping[str, Tensor], exported: Exported
    ) -> None:
        super().__init__()
        self._graph = graph
        self._sources = dict(exported.sources)
        self._outputs = exported.outputs
        self._attention_dropout = _attention_dropout(exported, model)
        copies: dict[int, Tensor] = {}
        for name, tensor in named_tensors(model).items():
            value = copies.setdefault(id(tensor), _owned(tensor, tensors.get(name)))
            _place(self, name, value, name in model.state_dict())
        device = next((tensor.device for tensor in copies.values()), None)
        for name, constant in exported.constants.items():
            self._sources[name] = f"{CONSTANTS}.{name}"
            _place(self, f"{CONSTANTS}.{name}", constant.to(device), False)
        self.train(model.training)

    def forward(self, *inputs: Tensor) -> Any:
        given = iter(inputs)
        values = [
            operator.attrgetter(self._sources[node.name])(self)
            if node.name in self._sources
            else next(given)
            for node in self._graph.find_nodes(op="placeholder")
        ]
        outputs = _Run(self, self._graph, self._attention_dropout).run(*values)
        return pytree.tree_unflatten(list(outputs), self._outputs)


class _Run(fx.Interpreter):
    """One forward: training flags as the module has them, new tensors where its weights are."""

    def __init__(self, module: nn.Module, graph: fx.Graph, dropout: Mapping[str, float]) -> None:
        super().__init__(module, graph=graph)
        self._is_training, self._dropout = module.training, dropout
        self._device = next((t.device for t in named_tensors(module).values()), None)

    def run_node(self, n: fx.Node) -> Any:
        if n.op != "call_function":
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if kwargs.get("device") is not None and self._device is not None:
            kwargs = {**kwargs, "device": self._device}
        place = _FLAGS.get(operator_name(n)) if self._is_training else None
        if place is not None and len(args) > place:
            args = (*args[:place], True, *args[place + 1 :])
        if self._is_training and n.name in self._dropout:
            args, kwargs = _with_dropout(args, kwargs, self._dropout[n.name])
        return n.target(*args, **kwargs)  # type: ignore[operator]


def _with_dropout(args: Any, kwargs: Any, probability: float) -> tuple[Any, Any]:
    """Attention with the probability of its dropout, the fifth argument."""
    return (*args[:4], probability, *args[5:]) if len(args) > 4 else args, (
        kwargs if len(args) > 4 else {**kwargs, "dropout_p": probability}
    )


def _owned(tensor: Tensor, value: Tensor | None) -> Tensor:
    """A copy of its own, with `requires_grad` and the kind of the original."""
    own = tensor.detach().clone() if value is None else value
    return nn.Parameter(own, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else own


def _place(root: nn.Module, path: str, tensor: Tensor, persistent: bool) -> None:
    *parents, name = path.split(".")
    module = root
    for parent in parents:
        if parent not in module._modules:
            module.add_module(parent, nn.Module())
        module = module.get_submodule(parent)
    if isinstance(tensor, nn.Parameter):
        module.register_parameter(name, tensor)
    else:
        module.register_buffer(name, tensor, persistent)


def _attention_dropout(exported: Exported, model: nn.Module) -> dict[str, float]:
    """Node of an attention -> the probability that its module drops with in training."""
    found = {}
    for node in exported.graph_module.graph.nodes:
        if node.op == "call_function" and operator_name(node) == _ATTENTION:
            module = dict(model.named_modules()).get(module_path(node))
            values = (getattr(module, name, None) for name in _DROPOUTS)
            plain = (getattr(value, "p", value) for value in values)
            probability = next((p for p in plain if isinstance(p, float) and p > 0), None)
            if probability is not None:
                found[node.name] = probability
    return found
