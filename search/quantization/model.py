"""The torch model of a plan with layers in int8: it rounds where the ONNX file does."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from search.errors import QuantizationError
from search.graph.pruned.pruned_graph import PrunedGraph
from search.plan import Plan
from search.quantization.examples import first_examples
from search.quantization.formats import Format
from search.quantization.norm_statistics import told_ranges
from search.quantization.places import places
from search.quantization.ranges import Observer, Range, within
from search.quantization.rounding import RoundedValue
from search.quantization.torch_graph import TorchGraph, rounded_graph
from search.surgery import smaller_copy
from search.tensors import stored_tensors
from search.training_flags import in_evaluation

if TYPE_CHECKING:
    from search.graph import PruningGraph

ROUNDINGS = "roundings"
NORMS = "norms"


class QuantizedModel(nn.Module):
    """A pruned graph with layers in int8, rounded as the ONNX file of its plan is.

    It trains: gradients pass as if nothing was rounded, batch norm takes its batch, and what is
    rounded is the weight with the norm folded in by its running statistics.

    Args:
        pruned: taken over, not copied; its weights and statistics are those of the float model.
        int8_layers: names of its layers, see `quantizable_layers`.
        form: the integers.

    Attributes:
        float_graph: the pruned graph, whose modules have the names that they always had.
        form: the integers.
        int8_layers: the layers.
        ranges: key -> least and greatest value; set by `observe` or `fix`.

    Raises:
        QuantizationError: a layer cannot be in int8.
    """

    def __init__(self, pruned: PrunedGraph, int8_layers: Collection[str], form: Format) -> None:
        super().__init__()
        graph = TorchGraph(pruned)
        missing = sorted(set(int8_layers) - graph.layers.keys())
        if missing:
            raise QuantizationError(
                f"layers in int8 must be convolutions or linear layers that the model calls, but "
                f"{missing[:5]} are not"
            )
        where = places(graph.ops, graph.outputs, int8_layers)
        keys = sorted(where.keys)
        self.form, self.int8_layers = form, frozenset(int8_layers)
        self._values = {key: RoundedValue(form) for key in keys}
        pruned.add_module(ROUNDINGS, nn.ModuleList(self._values[key] for key in keys))
        paths = {key: f"{ROUNDINGS}.{number}" for number, key in enumerate(keys)}
        written = rounded_graph(
            graph, where, set(int8_layers), form.weight.reach, paths.__getitem__
        )
        pruned.run_instead(written)
        self.float_graph = pruned
        self.ranges: dict[str, Range] = {}
        self._source, self._where = graph, where

    def float_tensors(self) -> dict[str, Tensor]:
        """The weights and statistics of the float model that it rounds, by the names that they
        have there."""
        tensors = stored_tensors(self.float_graph)
        return {name: t for name, t in tensors.items() if not name.startswith(f"{ROUNDINGS}.")}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.float_graph(*args, **kwargs)

    def observe(self, batches: Iterable[Tensor], observer: str = "norms") -> None:
        """Fix all ranges by the values that come up; weights are rounded meanwhile.

        Args:
            batches: inputs; the first `examples.OBSERVED` examples are used.
            observer: one of `ranges.OBSERVERS`; or `norms`, all values that come up within six
                deviations of what the batch norm behind a layer says of them, see
                `norm_statistics`: a rare value does not cost all others their resolution.

        Raises:
            QuantizationError: no examples, or values that are not finite.
        """
        observers = {key: Observer() for key in self._values}
        for key, value in self._values.items():
            value.observer = observers[key]
        with in_evaluation(self), torch.no_grad():
            for inputs in first_examples(batches):
                self.float_graph(inputs)
        kind, name = self.form.activation, "minmax" if observer == NORMS else observer
        found = {key: seen.range(name, kind) for key, seen in observers.items()}
        if observer == NORMS:
            told = told_ranges(self._source, self._where, None)
            found |= {key: within(found[key], limits) for key, limits in told.items()}
        self.fix(found)

    def fix(self, ranges: Mapping[str, Range]) -> None:
        """Round by these ranges from now on.

        Raises:
            QuantizationError: a range is missing or not finite.
        """
        missing = sorted(self._values.keys() - ranges.keys())
        if missing:
            raise QuantizationError(
                f"ranges must hold every rounded value, but lack {missing[:5]}"
            )
        for key, value in self._values.items():
            value.fix(*ranges[key])
        self.ranges = {key: ranges[key] for key in self._values}


def quantizable_layers(pruned: PrunedGraph) -> tuple[str, ...]:
    """The layers that can be in int8, in the order of the graph: the convolutions and linear
    layers of torch.nn that it calls."""
    return tuple(TorchGraph(pruned).layers)


def graph_form(
    model: nn.Module, graph: PruningGraph, plan: Plan, pruned: nn.Module | None = None
) -> PrunedGraph:
    """A model pruned to `plan` as a `PrunedGraph`, whatever `graph.form` says.

    Args:
        model: the traced model.
        graph: its analysis.
        plan: the kept units of every group.
        pruned: what was made of `model` by this plan, and trained further perhaps; copied.

    Raises:
        PlanError: the plan does not fit the graph, or the graph does not fit the model.
        GraphError: the model cannot be exported in its own dtype.
    """
    if isinstance(pruned, PrunedGraph):
        return copy.deepcopy(pruned)
    body = smaller_copy(model, graph, plan) if pruned is None else copy.deepcopy(pruned)
    return graph.whole_program.pruned(model, body, graph.kept_atoms(plan))
