"""Blocks: branches beside a shortcut, found, verified, and removed whole."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from search.criteria import CRITERIA, score_channels
from search.errors import PlanError
from search.graph import PruningGraph, trace
from search.graph.dependency.reshape_choices import analysed
from search.graph.dependency.residual_blocks import blocks_of, with_blocks
from search.graph.exported.copies import double_copy
from search.graph.exported.deadline import LATE, NEVER
from search.graph.exported.export import batch_of_two, export
from search.graph.fallbacks.submodules import NO_PROGRAM
from search.graph.pruned.pruned_graph import PrunedGraph
from search.graph.trial_log import TrialLog, Verdicts
from search.graph.verification.comparison import random_plan
from search.graph.verification.draw import Draw
from search.graph.verification.shape_trial import ShapeTrial
from search.graph.verification.subject import Subject
from search.graph.verification.trial_result import Trial, TrialResult
from search.graph.verification.trials import Trials
from search.graph.verification.verifier import Verifier
from search.loading import load_pruned, plan_document
from search.plan import Plan
from search.skeleton import export_onnx
from search.surgery import prune
from tests.search_tests.graph_tests.around import Around, Ending, conv
from tests.search_tests.graph_tests.residuals import Nested, Pyramid, ResNet, ReZero, ViT
from tests.search_tests.graph_tests.verification_tests.verifying import FixedTrial, verified
from tests.search_tests.models import Dense, InvertedResidual, UNet, image


@pytest.fixture(scope="module")
def graph() -> PruningGraph:
    torch.manual_seed(0)
    return trace(ResNet().eval(), image())


def without(graph: PruningGraph, *names: str, **kept: tuple[int, ...]) -> Plan:
    """The dense plan, but for some blocks, and for groups that keep less."""
    return Plan({**graph.dense_plan().kept, **kept, **dict.fromkeys(names, ())})


def names_of(model: nn.Module) -> list[str]:
    """Names of the blocks before any verification."""
    exported = export(model.eval(), batch_of_two(image()))
    aliases = {name: name for name in exported.sources.values()}
    return [block.name for block in blocks_of(exported, analysed(exported, aliases))]


FOUND: dict[str, tuple[nn.Module, list[str]]] = {
    "identity, projection, bottleneck": (ResNet(), ["layer1.0", "layer1.1", "layer2"]),
    "attention and MLP": (
        ViT(),
        ["blocks.0.attn", "blocks.0.mlp", "blocks.1.attn", "blocks.1.mlp"],
    ),
    "no common module: the last layer": (InvertedResidual(), ["project"]),
    "one in another": (Nested(), ["outer.inner", "outer"]),
    "times a learned number": (ReZero(), ["conv"]),
    "a branch that writes to the shortcut": (ReZero(writes=True), []),
    "a lateral of other features": (Pyramid(), []),
    "concatenation": (Dense(), []),
    "skip concatenation": (UNet(), []),
    "a branch without weights": (Around(lambda m, x: m.o(x + x.relu()), 4, o=conv(4)), []),
    "two branches": (
        Around(lambda m, x: m.o(m.b(x) + m.c(m.d(x))), 4,
               b=conv(4, 4), c=conv(4, 4), d=conv(4, 4), o=conv(4)),
        ["c"],
    ),
    "scaled by alpha": (
        Around(lambda m, x: m.o(torch.add(x, m.b(x), alpha=2)), 4, b=conv(4, 4), o=conv(4)), []
    ),
    "broadcast": (
        Around(lambda m, x: m.o(x + m.b(x.mean((2, 3), keepdim=True))), 4,
               b=conv(4, 4), o=conv(4)),
        [],
    ),
    "read elsewhere": (
        Around(lambda m, x: (m.o(x + (y := m.b(x))), m.o(y)), 4, b=conv(4, 4), o=conv(4)), []
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_these_blocks_are_found(name: str) -> None:
    model, expected = FOUND[name]
    assert names_of(model) == expected


def test_a_block_is_a_group_of_one_unit_and_no_member(graph: PruningGraph) -> None:
    described = [(g.name, g.width, g.kind, g.status, g.form) for g in graph.removable]
    assert described == [
        (name, 1, "block", "prunable", "graph") for name in ("layer1.0", "layer1.1", "layer2")
    ]
    assert all(group.members == () and group.min_width == 0 for group in graph.removable)
    assert graph.searched(blocks=True) == graph.prunable + graph.removable
    assert graph.searched(blocks=False) == graph.prunable
    assert graph.program is None


def test_blocks_do_not_take_the_name_of_another_group() -> None:
    def thrice(m: Any, x: Tensor) -> Tensor:
        for _ in range(3):
            x = x + m.b(x).relu()
        out: Tensor = m.o(x)
        return out

    graph = trace(Around(thrice, 4, b=conv(4, 4), o=conv(4)), image(size=4))
    assert [group.name for group in graph.removable] == ["b", "b#block", "b#block2"]


def test_a_removed_block_leaves_its_shortcut_and_takes_its_tensors_along(
    graph: PruningGraph,
) -> None:
    plan = without(graph, "layer1.0", "layer1.1")
    pruned = prune(graph.model, graph, plan)
    assert isinstance(pruned, PrunedGraph)
    assert [name for name in pruned.state_dict() if name.startswith("layer1")] == [
        f"layer1.1.downsample.{name}"
        for name in (
            "0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var",
            "1.num_batches_tracked",
        )
    ]  # fmt: skip
    assert isinstance(prune(graph.model, graph, graph.dense_plan()), ResNet)


@pytest.mark.parametrize("block", ["layer1.0", "layer1.1"])
def test_it_equals_the_dense_model_whose_branch_is_zero(graph: PruningGraph, block: str) -> None:
    silent = ResNet().eval()
    silent.load_state_dict(graph.model.state_dict())
    with torch.no_grad():
        for name in ("weight", "bias"):
            silent.get_parameter(f"{block}.bn2.{name}").zero_()
    x = torch.randn(3, 3, 8, 8)
    pruned = prune(graph.model, graph, without(graph, block))
    torch.testing.assert_close(pruned(x), silent(x))
    assert (pruned(x) - graph.model(x)).abs().max() > 1e-3


class Casting(nn.Module):
    """Norms by a weight that it casts, before which an export asserts the dtype."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * (1.0 + self.weight.float())


def test_a_weight_that_is_cast_goes_with_its_block() -> None:
    norm, wide, narrow, last = Casting(4), conv(4, 6), conv(6, 4), conv(4)

    def body(m: Any, x: Tensor) -> Tensor:
        result: Tensor = m.o(x + m.narrow(m.wide(m.norm(x)).relu()))
        return result

    model = Around(body, 4, norm=norm, wide=wide, narrow=narrow, o=last)
    graph = trace(model, image(size=4))
    (block,) = graph.removable
    pruned = prune(model, graph, without(graph, block.name))
    assert {name.split(".")[0] for name in pruned.state_dict()} == {"a", "o"}
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(pruned(x), last(model.a(x)))


@pytest.mark.parametrize("model", [None, ViT(), Nested()], ids=["ResNet", "ViT", "Nested"])
def test_counts_follow_the_blocks(model: nn.Module | None, graph: PruningGraph) -> None:
    if model is not None:
        graph = trace(model.eval(), image())
    assert graph.removable
    for seed in range(2):
        names = [group.name for group in graph.searched(blocks=True)]
        plan = random_plan(graph.groups, names, seed)
        pruned = prune(graph.model, graph, plan)
        assert sum(p.numel() for p in pruned.parameters()) == graph.parameters(plan)
        assert graph.macs(plan) < graph.macs(graph.dense_plan())
        assert pruned(torch.randn(3, 3, 8, 8)).shape[0] == 3


def test_the_report_tells_blocks_and_its_shares_leave_them_in(graph: PruningGraph) -> None:
    report = graph.report()
    told = {group["name"]: group for group in report["groups"] if group["kind"] == "block"}
    assert list(told) == ["layer1.0", "layer1.1", "layer2"]
    assert told["layer1.0"]["macs"] == 2 * 64 * 9 * 4 * 4
    assert told["layer1.0"]["parameters"] == 2 * (9 * 4 * 4 + 2 * 4)
    assert (report["prunable_groups"], report["removable_blocks"]) == (6, 3)
    units = PruningGraph.report(
        replace(graph, groups=tuple(g for g in graph.groups if g.kind != "block"),
                group_of=graph.group_of.clip(max=6))
    )  # fmt: skip
    for share in ("prunable_mac_share", "prunable_parameter_share", "half_width"):
        assert report[share] == units[share]


def test_a_pruned_graph_without_a_block_trains(graph: PruningGraph) -> None:
    plan = without(graph, "layer1.0", **{"layer2.conv1": (0, 2)})
    pruned = prune(graph.model, graph, plan).train()
    pruned(torch.randn(4, 3, 8, 8)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in pruned.parameters())
    assert int(pruned.get_buffer("layer1.1.bn1.num_batches_tracked")) == 1


def test_its_onnx_holds_no_weight_of_the_block(graph: PruningGraph) -> None:
    pruned = prune(graph.model, graph, without(graph, "layer2"))
    proto = onnx.load_from_string(export_onnx(pruned, image()))
    assert not [tensor.name for tensor in proto.graph.initializer if "layer2" in tensor.name]
    assert [node.op_type for node in proto.graph.node].count("Add") == 2


LOADING = """
import sys, torch
from search.loading import load_pruned
from tests.search_tests.graph_tests.residuals import ResNet
folder = sys.argv[1]
loaded = load_pruned(ResNet(), f"{folder}/plan.json", f"{folder}/model.safetensors").eval()
torch.save(loaded(torch.load(f"{folder}/x.pt")), f"{folder}/y.pt")
"""


def test_a_fresh_process_rebuilds_it_from_its_two_files(
    graph: PruningGraph, tmp_path: Path
) -> None:
    plan = without(graph, "layer1.1", stem=(0, 1, 3))
    pruned, x = prune(graph.model, graph, plan), torch.randn(3, 3, 8, 8)
    (tmp_path / "plan.json").write_text(json.dumps(plan_document(graph.model, graph, plan)))
    save_file(pruned.state_dict(), tmp_path / "model.safetensors")
    torch.save(x, tmp_path / "x.pt")
    subprocess.run([sys.executable, "-c", LOADING, str(tmp_path)], check=True)
    torch.testing.assert_close(torch.load(tmp_path / "y.pt"), pruned(x))
    assert Plan.from_json(plan.to_json()).kept["layer1.1"] == ()


def test_files_of_a_model_with_other_blocks(graph: PruningGraph, tmp_path: Path) -> None:
    plan = without(graph, "layer1.0")
    document = plan_document(graph.model, graph, plan) | {"tensors": {}, "modules": {}}
    (tmp_path / "plan.json").write_text(json.dumps(document))
    with pytest.raises(PlanError, match="must be made for this model"):
        load_pruned(ReZero(), tmp_path / "plan.json", tmp_path / "model.safetensors")


def test_only_blocks_may_keep_nothing(graph: PruningGraph) -> None:
    with pytest.raises(PlanError, match="'stem' must keep 1 of its units at least, but got 0"):
        prune(graph.model, graph, without(graph, "stem"))


class Deaf(nn.Module):
    """The second branch changes nothing that is returned."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = conv(3, 4), conv(4, 4), conv(4, 4)
        self.head = conv(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.one(x)
        out: Tensor = self.head(x) + 0.0 * self.head(x + self.two(x).relu())
        return out


def test_a_branch_without_influence_is_not_trusted() -> None:
    groups = {group.name: group for group in trace(Deaf(), image()).groups}
    assert groups["one"].status == "prunable"
    assert groups["two"].status == "frozen"
    assert groups["two"].reason == "unverified: the output does not depend on its units"


def test_a_wrong_shortcut_is_caught() -> None:
    graph = trace(Nested(), image())
    copy, inputs = double_copy(graph.model), batch_of_two(image())
    inputs = tuple(value.double() for value in inputs)
    exported = export(copy, inputs)
    found = with_blocks(exported, analysed(exported, {n: n for n in exported.sources.values()}))
    inner, outer = found.blocks
    wrong = replace(found, blocks=(replace(inner, shortcut=outer.shortcut), outer))
    for blocks, caught in ((found, []), (wrong, ["outer.inner"])):
        whole = replace(graph, model=copy, example_inputs=inputs)
        verifier = Verifier(Subject(whole, exported, blocks), Trials(TrialLog(Verdicts(), NEVER)))
        reasons = verifier.verify_blocks(whole)
        assert list(reasons) == caught
        assert all("the pruned model is off by" in reason for reason in reasons.values())


class SlowBlocks(Trials):
    """The time is over when blocks are to be tried, or when the next ones are."""

    def __init__(self, log: TrialLog, clock: Ending, in_time: int) -> None:
        super().__init__(log)
        self._clock, self._in_time = clock, in_time

    def shape(self, subject: Subject) -> ShapeTrial:
        if subject.graph.removable:
            self._in_time -= 1
        if self._in_time < 0:
            self._clock.end()
        return super().shape(subject)


@pytest.mark.parametrize(("model", "in_time", "blocks"), [(ReZero(), 0, 1), (Nested(), 1, 2)])
def test_blocks_that_the_time_limit_leaves_unverified_are_frozen(
    model: nn.Module, in_time: int, blocks: int
) -> None:
    """All of them where it leaves one."""
    clock = Ending(lambda: None)
    late = verified(model, image(), lambda log: SlowBlocks(log, clock, in_time), clock=clock)
    reasons = [group.reason for group in late.groups if group.kind == "block"]
    assert reasons == [LATE] * blocks
    assert late.prunable


class TwoBlocks(nn.Module):
    """The first round removes one of them and keeps the other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two, self.head = conv(3, 4), conv(4, 4), conv(4, 4), conv(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.one(x)
        out: Tensor = self.head(x + self.two(x))
        return out


class OneRoundOfBlocks(Trials):
    """The time is over in the second round in which blocks are tried."""

    def numeric(self, subject: Subject, draw: Draw, *, one_first: bool) -> Trial:
        trial = super().numeric(subject, draw, one_first=one_first)
        blocks = {group.name for group in subject.graph.removable}

        def find(names: Sequence[str]) -> TrialResult:
            late = draw.seed > 0 and blocks & set(names)
            return TrialResult(LATE) if late else trial.result(names)

        return FixedTrial(find)


def test_a_round_proves_nothing_of_the_blocks_that_it_keeps() -> None:
    blocks = [group.name for group in trace(TwoBlocks(), image()).removable]
    graph = verified(TwoBlocks(), image(), OneRoundOfBlocks)
    kept = random_plan(graph.groups, blocks, 0).kept
    assert sorted(len(kept[name]) for name in blocks) == [0, 1]
    assert [group.name for group in graph.removable] == [n for n in blocks if not kept[n]]
    assert [g.reason for g in graph.groups if g.kind == "block" and kept[g.name]] == [LATE]


class Branching(nn.Module):
    """A network that cannot be exported around one that can."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ResNet()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out if bool(out.sum() > 0) else -out


def test_a_traced_part_has_no_graph_to_drop_blocks_from() -> None:
    graph = trace(Branching(), image())
    assert graph.parts == ("body",)
    blocks = [group for group in graph.groups if group.kind == "block"]
    assert {(group.status, group.reason) for group in blocks} == {("frozen", NO_PROGRAM)}


@pytest.mark.parametrize("criterion", CRITERIA)
def test_criteria_score_blocks_where_they_are_asked_to(
    graph: PruningGraph, criterion: str
) -> None:
    batches = [(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]))]
    plain = score_channels(graph.model, graph, criterion, batches)
    asked = score_channels(graph.model, graph, criterion, batches, blocks=True)
    assert plain.keys() == {group.name for group in graph.prunable}
    assert asked.keys() - plain.keys() == {group.name for group in graph.removable}
    assert all(asked[group.name].tolist() == [1.0] for group in graph.removable)
