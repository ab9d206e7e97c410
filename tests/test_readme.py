"""What the README prints runs as it is printed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from search.graph import PruningGraph, trace
from search.loading import load_pruned, plan_document
from search.plan import Plan
from search.surgery import prune
from search.tensors import stored_tensors
from workers.report.document import AS_GRAPH, OWN_CLASS, loading

ROOT = Path(__file__).parent.parent
SNIPPETS = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)


def snippet(word: str) -> str:
    (found,) = [text for text in SNIPPETS if word in text]
    return str(found)


class Normalised(nn.Module):
    """Normalises by buffers that no state dict holds; has tied layers, and a parameter and a
    buffer of its own."""

    mean: Tensor
    deviation: Tensor
    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5), persistent=False)
        self.register_buffer("deviation", torch.full((1, 3, 1, 1), 0.25), persistent=False)
        self.register_buffer("offset", torch.zeros(3))
        self.gain = nn.Parameter(torch.ones(3))
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Linear(8, 8)
        self.third = nn.Linear(8, 8)
        self.third.weight = self.second.weight
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first((x - self.mean) / self.deviation).mean((2, 3))
        x = x + self.third(torch.relu(self.second(x)))
        out: Tensor = self.head(x) * self.gain + self.offset
        return out


class Scaled(nn.Module):
    """Hidden channels have a factor that no state dict holds; so it is pruned as a graph."""

    factors: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factors", torch.linspace(1, 2, 8).view(8, 1, 1), persistent=False)
        self.first = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x) * self.factors)
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def redrawn(model: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) + 0.5)
    return model.eval()


def halved(graph: PruningGraph) -> Plan:
    return Plan(
        {
            group.name: tuple(
                range(0, group.width, 2 if group in graph.prunable and group.width > 1 else 1)
            )
            for group in graph.groups
        }
    )


def written(model: nn.Module, folder: Path) -> tuple[PruningGraph, nn.Module]:
    """The analysis and the pruned model, whose two files lie in the folder."""
    graph = trace(model, (torch.rand(2, 3, 8, 8),))
    plan = halved(graph)
    pruned = prune(model, graph, plan)
    save_file(stored_tensors(pruned), folder / "model.safetensors")
    (folder / "plan.json").write_text(json.dumps(plan_document(model, graph, plan)))
    return graph, pruned


@pytest.mark.filterwarnings("ignore:.*plan.json:pytest.PytestUnraisableExceptionWarning")
def test_the_loading_lines_load_what_a_state_dict_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, pruned = written(redrawn(Normalised()), tmp_path)
    assert {group.name for group in graph.prunable} >= {"first.0"}
    assert isinstance(pruned, Normalised)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"resnet20": Normalised}
    exec(snippet("plan.json"), namespace)
    loaded = namespace["model"]
    assert isinstance(loaded, Normalised)
    assert loaded.third.weight is loaded.second.weight
    x = torch.rand(3, 3, 8, 8)
    again = load_pruned(Normalised(), tmp_path / "plan.json", tmp_path / "model.safetensors")
    for each in (loaded, again):
        torch.testing.assert_close(each.eval()(x), pruned(x))


def test_a_graph_is_loaded_with_what_a_state_dict_leaves_out(tmp_path: Path) -> None:
    graph, pruned = written(redrawn(Scaled()), tmp_path)
    assert [group.form for group in graph.prunable] == ["graph"]
    loaded = load_pruned(Scaled(), tmp_path / "plan.json", tmp_path / "model.safetensors")
    x = torch.rand(3, 3, 8, 8)
    torch.testing.assert_close(loaded.eval()(x), pruned(x))


def test_reports_print_the_lines_of_the_readme_and_those_of_a_graph_for_a_graph() -> None:
    assert snippet("plan.json") == OWN_CLASS.replace("build_your_network", "resnet20")
    assert "search.load_pruned(" in AS_GRAPH
    groups = [
        {"name": "conv", "width": 8, "form": "module"},
        {"name": "qkv", "width": 4, "form": "graph"},
    ]
    assert loading({"groups": groups}, {}) == OWN_CLASS
    assert loading({"groups": groups}, {"conv": 4, "qkv": 4}) == OWN_CLASS
    assert loading({"groups": groups}, {"conv": 8, "qkv": 3}) == AS_GRAPH


def test_the_notebook_lines_prune_a_network() -> None:
    """In a process of its own, with real measurements: a few seconds on an idle core."""
    checks = "assert found.infeasible or (found.ratio <= 0.6 and found.model is not None)\n"
    done = subprocess.run(
        [sys.executable, "-c", snippet("run_search") + checks],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
