"""Rules of the skeleton factory: derived equals exported, and digests tell shapes only."""

from __future__ import annotations

import random
import time

import onnx
import pytest
import torch
from torch import Tensor, nn

from examples.resnet20 import resnet20
from jobs.checking import built_in
from search.errors import PlanError, SkeletonError
from search.graph import PruningGraph, trace
from search.plan import Plan
from search.skeleton import SkeletonFactory, export_onnx, skeleton, weightless
from search.surgery import prune


class Branches(nn.Module):
    """Concatenation, depthwise convolution and flatten: sizes that several groups share."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 8, 3, padding=1)
        self.right = nn.Conv2d(3, 12, 1)
        self.norm = nn.BatchNorm2d(20)
        self.mix = nn.Conv2d(20, 10, 1)
        self.depthwise = nn.Conv2d(10, 10, 3, groups=10, padding=1)
        self.fc = nn.Linear(10 * 16, 9)
        self.head = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        joint = torch.relu(self.norm(torch.cat([self.left(x), self.right(x)], 1)))
        mixed = torch.relu(self.depthwise(torch.relu(self.mix(joint))))
        logits: Tensor = self.head(torch.relu(self.fc(mixed.flatten(1))))
        return logits


@pytest.fixture(scope="module")
def branches() -> PruningGraph:
    torch.manual_seed(0)
    return trace(Branches(), (torch.randn(2, 3, 4, 4),))


@pytest.fixture(scope="module")
def factory(branches: PruningGraph) -> SkeletonFactory:
    return SkeletonFactory(branches)


def random_plan(graph: PruningGraph, seed: int, *, least: int = 1) -> Plan:
    source = random.Random(seed)
    kept = dict(graph.dense_plan().kept)
    for group in graph.prunable:
        width = source.randint(min(least, group.width), group.width)
        kept[group.name] = tuple(sorted(source.sample(range(group.width), width)))
    return Plan(kept)


def exported(graph: PruningGraph, plan: Plan, batch_size: int = 1) -> bytes:
    pruned = prune(graph.model, graph, plan)
    return export_onnx(pruned, graph.example_inputs, batch_size=batch_size)


@pytest.mark.parametrize("seed", [11, 12])
def test_a_derived_skeleton_is_the_stripped_export(
    factory: SkeletonFactory, branches: PruningGraph, seed: int
) -> None:
    plan = random_plan(branches, seed)
    assert factory.derive(plan) == weightless(exported(branches, plan))
    assert factory.problem is None


def test_one_unit_everywhere_is_derived_too(
    factory: SkeletonFactory, branches: PruningGraph
) -> None:
    kept = dict(branches.dense_plan().kept) | {group.name: (0,) for group in branches.prunable}
    assert factory.derive(Plan(kept)) == weightless(exported(branches, Plan(kept)))


def test_the_dense_plan_has_the_skeleton_of_the_dense_model(
    factory: SkeletonFactory, branches: PruningGraph
) -> None:
    dense = export_onnx(branches.model, branches.example_inputs)
    assert factory.derive(branches.dense_plan()) == weightless(dense)


def test_plans_of_equal_widths_share_a_digest_and_others_do_not(
    factory: SkeletonFactory, branches: PruningGraph
) -> None:
    dense = branches.dense_plan()
    first = Plan({**dense.kept, "left": (0, 1, 2)})
    last = Plan({**dense.kept, "left": (5, 6, 7)})
    assert factory.derive(first).digest == factory.derive(last).digest
    assert factory.derive(first).digest != factory.derive(dense).digest


def test_weights_do_not_change_the_digest(
    factory: SkeletonFactory, branches: PruningGraph
) -> None:
    torch.manual_seed(1)
    other = export_onnx(Branches(), branches.example_inputs)
    assert factory.derive(branches.dense_plan()) == weightless(other)


def test_another_process_goes_on_from_json(
    factory: SkeletonFactory, branches: PruningGraph
) -> None:
    again = SkeletonFactory.from_json(branches, factory.to_json())
    plan = random_plan(branches, 21)
    assert again.derive(plan) == factory.derive(plan)
    for text in ("{}", "[]", "no JSON"):
        with pytest.raises(SkeletonError, match="a derivation must be its JSON"):
            SkeletonFactory.from_json(branches, text)


def test_the_batch_size_is_part_of_the_skeleton(branches: PruningGraph) -> None:
    plan = branches.dense_plan()
    proto = onnx.ModelProto.FromString(skeleton(branches, plan, batch_size=5).onnx_bytes)
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 5


def test_a_plan_of_another_graph_is_refused(factory: SkeletonFactory) -> None:
    with pytest.raises(PlanError):
        factory.derive(Plan({"nowhere": (0,)}))


class Hesitant(nn.Module):
    """Applies its activation twice when it is narrow: the same function by another graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x))
        if hidden.shape[1] < 8:
            hidden = torch.relu(hidden)
        score: Tensor = self.second(hidden)
        return score


def test_where_deriving_fails_the_skeleton_is_a_true_export() -> None:
    graph = trace(Hesitant(), (torch.randn(2, 6),))
    factory = SkeletonFactory(graph)
    plan = random_plan(graph, 3)
    assert factory.derive(plan) == weightless(exported(graph, plan))
    assert factory.problem is not None
    assert "another graph" in factory.problem
    again = SkeletonFactory.from_json(graph, factory.to_json())
    assert again.derive(plan) == factory.derive(plan)


def test_a_resnet20_skeleton_takes_milliseconds_and_few_bytes_and_is_the_packaged_one() -> None:
    graph = trace(resnet20(), (torch.zeros(2, 1, 28, 28),))
    factory = SkeletonFactory(graph)
    dense = factory.derive(graph.dense_plan())
    assert (dense.digest, dense.onnx_bytes) == built_in()
    plans = [random_plan(graph, seed) for seed in range(20)]
    started = time.process_time()
    made = [factory.derive(plan) for plan in plans]
    assert (time.process_time() - started) / len(plans) < 0.02
    assert max(len(one.onnx_bytes) for one in made) < 10_000
    assert factory.problem is None
    assert made[7] == weightless(exported(graph, plans[7]))
