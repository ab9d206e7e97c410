"""The training flags of a model's modules: kept and restored, or off for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def training_flags_kept(model: nn.Module) -> Iterator[None]:
    """Inside, the flags may be changed; afterwards every module has its own again."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in evaluation mode; afterwards every module is as it was."""
    with training_flags_kept(model):
        model.eval()
        yield
