"""Surgery: what is cut, what is kept, and a round trip through files in a fresh process."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from search.errors import PlanError, WeightsError
from search.graph import PruningGraph, trace
from search.loading import load_pruned, plan_document
from search.plan import Plan
from search.sensitivity import sensitivity_plan
from search.surgery import prune
from tests.search_tests.models import (
    Dense,
    Grouped,
    InvertedResidual,
    Normed,
    Plain,
    Residual,
    Shuffle,
    Tied,
    UNet,
    image,
    layer_normed,
)

NETWORKS: dict[str, tuple[type[nn.Module], tuple[Tensor, ...]]] = {
    **{
        model.__name__: (model, image())
        for model in (
            Plain, Residual, InvertedResidual, Dense, Shuffle, Grouped, UNet, Normed
        )
    },
    "Tied": (Tied, (torch.ones(2, 3),)),
}  # fmt: skip


def random_plan(graph: PruningGraph, seed: int) -> Plan:
    source = random.Random(seed)
    kept = dict(graph.dense_plan().kept)
    for group in graph.prunable:
        count = source.randint(1, group.width)
        kept[group.name] = tuple(sorted(source.sample(range(group.width), count)))
    return Plan(kept)


def keep(graph: PruningGraph, **units: tuple[int, ...]) -> Plan:
    return Plan(dict(graph.dense_plan().kept) | units)


@pytest.fixture(scope="module")
def plain() -> PruningGraph:
    torch.manual_seed(0)
    return trace(Plain(), image())


@pytest.mark.parametrize("name", NETWORKS)
def test_any_plan_gives_a_model_that_runs_trains_and_has_the_counted_sizes(name: str) -> None:
    make, inputs = NETWORKS[name]
    torch.manual_seed(0)
    model = make()
    graph = trace(model, inputs)
    dense = model(*(torch.cat([value] * 3) for value in inputs))
    for seed in range(4):
        plan = random_plan(graph, seed)
        pruned = prune(model, graph, plan)
        outputs = pruned(*(torch.cat([value] * 3) for value in inputs))
        assert outputs.shape == dense.shape
        outputs.square().mean().backward()
        assert sum(p.numel() for p in pruned.parameters()) == graph.parameters(plan)
        assert type(pruned) is make


def test_the_dense_plan_changes_nothing(plain: PruningGraph) -> None:
    model = plain.model.eval()
    pruned = prune(model, plain, plain.dense_plan())
    assert torch.equal(pruned(*image()), model(*image()))


def test_rows_and_columns_of_the_kept_units_stay(plain: PruningGraph) -> None:
    dense = plain.model.state_dict()
    pruned = prune(plain.model, plain, keep(plain, conv1=(1, 4), conv2=(0, 2, 7)))
    cut = pruned.state_dict()
    assert torch.equal(cut["conv1.weight"], dense["conv1.weight"][[1, 4]])
    assert torch.equal(cut["bn1.running_var"], dense["bn1.running_var"][[1, 4]])
    assert torch.equal(cut["conv2.weight"], dense["conv2.weight"][[0, 2, 7]][:, [1, 4]])
    assert torch.equal(cut["fc.weight"], dense["fc.weight"][:, [0, 2, 7]])
    sizes = {name: vars(module) for name, module in pruned.named_modules()}
    assert (sizes["conv1"]["out_channels"], sizes["conv2"]["in_channels"]) == (2, 2)
    assert (sizes["bn1"]["num_features"], sizes["fc"]["in_features"]) == (2, 3)


def test_dead_channels_can_be_cut_without_a_change(plain: PruningGraph) -> None:
    model = prune(plain.model, plain, plain.dense_plan()).eval()
    with torch.no_grad():
        model.get_parameter("conv2.weight")[3] = 0
        model.get_parameter("conv2.bias")[3] = -1
    pruned = prune(model, plain, keep(plain, conv2=(0, 1, 2, 4, 5, 6, 7)))
    assert torch.allclose(pruned(*image()), model(*image()), atol=1e-6)


def test_attributes_of_grouped_and_norm_layers() -> None:
    graph = trace(Grouped(4), image())
    pruned = prune(graph.model, graph, keep(graph, reduce=(0, 2, 3)))
    layer = pruned.get_submodule("grouped")
    assert isinstance(layer, nn.Conv2d)
    assert (layer.in_channels, layer.out_channels, layer.groups) == (6, 12, 3)
    normed = trace(Normed(), image())
    pruned = prune(normed.model, normed, keep(normed, conv2=(1, 2), conv1=(0, 3)))
    assert pruned.get_submodule("group_norm").num_channels == 4
    normed = trace(layer_normed(), (torch.randn(2, 3),))
    pruned = prune(normed.model, normed, keep(normed, **{"0": (1, 2)}))
    assert pruned.get_submodule("1").normalized_shape == (2,)


def test_the_input_is_not_touched(plain: PruningGraph) -> None:
    before = {name: value.clone() for name, value in plain.model.state_dict().items()}
    prune(plain.model, plain, random_plan(plain, 1))
    after = plain.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert plain.model.get_submodule("conv1").out_channels == 6


def test_dtype_flags_hooks_and_requires_grad_survive(plain: PruningGraph) -> None:
    calls: list[str] = []
    model = Plain().to(torch.float16).train()
    model.bn1.eval()
    model.conv1.weight.requires_grad_(False)
    model.conv1.register_forward_hook(lambda *_: calls.append("conv1"))
    pruned = prune(model, plain, keep(plain, conv1=(0, 1)))
    assert {parameter.dtype for parameter in pruned.parameters()} == {torch.float16}
    assert [name for name, p in pruned.named_parameters() if not p.requires_grad] == [
        "conv1.weight"
    ]
    assert pruned.training
    assert not pruned.get_submodule("bn1").training
    pruned.get_submodule("conv1")(torch.zeros(1, 3, 4, 4, dtype=torch.float16))
    assert calls == ["conv1"]


def test_tied_parameters_stay_tied() -> None:
    graph = trace(Tied(), (torch.randn(2, 3),))
    pruned = prune(graph.model, graph, keep(graph, stem=(0, 2, 3)))
    assert pruned.get_parameter("first.weight") is pruned.get_parameter("second.weight")
    assert pruned.get_parameter("first.weight").shape == (3, 3)
    assert pruned.get_submodule("second").out_features == 3


def test_an_absorbed_unit_adds_its_columns() -> None:
    """Two equal hidden units: one of them can stand for both."""
    first = nn.Linear(3, 4)
    model = nn.Sequential(first, nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        first.weight[3] = 2 * first.weight[1]
        first.bias[3] = 2 * first.bias[1]
    inputs = torch.randn(5, 3)
    graph = trace(model, (inputs,))
    pruned = prune(model, graph, Plan({"0": (0, 1, 2), "2": (0, 1)}, {"0": {3: (1, 2.0)}}))
    assert torch.allclose(pruned(inputs), model(inputs), atol=1e-6)


def test_plans_that_do_not_fit(plain: PruningGraph) -> None:
    dense = dict(plain.dense_plan().kept)
    with pytest.raises(PlanError, match=r"it lacks \['conv1'\] and names \['conv9'\]"):
        prune(
            plain.model, plain, Plan({"conv2": dense["conv2"], "fc": dense["fc"], "conv9": (0,)})
        )
    with pytest.raises(PlanError, match="'conv1' must be < 6, but got 6"):
        prune(plain.model, plain, keep(plain, conv1=(0, 6)))
    with pytest.raises(PlanError, match=r"'fc' must keep all 5 units \(its units are an output"):
        prune(plain.model, plain, keep(plain, fc=(0, 1)))
    with pytest.raises(PlanError, match="must have the traced shape"):
        prune(prune(plain.model, plain, keep(plain, conv1=(0,))), plain, plain.dense_plan())


LOADED_ANEW = ("InvertedResidual", "Grouped", "Tied", "Normed")
LOAD = """
import sys, torch
from pathlib import Path
from safetensors.torch import load_file
from search.loading import load_pruned
from tests.search_tests import models
for name in sys.argv[2:]:
    folder = Path(sys.argv[1], name)
    model = getattr(models, name)()
    model = load_pruned(model, folder / "plan.json", folder / "model.safetensors").eval()
    assert "search.graph" not in sys.modules
    tensors = load_file(folder / "example.safetensors")
    torch.testing.assert_close(model(tensors["x"]), tensors["y"])
    print(name)
"""


def saved(folder: Path, graph: PruningGraph, plan: Plan) -> nn.Module:
    pruned = prune(graph.model, graph, plan).eval()
    document = plan_document(graph.model, graph, plan)
    (folder / "plan.json").write_text(json.dumps(document), encoding="utf-8")
    unique = {
        id(value): (name, value) for name, value in pruned.state_dict(keep_vars=True).items()
    }
    save_file(
        {name: value.detach() for name, value in unique.values()}, folder / "model.safetensors"
    )
    return pruned


def test_a_fresh_process_loads_the_same_models_without_a_trace(tmp_path: Path) -> None:
    for name in LOADED_ANEW:
        folder = tmp_path / name
        folder.mkdir()
        make, inputs = NETWORKS[name]
        torch.manual_seed(0)
        graph = trace(make(), inputs)
        pruned = saved(folder, graph, random_plan(graph, 2))
        x = torch.cat([inputs[0], inputs[0]])
        save_file({"x": x, "y": pruned(x).detach()}, folder / "example.safetensors")

    command = [sys.executable, "-c", LOAD, str(tmp_path), *LOADED_ANEW]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.stdout.split(), done.returncode) == (list(LOADED_ANEW), 0), done.stderr


class Versioned(Plain):
    """A network of which an older layout was saved without a version: torchvision's MNASNet."""

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        if metadata.get("version") is None:
            raise ValueError("version should be set")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def test_a_module_that_asks_for_its_version_is_loaded(tmp_path: Path) -> None:
    graph = trace(Versioned(), image())
    pruned = saved(tmp_path, graph, keep(graph, conv1=(0, 3)))
    loaded = load(tmp_path, Versioned()).eval()
    assert torch.equal(loaded(*image()), pruned(*image()))


@pytest.fixture
def files(tmp_path: Path, plain: PruningGraph) -> Path:
    saved(tmp_path, plain, keep(plain, conv1=(0, 3)))
    return tmp_path


def load(folder: Path, model: nn.Module | None = None) -> nn.Module:
    return load_pruned(model or Plain(), folder / "plan.json", folder / "model.safetensors")


def test_the_document_lists_every_edit(files: Path) -> None:
    document = json.loads((files / "plan.json").read_text())
    assert document["tensors"]["conv2.weight"] == [8, 2, 3, 3]
    assert document["modules"]["bn1"] == {"num_features": 2}
    assert Plan.from_document(document["plan"]).widths == {"conv1": 2, "conv2": 8, "fc": 5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 7}, "must be a plan of version 1"),
        ({"plan": None}, "a plan must be a JSON object"),
        ({"tensors": None}, "'tensors' in .* must be a JSON object"),
        ({"tensors": {"conv1.weight": [0]}}, "must be a list of sizes ≥ 1"),
        ({"tensors": {"conv1.weight": [2, 3]}}, "must shrink to a shape within"),
        ({"tensors": {"conv1.weight": [9, 3, 3, 3]}}, "must shrink to a shape within"),
        ({"tensors": {"conv9.weight": [1]}}, "the model has no such tensor"),
        ({"modules": {"conv1": {"forward": "x"}}}, "must map to sizes"),
        ({"modules": {"conv1": {"nonsense": 3}}}, "edits conv1.nonsense, but the model has none"),
        ({"modules": {"conv9": {"groups": 3}}}, "edits conv9.groups, but the model has none"),
    ],
)
def test_documents_that_do_not_fit(files: Path, changes: dict[str, Any], message: str) -> None:
    document = json.loads((files / "plan.json").read_text()) | changes
    (files / "plan.json").write_text(json.dumps(document))
    with pytest.raises(PlanError, match=message):
        load(files)


def test_files_that_cannot_be_read(files: Path) -> None:
    weights = files / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(WeightsError, match="must be a readable safetensors file"):
        load(files)
    (files / "plan.json").write_text("{")
    with pytest.raises(PlanError, match="must be a readable JSON file"):
        load(files)


def test_weights_that_do_not_fit(files: Path) -> None:
    state = prune_nothing()
    save_file(state, files / "model.safetensors")
    with pytest.raises(
        WeightsError, match=r"wrong shapes: .*conv1.weight: \(6, 3, 3, 3\) instead"
    ):
        load(files)
    del state["fc.bias"]
    save_file(state | {"extra": torch.ones(1)}, files / "model.safetensors")
    with pytest.raises(WeightsError, match=r"missing: fc.bias; unexpected: extra; wrong shapes"):
        load(files)


def prune_nothing() -> dict[str, Tensor]:
    return dict(Plain().state_dict())


class Remembering(nn.Module):
    """Keeps what it computed of a weight until it is set to train, as LeViT does its biases."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)
        self.gains = nn.Parameter(torch.randn(8, generator=torch.Generator().manual_seed(1)))
        self.remembered: list[Tensor] = []

    def train(self, mode: bool = True) -> Remembering:
        if mode:
            self.remembered = []
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.remembered = []
        gains = self.remembered[0] if self.remembered else self.gains.exp()
        if not self.training:
            self.remembered = [gains]
        out: Tensor = self.second(self.first(x) * gains[:, None, None])
        return out


def test_what_was_computed_of_dense_weights_is_computed_anew(tmp_path: Path) -> None:
    model = Remembering().eval()
    model(*image())
    graph = trace(model, image())
    pruned = saved(tmp_path, graph, keep(graph, **{graph.prunable[0].name: (0, 3)}))
    assert type(pruned) is Remembering
    assert (pruned.training, pruned.remembered, len(model.remembered)) == (False, [], 1)
    loaded = load(tmp_path, model)
    assert torch.equal(loaded.eval()(*image()), pruned(*image()))


class Joined(nn.Module):
    """Two branches side by side meet a residual: each makes a part of its units."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.left, self.right = nn.Conv2d(6, 2, 1), nn.Conv2d(6, 4, 1)
        self.head = nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out: Tensor = self.head(x + torch.cat([self.left(x), self.right(x)], 1))
        return out


def test_each_branch_keeps_a_unit() -> None:
    graph = trace(Joined(), image())
    (group,) = graph.prunable
    assert sorted(group.required_any_of) == [(0, 1), (2, 3, 4, 5)]
    with pytest.raises(PlanError, match=r"must keep one of its units \(0, 1\)"):
        prune(graph.model, graph, keep(graph, **{group.name: (2, 3)}))
    scores = {group.name: torch.tensor([0.0, 0.1, 1.0, 2.0, 3.0, 4.0])}
    plan = sensitivity_plan(graph, scores, group.name, 0.5)
    assert plan.kept[group.name] == (1, 4, 5)
    assert prune(graph.model, graph, plan)(*image()).shape == (1, 5, 8, 8)
