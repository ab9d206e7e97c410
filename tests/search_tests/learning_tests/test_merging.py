"""Rules of merging, against closed forms on small networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from search.errors import PlanError
from search.graph import PruningGraph, trace
from search.merging import merged
from search.plan import INT8, Plan
from search.surgery import prune
from search.unit_weights import layers_of, unit_weights
from tests.search_tests.models import InvertedResidual, Residual

IMAGES = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0)).double()


class Between(nn.Module):
    """Two convolutions of 1 × 1 around something; (B, 3, 6, 6) -> (B, 2)."""

    def __init__(self, between: nn.Module, *, norm: bool = False, width: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, width, 1)
        self.norm = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.between = between
        self.last = nn.Conv2d(width, 2, 1)
        if norm:
            _shake(self.norm)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.between(self.norm(self.first(x)))).mean((2, 3))
        return out


def _shake(norm: Any) -> None:
    for tensor in (norm.weight, norm.running_var):
        nn.init.uniform_(tensor, 0.5, 2.0)
    for tensor in (norm.bias, norm.running_mean):
        nn.init.normal_(tensor)


def _traced(model: nn.Module) -> PruningGraph:
    return trace(model.double().eval(), (IMAGES[:2],))


def _twin(model: Any, unit: int, of: int, scale: float, noise: float = 0.0) -> None:
    """Makes a unit `scale` times another, its norm included."""
    with torch.no_grad():
        model.first.weight[unit] = model.first.weight[of] + noise
        model.first.bias[unit] = model.first.bias[of]
        norm: Any = model.norm
        if hasattr(norm, "running_mean"):
            for tensor in (norm.running_mean, norm.running_var):
                tensor[unit] = tensor[of]
            norm.weight[unit] = scale * norm.weight[of]
            norm.bias[unit] = scale * norm.bias[of]
        else:
            model.first.weight[unit] *= scale
            model.first.bias[unit] *= scale


def _without(graph: PruningGraph, *units: int, group: str = "first") -> Plan:
    kept = dict(graph.dense_plan().kept)
    kept[group] = tuple(unit for unit in kept[group] if unit not in units)
    return Plan(kept)


def _absorbed(plan: Plan) -> dict[str, Any]:
    return dict(plan.absorbed)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("between", [nn.ReLU, nn.LeakyReLU, lambda: nn.MaxPool2d(2)])
def test_a_multiple_is_merged_and_nothing_is_lost(
    between: Callable[[], nn.Module], norm: bool
) -> None:
    model = Between(between(), norm=norm).double()
    _twin(model, 3, 1, 2.5)
    graph = _traced(model)
    plan = merged(model, graph, _without(graph, 3))
    assert plan.kept == _without(graph, 3).kept
    ((unit, (absorber, scale)),) = _absorbed(plan)["first"].items()
    assert (unit, absorber, scale) == (3, 1, pytest.approx(2.5))
    torch.testing.assert_close(prune(model, graph, plan)(IMAGES), model(IMAGES))


@pytest.mark.parametrize("between", [nn.GELU, nn.ReLU6, nn.Hardswish, nn.Sigmoid])
def test_behind_a_curve_only_equal_units_are_merged(between: Callable[[], nn.Module]) -> None:
    model = Between(between()).double()
    _twin(model, 3, 1, 5.0)
    _twin(model, 2, 0, 1.0)
    graph = _traced(model)
    plan = merged(model, graph, _without(graph, 2, 3))
    assert _absorbed(plan) == {"first": {2: (0, 1.0)}}
    kept = merged(model, graph, _without(graph, 2))
    torch.testing.assert_close(prune(model, graph, kept)(IMAGES), model(IMAGES))


def test_the_scale_is_of_least_squares_with_bias_and_norm() -> None:
    model: Any = Between(nn.ReLU(), norm=True).double()
    _twin(model, 3, 1, 2.0, noise=0.05)
    graph = _traced(model)
    ((absorber, scale),) = _absorbed(merged(model, graph, _without(graph, 3)))["first"].values()
    norm = model.norm
    gain = norm.weight / (norm.running_var + norm.eps).sqrt()
    weights = model.first.weight.flatten(1) * gain[:, None]
    offset = (model.first.bias - norm.running_mean) * gain + norm.bias
    folded = torch.cat([weights, offset[:, None]], 1)
    expected = torch.linalg.lstsq(folded[1][:, None], folded[3][:, None]).solution.item()
    assert (absorber, scale) == (1, pytest.approx(expected))


def test_units_that_point_elsewhere_are_not_merged() -> None:
    model: Any = Between(nn.ReLU()).double()
    with torch.no_grad():
        model.first.weight.copy_(torch.eye(4, 3)[:, :, None, None])
        model.first.bias.zero_()
        model.first.weight[3] = -model.first.weight[0]  # no multiple > 0
        model.first.weight[2, 0] = 1.0  # at 45° to unit 0
    graph = _traced(model)
    assert merged(model, graph, _without(graph, 3)).absorbed == {}
    assert merged(model, graph, _without(graph, 2)).absorbed == {}
    near: Any = merged(model, graph, _without(graph, 2), least_cosine=0.7).absorbed["first"]
    assert near == {2: (0, pytest.approx(1.0))}


def test_a_depthwise_layer_takes_part() -> None:
    """Its kernel and its norm decide with: alike before it is not alike behind it."""
    torch.manual_seed(0)
    between = nn.Sequential(
        nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4), nn.ReLU()
    )
    model: Any = Between(between).double()
    depthwise, norm = model.between[1], model.between[2]
    _shake(norm)
    _twin(model, 3, 1, 2.0)
    with torch.no_grad():
        depthwise.weight[3] = 3 * depthwise.weight[1]
        norm.running_mean[3], norm.bias[3] = 6 * norm.running_mean[1], 6 * norm.bias[1]
        norm.running_var[3], norm.weight[3] = norm.running_var[1], norm.weight[1]
    graph = _traced(model)
    plan = merged(model, graph, _without(graph, 3))
    assert _absorbed(plan)["first"] == {3: (1, pytest.approx(6.0))}
    torch.testing.assert_close(prune(model, graph, plan)(IMAGES), model(IMAGES))
    with torch.no_grad():
        depthwise.weight[3] = -depthwise.weight[1]
    assert merged(model, graph, _without(graph, 3)).absorbed == {}


def test_all_producers_of_a_residual_stream_must_agree() -> None:
    torch.manual_seed(0)
    model: Any = Residual().double().eval()
    with torch.no_grad():
        for norm in (block[4] for block in model.blocks):
            _shake(norm)
        model.stem.weight[5] = 2 * model.stem.weight[1]
        model.stem.bias[5] = 2 * model.stem.bias[1]
        for block in model.blocks:
            block[3].weight[5] = block[3].weight[1]
            for name, scale in (
                ("weight", 2),
                ("bias", 2),
                ("running_var", 1),
                ("running_mean", 1),
            ):
                tensor = getattr(block[4], name)
                tensor[5] = scale * tensor[1]
    graph = _traced(model)
    plan = merged(model, graph, _without(graph, 5, group="stem"))
    assert _absorbed(plan)["stem"] == {5: (1, pytest.approx(2.0))}
    torch.testing.assert_close(prune(model, graph, plan)(IMAGES), model(IMAGES))
    with torch.no_grad():
        model.blocks[1][4].weight[5] *= -1
    assert merged(model, graph, _without(graph, 5, group="stem")).absorbed == {}


def test_what_gates_units_lets_none_be_scaled() -> None:
    """Squeeze-and-excitation: a unit's gate hangs on its own value, so multiples are no twins."""
    torch.manual_seed(0)
    model: Any = InvertedResidual().double().eval()
    graph = _traced(model)
    with torch.no_grad():
        for weight in (model.expand.weight, model.excite.weight, model.excite.bias):
            weight[7] = 5 * weight[2]
        model.depthwise.weight[7] = model.depthwise.weight[2]
    assert merged(model, graph, _without(graph, 7, group="expand")).absorbed == {}
    with torch.no_grad():
        model.squeeze.weight[2], model.squeeze.bias[2] = (
            3 * each[0] for each in (model.squeeze.weight, model.squeeze.bias)
        )
    behind_relu = merged(model, graph, _without(graph, 2, group="squeeze"))
    assert _absorbed(behind_relu) == {"squeeze": {2: (0, pytest.approx(3.0))}}
    torch.testing.assert_close(prune(model, graph, behind_relu)(IMAGES), model(IMAGES))


def test_a_norm_over_the_units_lets_none_be_merged() -> None:
    model = Between(nn.GroupNorm(1, 4, affine=False)).double()
    _twin(model, 3, 1, 1.0)
    graph = _traced(model)
    assert [group.status for group in graph.prunable] == ["approximate"]
    assert merged(model, graph, _without(graph, 3)).absorbed == {}


def test_the_rest_of_a_plan_stays() -> None:
    model = Between(nn.ReLU()).double()
    _twin(model, 3, 1, 2.0)
    graph = _traced(model)
    given = Plan(_without(graph, 3).kept, {"first": {3: (0, 1.0)}}, {"last": INT8})
    plan = merged(model, graph, given)
    assert plan.precision == {"last": INT8}
    assert _absorbed(plan)["first"] == {3: (1, pytest.approx(2.0))}
    assert merged(model, graph, graph.dense_plan()).absorbed == {}
    with pytest.raises(PlanError, match="must name exactly the groups"):
        merged(model, graph, Plan({"first": (0,)}))


def test_layers_know_their_bias_and_their_norm() -> None:
    model = Residual().double().eval()
    layers = layers_of(model, _traced(model))
    assert (layers["stem.weight"].bias, layers["stem.weight"].norm) == ("stem.bias", "")
    assert layers["blocks.0.3.weight"].norm == "blocks.0.4"
    assert layers["blocks.1.0.weight"].bias == ""


def test_folded_weights_are_the_unit_in_evaluation() -> None:
    model = Between(nn.Identity(), norm=True).double().eval()
    (stage,) = unit_weights(model, _traced(model))["first"].stages
    given = torch.cat([IMAGES, torch.ones_like(IMAGES[:, :1])], 1)
    values = torch.einsum("uc,bchw->buhw", stage, given)
    torch.testing.assert_close(values, model.norm(model.first(IMAGES)))
