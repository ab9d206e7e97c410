"""Weights that a candidate starts from, as payloads and results name them: those of the dense
model, or a checkpoint that a node above it was trained to."""

from __future__ import annotations

import json
from typing import Any

from search.explorer import Start

Document = dict[str, Any]


def start_document(start: Start | None) -> Document | None:
    """As a payload holds it; None is the dense model."""
    if start is None:
        return None
    plan = json.loads(start.plan.to_json())
    return {"plan": plan, "checkpoint": start.checkpoint, "steps": start.steps}


def learnt(start: Document | None) -> int:
    """How many steps these weights have been trained."""
    return 0 if start is None else int(start["steps"])


def scores_name(checkpoint: str) -> str:
    """Where the scores of the units lie, with the weights of a checkpoint."""
    return checkpoint.removesuffix(".safetensors") + "-scores.safetensors"
