"""Verification: a wrong rule, an idle group and a forward with constants are all caught."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from search.errors import GraphError
from search.graph import PruningGraph, trace, tracing
from search.graph.dependency.op_call import OpCall, Outcome, PropagationRule
from search.graph.dependency.operators import convolution, elementwise, joining, norms
from search.graph.dependency.operators.operator import Operator
from search.graph.dependency.operators.registry import OPERATORS
from search.graph.exported.deadline import LATE, NEVER
from search.graph.exported.export import TOO_LATE
from search.graph.native_program import program_of
from search.graph.trial_log import TrialLog, Verdicts
from search.graph.verification import influence
from search.graph.verification import numeric_trial as trials
from search.graph.verification import verify as verification
from search.graph.verification.bisection import Bisection
from search.graph.verification.comparison import random_plan
from search.graph.verification.numeric_trial import NumericTrial
from search.graph.verification.shape_trial import ShapeTrial
from search.graph.verification.verify import settle
from tests.search_tests.graph_tests.around import Ending
from tests.search_tests.models import (
    Dense,
    FixedView,
    Plain,
    Residual,
    Shuffle,
    image,
    layer_normed,
)


def statuses(graph: PruningGraph) -> dict[str, str]:
    return {group.name: group.status for group in graph.groups}


def reason(graph: PruningGraph, name: str) -> str:
    (group,) = [group for group in graph.groups if group.name == name]
    return group.reason


def with_rule(name: str, rule: PropagationRule) -> dict[str, Operator]:
    """All operators, one of which has another rule."""
    return {**OPERATORS, name: replace(OPERATORS[name], propagate=rule)}


def without_ties(rule: PropagationRule) -> PropagationRule:
    def wrong(call: OpCall) -> Outcome:
        outputs, effect = rule(call)
        return outputs, replace(effect, ties=())

    return wrong


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


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def forms(graph: PruningGraph) -> dict[str, str]:
    return {group.name: group.form for group in graph.prunable}


def test_a_forward_that_holds_a_width_as_a_constant_needs_the_exported_graph() -> None:
    graph = trace(FixedView(), image())
    assert forms(graph) == {"conv1": "module", "conv2": "graph", "fc1": "module"}


def test_parts_of_unequal_sizes_need_the_exported_graph() -> None:
    graph = trace(Shuffle(), image(), operators=with_rule("chunk", without_ties(joining.split)))
    assert forms(graph)["stem"] == "graph"


def test_what_the_time_leaves_open_of_the_forms_the_exported_graph_loses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Ending(verification._lost_by_graph_only)
    monkeypatch.setattr(verification, "_lost_by_graph_only", clock.end)
    graph = trace(FixedView(), image(), time_limit_s=1.0, clock=clock)
    assert forms(graph) == dict.fromkeys(("conv1", "conv2", "fc1"), "graph")


def test_a_form_is_found_that_only_the_second_plan_tells_apart() -> None:
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


@pytest.mark.parametrize("gain", [300.0, 1000.0, 3000.0])
def test_the_form_is_found_on_weights_on_which_the_units_matter(gain: float) -> None:
    torch.manual_seed(0)
    assert forms(trace(Decided(gain), (torch.randn(1, 4, 8),))) == {"q": "graph", "v": "module"}


class Scaled(Decided):
    """The same of one operator, which is told a scale or not; its softmax is always decided."""

    def __init__(self, scale: float | None) -> None:
        super().__init__(1e9)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.gain * self.q(x), self.k(x), self.v(x)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, scale=self.scale)
        logits: Tensor = self.head(mixed)
        return logits.mean(1)


@pytest.mark.parametrize(("scale", "form"), [(None, "graph"), (0.5, "module")])
def test_attention_that_is_told_no_scale_needs_the_exported_graph(
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


def test_an_influence_that_single_precision_cannot_hold_is_seen_in_double(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(NumericTrial, "moved_by", lambda self, names: set())

    class Large(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return 1e300 * super().forward(x) * 1e-300

    graph = trace(Large(), image())
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


def test_weights_of_which_the_last_bit_decides_are_drawn_smaller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def frozen() -> int:
        torch.manual_seed(0)
        graph = trace(Folding(), (torch.randn(2, 16),))
        return list(statuses(graph).values()).count("frozen")

    assert frozen() == 1  # the outputs
    monkeypatch.setattr(trials, "MOST_RESCALINGS", 0)
    assert frozen() > 10


def test_parameters_are_redrawn_so_zeros_do_not_hide_a_branch() -> None:
    model = Residual()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    graph = trace(model, (torch.zeros(1, 3, 8, 8),))
    assert statuses(graph) == {**dict.fromkeys(statuses(graph), "prunable"), "fc": "frozen"}
    assert all(bool((parameter == 0).all()) for parameter in model.parameters())


@pytest.mark.parametrize("readings", [0, 1, 2])
def test_the_time_limit_freezes_what_is_not_verified(
    monkeypatch: pytest.MonkeyPatch, readings: int
) -> None:
    clock = Ending(settle, readings)
    monkeypatch.setattr(tracing, "settle", clock.end)
    graph = trace(Plain(), image(), time_limit_s=1.0, clock=clock)
    assert {group.reason for group in graph.groups[:2]} == {LATE}


@pytest.mark.parametrize(("time_limit_s", "reason"), [(4.0, LATE), (15.0, "")])
def test_twenty_times_the_limit_may_pass_without_computing(
    monkeypatch: pytest.MonkeyPatch, time_limit_s: float, reason: str
) -> None:
    wall = Ending(settle)
    monkeypatch.setattr(tracing, "settle", wall.end)
    graph = trace(Plain(), image(), time_limit_s=time_limit_s, clock=lambda: 0.0, wall_clock=wall)
    assert {group.reason for group in graph.groups[:2]} == {reason}


def test_a_trace_takes_one_thread_and_leaves_the_setting_as_it_was() -> None:
    before, seen = torch.get_num_threads(), set[int]()

    class Looking(Plain):
        def forward(self, x: Tensor) -> Tensor:
            seen.add(torch.get_num_threads())
            return super().forward(x)

    torch.set_num_threads(3)
    try:
        trace(Looking(), image())
        with pytest.raises(GraphError):
            trace(nn.Identity(), image())
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == {1}


def test_an_export_is_broken_off_when_the_time_is_over() -> None:
    clock = Ending(torch.relu)

    class Slow(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(clock.end(x))

    with pytest.raises(GraphError, match="must be exported within the time limit"):
        trace(Slow(), image(), time_limit_s=1.0, clock=clock)
    assert clock.has_begun
    assert not clock.has_returned
    assert statuses(trace(Plain(), image()))["conv1"] == "prunable"


def test_what_needs_an_export_that_ends_too_late_is_frozen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Ending(lambda *_: None)
    monkeypatch.setattr(tracing, "cast_program", clock.end)
    graph = trace(FixedView(), image(), time_limit_s=1.0, clock=clock)
    assert forms(graph) == {"conv1": "module", "fc1": "module"}
    assert reason(graph, "conv2") == TOO_LATE


@pytest.mark.parametrize(
    ("owner", "name"),
    [(trials, "outputs_of"), (trials.NumericTrial, "_expected"), (influence, "_gradient")],
)
def test_a_forward_or_backward_that_would_end_too_late_is_broken_off(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    clock = Ending(getattr(owner, name))
    monkeypatch.setattr(owner, name, lambda *args: clock.end(*args))
    monkeypatch.setattr(ShapeTrial, "problem", lambda *_: None)
    graph = trace(Plain(), image(), time_limit_s=1.0, clock=clock)
    assert {group.reason for group in graph.groups[:2]} == {LATE}
    assert clock.has_begun
    assert not clock.has_returned


@pytest.mark.parametrize("wrong", [False, True])
def test_what_was_proven_is_trusted_if_the_time_is_over_in_the_next_round(
    monkeypatch: pytest.MonkeyPatch, wrong: bool
) -> None:
    """Unless something had gone wrong in it by then."""
    rounds: list[int] = []
    told = NumericTrial.problem

    def problem(trial: NumericTrial, names: Sequence[str]) -> str | None:
        rounds.append(trial._seed)
        if trial._seed == 0:
            return told(trial, names)
        return "wrong" if wrong and len(names) > 1 else LATE

    monkeypatch.setattr(NumericTrial, "problem", problem)
    reasons = {group.reason for group in trace(Plain(), image()).groups[:2]}
    assert rounds[:2] == [0, 1]
    assert reasons == ({LATE} if wrong else {""})


def test_halving_keeps_what_stands_together() -> None:
    asked: list[tuple[str, ...]] = []

    def problem(names: Sequence[str]) -> str | None:
        asked.append(tuple(names))
        if "c" in names:
            return "c is wrong"
        return "a and h clash" if {"a", "h"} <= set(names) else None

    bisection = Bisection()
    kept = bisection.keep(list("abcdefgh"), problem)
    assert kept == ["a", "b", "d"]
    assert bisection.reasons["c"] == "unverified: c is wrong"
    assert bisection.reasons["h"] == "unverified: beside a, a and h clash"
    assert len(asked) < 12


def test_after_so_many_trials_what_failed_together_is_refused_together() -> None:
    asked: list[tuple[str, ...]] = []

    def problem(names: Sequence[str]) -> str | None:
        asked.append(tuple(names))
        return "wrong" if {"c", "g"} & set(names) else None

    bisection = Bisection()
    bisection.most = 3
    assert bisection.keep(list("abcdefgh"), problem) == ["a", "b"]
    assert asked == [tuple("abcdefgh"), tuple("abcd"), tuple("ab"), tuple("cd"), tuple("efgh")]
    assert set(bisection.reasons) == set("cdefgh")


def test_one_example_tells_once_two_have_said_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    told: dict[int, str | None] = {1: "off", 2: "off"}

    def instead(trial: NumericTrial, names: Sequence[str], inputs: Sequence[Tensor]) -> str | None:
        tried.append(len(inputs[0]))
        return told[len(inputs[0])]

    model = Plain().requires_grad_(False)
    graph = replace(trace(model, image()), example_inputs=(torch.rand(2, 3, 8, 8),))
    program, _ = program_of(graph.model, graph.example_inputs)
    monkeypatch.setattr(NumericTrial, "_problem", instead)

    def made() -> NumericTrial:
        log = TrialLog(Verdicts(), NEVER)
        return NumericTrial(graph, program.exported, program.propagation, 0, log=log, alone=True)

    trial = made()
    assert [trial.problem(["conv1"]) for _ in range(3)] == ["off"] * 3
    assert tried == [1, 2, 1, 1]
    tried.clear()
    told[2] = None
    trial = made()
    assert [trial.problem(["conv1"]) for _ in range(3)] == [None] * 3
    assert tried == [1, 2, 2, 2]


class Squeezed(nn.Module):
    """It drops the batch of one, as a batch of two shows that it should not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.b(self.a(x[:, :, 0, 0]).squeeze().relu())
        return made


def test_a_model_that_differs_for_one_example_is_tried_with_two() -> None:
    assert statuses(trace(Squeezed(), image()))["a"] == "prunable"


class Folded(nn.Module):
    """Attention whose heads share a dimension with the examples."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj, self.head = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        examples, tokens, _ = x.shape
        folded = self.qkv(x).view(examples, tokens, 3, 4, 2).permute(2, 0, 3, 1, 4).flatten(1, 2)
        q, k, v = folded.unbind()
        mixed = torch.bmm(torch.bmm(q, k.mT).softmax(-1), v).unflatten(0, (examples, 4))
        logits: Tensor = self.head(self.proj(mixed.transpose(1, 2).flatten(2)).mean(1))
        return logits


def test_one_example_tells_where_heads_share_a_dimension_with_the_examples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A batch of two is tried in the second round alone."""
    calls = []
    both = NumericTrial._problem_of_both

    def counted(trial: NumericTrial, names: Sequence[str]) -> str | None:
        calls.append(names)
        return both(trial, names)

    monkeypatch.setattr(NumericTrial, "_problem_of_both", counted)
    graph = trace(Folded(), (torch.randn(2, 5, 8),))
    assert statuses(graph) == {"qkv": "prunable", "proj": "prunable", "head": "frozen"}
    assert len(calls) == 1
