"""Forms: which groups the user's class can lose, and which only the exported graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from search.graph import trace
from search.graph.dependency.operators import joining
from search.graph.trial_log import TrialLog
from search.graph.verification.comparison import random_plan
from search.graph.verification.draw import Draw
from search.graph.verification.influence import Influence
from search.graph.verification.subject import Subject
from search.graph.verification.trial_result import Trial
from search.graph.verification.trials import Trials
from tests.search_tests.graph_tests.verification_tests.verifying import (
    forms,
    verified,
    with_rule,
    without_ties,
)
from tests.search_tests.models import FixedView, Shuffle, image


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def test_a_forward_that_holds_a_width_as_a_constant_needs_the_exported_graph() -> None:
    graph = trace(FixedView(), image())
    assert forms(graph) == {"conv1": "module", "conv2": "graph", "fc1": "module"}


class Unseen(Influence):
    """Nothing matters, from a moment on."""

    def __init__(self, subject: Subject, log: TrialLog, has_begun: Callable[[], bool]) -> None:
        super().__init__(subject, log)
        self._has_begun = has_begun

    def beside(self, names: Sequence[str], seed: int, scale: float) -> dict[str, float]:
        return {} if self._has_begun() else super().beside(names, seed, scale)


class NothingShown(Trials):
    """Nothing matters when the user's class is compared with the graph."""

    compares_class = False

    def module_vs_graph(self, subject: Subject, draw: Draw) -> Trial:
        self.compares_class = True
        return super().module_vs_graph(subject, draw)

    def influence(self, subject: Subject) -> Influence:
        return Unseen(subject, self.log, lambda: self.compares_class)


def test_a_class_is_not_trusted_where_nothing_shows_that_it_is_right() -> None:
    graph = verified(FixedView(), image(), NothingShown)
    assert forms(graph) == dict.fromkeys(("conv1", "conv2", "fc1"), "graph")


def test_parts_of_unequal_sizes_need_the_exported_graph() -> None:
    graph = trace(Shuffle(), image(), operators=with_rule("chunk", without_ties(joining.split)))
    assert forms(graph)["stem"] == "graph"


def test_a_form_is_found_that_only_the_second_plan_shows() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.tail, self.head = conv(3, 6), conv(6, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.tail(self.stem(x))
            logits: Tensor = self.head(torch.cat([x[:, 2:].tanh(), x[:, :2]], 1).mean((2, 3)))
            return logits

    graph = trace(Cut(), image())
    assert forms(graph) == {"stem": "module", "tail": "graph"}
    first, second = (random_plan(graph.groups, ["tail"], seed).kept["tail"] for seed in range(2))
    assert first[:2] == (0, 1) != second[:2]


@pytest.mark.parametrize("is_read", [True, False])
def test_both_halves_of_a_group_of_two_units_are_tried(is_read: bool) -> None:
    """Its first layer has two units, by the grouped convolution; a forward that cuts it at a
    constant place computes the same where the first of them is left, and something else where the
    second is."""

    class CutAtTwo(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.side = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1, groups=2)
            self.last = nn.Conv2d(6, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x).relu()
            side = self.side(x).mean((1, 2, 3))[:, None]
            made: Tensor = self.last(torch.cat([x[:, 2:].tanh(), x[:, :2]], 1)).mean((2, 3))
            return made + side if is_read else made

    graph = trace(CutAtTwo(), image())
    assert forms(graph) == {"first": "graph"}
    first, second = (random_plan(graph.groups, ["first"], seed).kept["first"] for seed in (0, 1))
    assert sorted((*first, *second)) == [0, 1]


@pytest.mark.parametrize("width", [2, 3, 5, 8])
def test_what_one_plan_keeps_the_next_one_removes(width: int) -> None:
    graph = trace(nn.Sequential(nn.Conv2d(3, width, 1), nn.Conv2d(width, 4, 1)), image())
    name = next(group.name for group in graph.groups if group.width == width)
    for seed in (0, 2, 4):
        plans = [random_plan(graph.groups, [name], each) for each in (seed, seed + 1)]
        even, odd = (set(plan.kept[name]) for plan in plans)
        assert even | odd == set(range(width))
        assert len(even & odd) == width % 2


class Decided(nn.Module):
    """Attention that scales by the number of its units, with a softmax that drawn weights decide
    until they are small: its scale is seen on small weights only, and where half of the units are
    gone, on smaller ones than with all of them."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.q, self.k = nn.Linear(8, 6, bias=False), nn.Linear(8, 6, bias=False)
        self.v, self.head = nn.Linear(8, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.gain * self.q(x), self.k(x), self.v(x)
        scale = q.shape[-1] ** -0.5
        logits: Tensor = self.head((q @ k.mT * scale).softmax(-1) @ v)
        return logits.mean(1)


@pytest.mark.parametrize(
    ("gain", "seed"),
    [(100.0, 0), (200.0, 0), (250.0, 2), (300.0, 0), (1000.0, 0), (3000.0, 0)],
)
def test_the_form_is_found_on_weights_on_which_the_units_matter(gain: float, seed: int) -> None:
    torch.manual_seed(seed)
    assert forms(trace(Decided(gain), (torch.randn(1, 4, 8),))) == {"q": "graph", "v": "module"}


class Scaled(Decided):
    """The same of one operator, which gets a scale or not; its softmax is always decided."""

    def __init__(self, scale: float | None) -> None:
        super().__init__(1e9)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.gain * self.q(x), self.k(x), self.v(x)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, scale=self.scale)
        logits: Tensor = self.head(mixed)
        return logits.mean(1)


@pytest.mark.parametrize(("scale", "form"), [(None, "graph"), (0.5, "module")])
def test_attention_that_gets_no_scale_needs_the_exported_graph(
    scale: float | None, form: str
) -> None:
    torch.manual_seed(0)
    assert forms(trace(Scaled(scale), (torch.randn(1, 4, 8),))) == {"q": form, "v": "module"}


class Counting(Decided):
    """Makes very little of the number of its units."""

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = super().forward(x) + 1e-9 * self.v(x).shape[-1]
        return found


def test_what_the_last_bit_does_not_explain_is_wrong_however_little_it_is() -> None:
    torch.manual_seed(0)
    assert forms(trace(Counting(1.0), (torch.randn(1, 4, 8),)))["v"] == "graph"


class OneIsOther(FixedView):
    """Python takes another way for one example, which no export for two shows."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(2 * x if x.shape[0] == 1 else x)


def test_a_class_that_decides_by_the_number_of_examples_is_compared_on_two() -> None:
    graph = trace(OneIsOther(), image())
    assert forms(graph) == {"conv1": "module", "conv2": "graph", "fc1": "module"}


class Scaling(nn.Module):
    """The class cannot lose the first group; for one example, it computes something else."""

    def __init__(self, *rest: nn.Module) -> None:
        super().__init__()
        self.one, self.rest = nn.Linear(4, 8), nn.Sequential(*rest)

    def forward(self, x: Tensor) -> Tensor:
        width = self.one.weight.shape[0]
        made: Tensor = self.rest(self.one(x).relu() / width)
        return made + 1.0 if x.shape[0] == 1 else made


def test_a_class_that_decides_by_the_number_of_examples_is_not_taken_for_random() -> None:
    graph = trace(Scaling(nn.Linear(8, 3)), (torch.rand(2, 4),))
    assert forms(graph) == {"one": "graph"}


def test_one_example_does_not_hide_what_such_a_class_can_lose() -> None:
    graph = trace(Scaling(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)), (torch.rand(2, 4),))
    assert forms(graph) == {"one": "graph", "rest.0": "module"}
