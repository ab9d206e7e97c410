"""trace: any model, any mode, never touched; its report and its refusals."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from examples.resnet20 import resnet20
from search.errors import GraphError
from search.graph import PruningGraph, trace
from search.graph.exported.export import export
from search.graph.exported.rnn_shapes import OneStep
from search.plan import Plan
from search.surgery import prune
from tests.search_tests.models import Grouped, Plain, Tied, image


@pytest.fixture(scope="module")
def resnet() -> PruningGraph:
    torch.manual_seed(0)
    return trace(resnet20(), (torch.randn(1, 1, 28, 28),))


def test_resnet20_has_a_group_per_stage_and_one_per_block(resnet: PruningGraph) -> None:
    widths = {group.name: group.width for group in resnet.prunable}
    assert widths == {
        **{f"blocks.{block}.conv1": (16, 32, 64)[block // 3] for block in range(9)},
        "conv1": 16,
        "blocks.3.conv2": 32,
        "blocks.6.conv2": 64,
    }
    stage = next(group for group in resnet.groups if group.name == "blocks.3.conv2")
    producers = [member.tensor for member in stage.members if member.role == "producer"]
    assert sorted(producers) == [
        "blocks.3.conv2.weight",
        "blocks.3.shortcut.0.weight",
        "blocks.4.conv2.weight",
        "blocks.5.conv2.weight",
    ]


def test_the_report_is_json_and_tells_shares(resnet: PruningGraph) -> None:
    report = json.loads(json.dumps(resnet.report()))
    assert report["parameters"] == sum(p.numel() for p in resnet.model.parameters())
    assert report["macs"] == 31_021_952
    assert report["prunable_groups"] == 12
    assert report["prunable_mac_share"] > 0.99
    assert report["batch"] == "dynamic"
    assert report["unused"] == []
    assert report["removable_blocks"] == 9
    assert report["graph_form_groups"] == []
    head = next(group for group in report["groups"] if group["name"] == "fc")
    assert (head["width"], head["status"]) == (10, "frozen")
    assert head["reason"] == "its units are an output of the model"


def test_costs_follow_the_plan(resnet: PruningGraph) -> None:
    kept = dict(resnet.dense_plan().kept)
    plan = Plan(kept | {"blocks.0.conv1": tuple(range(8))})
    dense = resnet.dense_plan()
    assert resnet.macs(dense) - resnet.macs(plan) == 2 * 28 * 28 * 9 * 16 * 8
    assert resnet.parameters(dense) - resnet.parameters(plan) == 2 * 9 * 16 * 8 + 2 * 8


def test_costs_of_grouped_and_transposed_convolutions() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 6, 2, stride=2), nn.Conv2d(6, 4, 1)
    )
    graph = trace(model, (torch.randn(1, 3, 5, 5),))
    assert graph.macs(graph.dense_plan()) == 25 * 3 * 8 + 25 * 8 * 6 * 4 + 100 * 6 * 4
    grouped = trace(Grouped(4), image())
    assert grouped.macs(grouped.dense_plan()) == 64 * (3 * 8 + 9 * 2 * 16 + 16 * 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_model_is_not_touched(dtype: torch.dtype) -> None:
    model = Plain().to(dtype).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = trace(model, (image()[0].to(dtype),))
    assert graph.model is model
    assert model.training
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert all(p.requires_grad and p.dtype == dtype for p in model.parameters())


def test_two_traces_agree() -> None:
    model = Plain()
    assert trace(model, image()).groups == trace(model, image()).groups


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_any_batch_size_will_do(batch: int) -> None:
    graph = trace(Plain(), (torch.randn(batch, 3, 8, 8),))
    assert graph.dynamic_batch
    assert len(graph.prunable) == 2


def test_a_fixed_batch_size_is_stated() -> None:
    class FixedBatch(Plain):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[0] == 2:
                return super().forward(x.reshape(2, 3, 8, 8))
            raise ValueError("only pairs")

    graph = trace(FixedBatch(), image())
    assert graph.report()["batch"] == "static"
    assert len(graph.prunable) == 2


def test_several_inputs_and_outputs() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 6)
            self.b = nn.Linear(4, 6)
            self.c = nn.Linear(6, 2)

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            out = torch.relu(self.a(x)) + self.b(y)
            return {"logits": self.c(out), "norm": out.square().sum(1)}

    graph = trace(Pair(), (torch.randn(2, 3), torch.randn(2, 4)))
    assert [(group.name, group.status) for group in graph.groups] == [
        ("a", "prunable"),
        ("c", "frozen"),
    ]


def test_a_module_called_twice_and_a_tied_weight_are_one_member_each() -> None:
    graph = trace(Tied(), (torch.randn(1, 3),))
    tensors = [(m.tensor, m.dim) for group in graph.groups for m in group.members]
    assert len(tensors) == len(set(tensors))
    assert not any(tensor == "second.weight" for tensor, _ in tensors)
    assert graph.unused == ()


def test_unused_parameters_are_reported() -> None:
    class Auxiliary(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.aux = nn.Linear(8, 2)

    assert trace(Auxiliary(), image()).unused == ("aux.weight", "aux.bias")


def test_hidden_units_of_linear_layers() -> None:
    graph = trace(nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 2)), (torch.randn(2, 3),))
    assert [(group.name, group.kind) for group in graph.prunable] == [("0", "hidden")]


def test_one_channel_is_no_group_to_prune() -> None:
    graph = trace(nn.Sequential(nn.Conv2d(3, 1, 1), nn.Conv2d(1, 2, 1)), image())
    assert graph.prunable == ()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), "must be a tuple of tensors"),
        (("x",), "must be a tuple of tensors"),
        ((torch.tensor(1.0),), "must start with a non-empty batch dimension"),
        ((torch.zeros(0, 3, 8, 8),), "must start with a non-empty batch dimension"),
        ((torch.zeros(1, 4, 8, 8),), "must run on its example inputs, but got: RuntimeError"),
    ],
)
def test_inputs_that_cannot_be_traced(inputs: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        trace(Plain(), inputs)


def test_a_model_that_cannot_be_copied() -> None:
    class Unique(Plain):
        def __deepcopy__(self, memo: dict[int, object]) -> Unique:
            raise TypeError("there is only one")

    message = r"must take copy.deepcopy, train\(\) and eval\(\), but got: there is only one"
    with pytest.raises(GraphError, match=message):
        trace(Unique(), image())


def test_a_branch_that_depends_on_values_cannot_be_traced() -> None:
    class Branching(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if bool(x.sum() > 0) else -x)

    with pytest.raises(GraphError, match="must not depend on the values of tensors"):
        trace(Branching(), image())


class Auxiliary(nn.Module):
    """A second head, which only training uses."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.aside = nn.Sequential(nn.Conv2d(8, 6, 1), nn.Dropout(), nn.Conv2d(6, 2, 1))
        self.b = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.norm(self.a(x)).relu()
        return (self.b(x), self.aside(x)) if self.training else (self.b(x),)


def test_a_head_for_training_loses_what_it_reads() -> None:
    model = Auxiliary()
    graph = trace(model.train(), image())
    groups = {group.name: group for group in graph.groups}
    assert (groups["a"].status, groups["a"].form) == ("prunable", "module")
    assert "aside.0.weight" in {member.tensor for member in groups["a"].members}
    assert groups["aside.0"].reason.startswith("only a branch")
    assert graph.macs(graph.dense_plan()) == 64 * (3 * 8 + 8 * 2)
    pruned = prune(model, graph, Plan(dict(graph.dense_plan().kept) | {"a": (0, 3, 4)}))
    assert len(pruned(image()[0])) == 2
    assert len(pruned.eval()(image()[0])) == 1


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_a_long_sequence_is_not_written_out_step_by_step(kind: Callable[..., nn.Module]) -> None:
    layer = kind(3, 4, bidirectional=True, batch_first=True).eval()
    began = time.process_time()
    exported = export(layer.requires_grad_(False), (torch.randn(2, 2000, 3),))
    made = exported.graph_module.graph.output_node().all_input_nodes[0]
    assert tuple(made.meta["val"].shape)[1:] == (2000, 8)
    assert time.process_time() - began < 10


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("both", [True, False])
def test_one_step_tells_the_shapes_of_all(
    kind: Callable[..., nn.Module], *, first: bool, both: bool
) -> None:
    layer = kind(3, 4, num_layers=2, bidirectional=both, batch_first=first)
    x = torch.randn((2, 5, 3) if first else (5, 2, 3))
    expected = [leaf.shape for leaf in pytree.tree_leaves(layer(x))]
    with OneStep():
        made = layer.to("meta")(x.to("meta"))
        with pytest.raises(RuntimeError, match="must be equal|must match|[Ee]xpected|size"):
            layer(x[..., 1:].to("meta"))
    assert [leaf.shape for leaf in pytree.tree_leaves(made)] == expected


def test_a_long_sequence_of_shapes_takes_one_step() -> None:
    layer = nn.LSTM(3, 4, bidirectional=True).to("meta")
    began = time.process_time()
    with OneStep():
        assert layer(torch.empty(2000, 2, 3, device="meta"))[0].shape == (2000, 2, 8)
    assert time.process_time() - began < 1


class Single(nn.Module):
    """It makes a grid in float32, whatever the dtype of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        grid = torch.arange(x.shape[-1], dtype=torch.float32).expand(x.shape[0], 1, *x.shape[2:])
        out: Tensor = self.b(self.a(torch.cat([x.to(torch.float), grid.float()], 1)).relu())
        return out


def test_a_model_that_makes_tensors_in_float32_is_analysed_in_float64() -> None:
    graph = trace(Single(), image())
    assert [group.status for group in graph.groups] == ["prunable", "frozen"]
    assert torch.get_default_dtype() is torch.float32


class Attribute(nn.Module):
    """Keeps a tensor of single precision that is neither parameter nor buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 6), nn.Linear(6, 2)
        self.offsets = [torch.linspace(0, 1, 6)]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.first(x).relu() * self.offsets[0].sum())
        return logits


def test_tensors_that_a_module_keeps_as_attributes_are_analysed_in_float64() -> None:
    model = Attribute()
    graph = trace(model, (torch.randn(2, 3),))
    assert [group.status for group in graph.groups] == ["prunable", "frozen"]
    assert model.offsets[0].dtype is torch.float32
