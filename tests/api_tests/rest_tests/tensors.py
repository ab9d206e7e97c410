"""Small weights as bytes, good and bad, written by hand: the format is the thing under test."""

from __future__ import annotations

import json
from typing import Any


def safetensors(header: dict[str, Any] | None = None, values: bytes = b"\0" * 24) -> bytes:
    """A safetensors file; by default one float32 tensor of shape (2, 3)."""
    described = json.dumps({"w": tensor()} if header is None else header).encode()
    return len(described).to_bytes(8, "little") + described + values


def tensor(
    shape: Any = (2, 3), dtype: Any = "F32", offsets: Any = (0, 24), **extra: Any
) -> dict[str, Any]:
    """The description of one tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **extra}
