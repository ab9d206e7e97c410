"""What the README prints runs as it is printed."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from pydantic import BaseModel
from safetensors.torch import save_file
from torch import Tensor, nn

from api.cli.main import app
from jobs.spec import DatasetSpec, JobSpec, ModelSpec
from jobs.validation import validate_json
from search.graph import PruningGraph, trace
from search.loading import load_pruned, plan_document
from search.plan import Plan
from search.surgery import prune
from search.tensors import stored_tensors
from workers.report.loading import AS_GRAPH, OWN_CLASS, loading

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
    assert "secateur.load(" in AS_GRAPH
    groups = [
        {"name": "conv", "width": 8, "form": "module"},
        {"name": "qkv", "width": 4, "form": "graph"},
    ]
    assert loading({"groups": groups}, {}) == OWN_CLASS
    assert loading({"groups": groups}, {"conv": 4, "qkv": 4}) == OWN_CLASS
    assert loading({"groups": groups}, {"conv": 8, "qkv": 3}) == AS_GRAPH


STEPS = 'finetune={"steps": 10}'
BRIEFLY = """from latency_probes.messages import Settings
Settings.strict = classmethod(
    lambda cls, **more: cls(kind="strict", replicates=3, max_replicates=3, **more))
"""
QUICKLY = f"""{STEPS}, precision="float32", search={{
    "levels": 1, "beam_width": 1, "children": 2, "staircase_points": 1, "uniform": False}}"""


def test_the_notebook_lines_prune_a_network(tmp_path: Path) -> None:
    """In a process of its own, with real measurements, but of few candidates and brief ones."""
    lines = snippet("secateur.prune").replace(STEPS, QUICKLY)
    assert QUICKLY in lines
    checks = "assert result.ratio <= 0.6\nassert type(again) is type(model)\n"
    done = subprocess.run(
        [sys.executable, "-c", BRIEFLY + lines + checks],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_first_lines_load_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "result").mkdir()
    for network in (Normalised, Scaled):
        _, pruned = written(redrawn(network()), tmp_path / "result")
        monkeypatch.chdir(tmp_path)
        namespace: dict[str, Any] = {"resnet20": network}
        exec(snippet('secateur.load("result"'), namespace)
        x = torch.rand(3, 3, 8, 8)
        torch.testing.assert_close(namespace["model"](x), pruned(x))


SHELL = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
LINES = [
    shlex.split(line, comments=True)
    for block in SHELL
    for line in re.sub(r"\\\n\s*", " ", block).splitlines()
    if line.strip()
]


COMMANDS = [line[1:] for line in LINES if line[0] == "secateur"]
REQUESTS = [line for line in LINES if line[0] == "curl"]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_line_is_one_that_the_program_takes(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    paths = [str(ROOT / word) if (ROOT / word).exists() else word for word in words]
    assert command.make_context("secateur", paths).params


@pytest.mark.parametrize("words", REQUESTS, ids=range(len(REQUESTS)))
def test_every_request_is_one_that_the_service_takes(words: list[str]) -> None:
    kinds: dict[str, type[BaseModel]] = {
        "models": ModelSpec, "datasets": DatasetSpec, "jobs": JobSpec,
    }  # fmt: skip
    (kind,) = {name for word in words for name in kinds if word.endswith(f"/v1/{name}")}
    (document,) = (
        word.removeprefix("spec=") for word in words if word.startswith(("{", "spec={"))
    )
    validate_json(kinds[kind], document.replace("$PWD", str(ROOT)))


def test_every_module_that_is_run_is_there() -> None:
    """What is set up by the other commands, tests of the package, of `up` and of the agent run."""
    modules = {line[line.index("-m") + 1] for line in LINES if "-m" in line}
    assert modules == {"examples.fetch_fashion_mnist", "latency_probes.agent", "venv"}
    for module in modules:
        assert importlib.util.find_spec(module) is not None


def test_the_picture_is_there_and_the_pages_that_it_names() -> None:
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\(((?:docs|CONTRIBUTING)[^)#]*)", text):
        assert (ROOT / target).exists(), target
    picture = ElementTree.parse(ROOT / "docs" / "picture.svg")
    assert any("dense latency" in (each.text or "") for each in picture.iter())
