"""Verification: a wrong rule, an idle group and a forward with constants are all caught."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from search.graph import trace
from search.graph.dependency.op_call import OpCall, Outcome, PropagationRule
from search.graph.dependency.operators import convolution, elementwise, joining, norms
from search.graph.verification.dense_trial import DenseTrial
from search.graph.verification.draw import Draw
from search.graph.verification.subject import Subject
from search.graph.verification.trials import Trials
from tests.search_tests.graph_tests.verification_tests.verifying import (
    reason,
    statuses,
    verified,
    with_rule,
    without_ties,
)
from tests.search_tests.models import Dense, Plain, Residual, image, layer_normed


def backwards(call: OpCall) -> Outcome:
    """Concatenation in the wrong order."""
    return joining.concatenate(
        replace(call, arguments={**call.arguments, "tensors": call["tensors"][::-1]})
    )


def tiled(call: OpCall) -> Outcome:
    """Flatten as if the channels were the innermost dimension."""
    x = call.first
    axis = x.axes[1]
    return call.give(
        [None, None if axis is None else np.tile(axis, call.out.shape[1] // len(axis))]
    )


def exact(rule: PropagationRule) -> PropagationRule:
    """A rule that forgets that a statistic runs over units."""

    def wrong(call: OpCall) -> Outcome:
        outputs, effect = rule(call)
        return outputs, replace(effect, approximations=(), statistics=(), freezes=())

    return wrong


class SoftChannels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 1)
        self.conv2 = nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(self.conv1(x).softmax(1))
        return out


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.fc = nn.Linear(6 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(torch.flatten(self.conv(x), 1))
        return out


WRONG: dict[str, tuple[type[nn.Module], str, PropagationRule, str]] = {
    "concatenation in the wrong order": (Dense, "cat", backwards, "layers.0 layers.1 layers.2"),
    "flatten with the wrong strides": (Flat, "flatten", tiled, "conv"),
    "a norm that is not cut": (Plain, "batch_norm", without_ties(norms.batch_norm), "conv1"),
    "an addition without ties": (Residual, "add", without_ties(elementwise.elementwise), "stem"),
    "softmax as if index by index": (SoftChannels, "softmax", elementwise.same_axes, "conv1"),
    "a convolution that reads nothing": (
        Plain,
        "conv2d",
        without_ties(convolution.convolution),
        "conv1 conv2",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_freezes_the_groups_that_it_touches(name: str) -> None:
    model, operator, rule, caught = WRONG[name]
    torch.manual_seed(0)
    graph = trace(model(), image(), operators=with_rule(operator, rule))
    for group in caught.split():
        assert statuses(graph)[group] == "frozen"
        assert reason(graph, group).startswith("unverified: ")


def test_only_the_wrong_groups_freeze() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 4, 1)
            self.b = nn.Conv2d(4, 6, 1)
            self.c = nn.Conv2d(6, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.c(torch.relu(self.b(self.a(x).softmax(1))))
            return out

    graph = trace(Two(), image(), operators=with_rule("softmax", elementwise.same_axes))
    assert statuses(graph) == {"a": "frozen", "b": "prunable", "c": "frozen"}
    assert "off by" in reason(graph, "a")


def test_a_norm_that_is_taken_for_exact_still_runs_over_the_kept_units() -> None:
    operators = with_rule("layer_norm", exact(norms.layer_norm))
    graph = trace(layer_normed(), (torch.randn(2, 3),), operators=operators)
    assert statuses(graph) == {"0": "prunable", "2": "prunable", "3": "frozen"}


class Beside(Plain):
    """A second branch that is added to the first one, times a number."""

    def __init__(self, times: float) -> None:
        super().__init__()
        self.times = times
        self.beside = nn.Sequential(nn.Conv2d(6, 4, 1), nn.Conv2d(4, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        beside: Tensor = self.beside(self.conv1(x)).sum()
        return super().forward(x) + self.times * beside


def test_a_group_without_influence_is_not_trusted() -> None:
    graph = trace(Beside(0.0), image())
    assert statuses(graph)["conv1"] == "prunable"
    assert reason(graph, "beside.0") == "unverified: the output does not depend on its units"


def test_a_group_is_trusted_that_matters_little_but_by_far_more_than_rounding() -> None:
    assert statuses(trace(Beside(1e-9), image()))["beside.0"] == "prunable"


class Unmoved(DenseTrial):
    """Sees nothing move."""

    def moved_by(self, names: Sequence[str]) -> set[str]:
        return set()


class GradientsOnly(Trials):
    """Only the gradient shows what matters."""

    def dense(self, subject: Subject, draw: Draw) -> DenseTrial:
        return Unmoved(subject.graph, draw, self.reference(subject), self.log)


def test_an_influence_that_single_precision_cannot_hold_is_seen_in_double() -> None:
    class Large(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return 1e300 * super().forward(x) * 1e-300

    graph = verified(Large(), image(), GradientsOnly)
    assert statuses(graph) == statuses(trace(Plain(), image()))
    assert "prunable" in statuses(graph).values()


class Folding(nn.Module):
    """So deep, and so far from linear, that on drawn weights the last bit decides all outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(16, 16) for _ in range(40)))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sin(3 * layer(x))
        logits: Tensor = self.head(x)
        return logits


@pytest.mark.parametrize(("rescalings", "fewest", "most"), [(3, 1, 1), (0, 11, 41)])
def test_weights_of_which_the_last_bit_decides_are_drawn_smaller(
    rescalings: int, fewest: int, most: int
) -> None:
    """Then the outputs alone are frozen."""
    torch.manual_seed(0)
    graph = verified(Folding(), (torch.randn(2, 16),), lambda log: Trials(log, rescalings))
    assert fewest <= list(statuses(graph).values()).count("frozen") <= most


def test_parameters_are_redrawn_so_zeros_do_not_hide_a_branch() -> None:
    model = Residual()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    graph = trace(model, (torch.zeros(1, 3, 8, 8),))
    assert statuses(graph) == {**dict.fromkeys(statuses(graph), "prunable"), "fc": "frozen"}
    assert all(bool((parameter == 0).all()) for parameter in model.parameters())
