"""What makes good for rounding, layer by layer: biases, and which way each weight is rounded.

Both look at every int8 layer in the order of the graph, with the inputs that it gets when all
layers before it are rounded and corrected, beside the outputs that it has in the float model.

| symbol | meaning |
|---|---|
| W', s | the weight with the norm behind it folded in, and its scale per output channel |
| h | in [0, 1], how far a weight is rounded up: W' ≈ s (⌊W'/s⌋ + h) |
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from search.graph.pruned.pruned_graph import PrunedGraph
from search.quantization.examples import first_examples
from search.quantization.model import QuantizedModel
from search.quantization.rounding import Folded, rounded_layer
from search.quantization.torch_graph import TorchGraph
from search.training_flags import in_evaluation

EXAMPLES = 64
_BATCH = 32
_RATE = 0.01
_STRETCH = 1.2  # of the sigmoid, cut to [0, 1]: h reaches both ends (Nagel et al. 2020, eq. 23)
_PUSH = 0.01  # weight of the term that drives h to an end
_SHARPNESS = (20.0, 2.0)  # of that term, from the first step to the last


def float_outputs(
    pruned: PrunedGraph, layers: Collection[str], batches: Iterable[Tensor]
) -> dict[str, Tensor]:
    """What layers give in the float model, behind their norms.

    Args:
        pruned: before it is rounded.
        layers: names; one that is called twice is left out.
        batches: inputs; the first `EXAMPLES` examples are used.

    Returns:
        Path of a layer -> its outputs (examples, …).
    """
    graph = TorchGraph(pruned)
    calls = [graph.layers[name][0] for name in layers if len(graph.layers.get(name, ())) == 1]
    paths = {(call.norm or call.node).name: str(call.node.target) for call in calls}
    seen: dict[str, Tensor] = {}

    def interpreted(module: nn.Module, *values: Any) -> Any:
        return _Recording(module, graph.graph, paths, seen).run(*values)

    inputs = torch.cat(list(first_examples(batches, EXAMPLES)))
    with in_evaluation(pruned), torch.no_grad(), pruned.run_by(interpreted):
        pruned(inputs)
    return seen


class _Recording(fx.Interpreter):
    """Runs a graph, and keeps what some of its nodes give."""

    def __init__(
        self, module: nn.Module, graph: fx.Graph, paths: Mapping[str, str], seen: dict[str, Tensor]
    ) -> None:
        super().__init__(module, graph=graph)
        self._paths, self._seen = paths, seen

    def run_node(self, n: fx.Node) -> Any:
        made = super().run_node(n)
        if n.name in self._paths:  # a rectifier may change it in place
            self._seen[self._paths[n.name]] = made.clone()
        return made


def correct_biases(
    model: QuantizedModel, wanted: Mapping[str, Tensor], batches: Iterable[Tensor]
) -> int:
    """Moves biases so that every channel has the mean that it has in the float model, in place
    (Nagel et al. 2019, section 4.2, with data).

    Args:
        model: with ranges.
        wanted: from `float_outputs` of the same batches.
        batches: inputs.

    Returns:
        The number of layers corrected; one without a bias, of its own or of a norm, is left.
    """
    pass_ = _Corrections(model, wanted, steps=0, biases=True)
    pass_.run(batches)
    return pass_.corrected


def adapt_rounding(
    model: QuantizedModel,
    wanted: Mapping[str, Tensor],
    batches: Iterable[Tensor],
    steps: int,
) -> int:
    """Chooses for every weight which way it is rounded, so that the outputs of its layer are
    nearest to those of the float model, in place (AdaRound, Nagel et al. 2020).

    A weight becomes the number that it is rounded to, so that every later rounding gives it.

    Args:
        model: with ranges.
        wanted: from `float_outputs` of the same batches.
        batches: inputs.
        steps: of gradient descent, for each layer.

    Returns:
        The number of layers.
    """
    pass_ = _Corrections(model, wanted, steps=steps, biases=False)
    pass_.run(batches)
    return pass_.corrected


class _Corrections:
    """One run of the rounded graph in which each layer is corrected before its outputs go on."""

    def __init__(
        self, model: QuantizedModel, wanted: Mapping[str, Tensor], *, steps: int, biases: bool
    ) -> None:
        self._model, self._wanted = model, wanted
        self._steps, self._biases = steps, biases
        self.corrected = 0

    def run(self, batches: Iterable[Tensor]) -> None:
        pruned = self._model.float_graph
        inputs = torch.cat(list(first_examples(batches, EXAMPLES)))

        def interpreted(module: nn.Module, *values: Any) -> Any:
            return _Visiting(module, pruned.graph, self).run(*values)

        with in_evaluation(self._model), torch.no_grad(), pruned.run_by(interpreted):
            pruned(inputs)

    def visit(
        self,
        path: str,
        layer: nn.Module,
        norm: nn.Module | None,
        reach: int,
        value: Tensor,
        ahead: nn.Module | None = None,
    ) -> None:
        """Corrects one layer for this input."""
        if path not in self._wanted:
            return
        wanted, done = self._wanted[path], False
        if self._steps:
            adapted = adapted_weight(
                Folded.of(layer, norm, ahead), reach, value, wanted, self._steps
            )
            if adapted is not None:
                layer.weight.copy_(adapted)  # type: ignore[operator]
                done = True
        if self._biases:
            bias = getattr(layer if norm is None else norm, "bias", None)
            if bias is not None:
                off = wanted - rounded_layer(layer, norm, reach, value, ahead)
                bias.add_(_channel_means(layer, off))
                done = True
        self.corrected += done


class _Visiting(fx.Interpreter):
    """Runs a rounded graph, and shows every int8 layer to the corrections first."""

    def __init__(self, module: nn.Module, graph: fx.Graph, corrections: _Corrections) -> None:
        super().__init__(module, graph=graph)
        self._corrections = corrections

    def run_node(self, n: fx.Node) -> Any:
        if n.target is rounded_layer:
            source = n.args[0]
            assert isinstance(source, fx.Node)
            args, _ = self.fetch_args_kwargs_from_env(n)
            self._corrections.visit(str(source.target), *args)
        return super().run_node(n)


def _channel_means(layer: nn.Module, values: Tensor) -> Tensor:
    channel = values.ndim - 1 if isinstance(layer, nn.Linear) else 1
    return values.mean([dim for dim in range(values.ndim) if dim != channel])


def adapted_weight(
    folded: Folded, reach: int, value: Tensor, wanted: Tensor, steps: int
) -> Tensor | None:
    """The weight of a layer with every number rounded up or down.

    Args:
        folded: the layer with its norm.
        reach: the greatest integer.
        value: inputs (N, …), rounded.
        wanted: outputs of the float model (N, …).
        steps: of Adam.

    Returns:
        The weight before folding; None where a norm wipes out a channel.
    """
    if folded.gain is not None and bool((folded.gain == 0).any()):
        return None
    weight = folded.weight.detach()
    scale = folded.scale(reach)
    scaled = weight / scale
    low = scaled.floor()
    rest = ((scaled - low + 0.1) / _STRETCH).clamp(0.01, 0.99)
    source = torch.logit(rest).requires_grad_()
    optimizer = torch.optim.Adam([source], _RATE)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        index = torch.randint(len(value), (min(_BATCH, len(value)),), generator=generator)
        with torch.enable_grad():
            up = (torch.sigmoid(source) * _STRETCH - 0.1).clamp(0, 1)
            off = folded.computed(value[index], (low + up) * scale) - wanted[index]
            loss = off.square().mean() * len(weight)
            sharp = _SHARPNESS[0] + (_SHARPNESS[1] - _SHARPNESS[0]) * step / steps
            if step >= steps // 5:
                loss = loss + _PUSH * (1 - (2 * up - 1).abs().pow(sharp)).sum()
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
    chosen = (low + (source.detach() >= 0)).clamp(-reach, reach)
    is_largest = scaled.abs() >= reach - 0.5  # the scale of later roundings hangs on these
    chosen = torch.where(is_largest, scaled.round(), chosen)
    return folded.unfolded(chosen * scale)
