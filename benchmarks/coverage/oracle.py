"""Whether a pruned model computes what the dense one does without the removed units.

Imports nothing of the library's verification. Two independent ways, both in float64 on redrawn
weights: the dense module with the columns that read removed units zeroed (or their inputs, where
a convolution computes its weights anew), which is exact for groups that no norm or mean runs over;
and, where that does not apply, the dense graph with the removed units absent (see `absence`), or
with everything that belongs to them zero where norms and means are said to count them.

| symbol | meaning |
|---|---|
| TOLERANCE | how far off a pruned model may be, relative to the largest output |
| SINGLE_TOLERANCE | the same where the model computes in single precision |
| CHAOS | what the last bit of the inputs and weights may move, relative to the largest output |
| SINGLE_CHAOS | the same for the last bit of single precision, where the model computes in that |
| CONTROL | without other units it must be off by so many times as much, or that proves nothing |
| SMALLER | weights that leave too much to the last bit are drawn smaller by these factors |
| EXACT_PART | no pruned model counts as less off than this part of its tolerance |
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.coverage.absence import NAN, NO_WEIGHTS, AbsentUnits
from benchmarks.coverage.plans import ALL, EXACT, other_plan
from benchmarks.coverage.redraw import last_bit_moved, noise, redrawn, shaken, tensors_of
from search import Plan, PruningGraph

TOLERANCE = 1e-8
SINGLE_TOLERANCE = 1e-4
CHAOS = 1e-10
SINGLE_CHAOS = 1e-4
CONTROL = 100
EXACT_PART = 1e-4
SMALLER = (0.7, 0.5, 0.35)
READERS = frozenset({"consumer"})
MEMBERS = frozenset({"producer", "consumer", "follower"})

Outputs = list[Tensor]


class WrongOutput(Exception):
    """The pruned model computes something else."""


class Undecided(WrongOutput):
    """It differs, and one of the ways cannot be gone."""


@dataclass(frozen=True)
class Verdict:
    """How far off the pruned model is, and how far the negative control."""

    way: str
    error: float
    control: float


Pruner = Callable[[nn.Module, PruningGraph, Plan], nn.Module]


class Oracle:
    """Judges plans of one model.

    Args:
        model: the dense model; it is not touched.
        inputs: a batch of examples.
        graph: its groups: names, statuses and members are all that is used.
        prune: what is under test.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Sequence[Tensor],
        graph: PruningGraph,
        prune: Pruner,
        seed: int = 1,
    ) -> None:
        self._model, self._inputs, self._seed = model, inputs, seed
        self._graph, self._prune = graph, prune
        self._double = self._drawn()

    def judge(self, plan: Plan) -> Verdict:
        """The verdict on `plan`.

        A model whose code casts to single precision is as exact as that allows; one that does
        not run in double precision at all is judged in its own. One that makes so much of the last
        bit that nothing can be told, dense or pruned, is judged on smaller weights; if these do
        not help, or if it cannot be exported, because it decides by its values, on its
        own weights, shaken.

        Raises:
            WrongOutput: neither way agrees with the pruned model, or the negative control does,
                so that the comparison proves nothing.
        """
        try:
            return self._double.judge(plan)
        except Undecided:
            if not self._double.runs():
                return self._drawn(dtype=torch.float32).judge(plan)
        except WrongOutput:
            if not self._double.is_chaotic(plan):
                raise
            for scale in SMALLER:
                calmer = self._drawn(scale)
                if not calmer.is_chaotic(plan):
                    return calmer.judge(plan)
        except Exception:  # casts in the model's code: whatever its operators raise
            return self._drawn(dtype=torch.float32).judge(plan)
        return self._comparison(shaken(self._model, self._seed)).judge(plan)

    def _drawn(self, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Comparison:
        return self._comparison(redrawn(self._model, self._seed, scale).to(dtype), dtype)

    def _comparison(self, dense: nn.Module, dtype: torch.dtype = torch.float64) -> Comparison:
        inputs = noise(self._inputs, self._seed, dtype)
        single = dtype is torch.float32 or computes_in_single(dense, inputs)
        return Comparison(dense, inputs, self._graph, self._prune, single=single)


class Comparison:
    """Pruned outputs beside those of the dense model, in one precision.

    Args:
        single: whether anything is computed in single precision.
    """

    def __init__(
        self,
        dense: nn.Module,
        inputs: Sequence[Tensor],
        graph: PruningGraph,
        prune: Pruner,
        *,
        single: bool,
    ) -> None:
        self._dense, self._inputs = dense, inputs
        self._tolerance = SINGLE_TOLERANCE if single else TOLERANCE
        self._chaos = SINGLE_CHAOS if single else CHAOS
        self._bit = torch.finfo(torch.float32 if single else torch.float64).eps
        self._graph, self._prune = graph, prune
        self._absent: AbsentUnits | None = None

    def runs(self) -> bool:
        """Whether the dense model runs in this precision."""
        try:
            outputs_of(self._dense, self._inputs)
        except Exception:  # casts in the model's code: whatever its operators raise
            return False
        return True

    def is_chaotic(self, plan: Plan) -> bool:
        """Whether the last bit of inputs and weights, of the dense model or of the pruned one,
        moves the outputs by so much that a right model may be off by more than is allowed.

        It is the last bit of single precision where the model casts to that on its way: the cast
        rounds smaller moves away, and a right pruned model rounds its own sums.
        """
        pruned = self._prune(self._dense, self._graph, plan)
        return any(
            self._moved_by_the_last_bit(model) > self._chaos for model in (self._dense, pruned)
        )

    def _moved_by_the_last_bit(self, model: nn.Module) -> float:
        source = torch.Generator().manual_seed(0)
        moved = copy.deepcopy(model)
        for tensor in {id(t): t for t in tensors_of(moved).values()}.values():
            tensor.data = last_bit_moved(tensor.data, source, self._bit)
        inputs = [last_bit_moved(value, source, self._bit) for value in self._inputs]
        return relative_error(outputs_of(moved, inputs), outputs_of(model, self._inputs))

    def judge(self, plan: Plan) -> Verdict:
        """See `Oracle.judge`."""
        found = outputs_of(self._prune(self._dense, self._graph, plan), self._inputs)
        ways = [self.masked_outputs, self.absent_outputs, self.zeroed_outputs]
        errors, wrong = [], WrongOutput
        for way in ways[self._is_approximate(plan) :]:
            name = way.__name__.removesuffix("_outputs")
            try:
                expected = way(plan)
            except Exception as raised:  # a model that cannot be exported has no graph
                errors.append(f"{type(raised).__name__} ({name})")
                wrong = Undecided
                continue
            error = relative_error(found, expected)
            if error <= self._tolerance:
                return self._controlled(way, name, plan, found, error)
            errors.append(f"{error:.1e} ({name})")
        raise wrong(f"the pruned model is off by {', '.join(errors)}")

    def _controlled(
        self,
        way: Callable[[Plan], Outputs],
        name: str,
        plan: Plan,
        found: Outputs,
        error: float,
    ) -> Verdict:
        other = other_plan(self._graph, plan)
        if other == plan:
            return Verdict(name, error, float("inf"))
        control = relative_error(found, way(other))
        if control < CONTROL * max(error, EXACT_PART * self._tolerance):
            raise WrongOutput(f"with other units removed it is off by {control:.1e} only")
        return Verdict(name, error, control)

    def _is_approximate(self, plan: Plan) -> bool:
        return any(
            group.status == "approximate" and len(plan.kept[group.name]) < group.width
            for group in self._graph.groups
        )

    def masked_outputs(self, plan: Plan) -> Outputs:
        """The dense module's outputs when no weight reads a removed unit."""
        return outputs_of(self._marked(plan, dict.fromkeys(ALL, 0.0), READERS), self._inputs)

    def absent_outputs(self, plan: Plan) -> Outputs:
        """The dense graph's outputs when removed units are absent."""
        return self._graph_outputs(plan, dict.fromkeys(ALL, NAN))

    def zeroed_outputs(self, plan: Plan) -> Outputs:
        """The dense graph's outputs when removed units of exact groups are zero, and only those
        of approximate ones absent: norms and means count the zeros."""
        return self._graph_outputs(plan, {**dict.fromkeys(ALL, NAN), **dict.fromkeys(EXACT, 0.0)})

    def _graph_outputs(self, plan: Plan, values: Mapping[str, float]) -> Outputs:
        if self._absent is None:
            self._absent = AbsentUnits(self._dense, self._inputs)
        weights = NO_WEIGHTS
        if self._absent.standardises:
            marks = ((self._marked(plan, {s: NAN}, MEMBERS), v) for s, v in values.items())
            weights = self._absent.standardised(self._dense, self._inputs, marks)
        marked = self._marked(plan, values, MEMBERS)
        return self._absent.outputs(marked, self._inputs, weights)

    def _marked(
        self, plan: Plan, values: Mapping[str, float], roles: Collection[str]
    ) -> nn.Module:
        """A dense copy; what belongs to removed units, in members of `roles`, is that of `values`
        which stands for the status of the group; without one it stays."""
        marked = copy.deepcopy(self._dense)
        tensors = tensors_of(marked)
        for group in self._graph.groups:
            gone = set(range(group.width)) - set(plan.kept[group.name])
            for member in group.members if gone and group.status in values else ():
                tensor = tensors[member.tensor]
                if member.role in roles and tensor.is_floating_point():
                    places = [index for unit in gone for index in member.indices[unit]]
                    lost = torch.tensor(sorted(places), dtype=torch.long)
                    owner = marked.get_submodule(member.tensor.rpartition(".")[0])
                    if roles is READERS and _computes_weights(owner) and member.dim == 1:
                        owner.register_forward_pre_hook(_blinding(owner, lost))
                    else:
                        tensor.index_fill_(member.dim, lost, values[group.status])
        return marked


def _computes_weights(module: nn.Module) -> bool:
    """A convolution of its own kind may standardise its weights: zeros would change the rest."""
    plain = type(module).__module__.startswith("torch.nn")
    return isinstance(module, _ConvNd) and not module.transposed and not plain


def _blinding(module: nn.Module, columns: Tensor) -> Callable[..., tuple[Tensor, ...]]:
    """A hook that zeroes what the columns of the weight read, in every conv group."""
    groups, channels = int(module.groups), int(module.in_channels)  # type: ignore[arg-type]
    starts = torch.arange(groups)[:, None] * (channels // groups)
    places = (starts + columns).flatten()

    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].index_fill(1, places, 0.0), *inputs[1:])

    return hook


class _Precision(TorchDispatchMode):
    """Notes whether an operator gives single precision."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.single = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        self.single |= any(value.dtype is torch.float32 for value in tensors_in(given))
        return given


def computes_in_single(model: nn.Module, inputs: Sequence[Tensor]) -> bool:
    """Whether a model in double precision casts to single precision on its way."""
    precision = _Precision()
    try:
        with precision:
            outputs_of(model, inputs)
    except Exception:  # whatever the model's forward raises; it is told elsewhere
        return True
    return precision.single


def outputs_of(model: nn.Module, inputs: Sequence[Tensor]) -> Outputs:
    """All tensors that the model returns."""
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        return tensors_in(model(*(value.clone() for value in inputs)))


def tensors_in(outputs: object) -> Outputs:
    """The tensors among nested outputs."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def relative_error(found: Outputs, expected: Outputs) -> float:
    """The largest difference, relative to the largest value of the same output."""
    if [value.shape for value in found] != [value.shape for value in expected]:
        return float("inf")
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        if one.numel():
            scale = float(other.abs().max().double()) or 1.0
            error = float((one.double() - other.double()).abs().max()) / scale
            worst = max(worst, error if error == error else float("inf"))
    return worst
