"""The models that are timed: with their weights, as skeletons, and pruned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.coverage.plans import half_plan
from benchmarks.coverage.subjects import load
from examples.resnet20 import resnet20
from latency_probes.messages import MeasureError
from latency_probes.runtimes import registry
from latency_probes.spawn import describe_device
from search import trace
from search.quantization import (
    FORMATS,
    Format,
    QuantizedModel,
    graph_form,
    quantizable_layers,
)
from search.quantization.onnx_graph import with_precision
from search.sensitivity import precision_plan
from search.skeleton import export_onnx, skeleton
from search.skeleton.export import export_proto
from search.skeleton.weightless import weightless

CHECKPOINT = Path(__file__).parents[2] / "examples/checkpoints/resnet20_fashion_mnist.safetensors"
TRAINED = "resnet20 (trained)"

# One of each style that is deployed; random weights except for the first.
ARCHITECTURES = (
    TRAINED,
    "torchvision:resnet18",
    "torchvision:mobilenet_v2",
    "timm:vit_tiny_patch16_224",
    "timm:convnext_atto",
    "torchvision:densenet121",
    "torchvision:resnet50",
    "torchvision:mobilenet_v3_small",
    "torchvision:shufflenet_v2_x0_5",
    "torchvision:squeezenet1_1",
    "torchvision:efficientnet_b0",
    "torchvision:regnet_y_400mf",
    "torchvision:mnasnet0_5",
    "torchvision:alexnet",
    "torchvision:vgg11",
    "torchvision:resnext50_32x4d",
    "timm:mixer_s32_224",
    "timm:ghostnet_100",
    "timm:repvgg_a0",
    "timm:poolformer_s12",
)


@dataclass(frozen=True)
class Pair:
    """A candidate and its reference, as ONNX."""

    candidate: bytes
    reference: bytes


def resnet20_pair() -> Pair:
    """Skeletons of ResNet-20 at half width and of the dense one: what a search measures."""
    model, example = trained()
    graph = trace(model, (example,))
    made = [skeleton(graph, plan) for plan in (half_plan(graph), graph.dense_plan())]
    return Pair(made[0].onnx_bytes, made[1].onnx_bytes)


def filled_pair(name: str) -> Pair:
    """The model with its true weights against its own skeleton, which the device fills."""
    model, inputs = (trained()[0], (trained()[1],)) if name == TRAINED else load(name)
    true = export_onnx(model, inputs)
    return Pair(true, weightless(true).onnx_bytes)


def filled_int8_pair(name: str) -> Pair:
    """The model with all layers in int8, true weights and scales, against its skeleton with
    placeholders."""
    model, inputs = (trained()[0], (trained()[1],)) if name == TRAINED else load(name)
    graph = trace(model, inputs)
    pruned = graph_form(model, graph, graph.dense_plan())
    layers, form = quantizable_layers(pruned), announced()[0]
    true = export_proto(pruned, inputs)
    rounded = QuantizedModel(pruned, layers, form).eval()
    rounded.observe([torch.cat([value] * 2) if len(value) == 1 else value for value in inputs])
    made = with_precision(true, layers, form, rounded.ranges).SerializeToString()
    return Pair(made, skeleton(graph, precision_plan(graph, layers), form=form).onnx_bytes)


def announced() -> list[Format]:
    """The formats that ONNX Runtime computes exactly on this machine, the usual one first."""
    found = describe_device(registry.offered(("onnxruntime",)), ())
    if isinstance(found, MeasureError):
        raise SystemExit(f"ONNX Runtime must answer, but: {found.message}")
    return [FORMATS[name] for name in found.runtimes["onnxruntime"].formats]


def trained() -> tuple[nn.Module, Tensor]:
    """The ResNet-20 of the examples, and one image."""
    model = resnet20()
    model.load_state_dict(load_file(CHECKPOINT))
    return model.eval(), torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def layer(channels: int) -> bytes:
    """Convolutions between 64 and `channels` channels of 112 × 112 pixels, as a skeleton."""
    wide = [nn.Conv2d(64, channels, 1), nn.ReLU(), nn.Conv2d(channels, 64, 1), nn.ReLU()]
    model = nn.Sequential(*wide).eval()
    return weightless(export_onnx(model, (torch.zeros(1, 64, 112, 112),))).onnx_bytes
