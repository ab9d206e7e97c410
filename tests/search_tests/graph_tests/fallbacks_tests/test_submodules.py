"""Models that cannot be exported as a whole: their parts are traced, the rest stays as it is."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from torch import Tensor, nn

from search.errors import ExportError, LateError
from search.graph import PruningGraph, trace
from search.graph.exported.deadline import LATE
from search.graph.verification.comparison import random_plan
from search.surgery import prune
from tests.search_tests.graph_tests.around import Ending, Readings
from tests.search_tests.models import image


def block(inputs: int, width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )


class Head(nn.Module):
    """Scores and boxes for every cell of every level, by convolutions that the levels share."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = block(8, 12)
        self.scores, self.boxes = nn.Conv2d(12, 2, 1), nn.Conv2d(12, 4, 1)

    def forward(self, levels: list[Tensor]) -> dict[str, Tensor]:
        towers = [self.tower(level) for level in levels]
        return {
            "scores": torch.cat([self.scores(x).flatten(2) for x in towers], 2),
            "boxes": torch.cat([self.boxes(x).flatten(2) for x in towers], 2),
        }


class Refiner(nn.Module):
    """Looks again at the features of the boxes that are left, however many there are."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 4))

    def forward(self, features: Tensor, *, scale: float) -> Tensor:
        refined: Tensor = self.layers(features) * scale
        return refined


class Detector(nn.Module):
    """Backbone and head, then a suppression that loops over the boxes; (B, 3, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"stem": block(3, 6), "down": nn.Sequential(block(6, 8, 2))})
        self.neck = nn.Sequential(block(8, 9, 2), block(9, 8))
        self.head, self.refiner = Head(), Refiner()

    def forward(self, images: Tensor) -> list[Tensor]:
        fine = self.body["down"](self.body["stem"](images))
        found = self.head([fine, self.neck(fine)])
        return [
            self.detections(scores, boxes, features)
            for scores, boxes, features in zip(
                found["scores"], found["boxes"], fine.flatten(2), strict=True
            )
        ]

    def detections(self, scores: Tensor, boxes: Tensor, features: Tensor) -> Tensor:
        kept: list[int] = []
        for place in range(3):
            if not kept or bool(scores[0, place] > scores[0, kept[-1]]):
                kept.append(place)
        refined: Tensor = self.refiner(features[:, kept].T, scale=0.5)
        return boxes[:, kept].T + refined


@pytest.fixture(scope="module")
def detector() -> nn.Module:
    torch.manual_seed(0)
    return Detector()


@pytest.fixture(scope="module")
def clock() -> Readings:
    return Readings()


@pytest.fixture(scope="module")
def graph(detector: nn.Module, clock: Readings) -> PruningGraph:
    return trace(detector, image(), clock=clock)


def test_the_largest_parts_that_can_be_exported_are_traced(graph: PruningGraph) -> None:
    assert graph.parts == ("body.stem", "body.down", "neck", "head", "refiner")
    assert graph.obstacle.startswith(
        "the model's forward must not depend on the values of tensors"
    )
    assert "test_submodules.py:" in graph.obstacle
    report = graph.report()
    assert (report["parts"], report["obstacle"]) == (list(graph.parts), graph.obstacle)


def test_units_inside_a_part_are_prunable_and_those_that_leave_it_stay(
    graph: PruningGraph,
) -> None:
    assert {group.name: group.width for group in graph.prunable} == {
        "neck.0.0": 9,
        "head.tower.0": 12,
        "refiner.layers.0": 10,
    }
    reasons = {group.name: group.reason for group in graph.groups if group.status == "frozen"}
    leaving = {"body.stem.0", "body.down.0.0", "neck.1.0", "head.scores", "head.boxes"}
    assert leaving <= reasons.keys()
    assert all("units leave the traced part" in reasons[name] for name in leaving)


def test_the_pruned_model_is_whole_and_of_the_same_class(
    detector: nn.Module, graph: PruningGraph
) -> None:
    plan = random_plan(graph.groups, [group.name for group in graph.prunable], 1)
    pruned = prune(detector, graph, plan).eval()
    assert type(pruned) is Detector
    assert pruned.head.tower[0].out_channels == 6
    found = pruned(*image())
    assert [boxes.shape[1] for boxes in found] == [4]
    assert graph.model is detector
    assert graph.parameters(plan) == sum(p.numel() for p in pruned.parameters())


def test_parts_that_the_time_limit_leaves_unverified_are_frozen_with_that_reason() -> None:
    clock, model = Ending(lambda levels: levels), Detector()

    class SlowHead(Head):
        """On the meta device, where the first trials run, it takes all of the time."""

        def forward(self, levels: list[Tensor]) -> dict[str, Tensor]:
            on_meta = levels[0].device.type == "meta"
            return super().forward(clock.end(levels) if on_meta else levels)

    model.head = SlowHead()
    late = trace(model, image(), time_limit_s=1.0, clock=clock)
    assert clock.has_begun
    assert late.parts
    assert late.obstacle
    assert not late.prunable
    assert LATE in {group.reason for group in late.groups}


@pytest.fixture(scope="module")
def readings(graph: PruningGraph, clock: Readings) -> int:
    """How often a whole trace looks at the clock."""
    assert graph.parts
    return clock.count


@pytest.mark.parametrize("share", [0.02, 0.1, 0.4])
def test_parts_that_were_not_tried_for_lack_of_time_may_have_more(
    readings: int, share: float
) -> None:
    count = 0

    def jumping() -> float:
        """A clock on which one step takes more than half of the time."""
        nonlocal count
        count += 1
        return 35.0 if count > share * readings else 0.0

    with suppress(LateError):  # any other error would end the analysis for good
        graph = trace(Detector(), image(), time_limit_s=60.0, clock=jumping)
        assert graph.prunable or graph.unfinished


def test_parts_that_show_nothing_of_the_whole_are_no_analysis() -> None:
    class Layers(nn.Module):
        """Its layers lie in the forward that cannot be exported."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            out = torch.relu(self.first(x))
            logits: Tensor = self.last(out if float(out.sum()) > 1 else -out)
            return logits

    with pytest.raises(ExportError, match="float\\(out.sum\\(\\)\\) > 1"):
        trace(Layers(), (torch.randn(2, 3),))


class Reader(nn.Module):
    """The rest of its forward reads a weight of a part."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 7), nn.Linear(7, 2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out if bool(out.sum() > 0) else out + self.body.get_parameter("0.bias")[5]


def test_a_group_that_the_rest_of_the_model_reads_is_frozen() -> None:
    torch.manual_seed(0)
    model = Reader()
    model.get_parameter("body.3.bias").data.fill_(-9.0)
    found = {group.name: group for group in trace(model, (torch.randn(2, 3),)).groups}
    assert found["body.0"].status == "frozen"
    assert "outside of the traced part the model fails" in found["body.0"].reason
    assert found["body.2"].status == "prunable"
