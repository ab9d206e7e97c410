"""Constraints beside latency: layers left alone, multiples of channels, a limit of parameters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from search.constraints import Constraints, constrained, smallest
from search.errors import ConfigError
from search.graph import PruningGraph, trace
from search.widths import narrowest, step_of
from tests.search_tests.graph_tests.around import conv


class Net(nn.Module):
    """Two plain layers, a residual branch and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = conv(3, 12), nn.Sequential(conv(12, 20), nn.ReLU(), conv(20, 12))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        logits: Tensor = self.head((x + self.body(x)).mean((2, 3)))
        return logits


@pytest.fixture(scope="module")
def graph() -> PruningGraph:
    torch.manual_seed(0)
    return trace(Net(), (torch.randn(2, 3, 4, 4),))


def open_groups(graph: PruningGraph) -> set[str]:
    return {group.name for group in graph.searched(blocks=True)}


def reason(graph: PruningGraph, name: str) -> str:
    (group,) = [group for group in graph.groups if group.name == name]
    return group.reason


def test_without_constraints_nothing_changes(graph: PruningGraph) -> None:
    assert open_groups(graph) == {"stem", "body.0", "body"}
    assert constrained(graph, Constraints()) is graph  # so that its skeletons are kept


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("stem", {"body.0"}),  # its channels are those of the sum, so the block makes them too
        ("body.0", {"stem"}),  # what feeds it may lose channels; the block that holds it stays
        ("*.2", {"body.0"}),
        ("head", {"stem", "body.0", "body"}),
    ],
)
def test_a_layer_keeps_all_of_its_channels(
    graph: PruningGraph, pattern: str, left: set[str]
) -> None:
    made = constrained(graph, Constraints((pattern,)))
    assert open_groups(made) - {"body"} == left - {"body"}
    assert ("body" in open_groups(made)) == (pattern in ("stem", "head"))


def test_a_module_names_all_that_it_holds_and_something_must_be_left(graph: PruningGraph) -> None:
    with pytest.raises(ConfigError, match="must leave something to prune"):
        constrained(graph, Constraints(("body",)))


def test_the_reason_names_layer_and_pattern(graph: PruningGraph) -> None:
    made = constrained(graph, Constraints(("st*",)))
    assert reason(made, "stem") == "left alone: 'stem' is excluded by 'st*'"


def test_a_name_that_no_module_has_is_refused_with_near_ones(graph: PruningGraph) -> None:
    with pytest.raises(ConfigError, match="got 'stemm', which names none; near names are stem"):
        constrained(graph, Constraints(("stemm",)))


def test_frozen_layers_are_left_alone_unless_they_are_asked_for() -> None:
    model = Net()
    model.body[0].requires_grad_(False)
    graph = trace(model, (torch.randn(2, 3, 4, 4),))
    assert "stem" in open_groups(constrained(graph, Constraints()))
    assert "body.0" not in open_groups(constrained(graph, Constraints()))
    assert "prune_frozen takes it in" in reason(constrained(graph, Constraints()), "body.0")
    assert "body.0" in open_groups(constrained(graph, Constraints(prune_frozen=True)))


def test_a_model_without_any_gradient_has_no_frozen_layers() -> None:
    graph = trace(Net().requires_grad_(False), (torch.randn(2, 3, 4, 4),))
    assert open_groups(constrained(graph, Constraints())) == open_groups(graph)


def test_a_limit_below_the_smallest_model_is_refused_with_its_number(graph: PruningGraph) -> None:
    fewest = graph.parameters(smallest(graph))
    assert constrained(graph, Constraints(max_parameters=fewest)).groups == graph.groups
    with pytest.raises(ConfigError, match=f"must be ≥ {fewest}, .* but got {fewest - 1}"):
        constrained(graph, Constraints(max_parameters=fewest - 1))
    with pytest.raises(ConfigError, match="max_parameters must be ≥"):  # multiples of 8 need more
        constrained(graph, Constraints(multiple=8, max_parameters=fewest))


def test_a_limit_of_memory_below_the_smallest_model_is_refused(graph: PruningGraph) -> None:
    least = graph.memory_bytes(smallest(graph), 3) / 1e6
    given = Constraints(max_memory_mb=least, batch_size=3)
    assert constrained(graph, given).groups == graph.groups
    with pytest.raises(ConfigError, match=r"max_memory_mb must be ≥ .* at batch size 4, but got"):
        constrained(graph, Constraints(max_memory_mb=least, batch_size=4))


def test_blocks_count_as_gone_only_where_they_may_go(graph: PruningGraph) -> None:
    fewest = graph.parameters(smallest(graph, blocks=True))
    assert fewest < graph.parameters(smallest(graph))
    assert constrained(graph, Constraints(max_parameters=fewest, blocks=True)).removable
    with pytest.raises(ConfigError, match="max_parameters must be ≥"):
        constrained(graph, Constraints(max_parameters=fewest))


@pytest.mark.parametrize("value", [0, -1, 2.5, True])
def test_numbers_out_of_range_are_refused(value: int) -> None:
    with pytest.raises(ConfigError, match="multiple must be an integer ≥ 1"):
        Constraints(multiple=value)


class Wide:
    def __init__(self, width: int, min_width: int = 1, channels: int = 1) -> None:
        self.width, self.min_width, self.channels = width, min_width, channels


@pytest.mark.parametrize(
    ("group", "multiple", "least"),
    [
        (Wide(64), 1, 1),
        (Wide(64), 8, 8),
        (Wide(6), 8, 6),
        (Wide(12, min_width=2), 1, 2),
        (Wide(1, min_width=0), 8, 0),
        (Wide(12, channels=64), 8, 1),
        (Wide(12, channels=4), 8, 2),
        (Wide(12, channels=3), 8, 8),
    ],
)
def test_the_narrowest_width_is_a_multiple_of_channels(
    group: Wide, multiple: int, least: int
) -> None:
    assert narrowest(group, multiple) == least
    assert step_of(group, multiple) * group.channels % multiple == 0
