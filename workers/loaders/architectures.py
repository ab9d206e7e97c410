"""Builds a network from its name: `python:`, or one of the four zoos that it knows.

Downloads and reads nothing: weights always come from the user's own safetensors.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import nn

from jobs.near import near
from workers.loaders.errors import ArchitectureError
from workers.loaders.isolation import load_nothing, reading_nothing, refuse_loading
from workers.loaders.torchvision_operators import accept_operators, declare_operators


def build(architecture: str, kwargs: Mapping[str, Any], *, allow: Collection[str]) -> nn.Module:
    """The untrained network in eval mode.

    Args:
        architecture: `scheme:name`, for instance `python:shop.nets:resnet20` or `timm:resnet18`.
        kwargs: Passed to the constructor.
        allow: The `python:` names that the operator lets users run.

    Raises:
        ArchitectureError: Unknown scheme or name, not allowed, or the constructor failed.
    """
    scheme, _, name = architecture.partition(":")
    if scheme not in BUILDERS or not name:
        known = ", ".join(f"{each}:" for each in BUILDERS)
        raise ArchitectureError(
            f"architecture must start with one of {known} but got {architecture!r}"
        )
    if scheme == "python" and architecture not in allow:
        raise ArchitectureError(
            f"{architecture!r} is not on this server's allow-list; "
            f"the operator adds it with `secateur up --allow {architecture}`"
        )
    if scheme != "python":
        refuse_loading(kwargs)
    try:
        model = BUILDERS[scheme](name, dict(kwargs))
    except ArchitectureError:
        raise
    except Exception as error:
        raise ArchitectureError(f"{architecture} could not be built: {error}") from error
    if not isinstance(model, nn.Module):
        raise ArchitectureError(
            f"{architecture} must return an nn.Module, but got {type(model).__name__}"
        )
    return model.eval()


def zoo(name: str) -> Any:
    """The library `name`, imported.

    Raises:
        ArchitectureError: it is not installed.
    """
    declare_operators()
    library = _library(name, "secateur[zoo]")
    accept_operators()
    return library


def _library(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ArchitectureError(
            f"{name} is not installed on the worker: pip install '{extra}'"
        ) from error


def _from_python(name: str, kwargs: dict[str, Any]) -> Any:
    module_name, _, function = name.partition(":")
    if not function:
        raise ArchitectureError(
            f"a python: architecture must be python:module:function, but got {name!r}"
        )
    module = importlib.import_module(module_name)
    if not hasattr(module, function):
        raise ArchitectureError(
            f"python:{name} could not be built: module {module_name!r} has no attribute "
            f"{function!r}{near(function, dir(module))}"
        )
    return getattr(module, function)(**kwargs)


def _from_torchvision(name: str, kwargs: dict[str, Any]) -> Any:
    models = zoo("torchvision.models")
    if name not in models.list_models():
        known = near(name, models.list_models()) or "; see torchvision.models.list_models()"
        raise ArchitectureError(f"torchvision has no model {name!r}{known}")
    parameters = inspect.signature(models.get_model_builder(name)).parameters
    backbone = {"weights_backbone": None} if "weights_backbone" in parameters else {}
    with reading_nothing():
        return models.get_model(name, weights=None, **backbone, **kwargs)


def _from_timm(name: str, kwargs: dict[str, Any]) -> Any:
    timm = zoo("timm")
    if not timm.is_model(name):
        known = near(name, timm.list_models()) or "; see timm.list_models()"
        raise ArchitectureError(f"timm has no model {name!r}{known}")
    with reading_nothing():
        return timm.create_model(name, pretrained=False, **kwargs)


def _from_transformers(name: str, kwargs: dict[str, Any]) -> Any:
    transformers = zoo("transformers")
    model_class = getattr(transformers, name, None)
    if model_class is None or not hasattr(model_class, "config_class"):
        known = near(name, (each for each in dir(transformers) if "For" in each))
        raise ArchitectureError(f"transformers has no model class {name!r}{known}")
    with reading_nothing():
        config = model_class.config_class(**kwargs)
        load_nothing(config)
        return model_class(config)


def _from_pytorchcv(name: str, kwargs: dict[str, Any]) -> Any:
    declare_operators()  # some of its models are built on torchvision
    provider = _library("pytorchcv.model_provider", "pytorchcv")
    try:
        with reading_nothing():
            return provider.get_model(name, pretrained=False, **kwargs)
    except ValueError as error:
        raise ArchitectureError(f"pytorchcv has no model {name!r}: {error}") from error


BUILDERS: Mapping[str, Callable[[str, dict[str, Any]], Any]] = {
    "python": _from_python,
    "torchvision": _from_torchvision,
    "timm": _from_timm,
    "transformers": _from_transformers,
    "pytorchcv": _from_pytorchcv,
}
