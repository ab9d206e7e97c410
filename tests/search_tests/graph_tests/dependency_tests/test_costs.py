"""Counts of parameters and multiply-accumulates: equal to torch's own, dense and pruned."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from search.graph import PruningGraph, trace
from search.graph.dependency.costs import touched
from search.graph.verification.comparison import random_plan
from search.surgery import prune
from tests.search_tests.models import Grouped, InvertedResidual, Plain, UNet, image


class Attention(nn.Module):
    """One head of attention between a patch embedding and an MLP; (B, 3, 8, 8) -> (B, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 4, 4)
        self.query, self.key = nn.Linear(12, 6), nn.Linear(12, 6)
        self.value, self.out = nn.Linear(12, 8), nn.Linear(8, 12)
        self.mlp = nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 12))
        self.head = nn.Linear(12, 5)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, scale=0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.out(self.attend(self.query(x), self.key(x), self.value(x)))
        logits: Tensor = self.head((x + self.mlp(x)).mean(1))
        return logits


class Products(Attention):
    """The same attention by matmul."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return (query @ key.transpose(1, 2)).mul(0.5).softmax(-1) @ value


class Einsum(Attention):
    """The same attention by einsum."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        weights = torch.einsum("...nc,...mc->...nm", query, key).mul(0.5).softmax(-1)
        return torch.einsum("bnm, bmc -> bnc", weights, value)


class Batched(Attention):
    """The same attention by products of batches."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        start = query.new_zeros(query.shape[0], 4, 4)
        weights = torch.baddbmm(start, query, key.transpose(1, 2), alpha=0.5).softmax(-1)
        return torch.bmm(weights, value)


class Flat(nn.Module):
    """addmm and mm with weights of their own, and products of weights alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(6, 7)), nn.Parameter(torch.randn(7, 5))
        self.bias = nn.Parameter(torch.randn(7))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.first).mm(self.second + self.second @ torch.eye(5))


def counted(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Half of torch's count of operations for one example."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(*inputs)
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (Plain(), image()),
        (InvertedResidual(), image()),
        (Grouped(), image()),
        (UNet(), image()),
        (nn.Sequential(nn.ConvTranspose2d(4, 6, 3, 2, groups=2), nn.Conv2d(6, 4, 1)), image(4)),
        (nn.Sequential(nn.Conv1d(3, 6, 3), nn.Conv1d(6, 2, 3)), (torch.randn(1, 3, 9),)),
        (nn.Sequential(nn.Conv3d(2, 4, 3), nn.Conv3d(4, 2, 1)), (torch.randn(1, 2, 4, 5, 5),)),
        (Attention(), image()),
        (Products(), image()),
        (Einsum(), image()),
        (Batched(), image()),
        (Flat(), (torch.randn(1, 6),)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_macs_equal_torchs_count_before_and_after_pruning(
    model: nn.Module, inputs: tuple[Tensor, ...]
) -> None:
    graph = trace(model, inputs)
    plan = random_plan(graph.groups, [group.name for group in graph.prunable], 0)
    assert graph.macs(graph.dense_plan()) == counted(model, inputs)
    assert graph.macs(plan) == counted(prune(model, graph, plan), inputs)
    assert graph.parameters(plan) == sum(p.numel() for p in prune(model, graph, plan).parameters())


class Recurrent(nn.Module):
    """A recurrent layer and a head; (B, 7, 3) -> (B, 5)."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layer(x)[0][:, -1])
        return logits


@pytest.mark.parametrize(
    "layer",
    [
        nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True),
        nn.GRU(3, 8, batch_first=True),
        nn.RNN(3, 8, batch_first=True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_matrices_of_recurrent_layers_count_once_per_step(layer: nn.RNNBase) -> None:
    model, inputs = Recurrent(layer), (torch.randn(1, 7, 3),)
    graph = trace(model, inputs)
    matrices = sum(p.numel() for p in layer.parameters() if p.ndim == 2)
    assert graph.macs(graph.dense_plan()) == 7 * matrices + 8 * 5


def test_what_a_group_touches_is_what_is_lost_with_it() -> None:
    graph = trace(InvertedResidual(), image())
    for products in (graph.mac_counts, graph.parameter_counts):
        shares = touched(products, graph.group_of)
        for number in range(len(graph.groups)):
            kept = graph.group_of != number
            whole = sum(product.at(kept | True) for product in products)
            assert shares[number] == whole - sum(product.at(kept) for product in products)


def macs_of(graph: PruningGraph) -> dict[str, int]:
    counts = touched(graph.mac_counts, graph.group_of)
    return {group.name: counts[number] for number, group in enumerate(graph.groups)}


def test_macs_of_a_group_count_what_makes_and_what_reads_it() -> None:
    conv1, conv2, head = 64 * 9 * 3 * 6, 64 * 9 * 6 * 8, 8 * 5
    expected = {"conv1": conv1 + conv2, "conv2": conv2 + head, "fc": head}
    assert macs_of(trace(Plain(), image())) == expected
