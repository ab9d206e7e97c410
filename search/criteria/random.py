"""Random scores: the control that every criterion must beat."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from search.graph import PruningGraph


def random_scores(graph: PruningGraph, seed: int) -> dict[str, Tensor]:
    """(W_g,) uniform in [0, 1) per prunable group; a pure function of the seed and its name."""
    return {
        group.name: torch.rand(
            group.width, generator=_generator(group.name, seed), dtype=torch.float64
        )
        for group in graph.prunable
    }


def _generator(name: str, seed: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
