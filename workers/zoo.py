"""What the libraries of networks know of one: the shape of its input, how its pixels are
normalised, and its pretrained weights.

    python -m workers.zoo timm:resnet18 [--kwargs JSON] [--weights OUT.safetensors]

Writes a JSON object, `{"input_shape": …, "mean": …, "std": …}` as far as known. For the command
line, in a process of its own, with the rights of who calls it; the service never fetches weights.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from workers.loaders.architectures import build, zoo
from workers.loaders.errors import ArchitectureError, LoadError


def described(architecture: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """What is known of the input; nothing is fetched.

    Raises:
        ArchitectureError: The library does not know the network, or is not installed.
    """
    scheme, _, name = architecture.partition(":")
    if scheme == "torchvision":
        return _of_torchvision(name)
    model: Any = build(architecture, kwargs, allow=())
    if scheme == "timm":
        known = model.pretrained_cfg
        return {
            "input_shape": list(known["input_size"]),
            "mean": list(known["mean"]),
            "std": list(known["std"]),
        }
    config = getattr(model, "config", None)
    size, channels = getattr(config, "image_size", None), getattr(config, "num_channels", 3)
    if isinstance(size, int):
        return {"input_shape": [channels, size, size]}
    return {"input_shape": [channels, *size]} if size else {}


def pretrained(architecture: str, kwargs: dict[str, Any], out: Path) -> None:
    """Fetches the pretrained weights by the library itself, and writes them as safetensors.

    Raises:
        ArchitectureError: There are none.
    """
    from safetensors.torch import save_file

    from search.tensors import stored_tensors

    scheme, _, name = architecture.partition(":")
    try:
        if scheme == "timm":
            model = zoo("timm").create_model(name, pretrained=True, **kwargs)
        elif scheme == "torchvision":
            model = zoo("torchvision.models").get_model(name, weights="DEFAULT", **kwargs)
        else:
            raise ArchitectureError(
                f"--weights must be given for {architecture}: a class of {scheme} has none of its "
                "own"
            )
    except (RuntimeError, OSError, ValueError) as error:
        raise ArchitectureError(
            f"{architecture}: the pretrained weights must be fetched, but: {error}"
        ) from error
    save_file(stored_tensors(model), out)


def _of_torchvision(name: str) -> dict[str, Any]:
    models = zoo("torchvision.models")
    if name not in models.list_models():
        build(f"torchvision:{name}", {}, allow=())  # raises, with near names
    weights = models.get_model_weights(name).DEFAULT
    how = weights.transforms()
    size = getattr(how, "crop_size", [224])
    height, width = (size * 2)[:2] if isinstance(size, list) else (size, size)
    return {
        "input_shape": [3, height, width],
        "mean": list(getattr(how, "mean", ())) or None,
        "std": list(getattr(how, "std", ())) or None,
    }


def main() -> None:
    """Exits with 1 and a sentence where the library says no."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("architecture")
    parser.add_argument("--kwargs", type=json.loads, default={})
    parser.add_argument("--weights", type=Path)
    given = parser.parse_args()
    try:
        known = described(given.architecture, given.kwargs)
        if given.weights is not None:
            pretrained(given.architecture, given.kwargs, given.weights)
    except LoadError as error:
        sys.exit(str(error))
    sys.stdout.write(json.dumps(known) + "\n")


if __name__ == "__main__":
    main()
