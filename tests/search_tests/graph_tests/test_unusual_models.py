"""Models that are rare in one way each: what can be pruned in them, and that it is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._C import _functorch
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from search.errors import PlanError
from search.graph import PruningGraph, trace
from search.graph.dependency.labels import KeepMask
from search.graph.exported.vmap_levels import levels_closed
from search.graph.verification.masked_reference import MaskedReference
from search.graph.verification.subject import Subject
from search.graph.verification.trials import Trials
from search.plan import Plan
from search.surgery import prune
from tests.search_tests.graph_tests.verification_tests.verifying import verified
from tests.search_tests.models import image


class Plain(nn.Module):
    """Two convolutions whose channels can go, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.d, self.h = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Linear(6, 4)

    def features(self, x: Tensor) -> Tensor:
        return functional.relu(self.d(functional.relu(self.c(x)))).mean((2, 3))

    def forward(self, x: Tensor) -> Any:
        return self.h(self.features(x))


class WithFlags(Plain):
    def forward(self, x: Tensor) -> Any:
        scores = super().forward(x)
        return scores, scores > 0


class WithSpectrum(Plain):
    def forward(self, x: Tensor) -> Any:
        return torch.fft.rfft(super().forward(x))


class WithoutDerivative(Plain):
    def forward(self, x: Tensor) -> Any:
        scores = super().forward(x)
        return scores.relu() * torch.heaviside(scores, torch.zeros(1, dtype=scores.dtype))


class OutOfBounds(Plain):
    def forward(self, x: Tensor) -> Any:
        return (
            super().forward(x).masked_fill(torch.tensor([True, False, False, False]), -torch.inf)
        )


class FrozenBackbone(Plain):
    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            found = self.features(x)
        return self.h(found)


class Spiking(Plain):
    def forward(self, x: Tensor) -> Any:
        return self.h((self.features(x) > 0.1).to(x.dtype))


class Cast(Plain):
    def forward(self, x: Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x)


class InPlace(Plain):
    def forward(self, x: Tensor) -> Any:
        return self.h(self.d(self.c(x).abs_()).masked_fill_(torch.tensor(False), 1.0).mean((2, 3)))


OPEN = {"c": "module", "d": "module"}
CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, str]]] = {
    "a flag as an output": (WithFlags, OPEN),
    "complex outputs": (WithSpectrum, OPEN),
    "an operator without derivative": (WithoutDerivative, OPEN),
    "an infinite output": (OutOfBounds, OPEN),
    "a backbone without gradients": (FrozenBackbone, OPEN),
    "spikes": (Spiking, OPEN),
    "autocast": (Cast, OPEN),
    "operators in place": (InPlace, OPEN),
    "an activation in place": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Mish(inplace=True), nn.Conv2d(8, 6, 3)),
        {"0": "module"},
    ),
    "spectral norm": (
        lambda: nn.Sequential(spectral_norm(nn.Conv2d(3, 8, 3)), nn.ReLU(), nn.Conv2d(8, 6, 3)),
        {"0.parametrizations.weight": "module"},
    ),
}


def halved(graph: PruningGraph) -> Plan:
    kept = dict(graph.dense_plan().kept)
    for group in graph.prunable:
        kept[group.name] = kept[group.name][: group.width // 2]
    return Plan(kept)


def forms(graph: PruningGraph) -> dict[str, str]:
    """The groups that can be pruned, and how."""
    return {group.name: group.form for group in graph.prunable}


@pytest.mark.parametrize("case", CASES)
def test_units_are_found_and_can_go(case: str) -> None:
    make, wanted = CASES[case]
    graph = trace(make().eval(), image())
    assert forms(graph) == wanted
    outputs = prune(graph.model, graph, halved(graph))(*image())
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    assert all(each.shape[0] == 1 for each in outputs)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_may_be_off_around_a_trace(mode: Callable[[], Any]) -> None:
    with mode():
        graph = trace(Plain(), image())
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
    assert forms(graph) == OPEN


class TwoNames(nn.Module):
    """A layer, a parameter and a buffer that have another name each."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.d = nn.Conv2d(3, 8, 3), nn.Linear(288, 4)
        self.gain = nn.Parameter(torch.ones(4))
        shift = torch.ones(4)
        self.register_buffer("shift", shift)
        self.last, self.scale = self.d, self.gain
        self.register_buffer("offset", shift)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.c(x).relu().reshape(-1, 288)) * self.scale + self.offset


def test_a_pruned_graph_keeps_second_names() -> None:
    model = TwoNames().eval()
    graph = trace(model, image())
    assert forms(graph) == {"c": "graph"}
    pruned = prune(model, graph, halved(graph))
    assert pruned.state_dict().keys() == model.state_dict().keys()
    assert pruned.get_submodule("last") is pruned.get_submodule("d")
    assert pruned.get_parameter("scale") is pruned.get_parameter("gain")


class Spectral(nn.Module):
    """Mixes the first frequencies of a sequence by complex weights, as Fourier operators do."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.project = nn.Linear(2, 6), nn.Linear(6, 1)
        self.mix = nn.Parameter(torch.randn(6, 6, 3, dtype=torch.cfloat))

    def forward(self, x: Tensor) -> Any:
        found = torch.fft.rfft(self.lift(x).transpose(1, 2))
        mixed = torch.zeros_like(found)
        mixed[:, :, :3] = torch.einsum("bix,iox->box", found[:, :, :3], self.mix)
        return self.project(torch.fft.irfft(mixed, n=x.shape[1]).transpose(1, 2))


def test_complex_weights_lose_units() -> None:
    graph = trace(Spectral(), (torch.randn(2, 10, 2),))
    assert forms(graph)["mix"] == "module"
    pruned = prune(graph.model, graph, halved(graph))
    assert pruned.get_parameter("mix").dtype == torch.cfloat
    assert pruned.get_parameter("mix").numel() < 6 * 6 * 3
    assert pruned(torch.randn(2, 10, 2)).shape == (2, 10, 1)


class Dynamic(nn.Module):
    """Each example has a filter of its own, by a convolution of as many groups."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.gate = nn.Conv2d(3, 8, 3), nn.Linear(8, 8)
        self.filters = nn.Parameter(torch.randn(6, 8, 3, 3))

    def forward(self, x: Tensor) -> Any:
        y = self.c(x)
        batch, width, high, wide = y.shape
        filters = self.filters[None] * self.gate(y.mean((2, 3)))[:, None, :, None, None]
        flat = y.reshape(1, batch * width, high, wide)
        return functional.conv2d(flat, filters.reshape(batch * 6, width, 3, 3), groups=batch)


def test_filters_of_each_example_are_frozen_with_their_reason() -> None:
    graph = trace(Dynamic(), image())
    (group,) = (group for group in graph.groups if group.name == "c")
    assert group.reason.startswith("the groups of a convolution are as many as the examples")


class Beside(nn.Module):
    """Units of one tensor each, joined, meet those of another."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(3, 8, 1)
        self.h = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Any:
        return self.h(torch.cat([self.a(x), self.b(x)], 1) + self.c(x))


def test_a_pruned_model_shares_no_memory_with_the_dense_one() -> None:
    graph = trace(Beside(), image())
    kept = {**graph.dense_plan().kept, graph.prunable[0].name: (0, 1, 2, 3, 5, 6, 7)}
    pruned = prune(graph.model, graph, Plan(kept))
    dense = {tensor.data_ptr() for tensor in graph.model.state_dict().values()}
    assert dense.isdisjoint(tensor.data_ptr() for tensor in pruned.state_dict().values())


class Squeezed(Plain):
    """A width of one would be taken for a dimension of space."""

    def forward(self, x: Tensor) -> Any:
        y = functional.relu(self.d(functional.relu(self.c(x))))
        return self.h(functional.adaptive_avg_pool2d(y, 1).squeeze())


def test_a_model_that_does_not_run_with_one_unit_keeps_two() -> None:
    x = torch.rand(2, 3, 8, 8)
    graph = trace(Squeezed(), (x,))
    assert forms(graph) == OPEN
    assert {group.name: group.min_width for group in graph.prunable} == {"c": 1, "d": 2}
    kept = dict(graph.dense_plan().kept)
    with pytest.raises(PlanError, match="'d' must keep 2 of its units at least, but got 1"):
        prune(graph.model, graph, Plan({**kept, "d": (3,)}))
    assert prune(graph.model, graph, Plan({**kept, "c": (1,), "d": (3, 4)}))(x).shape == (2, 4)


class Cacheless(nn.Module):
    """A layer runs on the entries of a cache, of which there are none."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.d, self.h = nn.Linear(8, 8), nn.Linear(8, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Any:
        y = functional.relu(self.c(x.flatten(1, 2)))
        return self.h(torch.cat([self.d(y[:, :0]), self.d(y)], 1))


def test_layers_may_run_on_nothing() -> None:
    assert forms(trace(Cacheless(), image())) == OPEN


class Vmapped(Plain):
    """Numbers that a vmapped function computes, and that no trace may compute ahead of it."""

    def forward(self, x: Tensor) -> Any:
        order = torch.vmap(lambda place: 3 - place)(torch.arange(4))
        return super().forward(x)[:, order]


def test_a_vmapped_function_ends_no_trace() -> None:
    assert forms(trace(Vmapped(), image())) == OPEN
    assert forms(trace(Plain(), image())) == OPEN


def test_a_graph_that_ends_within_a_vmapped_function_leaves_no_level_open() -> None:
    def ends() -> None:
        with levels_closed():
            _functorch._vmap_increment_nesting(2, "error")
            raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        ends()
    assert _functorch.maybe_current_level() is None


class Conditional(Plain):
    """The way depends on values, and the graph holds both."""

    def forward(self, x: Tensor) -> Any:
        y = self.features(x)
        return self.h(torch.cond(y.sum() > 0, torch.sin, torch.cos, (y,)))


def test_ways_that_a_graph_holds_both_do_not_end_a_trace() -> None:
    assert forms(trace(Conditional(), image()))["c"] == "module"


class Refusing(MaskedReference):
    """Does not run."""

    def outputs(self, inputs: Sequence[Tensor], kept: KeepMask) -> list[Tensor]:
        raise RuntimeError("no such kernel")


class RefusingTrials(Trials):
    def reference(self, subject: Subject) -> MaskedReference:
        return Refusing(subject.exported, subject.propagation, {})


def test_a_graph_that_does_not_run_is_the_reason() -> None:
    reasons = {group.reason for group in verified(Plain(), image(), RefusingTrials).groups[:2]}
    assert reasons == {
        "unverified: the exported graph does not run on the example inputs "
        "(RuntimeError: no such kernel)"
    }


class Experts(nn.Module):
    """A mixture of experts as transformers has it: which kernel runs them, the config says."""

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.config = config
        self.up = nn.Parameter(torch.randn(4, 6, 8) / 3)
        self.down = nn.Parameter(torch.randn(4, 8, 6) / 3)

    def forward(self, x: Tensor, chosen: Tensor) -> Tensor:
        if self.config._experts_implementation == "grouped_mm":
            if x.dtype != torch.float32:
                raise RuntimeError("expected a Float32 matrix")
            rows = zip(x, chosen, strict=True)
            return torch.stack([self.down[e] @ (self.up[e] @ row).relu() for row, e in rows])
        hidden = torch.bmm(self.up[chosen], x.unsqueeze(-1)).relu()
        return torch.bmm(self.down[chosen], hidden).squeeze(-1)


class Mixture(nn.Module):
    """Each token goes to the expert that a router chooses."""

    def __init__(self) -> None:
        super().__init__()
        config = SimpleNamespace(_experts_implementation="grouped_mm")
        self.inner, self.router, self.head = nn.Linear(5, 8), nn.Linear(8, 4), nn.Linear(8, 3)
        self.experts = Experts(config)

    def forward(self, x: Tensor) -> Any:
        tokens = self.inner(x.flatten(0, 1))
        chosen = self.router(tokens).argmax(-1)
        return self.head(self.experts(tokens, chosen)).view(x.shape[0], -1, 3)


def test_hidden_units_of_experts_leave_all_of_them_together() -> None:
    x = torch.randn(2, 7, 5)
    graph = trace(Mixture(), (x,))
    (experts,) = (group for group in graph.groups if group.name == "experts.up")
    assert (experts.status, experts.width) == ("prunable", 6)
    assert {(member.tensor, member.dim) for member in experts.members} == {
        ("experts.up", 1),
        ("experts.down", 2),
    }
    pruned = prune(graph.model, graph, Plan({**graph.dense_plan().kept, "experts.up": (0, 2, 5)}))
    assert pruned.get_submodule("experts").up.shape == (4, 3, 8)
    zeroed = Mixture()
    zeroed.load_state_dict(graph.model.state_dict())
    with torch.no_grad():
        zeroed.experts.up[:, [1, 3, 4]] = 0.0
    torch.testing.assert_close(pruned(x), zeroed(x))


class MultiQuery(nn.Module):
    """All queries share the keys of one head; an export repeats them by a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.o = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Any:
        query = self.q(x).view(*x.shape[:2], -1, 4).transpose(1, 2)
        key, value = self.kv(x).unsqueeze(1).chunk(2, -1)
        if torch.compiler.is_exporting():
            key, value = (part.expand(part.shape[0], 6, -1, 4) for part in (key, value))
        found = functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        return self.o(found.transpose(1, 2).flatten(2))


def test_a_pruned_model_exports_though_its_forward_is_another_there() -> None:
    x = torch.randn(2, 5, 8)
    graph = trace(MultiQuery(), (x,))
    (heads,) = (group for group in graph.groups if group.kind == "heads")
    assert (heads.status, heads.width, heads.form) == ("prunable", 6, "graph")
    pruned = prune(graph.model, graph, Plan({**graph.dense_plan().kept, heads.name: (0, 2, 4)}))
    exported = torch.export.export(pruned, (x,), strict=False)
    torch.testing.assert_close(exported.module()(x), pruned(x))
