"""Channels that an index of constants moves, picks or repeats keep their units."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from search import Plan, load_pruned, prune
from search.graph import trace
from search.loading import plan_document
from tests.search_tests.graph_tests.around import columns, conv, groups_of

ORDER = [2, 0, 3, 1]
MOVES: dict[str, tuple[Callable[[Tensor], Tensor], list[list[int]]]] = {
    "index_select": (lambda x: x.index_select(1, torch.tensor(ORDER)), [[1], [3], [0], [2]]),
    "index": (lambda x: x[:, torch.tensor(ORDER)], [[1], [3], [0], [2]]),
    "negative": (lambda x: x[:, torch.tensor([-1, 0, 1, 2])], [[1], [2], [3], [0]]),
    "repeated": (lambda x: x[:, torch.tensor([0, 1, 2, 3, 3, 0])], [[0, 5], [1], [2], [3, 4]]),
    "computed": (lambda x: x[:, torch.arange(4).view(2, 2).t().flatten()], [[0], [2], [1], [3]]),
}


@pytest.mark.parametrize("name", MOVES)
def test_the_reader_has_the_columns_that_the_index_gives(name: str) -> None:
    move, expected = MOVES[name]
    groups = groups_of(lambda m, x: m.b(move(x)), b=conv(6 if name == "repeated" else 4))
    assert (groups["a"].status, groups["a"].form) == ("prunable", "graph")
    assert columns(groups["a"], "b.weight") == expected


def test_a_single_channel_is_picked_by_its_position() -> None:
    groups = groups_of(lambda m, x: m.b(x * x[:, torch.tensor([1])]), b=conv(4))
    assert groups["a"].status == "frozen"


class Shuffled(nn.Module):
    """A buffer, which training may change, orders the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.register_buffer("order", torch.arange(8))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.b(self.a(x).index_select(1, self.get_buffer("order")).relu())
        return result


def test_a_pruned_graph_reads_the_same_channels_also_in_another_process(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, image = Shuffled(), torch.randn(2, 3, 4, 4)
    model.get_buffer("order").copy_(torch.tensor([5, 1, 7, 0, 2, 6, 4, 3]))
    graph = trace(model, (image,))
    plan = Plan({**graph.dense_plan().kept, "a": (1, 2, 5)})
    pruned = prune(model, graph, plan)
    (tmp_path / "plan.json").write_text(json.dumps(plan_document(model, graph, plan)))
    save_file(pruned.state_dict(), tmp_path / "model.safetensors")
    loaded = load_pruned(Shuffled(), tmp_path / "plan.json", tmp_path / "model.safetensors")
    model.a.weight.data[[0, 3, 4, 6, 7]] = 0.0
    assert model.a.bias is not None
    model.a.bias.data[[0, 3, 4, 6, 7]] = 0.0
    assert torch.allclose(pruned(image), model(image), atol=1e-6)
    assert torch.equal(loaded(image), pruned(image))


class Bottleneck(nn.Module):
    """Grouped convolutions around a shuffle, beside a shortcut that is read in another order."""

    def __init__(self, *, picked: int | None = None) -> None:
        super().__init__()
        self._picked = picked
        self.a, self.last = nn.Conv2d(3, 16, 1), nn.Conv2d(24, 2, 1)
        self.down = nn.Conv2d(16, 32, 1, groups=4)
        self.up = nn.Conv2d(32, 8, 1, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = x if self._picked is None else x[:, torch.full((16,), self._picked)]
        y = self.down(y).unflatten(1, (4, 8)).transpose(1, 2).flatten(1, 2)
        result: Tensor = self.last(torch.cat([x, self.up(y.relu())], 1))
        return result


def test_convolutions_may_choose_positions_while_the_shuffle_keeps_its_choice() -> None:
    groups = trace(Bottleneck(), (torch.randn(1, 3, 4, 4),)).groups
    assert {group.name: group.width for group in groups if group.kind != "block"} == {
        "a": 4,
        "down": 2,
        "up": 2,
        "last": 2,
    }


def test_a_unit_that_must_stay_takes_nothing_with_it_that_could_go() -> None:
    groups = trace(Bottleneck(picked=3), (torch.randn(1, 3, 4, 4),)).groups
    widths = {
        group.name: (group.width, group.required_any_of)
        for group in groups
        if group.kind != "block"
    }
    assert widths == {"a": (16, ((3,),)), "down": (2, ()), "up": (2, ()), "last": (2, ())}


def test_a_group_is_idle_where_only_a_unit_matters_that_must_stay() -> None:
    groups = groups_of(lambda m, x: m.b(x[:, torch.tensor([2, 2, 2])]), b=conv(3))
    assert groups["a"].required_any_of == ((2,),)
    assert (groups["a"].status, groups["a"].reason) == (
        "frozen",
        "unverified: the output does not depend on its units",
    )
