"""Building networks by name: what is allowed, and what is said where it fails."""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.workers_tests.nets import HERE
from workers.loaders.architectures import build
from workers.loaders.errors import ArchitectureError

SMALL = f"{HERE}:small"


class FakeZoo:
    """Stands in for timm and for torchvision.models; notes how a network was asked for."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def is_model(self, name: str) -> bool:
        return name == "resnet18"

    def list_models(self) -> list[str]:
        return ["resnet18", "fcn"]

    def get_model_builder(self, name: str) -> Any:
        def plain(weights: Any = None) -> None: ...

        def segmenter(weights: Any = None, weights_backbone: Any = None) -> None: ...

        return segmenter if name == "fcn" else plain

    def get_model(self, name: str, **kwargs: Any) -> nn.Module:
        self.asked = {"name": name, **kwargs}
        return nn.Linear(1, 1)

    create_model = get_model


class FakeTransformer(nn.Module):
    """A model class as transformers has them."""

    config_class = SimpleNamespace

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.config = config


def test_allowed_function_is_called_with_the_arguments_and_left_in_eval_mode() -> None:
    model = build(SMALL, {"width": 5}, allow=[SMALL])
    assert not model.training
    assert model.state_dict()["1.weight"].shape == (5, 144)


def test_python_function_that_is_not_allowed_is_not_even_imported() -> None:
    name = "python:tests.workers_tests.nowhere:build"
    with pytest.raises(ArchitectureError, match=r"allow-list.*secateur up --allow"):
        build(name, {}, allow=[SMALL])


@pytest.mark.parametrize("name", ["resnet18", "keras:resnet18", "timm:", ":x", ""])
def test_unknown_scheme_names_the_known_ones(name: str) -> None:
    with pytest.raises(ArchitectureError, match="python:, torchvision:, timm:, transformers:"):
        build(name, {}, allow=[])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (f"{HERE}:broken", "could not be built: out of flour"),
        (f"{HERE}:missing", "could not be built: module .* has no attribute 'missing'"),
        (f"{HERE}:not_a_network", "must return an nn.Module, but got str"),
        (HERE, "must be python:module:function, but got"),
        ("python:no.such.module:f", "No module named"),
    ],
)
def test_function_that_fails_is_quoted(name: str, words: str) -> None:
    with pytest.raises(ArchitectureError, match=words):
        build(name, {}, allow=[name])


def test_wrong_arguments_are_quoted() -> None:
    with pytest.raises(ArchitectureError, match="unexpected keyword argument 'depth'"):
        build(SMALL, {"depth": 3}, allow=[SMALL])


@pytest.mark.parametrize(
    ("scheme", "module"),
    [("timm", "timm"), ("torchvision", "torchvision.models"), ("transformers", "transformers")],
)
def test_library_that_is_not_installed_is_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch, scheme: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ArchitectureError, match=r"pip install 'secateur\[zoo\]'"):
        build(f"{scheme}:resnet18", {}, allow=[])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("timm:resnet18", {"name": "resnet18", "pretrained": False, "num_classes": 7}),
        ("torchvision:resnet18", {"name": "resnet18", "weights": None, "num_classes": 7}),
        (
            "torchvision:fcn",
            {"name": "fcn", "weights": None, "weights_backbone": None, "num_classes": 7},
        ),
    ],
)
def test_zoo_networks_are_built_without_downloading_weights(
    monkeypatch: pytest.MonkeyPatch, name: str, expected: dict[str, Any]
) -> None:
    zoo = FakeZoo()
    monkeypatch.setitem(sys.modules, "timm", zoo)
    monkeypatch.setitem(sys.modules, "torchvision.models", zoo)
    build(name, {"num_classes": 7}, allow=[])
    assert zoo.asked == expected


@pytest.mark.parametrize(
    ("name", "module"),
    [("timm:alexnot", "timm"), ("torchvision:alexnot", "torchvision.models")],
)
def test_network_that_the_zoo_lacks_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, FakeZoo())
    with pytest.raises(ArchitectureError, match=r"has no model 'alexnot'; see .*list_models\(\)"):
        build(name, {}, allow=[])


def test_transformers_class_is_built_from_its_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = SimpleNamespace(Bert=FakeTransformer, tokenize=len)
    monkeypatch.setitem(sys.modules, "transformers", module)
    model = build("transformers:Bert", {"layers": 2}, allow=[])
    assert isinstance(model, FakeTransformer)
    assert model.config.layers == 2
    for name in ("tokenize", "Bart"):
        with pytest.raises(ArchitectureError, match=f"has no model class '{name}'"):
            build(f"transformers:{name}", {}, allow=[])


@pytest.mark.parametrize(
    "name",
    ["checkpoint_path", "pretrained", "weights", "pretrained_cfg", "cache_dir", "backbone",
     "use_pretrained_backbone", "_name_or_path", "auto_map", "trust_remote_code"],
)  # fmt: skip
def test_arguments_that_would_load_weights_from_elsewhere_are_refused(name: str) -> None:
    for nested in ({}, {"a": 1}):
        for kwargs in (
            {name: "x"},
            {"backbone_config": {name: "x", **nested}},
            {"text_config": {"deeper": [{"x": 1}, {name: True}]}},
        ):
            with pytest.raises(ArchitectureError, match=f"kwargs must not hold .*{name}:"):
                build("timm:resnet18", kwargs, allow=())


@pytest.mark.parametrize(
    "kwargs",
    [
        {"attn_implementation": "someone/kernel"},
        {"model": "hf-hub:someone/net"},
        {"vision_config": {"architecture": "../weights.bin"}},
        {"text_config": {"files": ["a", "C:\\\\weights.bin"]}},
        {"head": {"source": "https://example.org"}},
    ],
)
def test_arguments_that_name_a_file_or_a_repository_are_refused(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ArchitectureError, match="must name no file, address or repository"):
        build("transformers:Bert", kwargs, allow=())


class Configuration:
    """As transformers has them: what it is not told it would load."""

    def __init__(self, **kwargs: Any) -> None:
        self.use_pretrained_backbone = True
        self.inner = Configuration() if kwargs.pop("nested", False) else None
        vars(self).update(kwargs)


class Loader(nn.Module):
    """A model class that does with its configuration what real ones do at their worst."""

    config_class = Configuration

    def __init__(self, config: Configuration) -> None:
        super().__init__()
        self.config = config
        if action := getattr(config, "action", None):
            action(config)


def build_loader(monkeypatch: pytest.MonkeyPatch, **kwargs: Any) -> nn.Module:
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(Loader=Loader))
    return build("transformers:Loader", kwargs, allow=[])


def test_a_plain_configuration_as_it_is_published_is_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    published = {
        "model_type": "swinv2", "use_pretrained_backbone": False, "_name_or_path": "",
        "backbone": None, "gradient_checkpointing": True, "drop_path_rate": 0.1,
        "pretrained_window_sizes": [8, 8],
    }  # fmt: skip
    model = build_loader(
        monkeypatch,
        backbone_config=published,
        id2label={"0": "coffee/tea"},
        tie_weights=True,
        init_weights=False,
    )
    assert isinstance(model, Loader)


def test_nothing_is_loaded_that_a_configuration_would_load_untold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build_loader(monkeypatch, nested=True)

    assert isinstance(model, Loader)
    assert not model.config.use_pretrained_backbone
    assert model.config.inner is not None
    assert not model.config.inner.use_pretrained_backbone


@pytest.mark.parametrize(
    "action",
    [
        lambda config: Path(config.where).read_bytes(),
        lambda config: os.open(config.where, os.O_RDONLY),
        lambda config: socket.create_connection(("127.0.0.1", 9), timeout=1),
        lambda config: socket.getaddrinfo("localhost", 80),
        lambda config: subprocess.run([sys.executable, "-c", ""]),
        lambda config: torch.load(config.where, weights_only=False),
    ],
)
def test_whatever_a_constructor_tries_it_reads_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, action: Any
) -> None:
    torch.save({}, tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArchitectureError, match="must read nothing, but tried to"):
        build_loader(monkeypatch, action=action, where="weights")

    assert (tmp_path / "weights").read_bytes()  # afterwards everything is open again


def test_a_constructor_may_import_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)

    assert build_loader(monkeypatch, action=lambda _: importlib.import_module("colorsys"))
