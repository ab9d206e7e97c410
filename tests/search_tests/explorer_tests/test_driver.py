import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import onnx
import pytest
import torch
from torch import Tensor, nn

from search import SearchConfig, SearchResult, run_search, trace
from search.errors import ConfigError
from search.evaluation import cross_entropy_loss
from search.explorer import Explorer, Failed, Measured
from search.graph import PruningGraph
from search.quantization import FORMATS
from search.recalibration import recalibrate
from search.skeleton import Skeleton, skeleton
from search.time_limit import keep_time


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.bn1(self.conv1(x)).relu()
        outer: Tensor = self.bn2(self.conv2(inner)) + x
        return outer.relu()


class SmallNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.first = Residual(32)
        self.second = Residual(32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(self.stem(x).relu()))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


@dataclass
class SteppedDevice:
    """Takes as long as the multiplications of the skeleton, counted in blocks of 8 channels."""

    graph: PruningGraph
    seen: list[str] = field(default_factory=list)
    refuses: int = 0

    def __call__(self, skeletons: Sequence[Skeleton]) -> list[Measured | Failed]:
        return [self.measure(each) for each in skeletons]

    def measure(self, each: Skeleton) -> Measured | Failed:
        self.seen.append(each.digest)
        if len(self.seen) <= self.refuses:
            return Failed("crashed", "out of luck")
        ratio = self.work(each) / self.work(skeleton(self.graph, self.graph.dense_plan()))
        return Measured(ratio, 0.995 * ratio, 1.005 * ratio, 3 * ratio)

    def work(self, each: Skeleton) -> float:
        model = onnx.load_from_string(each.onnx_bytes)
        weights = [tensor.dims for tensor in model.graph.initializer if len(tensor.dims) > 1]
        return 4000.0 + sum(blocks(dims) for dims in weights)


def blocks(dims: Sequence[int]) -> int:
    return math.prod(8 * math.ceil(dim / 8) for dim in dims)


IMAGES = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))
BATCHES = [(IMAGES, torch.arange(32) % 5)]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """Its statistics are those of the batches, so that recalibration leaves them alone."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = SmallNet().eval()
    recalibrate(net, [images for images, _ in BATCHES])
    return net


@pytest.fixture(scope="module")
def graph(net: nn.Module) -> PruningGraph:
    return trace(net, (torch.zeros(2, 3, 8, 8),))


class DistanceToDense:
    """Mean squared distance of the logits from the dense model's."""

    def __init__(self, dense: nn.Module) -> None:
        with torch.no_grad():
            self.expected = dense(IMAGES)

    def __call__(self, model: nn.Module) -> float:
        with torch.no_grad():
            return float((model(IMAGES) - self.expected).square().mean())


def search(
    net: nn.Module, graph: PruningGraph, device: SteppedDevice, budget: float, **known: Any
) -> SearchResult:
    config = SearchConfig(budget, beam_width=2, children=3, levels=2)
    return run_search(net, graph, device, BATCHES, config, evaluate=DistanceToDense(net), **known)


@pytest.fixture(scope="module")
def first(net: nn.Module, graph: PruningGraph) -> tuple[SteppedDevice, SearchResult]:
    """A search to 60 %, and the device that answered it."""
    device = SteppedDevice(graph)
    return device, search(net, graph, device, 0.6)


def test_run_search_returns_a_model_that_meets_the_budget(
    net: nn.Module, graph: PruningGraph, first: tuple[SteppedDevice, SearchResult]
) -> None:
    device, result = SteppedDevice(graph), first[1]
    assert result.plan is not None
    assert result.model is not None
    assert result.ratio is not None
    assert 0.85 * 0.6 <= result.ratio <= 0.995 * 0.6
    assert device.measure(skeleton(graph, result.plan)) == result.finalists[0].latency
    assert DistanceToDense(net)(result.model) == pytest.approx(result.loss, rel=1e-4)
    assert result.dense_loss == pytest.approx(0.0, abs=1e-9)
    assert result.front[0].digest == graph.dense_plan().digest
    assert net(torch.zeros(2, 3, 8, 8)).shape == result.model(torch.zeros(2, 3, 8, 8)).shape


def test_sensitivity_and_staircases_can_be_given_to_a_later_search(
    net: nn.Module, graph: PruningGraph, first: tuple[SteppedDevice, SearchResult]
) -> None:
    (first_device, before), second_device = first, SteppedDevice(graph)
    known = {"sensitivity": before.sensitivity, "staircases": before.staircases}
    second = search(net, graph, second_device, 0.6, **known)
    assert second.ratio is not None
    assert second.ratio <= 0.6
    assert second.staircases == before.staircases
    assert len(second_device.seen) < len(first_device.seen) - 9


def test_an_unreachable_budget_is_said_with_numbers(
    net: nn.Module, graph: PruningGraph, first: tuple[SteppedDevice, SearchResult]
) -> None:
    result = search(net, graph, SteppedDevice(graph), 0.01, sensitivity=first[1].sensitivity)
    assert result.plan is None
    assert result.infeasible is not None
    assert result.infeasible["budget"] == 0.01
    assert result.infeasible["minimum_ratio"] > 0.01


def test_time_that_is_over_ends_it_with_what_there_is(net: nn.Module, graph: PruningGraph) -> None:
    device = SteppedDevice(graph)
    result = run_search(net, graph, device, BATCHES, SearchConfig(0.6), time_limit_s=1e-6)
    assert (result.plan, result.infeasible, device.seen) == (None, None, [])


@dataclass
class Clocked:
    """What `keep_time` does to a search."""

    found: str
    done: list[str] = field(default_factory=list)

    def has_result(self, *, simple: bool = True) -> bool:
        return self.found == "a plan" or (simple and self.found == "the uniform network")

    def hurry(self) -> bool:
        self.done.append("hurry")
        return self.done.count("hurry") == 1

    def stop(self) -> None:
        self.done.append("stop")


@pytest.mark.parametrize(
    ("spent_s", "found", "does"),
    [
        (29, "a plan", []),
        (30, "a plan", ["hurry"]),
        (59, "a plan", ["hurry"]),
        (60, "a plan", ["stop"]),
        (79, "the uniform network", ["hurry"]),
        (80, "the uniform network", ["stop"]),
        (80, "nothing", ["hurry"]),
        (100, "nothing", ["stop"]),
    ],
)
def test_a_late_search_hurries_and_leaves_time_for_training_once_it_has_something(
    spent_s: float, found: str, does: list[str]
) -> None:
    search = Clocked(found)
    assert keep_time(cast(Explorer, search), spent_s, 100) == bool(does)
    assert search.done == does
    assert not keep_time(cast(Explorer, Clocked(found)), 1e9, None)


def test_failed_measurements_are_data(
    net: nn.Module, graph: PruningGraph, first: tuple[SteppedDevice, SearchResult]
) -> None:
    device = SteppedDevice(graph, refuses=3)
    result = search(net, graph, device, 0.6, sensitivity=first[1].sensitivity)
    assert result.plan is not None
    assert sum(row["error"] == "crashed: out of luck" for row in result.tree) == 3


def test_models_are_recalibrated_before_they_are_scored_by_their_cross_entropy(
    net: nn.Module, graph: PruningGraph
) -> None:
    seen: list[int] = []
    batches = [(torch.ones(4, 3, 8, 8), torch.arange(4))]
    result = run_search(
        net,
        graph,
        SteppedDevice(graph),
        batches,
        SearchConfig.halp(0.6, staircase_points=1),
        progress=lambda shown: seen.append(shown["measured"]),
    )
    assert result.model is not None
    mean = result.model.get_buffer("first.bn1.running_mean")
    assert mean.abs().max() > 0
    assert result.loss == pytest.approx(cross_entropy_loss(result.model, batches))
    assert seen == sorted(seen)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "at least one batch, .* but got none"),
        ([torch.zeros(3, 3, 8, 8)], "but got another kind among 1"),
        (DistanceToDense, "but got a function: a loss of your own goes to `evaluate`"),
    ],
)
def test_calibration_data_cannot_be_forgotten(
    net: nn.Module, graph: PruningGraph, batches: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_search(net, graph, SteppedDevice(graph), batches, SearchConfig(0.6))


@dataclass
class Int8Device(SteppedDevice):
    """Takes half of the time for what has layers in int8."""

    def work(self, each: Skeleton) -> float:
        nodes = onnx.load_from_string(each.onnx_bytes).graph.node
        is_int8 = any(node.op_type == "QuantizeLinear" for node in nodes)
        return super().work(each) * (0.5 if is_int8 else 1.0)


@pytest.mark.parametrize("error", [100.0, 0.0])
def test_int8_alone_is_asked_before_what_each_layer_can_lose(
    net: nn.Module, graph: PruningGraph, error: float
) -> None:
    device, distance = Int8Device(graph), DistanceToDense(net)
    found = run_search(
        net, graph, device, BATCHES, SearchConfig(0.6, levels=1, beam_width=1, children=2),
        evaluate=lambda model: (distance(model), error), form=FORMATS["u8s8"],
    )  # fmt: skip
    assert len(device.seen) == len(set(device.seen))
    assert found.finalists
    if error:
        assert found.answer is found.finalists[0]
        assert len(device.seen) <= 3
        assert found.sensitivity is None
    else:
        assert found.answer is None
        assert found.sensitivity is not None
