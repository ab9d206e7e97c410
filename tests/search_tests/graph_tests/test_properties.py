"""Properties of pruning that hold for any graph, on random small networks."""

from __future__ import annotations

import copy
import random
from itertools import pairwise

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from search.graph import PruningGraph, trace
from search.plan import Plan, best_of
from search.surgery import prune
from search.tensors import named_tensors

Step = tuple[int, int, int]

EXAMPLES = settings(max_examples=8, deadline=None, derandomize=True)
STEPS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=7
)


class Random(nn.Module):
    """A network drawn by numbers: each step reads one or two earlier values and adds one.

    Values are (B, C, 6, 6) with an even C; the head reads the last one.
    """

    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Conv2d(3, 8, 3, padding=1)])
        self.reads: list[tuple[int, ...]] = []
        widths = [8]
        for kind, first, second in steps:
            one, other = first % len(widths), second % len(widths)
            layer, reads, width = _step(kind, one, other, widths)
            self.layers.append(layer)
            self.reads.append(reads)
            widths.append(width)
        self.head = nn.Linear(widths[-1], 5)

    def forward(self, x: Tensor) -> Tensor:
        values = [self.layers[0](x)]
        for layer, reads in zip(list(self.layers)[1:], self.reads, strict=True):
            values.append(layer(*(values[read] for read in reads)))
        logits: Tensor = self.head(values[-1].mean((2, 3)))
        return logits


class Add(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + functional.relu(b)


class Concatenate(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a, b], 1)


class Halves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return torch.cat([b, a * b.sigmoid()], 1)


class Fixed(nn.Module):
    """Cuts at a constant, which the own forward cannot follow."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, 2:].tanh(), x[:, :2]], 1)


class Gate(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(width, 4), nn.Linear(4, width)

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.excite(self.squeeze(x.mean((2, 3))).relu()).sigmoid()
        return x * gate.reshape(len(x), -1, 1, 1)


def _step(
    kind: int, one: int, other: int, widths: list[int]
) -> tuple[nn.Module, tuple[int, ...], int]:
    width = widths[one]
    alone: list[tuple[nn.Module, int]] = [
        (nn.Sequential(nn.Conv2d(width, 6, 1), nn.BatchNorm2d(6), nn.ReLU()), 6),
        (nn.Sequential(nn.Conv2d(width, 12, 3, padding=1, bias=False), nn.Hardswish()), 12),
        (nn.Conv2d(width, width, 3, padding=1, groups=width), width),
        (nn.Conv2d(width, width, 1, groups=2), width),
        (Gate(width), width),
        (Halves(), width),
        (Fixed(), width),
        (nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(width)), width),
    ]
    if kind == 8 and widths[other] == width:
        return Add(), (one, other), width
    if kind == 9 and width + widths[other] <= 32:
        return Concatenate(), (one, other), width + widths[other]
    layer, made = alone[kind % len(alone)]
    return layer, (one,), made


def traced(steps: list[Step]) -> PruningGraph:
    graph = trace(Random(steps).eval().double(), (torch.randn(1, 3, 6, 6).double(),))
    late = [group.reason for group in graph.groups if "unverified" in group.reason]
    assert late in ([], ["unverified: the output does not depend on its units"] * len(late))
    return graph


def drawn(graph: PruningGraph, seed: int) -> Plan:
    source = random.Random(seed)
    kept = dict(graph.dense_plan().kept)
    for group in graph.prunable:
        count = source.randint(1, group.width)
        order = source.sample(range(group.width), group.width)
        kept[group.name] = best_of(order, count, group.required_any_of)
    return Plan(kept)


def image() -> Tensor:
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1)).double()


def close(found: nn.Module, wanted: nn.Module) -> None:
    with torch.no_grad():
        torch.testing.assert_close(found(image()), wanted(image()), rtol=1e-9, atol=1e-9)


@settings(EXAMPLES, max_examples=12)
@given(STEPS, st.integers(0, 99))
def test_pruning_once_and_again(steps: list[Step], seed: int) -> None:
    """Two properties of the same networks, of which each is traced and pruned once for both."""
    graph = traced(steps)
    plan = drawn(graph, seed)
    pruned = prune(graph.model, graph, plan)
    if _is_read_by_columns(graph):
        _equals_reading_nothing_from_the_removed_units(graph, plan, pruned)
    _in_two_steps_equals_in_one(graph, plan, pruned, seed)


def _equals_reading_nothing_from_the_removed_units(
    graph: PruningGraph, plan: Plan, pruned: nn.Module
) -> None:
    """The dense model whose consumers have zeros for the removed units computes the same."""
    masked = copy.deepcopy(graph.model)
    tensors = named_tensors(masked)
    for group in graph.prunable:
        removed = set(range(group.width)) - set(plan.kept[group.name])
        for member in group.members if removed else ():
            if member.role == "consumer":
                index = torch.tensor([i for unit in removed for i in member.indices[unit]])
                tensors[member.tensor].detach().index_fill_(member.dim, index, 0.0)
    close(pruned, masked)


def _in_two_steps_equals_in_one(
    graph: PruningGraph, first: Plan, once: nn.Module, seed: int
) -> None:
    again = trace(once, graph.example_inputs)
    alike = {g.name for g in again.groups if g.width == len(first.kept.get(g.name, ()))}
    drawn_again = drawn(again, seed + 1).kept
    second = {g.name: drawn_again[g.name] for g in again.groups if g.name in alike}
    both = {
        name: tuple(kept[unit] for unit in second.get(name, range(len(kept))))
        for name, kept in first.kept.items()
    }
    dense = again.dense_plan().kept  # the rest are other groups now: a last conv group is none
    close(prune(graph.model, graph, Plan(both)), prune(once, again, Plan({**dense, **second})))


def _is_read_by_columns(graph: PruningGraph) -> bool:
    """A grouped convolution reads its units by rows, which also make units: no columns to zero."""
    return not any(
        isinstance(layer, nn.Conv2d) and layer.groups == 2 for layer in graph.model.modules()
    )


@EXAMPLES
@given(STEPS, st.integers(0, 99))
def test_the_order_of_units_does_not_matter(steps: list[Step], seed: int) -> None:
    """But where a cut at a fixed place makes a difference between them."""
    graph = traced(steps)
    assume(not graph.uneven)
    permuted = copy.deepcopy(graph.model)
    tensors = named_tensors(permuted)
    for group in graph.prunable:
        order = random.Random(seed).sample(range(group.width), group.width)
        for member in group.members:
            tensor = tensors[member.tensor].detach()
            to = torch.tensor([i for unit in member.indices for i in unit])
            source = torch.tensor([i for unit in order for i in member.indices[unit]])
            tensor.index_copy_(member.dim, to, tensor.index_select(member.dim, source))
    close(permuted, graph.model)


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=9),
        st.sets(st.integers(0, 500), min_size=1).map(lambda units: tuple(sorted(units))),
    )
)
def test_json_gives_the_same_plan_back(kept: dict[str, tuple[int, ...]]) -> None:
    plan = Plan(kept)
    read = Plan.from_json(plan.to_json())
    assert (read, read.digest, read.widths) == (plan, plan.digest, plan.widths)
    assert all(low < high for units in read.kept.values() for low, high in pairwise(units))
