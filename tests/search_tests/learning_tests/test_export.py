"""Rules of the ONNX export: equal outputs, structure from shapes alone, stable bytes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from search.errors import ConfigError, SkeletonError
from search.skeleton import FILL, export_onnx, weightless
from search.skeleton.folding import FLOATS, kept_norms


class Ahead(nn.Module):
    """Norms before layers: of a sum, of a padded and of a grouped convolution, of a linear layer,
    of an output, on (B, 6, 8, 8) images."""

    def __init__(self) -> None:
        super().__init__()
        self.sum_norm, self.left = nn.BatchNorm2d(6), nn.Conv2d(6, 8, 1)
        self.right = nn.Conv2d(6, 8, 3, groups=2, bias=False)
        self.padded_norm, self.padded = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.both_norm, self.both = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.last_norm, self.fc = nn.BatchNorm1d(8), nn.Linear(8, 5)
        self.output_norm = nn.BatchNorm1d(5, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.sum_norm(x + x.sigmoid())
        x = self.left(x)[:, :, 1:-1, 1:-1].sigmoid() * self.right(x).sigmoid()
        x = self.padded(self.padded_norm(x)).sigmoid()
        x = self.both_norm(x)
        x = x.tanh() + self.both(x)
        logits: Tensor = self.output_norm(self.fc(self.last_norm(x.mean((2, 3)))).sigmoid())
        return logits


class EveryFold(nn.Module):
    """Each way that batch norm and bias can meet a layer, on (B, 3, 8, 8) images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.bare = nn.Conv2d(8, 6, 1, bias=False)
        self.joint_norm = nn.BatchNorm2d(14)
        self.hidden = nn.Linear(14 * 16, 20, bias=False)
        self.hidden_norm = nn.BatchNorm1d(20)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.fc = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.silu(self.conv(x))
        y = nn.functional.hardswish(self.norm(self.depthwise(x)))
        z = self.joint_norm(torch.cat([y, self.bare(y)], 1))
        z = nn.functional.max_pool2d(z, 2).flatten(1)
        logits: Tensor = self.fc(self.scale * self.hidden_norm(self.hidden(z)) + 0.25)
        return logits


def redrawn(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and running statistic of order one."""
    torch.manual_seed(seed)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
    return model


def run(onnx_bytes: bytes, x: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(onnx_bytes, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return np.asarray(result)


@pytest.fixture(scope="module")
def exported() -> tuple[nn.Module, bytes]:
    model = redrawn(EveryFold())
    return model, export_onnx(model, (torch.zeros(2, 3, 8, 8),), batch_size=3)


def test_onnxruntime_gives_the_output_of_torch(exported: tuple[nn.Module, bytes]) -> None:
    model, onnx_bytes = exported
    x = torch.randn(3, 3, 8, 8)
    model.eval()
    with torch.no_grad():
        expected = model(x).numpy()
    np.testing.assert_allclose(run(onnx_bytes, x), expected, rtol=1e-4)


def test_batch_norm_behind_a_layer_is_folded_and_elsewhere_stays(
    exported: tuple[nn.Module, bytes],
) -> None:
    proto = onnx.ModelProto.FromString(exported[1])
    onnx.checker.check_model(proto)
    kinds = Counter(node.op_type for node in proto.graph.node)
    assert kinds["BatchNormalization"] == 1
    assert kinds["Expand"] == kinds["CastLike"] == 0
    bare = next(node for node in proto.graph.node if "bare.weight" in node.input)
    assert len(bare.input) == 2


@pytest.mark.parametrize("seed", range(3))
def test_batch_norm_before_layers_is_folded_where_that_is_exact(seed: int) -> None:
    model = redrawn(Ahead(), seed).eval()
    made = export_onnx(model, (torch.zeros(2, 6, 8, 8),), batch_size=3)
    x = torch.randn(3, 6, 8, 8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        expected = model(x).numpy()
    np.testing.assert_allclose(run(made, x), expected, rtol=1e-5, atol=1e-5)
    graph = onnx.ModelProto.FromString(made).graph
    kept = kept_norms(graph)
    assert set(kept) == {"padded_norm", "both_norm", "output_norm"}
    assert kept["padded_norm"] == (
        "Mul lies before it; a Conv behind it pads with zeros, or shares its weight"
    )
    assert kept["both_norm"] == "Sigmoid lies before it; Conv, Tanh behind it"
    assert kept["output_norm"] == "Sigmoid lies before it; it gives an output"


def test_structure_does_not_depend_on_values() -> None:
    zeros = EveryFold()
    for parameter in zeros.parameters():
        nn.init.zeros_(parameter)
    x = (torch.zeros(1, 3, 8, 8),)
    assert weightless(export_onnx(zeros, x)) == weightless(export_onnx(redrawn(EveryFold()), x))


def test_bytes_are_deterministic_and_name_no_source(exported: tuple[nn.Module, bytes]) -> None:
    model, onnx_bytes = exported
    assert export_onnx(model, (torch.zeros(2, 3, 8, 8),), batch_size=3) == onnx_bytes
    assert b".py" not in onnx_bytes
    assert torch.__version__.encode() not in onnx_bytes


def test_training_flags_survive_the_export() -> None:
    model = EveryFold()
    model.norm.eval()
    flags = [module.training for module in model.modules()]
    export_onnx(model, (torch.zeros(1, 3, 8, 8),))
    assert [module.training for module in model.modules()] == flags


def test_a_skeleton_has_no_weight_values_but_true_constants(
    exported: tuple[nn.Module, bytes],
) -> None:
    skeleton = weightless(exported[1])
    proto = onnx.ModelProto.FromString(skeleton.onnx_bytes)
    assert len(skeleton.onnx_bytes) < 4000
    for tensor in proto.graph.initializer:
        if tensor.data_type in FLOATS:
            assert tensor.data_location == onnx.TensorProto.EXTERNAL
            assert {e.key: e.value for e in tensor.external_data} == {"location": FILL}
            assert not tensor.raw_data
        else:
            assert tensor.raw_data
    constants = [node for node in proto.graph.node if node.op_type == "Constant"]
    assert [onnx.numpy_helper.to_array(node.attribute[0].t) for node in constants] == [0.25]


def test_a_batch_size_below_one_and_a_model_that_cannot_be_exported_are_refused() -> None:
    with pytest.raises(ConfigError, match="batch_size must be ≥ 1, but got 0"):
        export_onnx(EveryFold(), (torch.zeros(1, 3, 8, 8),), batch_size=0)
    with pytest.raises(SkeletonError, match="must export to ONNX"):
        export_onnx(Moody(), (torch.ones(1, 2),))


class Moody(nn.Module):
    """Its path depends on the data."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 1 else x - 1
