"""Rules of the criteria, on a network small enough to reckon by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from search.criteria import CRITERIA, best_units, score_channels
from search.criteria.reduction import mean_of_normalised, member_values
from search.errors import CriterionError
from search.graph import PruningGraph, trace
from search.graph.dependency.groups import Member
from search.plan import Plan
from search.surgery import prune
from tests.search_tests.learning_tests.networks import striped_images


class TwoProducers(nn.Module):
    """Two convolutions whose sum is read by one linear layer: one group, two producers."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.right = nn.Conv2d(2, 4, 1, bias=False)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(torch.relu(self.left(x) + self.right(x)).mean((2, 3)))
        return logits


@pytest.fixture(scope="module")
def graph() -> PruningGraph:
    torch.manual_seed(0)
    return trace(TwoProducers().double(), (torch.randn(2, 2, 8, 8, dtype=torch.float64),))


@pytest.fixture(scope="module")
def batches() -> list[tuple[Tensor, Tensor]]:
    images, labels = striped_images(16)
    return [(images.double(), labels)]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_prunable_group_gets_one_finite_score_per_unit(
    graph: PruningGraph, batches: list[tuple[Tensor, Tensor]], criterion: str
) -> None:
    scores = score_channels(graph.model, graph, criterion, batches)
    assert {name: tuple(s.shape) for name, s in scores.items()} == {
        group.name: (group.width,) for group in graph.prunable
    }
    assert all(bool(s.isfinite().all()) and bool((s >= 0).all()) for s in scores.values())


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_highest_removed_score_is_at_most_the_lowest_kept(
    graph: PruningGraph, batches: list[tuple[Tensor, Tensor]], criterion: str
) -> None:
    for scores in score_channels(graph.model, graph, criterion, batches).values():
        for width in range(1, len(scores)):
            kept = list(best_units(scores, width))
            removed = [unit for unit in range(len(scores)) if unit not in kept]
            assert scores[removed].max() <= scores[kept].min()


@pytest.mark.parametrize(("criterion", "order"), [("l1", 1), ("l2", 2)])
def test_norms_weigh_producers_alike(graph: PruningGraph, criterion: str, order: int) -> None:
    model = graph.model
    assert isinstance(model, TwoProducers)
    norms = [w.detach().flatten(1).norm(order, 1) for w in (model.left.weight, model.right.weight)]
    expected = sum((norm / norm.mean() for norm in norms), torch.zeros(4)) / 2
    torch.testing.assert_close(score_channels(model, graph, criterion)["left"], expected)


def test_taylor_is_the_gradient_of_the_loss_along_the_removal(
    graph: PruningGraph, batches: list[tuple[Tensor, Tensor]]
) -> None:
    """Shrinking what reads a unit by 1e-6 changes each part's loss by 1e-6 times the score."""
    model = graph.model
    assert isinstance(model, TwoProducers)
    scores = score_channels(model, graph, "taylor", batches)["left"]
    images, labels = batches[0]

    def losses() -> Tensor:
        with torch.no_grad():
            each = functional.cross_entropy(model(images), labels, reduction="none")
        return each.reshape(2, 8).mean(1)

    before = losses()
    for unit in range(4):
        saved = model.fc.weight.data.clone()
        model.fc.weight.data[:, unit] *= 1 - 1e-6
        change = (losses() - before).abs().mean() / 1e-6
        model.fc.weight.data = saved
        torch.testing.assert_close(change, scores[unit], rtol=1e-3, atol=1e-7)


def test_taylor_leaves_no_gradient_and_no_flag_behind(
    graph: PruningGraph, batches: list[tuple[Tensor, Tensor]]
) -> None:
    graph.model.train()
    score_channels(graph.model, graph, "taylor", batches)
    assert graph.model.training
    assert all(parameter.grad is None for parameter in graph.model.parameters())


def test_a_silent_unit_is_worth_nothing_to_taylor_and_goes_first(
    batches: list[tuple[Tensor, Tensor]],
) -> None:
    torch.manual_seed(0)
    model = TwoProducers().double()
    with torch.no_grad():
        model.left.weight[2] = model.right.weight[2] = 0
    own = trace(model, (batches[0][0][:2],))
    scores = score_channels(model, own, "taylor", batches)
    assert scores["left"][2] == 0
    kept = best_units(scores["left"], 3)
    assert kept == (0, 1, 3)
    pruned = prune(model, own, Plan({**own.dense_plan().kept, "left": kept}))
    torch.testing.assert_close(pruned(batches[0][0]), model(batches[0][0]))


def test_random_depends_on_seed_and_group_only(graph: PruningGraph) -> None:
    first, again, other = (
        score_channels(graph.model, graph, "random", seed=seed)["left"] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_bad_requests_are_refused(graph: PruningGraph) -> None:
    with pytest.raises(CriterionError, match="criterion must be one of .* but got 'l7'"):
        score_channels(graph.model, graph, "l7")
    with pytest.raises(CriterionError, match="at least one batch"):
        score_channels(graph.model, graph, "taylor")
    with pytest.raises(CriterionError, match=r"width must be in \[1, 3\], but got 0"):
        best_units(torch.ones(3), 0)


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=9), st.data())
def test_of_equal_scores_the_first_units_stay(values: list[float], data: st.DataObject) -> None:
    width = data.draw(st.integers(1, len(values)))
    kept = best_units(torch.tensor(values), width)
    ranked = sorted(range(len(values)), key=lambda unit: (-values[unit], unit))
    assert kept == tuple(sorted(ranked[:width]))


def test_a_unit_of_several_indices_is_worth_their_sum() -> None:
    member = Member("fc.weight", 1, "consumer", ((0, 1), (2,), (4, 3)))
    values = member_values(torch.tensor([[1.0, 2, 3, 4, 5], [10, 20, 30, 40, 50]]), member)
    assert values.tolist() == [33.0, 33.0, 99.0]
    assert member_values(torch.arange(5.0), Member("b", 0, "follower", ((3, 4),))).item() == 7


def test_members_without_any_weight_have_no_say() -> None:
    zeros, ones = torch.zeros(2), torch.tensor([1.0, 3.0])
    assert mean_of_normalised([zeros, ones]).tolist() == [0.5, 1.5]
    assert mean_of_normalised([zeros]).tolist() == [0.0, 0.0]
