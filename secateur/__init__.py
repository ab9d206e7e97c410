"""Secateur as a library: prune a network in this process, or talk to the service.

Names load on first use, so that importing `secateur` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secateur.client import AsyncClient, Client
    from secateur.errors import (
        AccuracyOutOfReach,
        BudgetOutOfReach,
        DataError,
        MeasuringError,
        SecateurError,
    )
    from secateur.inspecting import Inspection, inspect
    from secateur.loading import load
    from secateur.pruning import prune
    from secateur.result import Result

_HOMES = {
    "AccuracyOutOfReach": "secateur.errors",
    "AsyncClient": "secateur.client",
    "BudgetOutOfReach": "secateur.errors",
    "Client": "secateur.client",
    "DataError": "secateur.errors",
    "Inspection": "secateur.inspecting",
    "MeasuringError": "secateur.errors",
    "Result": "secateur.result",
    "SecateurError": "secateur.errors",
    "inspect": "secateur.inspecting",
    "load": "secateur.loading",
    "prune": "secateur.pruning",
}

__all__ = [
    "AccuracyOutOfReach",
    "AsyncClient",
    "BudgetOutOfReach",
    "Client",
    "DataError",
    "Inspection",
    "MeasuringError",
    "Result",
    "SecateurError",
    "__version__",
    "inspect",
    "load",
    "prune",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module 'secateur' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def _version() -> str:
    from importlib.metadata import version

    return version("secateur")
