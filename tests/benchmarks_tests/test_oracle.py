"""The oracle tells right prunings from wrong ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from benchmarks.coverage.absence import AbsentUnits
from benchmarks.coverage.oracle import SINGLE_TOLERANCE, TOLERANCE, Oracle, WrongOutput
from benchmarks.coverage.plans import ALL, EXACT, half_plan, other_plan, random_plan
from search import Plan, PruningGraph, prune, trace
from tests.benchmarks_tests.nets import chain, mixer, normalised, reader, standardised

Net = Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]


@cache
def traced(net: Net) -> tuple[nn.Module, tuple[Tensor, ...], PruningGraph]:
    model, inputs = net()
    return model, inputs, trace(model.eval(), inputs)


def rolled(graph: PruningGraph, role: str) -> PruningGraph:
    """The graph with the indices of every member of `role` moved on by one unit: it is wrong."""
    groups = tuple(
        replace(
            group,
            members=tuple(
                replace(member, indices=member.indices[1:] + member.indices[:1])
                if member.role == role
                else member
                for member in group.members
            ),
        )
        for group in graph.groups
    )
    return replace(graph, groups=groups)


def pruning_by(wrong: PruningGraph) -> Callable[[nn.Module, PruningGraph, Plan], nn.Module]:
    """Prunes by the graph `wrong` whatever graph it is given."""
    return lambda dense, _, plan: prune(dense, wrong, plan)


@pytest.mark.parametrize("seed", range(3))
def test_exact_plan_is_judged_by_masked_columns(seed: int) -> None:
    model, inputs, graph = traced(chain)
    for plan in (half_plan(graph, EXACT), random_plan(graph, seed)):
        verdict = Oracle(model, inputs, graph, prune, seed).judge(plan)
        assert verdict.way == "masked"
        assert verdict.error <= TOLERANCE < verdict.control


@pytest.mark.parametrize(
    ("net", "way"),
    [(mixer, "absent"), (normalised, "absent"), (standardised, "absent"), (reader, "zeroed")],
)
def test_norms_run_over_what_is_present_or_count_zeros(net: Net, way: str) -> None:
    model, inputs, graph = traced(net)
    verdict = Oracle(model, inputs, graph, prune).judge(half_plan(graph, ALL))
    assert verdict.way == way
    assert verdict.error <= TOLERANCE < verdict.control


def test_both_ways_agree_on_an_exact_plan() -> None:
    model, inputs, graph = traced(chain)
    oracle = Oracle(model, inputs, graph, prune)
    plan = random_plan(graph)
    masked, absent = oracle._double.masked_outputs(plan), oracle._double.absent_outputs(plan)
    torch.testing.assert_close(masked, absent)


@pytest.mark.parametrize("net", [chain, mixer])
@pytest.mark.parametrize("role", ["consumer", "producer"])
def test_wrong_columns_are_a_wrong_output(net: Net, role: str) -> None:
    model, inputs, right = traced(net)
    wrong = rolled(right, role)
    oracle = Oracle(model, inputs, right, lambda dense, _, plan: prune(dense, wrong, plan))
    with pytest.raises(WrongOutput, match="the pruned model is off by"):
        oracle.judge(half_plan(right, ALL))


def test_units_that_do_not_matter_prove_nothing() -> None:
    model, inputs, graph = traced(chain)
    oracle = Oracle(model, inputs, graph, lambda dense, _, plan: Deaf())
    oracle._double.masked_outputs = lambda plan: [torch.ones(1, 4)]  # type: ignore[method-assign]
    with pytest.raises(WrongOutput, match="with other units removed it is off by 0.0e"):
        oracle.judge(half_plan(graph, EXACT))


class Faint(nn.Sequential):
    """The whole network adds `share` to an output of order one."""

    share = 1e-8

    def forward(self, x: Tensor) -> Tensor:
        plain = x
        for layer in self:
            x = layer(x)
        return plain.mean((1, 2, 3))[:, None] + 10 + self.share * x


def test_units_must_matter_by_far_more_than_the_pruned_model_is_off_by() -> None:
    plain, inputs, _ = traced(chain)
    model = Faint(*copy.deepcopy(plain).children()).eval()
    graph = trace(model, inputs)
    plan = half_plan(graph, EXACT)
    verdict = Oracle(model, inputs, graph, prune).judge(plan)
    assert verdict.error < 1e-12
    assert 1e-10 < verdict.control < 1e-6

    def nearly(dense: nn.Module, graph: PruningGraph, plan: Plan) -> nn.Module:
        pruned = prune(dense, graph, plan)
        pruned.register_forward_hook(lambda module, args, output: output * (1 + verdict.control))
        return pruned

    with pytest.raises(WrongOutput, match="with other units removed it is off by"):
        Oracle(model, inputs, graph, nearly).judge(plan)


def test_standardised_weights_must_keep_the_statistics_that_they_have() -> None:
    model, inputs, graph = traced(standardised)
    assert graph.form(half_plan(graph, EXACT)) == "graph"
    by_class = tuple(replace(group, form="module") for group in graph.groups)
    anew = replace(graph, groups=by_class, program=None)  # the class takes them of what is left
    oracle = Oracle(model, inputs, graph, lambda dense, _, plan: prune(dense, anew, plan))
    for statuses in (EXACT, ALL):
        with pytest.raises(WrongOutput, match="the pruned model is off by"):
            oracle.judge(half_plan(graph, statuses))


def test_unit_that_leaks_into_an_output_makes_it_absent() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU()).double().requires_grad_(False)
    inputs = (torch.randn(2, 3, dtype=torch.float64),)
    run = AbsentUnits(model, inputs)
    model[0].weight[1] = float("nan")  # type: ignore[operator]
    (output,) = run.outputs(model, inputs)
    assert output.isnan().all(0).tolist() == [False, True, False, False]


class Wild(nn.Sequential):
    """On drawn weights it makes everything of the last bit; its own are small enough."""

    GAIN = 1e12

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return torch.sin(self.GAIN * x)


def test_what_the_last_bit_decides_is_judged_on_weights_that_are_shaken_only() -> None:
    plain, inputs, graph = traced(chain)
    model = Wild(*copy.deepcopy(plain).children()).eval()
    with torch.no_grad():
        for parameter in model[-1].parameters():
            parameter.div_(Wild.GAIN)
    plan = half_plan(graph, EXACT)
    oracle = Oracle(model, inputs, graph, prune)
    assert oracle._double.is_chaotic(plan)
    assert not Oracle(plain, inputs, graph, prune)._double.is_chaotic(plan)
    wild = Oracle(plain, inputs, graph, lambda dense, _, plan: Wild(*dense.children()))
    assert wild._double.is_chaotic(plan)  # the pruned model is asked too
    verdict = oracle.judge(plan)
    assert verdict.error <= TOLERANCE < verdict.control
    wrong = rolled(graph, "consumer")
    oracle = Oracle(model, inputs, graph, lambda dense, _, plan: prune(dense, wrong, plan))
    with pytest.raises(WrongOutput, match="the pruned model is off by"):
        oracle.judge(half_plan(graph, EXACT))


class Folding(nn.Module):
    """So deep, and so far from linear, that on drawn weights the last bit decides all outputs;
    its own weights give zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(12, 12) for _ in range(24)))
        self.head = nn.Linear(12, 3)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sin(6 * layer(x))
        logits: Tensor = self.head(x)
        return logits


def test_what_the_last_bit_decides_is_judged_on_smaller_weights() -> None:
    torch.manual_seed(0)
    model, inputs = Folding().eval(), (torch.randn(2, 12),)
    graph = trace(model, inputs)
    plan = half_plan(graph, EXACT)
    with pytest.raises(WrongOutput, match="the pruned model is off by"):
        Oracle(model, inputs, graph, prune)._double.judge(plan)
    verdict = Oracle(model, inputs, graph, prune).judge(plan)
    assert verdict.error <= TOLERANCE < verdict.control
    wrong = rolled(graph, "consumer")
    oracle = Oracle(model, inputs, graph, lambda dense, _, plan: prune(dense, wrong, plan))
    with pytest.raises(WrongOutput, match="the pruned model is off by"):
        oracle.judge(plan)


def test_control_plan_keeps_as_many_units_but_others() -> None:
    model, inputs, graph = traced(chain)
    plan = half_plan(graph)
    other = other_plan(graph, plan)
    assert other.widths == plan.widths
    assert other != plan


class Casting(nn.Module):
    """Computes in single precision whatever precision its parameters have."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.first(x).float().sigmoid().to(x.dtype))
        return out


def test_model_that_casts_is_judged_as_exactly_as_it_computes() -> None:
    model, inputs = Casting().eval(), (torch.randn(2, 5),)
    graph = trace(model, inputs)
    verdict = Oracle(model, inputs, graph, prune).judge(half_plan(graph))
    assert verdict.error <= SINGLE_TOLERANCE < verdict.control


class Steep(nn.Module):
    """Puts units on a sphere in single precision, and makes far more of them than that resolves
    where its gains are of order one, as drawn ones are; its own are small.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(5, 64), nn.Linear(64, 6), nn.Linear(6, 3)
        self.gain = nn.Parameter(torch.full((64,), 1e-9))

    def forward(self, x: Tensor) -> Tensor:
        single = self.first(x).float()
        sphere = single * torch.rsqrt(single.square().sum(-1, keepdim=True) + 1e-6)
        waves = torch.sin(1e9 * self.gain * sphere.type_as(x))
        out: Tensor = self.last(self.middle(waves).relu())
        return out


def test_what_the_last_single_bit_decides_is_judged_on_weights_that_are_shaken_only() -> None:
    torch.manual_seed(0)
    model, inputs = Steep().eval(), (torch.randn(16, 5),)
    graph = trace(model, inputs)
    plan = random_plan(graph)  # of every second unit the sums may round as those of all
    assert plan.widths["first"] < 64
    oracle = Oracle(model, inputs, graph, prune)
    assert oracle._double.is_chaotic(plan)
    with pytest.raises(WrongOutput, match="the pruned model is off by"):
        oracle._double.judge(plan)
    verdict = oracle.judge(plan)
    assert verdict.error <= SINGLE_TOLERANCE < verdict.control
    for role in ("consumer", "producer"):
        wrong = rolled(graph, role)
        with pytest.raises(WrongOutput, match="the pruned model is off by"):
            Oracle(model, inputs, graph, pruning_by(wrong)).judge(plan)


def test_model_that_casts_is_not_chaotic_for_that_alone() -> None:
    model, inputs = Casting().eval(), (torch.randn(2, 5),)
    graph = trace(model, inputs)
    plan = half_plan(graph)
    oracle = Oracle(model, inputs, graph, pruning_by(rolled(graph, "consumer")))
    assert not oracle._double.is_chaotic(plan)
    with pytest.raises(WrongOutput, match="the pruned model is off by"):
        oracle.judge(plan)


class Deciding(nn.Module):
    """Returns the values above a threshold: how many there are depends on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        values: Tensor = self.body(x)
        return values[values > -10.0].sort().values if values.sum().item() > -1e9 else values


def test_model_that_cannot_be_exported_is_judged_as_a_module() -> None:
    model, inputs = Deciding().eval(), (torch.randn(2, 5),)
    graph = trace(model, inputs)
    plan = half_plan(graph)
    assert plan != graph.dense_plan()
    assert Oracle(model, inputs, graph, prune).judge(plan).way == "masked"
    wrong = rolled(graph, "consumer")
    with pytest.raises(WrongOutput, match=r"off by .* \(masked\), \w+ \(absent\)"):
        Oracle(model, inputs, graph, lambda m, _, p: prune(m, wrong, p)).judge(plan)


class Deaf(nn.Module):
    """Returns ones whatever it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ones(1, 4)


class Extreme(nn.Module):
    """Holds the smallest number of its precision in a tensor of the default one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(
            self.first(x).relu().view(-1, 2, 4).transpose(1, 2).reshape(-1, 8)
        )
        return torch.max(logits, torch.full((), torch.finfo(x.dtype).min))


def test_model_that_does_not_run_in_double_precision_is_judged_in_its_own() -> None:
    model, inputs = Extreme().eval(), (torch.randn(2, 5),)
    graph = trace(model, inputs)
    verdict = Oracle(model, inputs, graph, prune).judge(half_plan(graph))
    assert verdict.error <= SINGLE_TOLERANCE < verdict.control
