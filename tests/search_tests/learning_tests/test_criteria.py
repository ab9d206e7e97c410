"""Rules of the criteria, on a network small enough to reckon by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import secateur
from jobs.spec import SearchSpec
from search.criteria import CRITERIA, best_units, score_channels
from search.criteria.reduction import member_values, reduced
from search.criteria.singe import singe_scores
from search.criteria.taylor import taylor_scores
from search.errors import CriterionError
from search.graph import PruningGraph, trace
from search.graph.dependency.groups import Member
from search.objectives import Classification
from search.plan import Plan
from search.surgery import prune
from tests.search_tests.learning_tests.networks import striped_images
from tests.search_tests.models import Plain


class TwoProducers(nn.Module):
    """Two convolutions, one with a norm, whose sum is read by one linear layer: one group."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.right = nn.Conv2d(2, 4, 1, bias=False)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(torch.relu(self.norm(self.left(x)) + self.right(x)).mean((2, 3)))
        return logits


@pytest.fixture(scope="module")
def graph() -> PruningGraph:
    torch.manual_seed(0)
    model = TwoProducers().double()
    nn.init.uniform_(model.norm.weight, -2, 2)
    return trace(model, (torch.randn(2, 2, 8, 8, dtype=torch.float64),))


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


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("mean", [2.0, 1.0]), ("sum", [4.0, 2.0]), ("max", [2.0, 1.5]), ("norm", [8**0.5, 2.5**0.5])],
)
def test_reductions_of_members_that_weigh_alike(reduction: str, expected: list[float]) -> None:
    first, second = torch.tensor([40.0, 10.0, 10.0]), torch.tensor([6.0, 4.5, -1.5])
    torch.testing.assert_close(reduced([first, second], reduction)[:2], torch.tensor(expected))


def test_the_reduction_reaches_the_criteria(graph: PruningGraph) -> None:
    model = graph.model
    assert isinstance(model, TwoProducers)
    norms = [w.detach().abs().flatten(1).sum(1) for w in (model.left.weight, model.right.weight)]
    expected = torch.stack([norm / norm.mean() for norm in norms]).amax(0)
    scores = score_channels(model, graph, "l1", reduction="max")
    torch.testing.assert_close(scores["left"], expected)
    for criterion in ("l1", "l2", "bn_scale"):
        with pytest.raises(CriterionError, match="reduction must be one of .* but got 'median'"):
            score_channels(model, graph, criterion, reduction="median")


def test_bn_scale_is_the_absolute_gain_and_l1_where_there_is_none(graph: PruningGraph) -> None:
    model = graph.model
    assert isinstance(model, TwoProducers)
    gains = model.norm.weight.detach().abs()
    torch.testing.assert_close(
        score_channels(model, graph, "bn_scale")["left"], gains / gains.mean()
    )
    both = Plain().eval()
    own = trace(both, (torch.randn(2, 3, 8, 8),))
    scores, norms = (score_channels(both, own, name) for name in ("bn_scale", "l1"))
    assert torch.equal(scores["conv2"], norms["conv2"])  # it has no norm
    assert torch.equal(scores["conv1"], torch.ones(6, dtype=torch.float64))  # gains as they began


def test_bn_scale_needs_a_norm() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    own = trace(model, (torch.randn(2, 3),))
    with pytest.raises(CriterionError, match="batch norms over its units, but no group has one"):
        score_channels(model, own, "bn_scale")


def test_taylor_is_the_gradient_of_the_loss_along_the_removal(
    graph: PruningGraph, batches: list[tuple[Tensor, Tensor]]
) -> None:
    """Shrinking what reads a unit by 1e-6 changes each part's loss by 1e-6 times the score."""
    model = graph.model
    assert isinstance(model, TwoProducers)
    scores = score_channels(model.eval(), graph, "taylor", batches)["left"]
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


class Quadratic(Classification):
    """Half the squared distance to the targets."""

    def saliency(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().mean() / 2


def _linear() -> tuple[nn.Sequential, PruningGraph, Tensor]:
    """A linear network, (1, 3) -> (1, 1), its graph, and what each hidden unit adds: (5,)."""
    torch.manual_seed(1)
    model: Any = nn.Sequential(nn.Linear(3, 5, bias=False), nn.Linear(5, 1, bias=False)).double()
    image = torch.ones(1, 3, dtype=torch.float64)
    graph = trace(model, (image.repeat(2, 1),))
    added = (model[0](image) * model[1].weight).detach()[0]
    return model, graph, added


@pytest.mark.parametrize("target", [-9.0, 9.0])
def test_singe_of_a_quadratic_loss_is_the_change_of_loss_of_each_removal(target: float) -> None:
    model, graph, added = _linear()
    batch = torch.ones(1, 3, dtype=torch.float64), torch.full((1, 1), target)
    scores = singe_scores(model, graph, [batch], Quadratic(), paths=5)
    off = added.sum() - target
    expected = ((off - added).square() - off.square()).abs() / 2
    torch.testing.assert_close(scores["0"], expected, check_dtype=False)


def test_singe_on_one_path_shares_out_the_loss_of_removing_all() -> None:
    model, graph, added = _linear()
    batch = torch.ones(1, 3, dtype=torch.float64), torch.full((1, 1), 9.0)
    scores = singe_scores(model, graph, [batch], Quadratic())["0"]
    expected = (added * (added.sum() / 2 - 9)).abs()  # of (t · sum - 9) · added over t
    torch.testing.assert_close(scores, expected, check_dtype=False)
    whole = (scores * -added.sign()).sum()  # less of what brings the sum nearer to 9
    torch.testing.assert_close(whole, ((added.sum() - 9) ** 2 - 81) / 2, check_dtype=False)


def test_singe_meets_a_gradient_where_taylor_sees_none() -> None:
    """At the whole network the loss is flat: first-order Taylor takes all units for worthless."""
    model, graph, added = _linear()
    batch = torch.ones(1, 3, dtype=torch.float64), added.sum().reshape(1, 1)
    taylor = taylor_scores(model, graph, [batch], Quadratic())["0"]
    scores = singe_scores(model, graph, [batch], Quadratic(), paths=5)["0"]
    torch.testing.assert_close(taylor, torch.zeros_like(taylor), atol=1e-6, rtol=0)
    torch.testing.assert_close(scores, added.square() / 2, check_dtype=False)


def test_singe_leaves_the_model_as_it_was(
    graph: PruningGraph, batches: list[tuple[Tensor, Tensor]]
) -> None:
    before = {name: value.clone() for name, value in graph.model.state_dict().items()}
    graph.model.train()
    score_channels(graph.model, graph, "singe", batches)
    assert graph.model.training
    assert all(parameter.grad is None for parameter in graph.model.parameters())
    assert all(torch.equal(before[k], v) for k, v in graph.model.state_dict().items())


@pytest.mark.parametrize("criterion", ["singe", "taylor"])
def test_one_image_is_enough_for_a_score(
    graph: PruningGraph, batches: list[tuple[Tensor, Tensor]], criterion: str
) -> None:
    images, labels = batches[0]
    scores = score_channels(graph.model, graph, criterion, [(images[:1], labels[:1])])["left"]
    assert bool(scores.isfinite().all())
    assert len(set(scores.tolist())) == 4


def test_of_two_redundant_units_one_leaves_first_and_the_other_is_then_worth_itself() -> None:
    """Units (2, 0), (0, 3), (4, 0) and (-5, 0): the first two multiples are one direction."""
    model: Any = nn.Sequential(nn.Linear(2, 4, bias=False), nn.ReLU(), nn.Linear(4, 2)).double()
    rows = [[2.0, 0.0], [0.0, 3.0], [4.0, 0.0], [-5.0, 0.0]]
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(rows))
    scores = score_channels(model, trace(model, (torch.ones(2, 2).double(),)), "redundancy")["0"]
    torch.testing.assert_close(scores, torch.tensor([0.0, 3.0, 4.0, 5.0]).double() / 3.5)


def test_redundancy_folds_batch_norm_and_bias() -> None:
    """Two units whose convolutions are alike but whose norms shift them apart are not twins."""
    model: Any = nn.Sequential(
        nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1)
    )
    model = model.double().eval()
    with torch.no_grad():
        model[0].weight[1] = 2 * model[0].weight[0]
        model[0].bias[1] = 2 * model[0].bias[0]
        model[1].running_var[1] = 4 * (1 + 1e-5) - 1e-5  # undoes the 2
    own = trace(model, (torch.randn(2, 2, 4, 4).double(),))
    twins = score_channels(model, own, "redundancy")["0"]
    assert min(twins[:2]) < 1e-7
    with torch.no_grad():
        model[1].bias[1] = 1.0
    assert min(score_channels(model, own, "redundancy")["0"][:2]) > 0.1


def test_what_users_read_names_every_criterion() -> None:
    for docstring in (SearchSpec.__doc__, secateur.prune.__doc__):
        assert {name for name in CRITERIA if f"`{name}`" in (docstring or "")} == set(CRITERIA)


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
    with pytest.raises(CriterionError, match="singe must be given at least one batch"):
        score_channels(graph.model, graph, "singe")
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
    assert reduced([zeros, ones]).tolist() == [0.5, 1.5]
    assert reduced([zeros]).tolist() == [0.0, 0.0]
