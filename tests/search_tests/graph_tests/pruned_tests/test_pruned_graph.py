"""PrunedGraph: models whose forward holds constants are pruned as their exported graph."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from search.errors import PlanError
from search.graph import PruningGraph, trace
from search.graph.native_program import cast_program, program_of
from search.graph.pruned.pruned_graph import PrunedGraph
from search.loading import load_pruned, plan_document
from search.plan import Plan
from search.skeleton import SkeletonFactory, export_onnx, weightless
from search.surgery import prune
from tests.search_tests.models import FixedView, Shuffle, image


class Attention(nn.Module):
    """A transformer block whose forward holds heads and widths as constants."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.norm = nn.BatchNorm2d(16)
        self.qkv = nn.Linear(16, 48)
        self.proj = nn.Linear(16, 16)
        self.dropout = 0.5
        self.fc1 = nn.Linear(16, 40)
        self.fc2 = nn.Linear(40, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = functional.relu(self.norm(self.patches(x)), inplace=True).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).reshape(-1, 4, 3, 4, 4).permute(2, 0, 3, 1, 4).unbind(0)
        drop = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(q, k, v, dropout_p=drop)
        x = x + self.proj(mixed.transpose(1, 2).reshape(-1, 4, 16))
        a, b = self.fc1(x).split([24, 16], dim=-1)
        x = x + self.fc2(torch.cat([functional.gelu(a), b[..., :16]], -1))
        return {"logits": self.head(x.mean(1))}


def halved(graph: PruningGraph) -> Plan:
    return Plan(
        {
            group.name: tuple(range(0, group.width, 1 if group.status == "frozen" else 2))
            for group in graph.groups
        }
    )


@pytest.fixture(scope="module")
def graph() -> PruningGraph:
    torch.manual_seed(0)
    model = Attention()
    model.qkv.bias.requires_grad_(False)
    return trace(model, image())


@pytest.fixture
def pruned(graph: PruningGraph) -> nn.Module:
    model = prune(graph.model, graph, halved(graph))
    assert isinstance(model, PrunedGraph)
    return model


def test_attention_loses_whole_heads(graph: PruningGraph) -> None:
    (heads,) = [group for group in graph.groups if group.kind == "heads"]
    assert (heads.name, heads.width, heads.form) == ("qkv", 4, "graph")
    assert [len(units) for units in heads.members[0].indices] == [12] * 4


def test_every_size_is_rewritten_and_any_batch_runs(
    graph: PruningGraph, pruned: nn.Module
) -> None:
    assert pruned.get_parameter("fc1.weight").shape[0] == 20
    assert pruned.get_parameter("fc2.weight").shape[1] == 20
    found = sum(parameter.numel() for parameter in pruned.parameters())
    assert found == graph.parameters(halved(graph))
    for size in (1, 2, 7):
        assert pruned(torch.randn(size, 3, 8, 8))["logits"].shape == (size, 5)


class BatchAndHeads(nn.Module):
    """Heads beside the batch in one dimension, of which an index takes all: SAM's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(12, 36)
        self.proj = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[0]
        q, k, v = self.qkv(x).view(size, 5, 3, 4, 3).permute(2, 0, 3, 1, 4).flatten(1, 2).unbind()
        scores = (q[:, :, None] * k[:, None, :]).sum(-1).softmax(-1)
        out: Tensor = self.proj((scores @ v).view(size, 4, 5, 3).transpose(1, 2).flatten(2))
        return out


def test_heads_beside_the_batch_leave_it_free() -> None:
    graph = trace(BatchAndHeads(), (torch.randn(2, 5, 12),))
    (heads,) = graph.prunable
    assert (heads.kind, heads.width, heads.form) == ("heads", 4, "graph")
    pruned = prune(graph.model, graph, halved(graph))
    for size in (1, 2, 3, 7):
        assert pruned(torch.randn(size, 5, 12)).shape == (size, 5, 3)


def test_units_that_do_not_matter_can_be_cut_without_a_change(graph: PruningGraph) -> None:
    model = Attention().eval()
    plan = halved(graph)
    with torch.no_grad():
        model.fc2.weight[:, 1::2] = 0
    kept = dict(graph.dense_plan().kept) | {"fc1": plan.kept["fc1"]}
    (x,) = image()
    pruned = prune(model, graph, Plan(kept))
    assert isinstance(pruned, PrunedGraph)
    torch.testing.assert_close(pruned(x)["logits"], model(x)["logits"])


def test_it_trains_like_the_dense_model(graph: PruningGraph, pruned: nn.Module) -> None:
    (x,) = image()
    pruned.train()
    mean = pruned.get_buffer("norm.running_mean").clone()
    first, second = pruned(x)["logits"], pruned(x)["logits"]
    assert not torch.equal(first, second), "attention must drop some of its weights"
    assert not torch.equal(pruned.get_buffer("norm.running_mean"), mean)
    first.sum().backward()
    frozen = [name for name, p in pruned.named_parameters() if not p.requires_grad]
    assert frozen == ["qkv.bias"]
    assert all(p.grad is not None for p in pruned.parameters() if p.requires_grad)
    pruned.eval()
    assert torch.equal(pruned(x)["logits"], pruned(x)["logits"])
    assert graph.model.training


def test_dtype_and_names_are_those_of_the_model(graph: PruningGraph) -> None:
    pruned = prune(Attention().to(torch.bfloat16).eval(), graph, halved(graph))
    assert {parameter.dtype for parameter in pruned.parameters()} == {torch.bfloat16}
    assert not pruned.training
    assert pruned.state_dict().keys() == graph.model.state_dict().keys()
    x = torch.randn(3, 3, 8, 8, dtype=torch.bfloat16)
    assert pruned(x)["logits"].dtype == torch.bfloat16


def test_it_exports_to_onnx_and_through_torch_export(pruned: nn.Module) -> None:
    x = torch.randn(3, 3, 8, 8)
    pruned.eval()
    wanted = pruned(x)["logits"].detach().numpy()
    data = export_onnx(pruned, (x,), batch_size=3)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    exported = torch.export.export(pruned, (x,)).module()
    np.testing.assert_allclose(exported(x)["logits"].detach().numpy(), wanted, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_it_is_copied_and_pickled(pruned: nn.Module) -> None:
    x = torch.rand(3, 3, 8, 8)
    pruned.eval()
    for again in (copy.deepcopy(pruned), pickle.loads(pickle.dumps(pruned))):
        assert isinstance(again, PrunedGraph)
        assert torch.equal(again(x)["logits"], pruned(x)["logits"])
        parameters = dict(pruned.named_parameters())
        assert all(tensor is not parameters[name] for name, tensor in again.named_parameters())
        again.train()(x)["logits"].sum().backward()
        assert all(tensor.grad is None for tensor in parameters.values())


FORMER_MODULES = {
    "search.graph.pruned.pruned_graph": "search.graph.program",
    "search.graph.pruned.inputs": "search.graph.inputs",
    "search.graph.pruned.pickling": "search.graph.pickling",
    "search.graph.exported.signatures": "search.graph.signatures",
}


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_a_pickle_that_names_the_former_modules_loads(pruned: nn.Module) -> None:
    x = torch.rand(3, 3, 8, 8)
    pickled = pickle.dumps(pruned.eval(), protocol=0)  # which writes the names of modules as text
    for present, former in FORMER_MODULES.items():
        assert f"c{present}\n".encode() in pickled
        pickled = pickled.replace(f"c{present}\n".encode(), f"c{former}\n".encode())
    again = pickle.loads(pickled)
    assert isinstance(again, PrunedGraph)
    assert torch.equal(again(x)["logits"], pruned(x)["logits"])


def test_skeletons_are_derived_where_the_width_tells_every_size(graph: PruningGraph) -> None:
    factory, half = SkeletonFactory(graph), halved(graph)
    even = Plan(dict(half.kept) | {"fc1": tuple(range(40))})
    assert graph.uneven == {"fc1"}
    for plan in (graph.dense_plan(), even, half):
        pruned = prune(graph.model, graph, plan, form="graph")
        assert factory.derive(plan) == weightless(export_onnx(pruned, graph.example_inputs))
    assert factory.problem is None


def saved(folder: Path, graph: PruningGraph) -> nn.Module:
    plan = halved(graph)
    document = plan_document(graph.model, graph, plan)
    (folder / "plan.json").write_text(json.dumps(document), encoding="utf-8")
    pruned = prune(graph.model, graph, plan).eval()
    save_file(dict(pruned.state_dict()), folder / "model.safetensors")
    return pruned


def test_it_is_rebuilt_from_its_two_files(graph: PruningGraph, tmp_path: Path) -> None:
    pruned = saved(tmp_path, graph)
    loaded = load_pruned(Attention(), tmp_path / "plan.json", tmp_path / "model.safetensors")
    x = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(loaded.eval()(x)["logits"], pruned(x)["logits"])


@pytest.mark.parametrize("inputs", [None, [{"shape": [-1], "dtype": "float32"}], [{"shape": []}]])
def test_files_without_usable_inputs(graph: PruningGraph, tmp_path: Path, inputs: object) -> None:
    saved(tmp_path, graph)
    document = json.loads((tmp_path / "plan.json").read_text()) | {"inputs": inputs}
    (tmp_path / "plan.json").write_text(json.dumps(document))
    with pytest.raises(PlanError, match="inputs must be a list of shapes and dtypes"):
        load_pruned(Attention(), tmp_path / "plan.json", tmp_path / "model.safetensors")


def test_a_plan_of_another_model_is_refused(graph: PruningGraph, tmp_path: Path) -> None:
    saved(tmp_path, graph)
    document = json.loads((tmp_path / "plan.json").read_text()) | {"tensors": {}, "modules": {}}
    (tmp_path / "plan.json").write_text(json.dumps(document))
    with pytest.raises(PlanError, match="must be made for this model"):
        load_pruned(FixedView(), tmp_path / "plan.json", tmp_path / "model.safetensors")


def test_the_own_class_is_kept_where_the_plan_allows_it() -> None:
    graph = trace(FixedView(), image())
    kept = dict(graph.dense_plan().kept)
    own = prune(graph.model, graph, Plan(kept | {"fc1": (0, 2)}))
    other = prune(graph.model, graph, Plan(kept | {"conv2": (0, 2)}))
    assert isinstance(own, FixedView)
    assert isinstance(other, PrunedGraph)
    assert other(*image()).shape == (1, 5)


def test_models_that_need_no_graph_hold_none() -> None:
    assert trace(Shuffle(), image()).program is None


class Masked(Attention):
    """It holds the least number of its dtype."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = super().forward(x)["logits"]
        return {"logits": logits.masked_fill(logits < 0, torch.finfo(x.dtype).tiny)}


class Normalised(Attention):
    """It holds a small number that is the same in every dtype: the usual eps of normalize."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": nn.functional.normalize(super().forward(x)["logits"])}


@pytest.mark.parametrize(
    ("kind", "possible"), [(Attention, True), (Normalised, True), (Masked, False)]
)
def test_the_float64_program_serves_where_nothing_tells_a_dtype(
    kind: type[nn.Module], possible: bool
) -> None:
    model = kind().eval()
    program, _ = program_of(model.double(), tuple(value.double() for value in image()))
    recasted = cast_program(program, model.float(), image())
    assert (recasted is not None) == possible
    assert cast_program(program, model.half(), image()) is None


def test_a_program_that_computes_something_else_is_not_taken() -> None:
    program, _ = program_of(Attention().eval().double(), (image()[0].double(),))
    other = Attention().eval()
    other.forward = lambda x: {"logits": x.mean((2, 3))}  # type: ignore[method-assign]
    assert cast_program(program, other, image()) is None


class Padded(Attention):
    """It makes zeros in the dtype of its input."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        logits = super().forward(x)["logits"]
        return {"logits": torch.cat([logits, x.new_zeros(x.shape[0], 2)], 1).to(x.dtype) + 1}


def test_a_pruned_graph_follows_the_dtype_of_its_weights() -> None:
    model = Padded().eval()
    graph = trace(model, image())
    for dtype in (torch.float64, torch.bfloat16):
        pruned = prune(model, graph, halved(graph)).to(dtype)
        assert isinstance(pruned, PrunedGraph)
        assert pruned(image()[0].to(dtype))["logits"].dtype is dtype
