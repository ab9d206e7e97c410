"""Networks and data sets that the specs of these tests name as `python:` functions."""

from __future__ import annotations

import atexit
import errno
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.e2e_tests.nets import CLASSES, images, tiny_resnet

HERE = "python:tests.workers_tests.nets"
SHAPE = (1, 12, 12)


class Tied(nn.Module):
    """Two layers on one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.second(self.first(x))
        return scores


class Images4d(nn.Module):
    """Returns feature maps instead of class scores."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Several(nn.Module):
    """Returns a pair."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Undecided(nn.Module):
    """Its control flow depends on the values, so that it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(144, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x if x.sum().item() > 0.5 else -x
        scores: Tensor = self.head(x.flatten(1))
        return scores


class Flat(nn.Module):
    """One layer, of which nothing can be pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(144, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(x.flatten(1))
        return scores


class Tokens(nn.Module):
    """A transformer block whose forward holds heads and widths as constants."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 64, 4, 4)
        self.norm = nn.BatchNorm2d(64)
        self.position = nn.Parameter(torch.zeros(1, 9, 64))
        self.qkv = nn.Linear(64, 192)
        self.proj = nn.Linear(64, 64)
        self.mlp = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.patches(x)).flatten(2).transpose(1, 2) + self.position
        q, k, v = self.qkv(x).reshape(-1, 9, 3, 4, 16).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(mixed.transpose(1, 2).reshape(-1, 9, 64))
        scores: Tensor = self.head((x + self.mlp(x)).mean(1))
        return scores


def tokens() -> nn.Module:
    """A transformer that is pruned as its exported graph."""
    return Tokens()


def small(width: int = 8) -> nn.Module:
    """A network that is built and loaded in a millisecond."""
    return nn.Sequential(nn.Flatten(), nn.Linear(144, width), nn.ReLU(), nn.Linear(width, CLASSES))


def tiny() -> nn.Module:
    """The network of whole jobs."""
    return tiny_resnet()


def tied() -> nn.Module:
    return Tied()


def feature_maps() -> nn.Module:
    return Images4d()


def several() -> nn.Module:
    return Several()


def undecided() -> nn.Module:
    return Undecided()


def flat() -> nn.Module:
    return Flat()


def broken() -> nn.Module:
    raise RuntimeError("out of flour")


def not_a_network() -> Any:
    return "a string"


def sleeper() -> nn.Module:
    """Takes longer to build than any test waits."""
    time.sleep(60)
    return small()


def crasher() -> nn.Module:
    """Ends its process with last words."""
    os.write(2, b"no more memory")
    os._exit(7)


def curious() -> nn.Module:
    """Tells which secrets it can see."""
    raise RuntimeError(f"sees {sorted({'DATABASE_URL', 'SHOP_HOME'} & os.environ.keys())}")


def quitter() -> nn.Module:
    """Ends its process as if all were well."""
    os.write(1, b"bye")
    os._exit(0)


def chatty() -> nn.Module:
    """Prints while it is built and when its process ends."""
    os.write(1, b"building ...")
    atexit.register(os.write, 1, b"good bye")
    return small()


def stripes(split: str, gate: str | None = None, count: int = 400) -> tuple[Any, Any]:
    """The data set of whole jobs; its test images can be read only once the file `gate` exists."""
    if split == "test" and gate is not None and not Path(gate).exists():
        raise RuntimeError("the test images must not be read before the choice")
    return images(count, seed=1 if split == "train" else 2)


def away(split: str = "") -> Any:
    """A network, or a data set, that lies on a disk which fails for the moment."""
    raise OSError(errno.EIO, "Input/output error")


def unreadable(split: str) -> tuple[Any, Any]:
    raise RuntimeError(f"no {split} today")


def numbers(split: str, shape: list[int], label: int = 0) -> tuple[NDArray[np.uint8], list[int]]:
    """Images of any shape, all of them with one label."""
    return np.zeros(shape, np.uint8), [label] * shape[0]


def moved(split: str) -> tuple[Any, Any]:
    """The data set of whole jobs with its classes in another order."""
    pixels, labels = stripes(split)
    return pixels, (labels + 1) % CLASSES


def faint(split: str) -> tuple[Any, Any]:
    """The data set of whole jobs, divided by 255 twice."""
    pixels, labels = stripes(split)
    return pixels.astype(np.float32) / 255**2, labels


def weights(model: nn.Module) -> dict[str, Tensor]:
    """What is stored as safetensors."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def seeded(model: nn.Module) -> nn.Module:
    """The model with weights that follow from seed 0."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model
