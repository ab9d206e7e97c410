"""Builds a benchmark's model by name, with random weights, and examples to run it on.

Downloads nothing. Architectures come from the loader that the service uses.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from benchmarks.coverage.transformers_configs import example_tokens_or_pixels, small_config
from workers.loaders.architectures import build, zoo

SEED = 0
IMAGE = (3, 224, 224)
LARGEST = 384  # pixels, where a model takes any size; 768 make 2304 tokens, and tell no more

Inputs: TypeAlias = tuple[Tensor, ...]


def load(name: str) -> tuple[nn.Module, Inputs]:
    """The model in eval mode, and one example per input.

    Args:
        name: `timm:…`, `torchvision:…`, `transformers:…`, `pytorchcv:…` or
            `python:module:function`; the function returns the model and its example inputs, or a
            model with an attribute `example_inputs`, or a model of images of 224 × 224.

    Raises:
        ArchitectureError: a zoo does not have the model, or it cannot be built.
        ValueError: the function returns something else, or nobody knows what the model reads.
    """
    torch.manual_seed(SEED)
    scheme, _, rest = name.partition(":")
    model, inputs = _LOADERS[scheme](name, rest)
    return model.eval(), inputs


def _from_python(name: str, rest: str) -> tuple[nn.Module, Inputs]:
    module, _, function = rest.rpartition(":")
    made = getattr(importlib.import_module(module), function)()
    if not isinstance(made, tuple):
        made = made, getattr(made, "example_inputs", None)
    model, inputs = made
    if isinstance(inputs, Tensor):
        inputs = (inputs,)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name} must return an nn.Module, but got {type(model).__name__}")
    return model, _images(IMAGE) if inputs is None else tuple(inputs)


def _from_timm(name: str, rest: str) -> tuple[nn.Module, Inputs]:
    model = build(name, {}, allow=())
    config = getattr(model, "pretrained_cfg", None) or {}
    channels, *sides = config.get("input_size") or IMAGE
    if not config.get("fixed_input_size"):
        sides = [min(side, LARGEST) for side in sides]
    return model, _images((channels, *sides))


def _from_pytorchcv(name: str, rest: str) -> tuple[nn.Module, Inputs]:
    model = build(name, {}, allow=())
    channels = getattr(model, "in_channels", 3)
    return model, _images((channels, *getattr(model, "in_size", IMAGE[1:])))


def _from_torchvision(name: str, rest: str) -> tuple[nn.Module, Inputs]:
    model = build(name, _detecting(rest), allow=())
    known = [shape for part, shape in _TORCHVISION_SHAPES.items() if part in rest]
    shape = known[0] if known else IMAGE
    return model, _images(shape) * (2 if rest.startswith("raft") else 1)


def _detecting(name: str) -> dict[str, Any]:
    """Settings of a detector: it would enlarge images to 800 pixels, and look at 1000 places.

    Random weights are sure of no box: without a threshold there are as many as it gives at most.
    """
    sizes = {"min_size": 320, "max_size": 320}
    if "rcnn" in name:
        few = {"rpn_post_nms_top_n_test": 100, "box_detections_per_img": 2}
        return {**sizes, **few, "box_score_thresh": 0.0}
    if "retinanet" in name or "fcos" in name:
        return {**sizes, "detections_per_img": 2, "score_thresh": 0.0}
    return {}


def _from_transformers(name: str, rest: str) -> tuple[nn.Module, Inputs]:
    transformers = zoo("transformers")
    model_class = getattr(transformers, rest, None)
    kwargs = small_config(model_class) if hasattr(model_class, "config_class") else {}
    model = build(name, kwargs, allow=())
    for module in model.modules():  # torch counts no operations of the usual kernel of experts
        config: Any = getattr(module, "config", None)
        if getattr(config, "_experts_implementation", None) == "grouped_mm":
            config._experts_implementation = "batched_mm"
    arguments = inspect.signature(type(model).forward).parameters
    return model, example_tokens_or_pixels(model, list(arguments)[1:])


def _images(shape: tuple[int, ...]) -> Inputs:
    return (torch.randn(1, *shape),)


# A part of a torchvision name -> the input shape of its default weights, of videos a few frames
# and of detectors their smallest; the first that fits.
_TORCHVISION_SHAPES: Mapping[str, tuple[int, ...]] = {
    "inception_v3": (3, 299, 299),
    "mvit": (3, 16, 224, 224),
    "swin3d": (3, 4, 224, 224),
    "r3d": (3, 4, 112, 112),
    "mc3": (3, 4, 112, 112),
    "r2plus1d": (3, 4, 112, 112),
    "s3d": (3, 16, 224, 224),
    "raft": (3, 128, 128),
    "ssd300": (3, 300, 300),
    "320": (3, 320, 320),
    "rcnn": (3, 320, 320),
    "retinanet": (3, 320, 320),
    "fcos": (3, 320, 320),
    "swin_v2": (3, 256, 256),
}

_LOADERS: Mapping[str, Callable[[str, str], tuple[nn.Module, Inputs]]] = {
    "python": _from_python,
    "pytorchcv": _from_pytorchcv,
    "timm": _from_timm,
    "torchvision": _from_torchvision,
    "transformers": _from_transformers,
}
