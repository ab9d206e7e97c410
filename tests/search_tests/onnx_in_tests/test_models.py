"""Networks exported by torch come back as modules that are traced, pruned and exported again."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from search import Plan, prune, trace
from search.errors import OnnxError
from search.graph import PruningGraph
from search.onnx_in import OnnxModule, from_onnx
from search.skeleton import export_onnx
from tests.search_tests import models
from tests.search_tests.onnx_in_tests.graphs import (
    assert_equal,
    by_runtime,
    by_torch,
    model,
    noise,
)


class Attention(nn.Module):
    """A class token, positions and one pre-norm block, as in ViT; (B, 3, 8, 8) -> (B, 5)."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.patch = nn.Conv2d(3, width, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 5, width))
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 24), nn.GELU(), nn.Linear(24, width))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm(x)).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        x = x + self.project(mixed.transpose(1, 2).reshape(batch, tokens, width))
        logits: Tensor = self.head((x + self.mlp(x))[:, 0])
        return logits


def half(graph: PruningGraph) -> Plan:
    """The first half of every prunable group."""
    kept = dict(graph.dense_plan().kept)
    for group in graph.prunable:
        kept[group.name] = kept[group.name][: max(1, group.width // 2)]
    return Plan(kept)


def dynamic(network: nn.Module, x: Tensor, opset: int = 18, *, free: bool = True) -> bytes:
    """torch's own exporter with a free batch."""
    shapes = ({0: torch.export.Dim("batch")},) if free else None
    with warnings.catch_warnings(action="ignore"):
        program = torch.onnx.export(
            network, (x,), dynamo=True, verbose=False, dynamic_shapes=shapes, opset_version=opset
        )
    assert program is not None
    data: bytes = program.model_proto.SerializeToString()
    return data


@pytest.mark.parametrize("opset", [18, 23])
def test_an_exported_transformer_is_traced_and_pruned(opset: int) -> None:
    torch.manual_seed(0)
    original, (x,) = Attention().eval(), models.image()
    two = torch.cat([x, x.flip(2)])
    module = from_onnx(dynamic(original, two, opset))
    assert_equal(by_torch(module, [two.numpy()]), by_torch(original, [two.numpy()]))
    three = torch.cat([two, x]).numpy()
    assert_equal(by_torch(module, [three]), by_torch(original, [three]))

    graph = trace(module, (x,))
    assert graph.dynamic_batch
    assert graph.macs(half(graph)) < 0.8 * graph.macs(graph.dense_plan())
    assert prune(module, graph, half(graph))(two).shape == (2, 5)


class Recogniser(nn.Module):
    """Columns of an image are the steps of a sequence, as in CRNN; (B, 3, 8, 8) -> (4, B, 7)."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 16, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.steps = kind(16, 10, num_layers=2, bidirectional=True)
        self.head = nn.Linear(20, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.pool(self.first(x).relu())).relu().mean(2)
        logits: Tensor = self.head(self.steps(x.permute(2, 0, 1))[0])
        return logits


@pytest.mark.parametrize(("kind", "free"), [(nn.LSTM, True), (nn.GRU, False)])
def test_what_recurrent_layers_read_is_pruned(kind: type[nn.LSTM | nn.GRU], free: bool) -> None:
    torch.manual_seed(0)
    original, two = Recogniser(kind).eval(), torch.rand(2, 3, 8, 8)
    proto = onnx.load_from_string(dynamic(original, two if free else two[:1], free=free))
    assert sum(node.op_type == kind.__name__ for node in proto.graph.node) == 2
    module = from_onnx(proto)
    assert module.inputs[0].shape[0] is None
    assert_equal(by_torch(module, [two.numpy()]), by_torch(original, [two.numpy()]))

    graph = trace(module, (two,))
    assert sorted(group.width for group in graph.prunable) == [12, 16]
    assert prune(module, graph, half(graph))(two).shape == (4, 2, 7)


def test_recurrent_layers_start_from_zeros() -> None:
    constants = {"w": noise(1, 12, 4), "r": noise(1, 12, 3), "h": noise(1, 1, 3)}
    node = helper.make_node("LSTM", ["x", "w", "r", "", "", "h", "h"], ["y"], hidden_size=3)
    with pytest.raises(OnnxError, match="LSTM node 'y' must start from zeros, but starts from"):
        from_onnx(model([node], {"x": noise(5, 1, 4)}, constants))


@pytest.mark.parametrize(
    ("op", "attributes", "message"),
    [
        ("GRU", {}, "linear_before_reset must be 1"),
        ("LSTM", {"clip": 2.0}, "clip must not be set"),
        ("LSTM", {"activations": ["Relu", "Tanh", "Tanh"]}, "activations must be one of"),
        ("RNN", {"hidden_size": 4, "layout": 1}, "layout must not be set"),
    ],
)
def test_recurrent_layers_that_torch_has_not(
    op: str, attributes: dict[str, Any], message: str
) -> None:
    gates = {"GRU": 3, "LSTM": 4, "RNN": 1}[op]
    constants = {"w": noise(1, gates * 3, 4), "r": noise(1, gates * 3, 3)}
    node = helper.make_node(op, ["x", "w", "r"], ["y"], **{"hidden_size": 3, **attributes})
    with pytest.raises(OnnxError, match=message):
        from_onnx(model([node], {"x": noise(5, 2, 4)}, constants))


def test_layers_are_modules_that_are_named_after_their_weights() -> None:
    module = from_onnx(SMALL)
    assert isinstance(module.get_submodule("stem_conv"), nn.Conv2d)
    assert isinstance(module.get_submodule("head"), nn.Linear)
    assert [name for name, _ in module.named_parameters()] == [
        "held.added_bias", "stem_conv.weight", "stem_conv.bias", "head.weight", "head.bias",
    ]  # fmt: skip


def test_a_model_for_one_example_is_freed() -> None:
    module = from_onnx(SMALL)
    x = torch.from_numpy(noise(3, 3, 4, 4))
    assert module.inputs[0].shape == (None, 3, 4, 4)
    together = module(x)
    alone = torch.cat([module(each[None]) for each in x])
    torch.testing.assert_close(together, alone)


def test_a_pruned_network_follows_sizes_and_is_exported_again() -> None:
    module = from_onnx(SMALL)
    graph = trace(module, module.example_inputs())
    pruned = prune(module, graph, half(graph))
    assert isinstance(pruned, OnnxModule)
    assert len(pruned.get_parameter("stem_conv.weight")) == 4
    inputs = module.example_inputs(3)
    again = export_onnx(pruned, inputs, batch_size=3)
    found = by_runtime(again, [inputs[0].numpy()])
    assert_equal(found, by_torch(pruned, [inputs[0].numpy()]))


def test_a_copy_in_double_precision_computes_in_it() -> None:
    module = from_onnx(SMALL)
    x = module.example_inputs()[0]
    assert copy.deepcopy(module).double()(x.double()).dtype == torch.float64


SMALL = model(
    [
        helper.make_node("Conv", ["x", "stem.conv.weight"], ["c"]),
        helper.make_node("Add", ["c", "onnx::added"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Reshape", ["r", "flat"], ["f"]),
        helper.make_node("MatMul", ["f", "head.weight"], ["p"]),
        helper.make_node("Add", ["p", "head.bias"], ["y"]),
    ],
    {"x": noise(1, 3, 4, 4)},
    {
        "stem.conv.weight": noise(8, 3, 3, 3),
        "onnx::added": noise(8, 1, 1),
        "flat": np.array([1, 32]),
        "head.weight": noise(32, 5),
        "head.bias": noise(5),
    },
    batch=1,
)
