"""LSTM, GRU and RNN nodes as modules of torch.nn, which keep another order of gates.

Knows weights and attributes, and nothing of the graph around them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# torch.nn's gates, each by its place among those of ONNX (LSTM: iofc, GRU: zrh).
GATES: Mapping[str, tuple[int, ...]] = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
ACTIVATIONS: Mapping[str, list[list[str]]] = {
    "LSTM": [["sigmoid", "tanh", "tanh"]],
    "GRU": [["sigmoid", "tanh"]],
    "RNN": [["tanh"], ["relu"]],
}
UNUSED = ("clip", "input_forget", "layout")


class Recurrent(nn.Module):
    """One recurrent layer that starts from zeros.

    Args:
        op: LSTM, GRU or RNN.
        settings: the attributes of the node.
        weight: of the input, shape (directions, gates * hidden, inputs).
        recurrence: of the state, shape (directions, gates * hidden, hidden).
        bias: of both, shape (directions, 2 * gates * hidden), or None.

    Raises:
        ValueError: torch.nn has no such layer.
    """

    def __init__(
        self,
        op: str,
        settings: Mapping[str, Any],
        weight: Tensor,
        recurrence: Tensor,
        bias: Tensor | None,
    ) -> None:
        super().__init__()
        directions, _, hidden = recurrence.shape
        self.backwards = settings.get("direction", "forward") == "reverse"
        self.directions = directions
        chosen = _activations(op, settings, directions)
        options = {"nonlinearity": chosen[0]} if op == "RNN" else {}
        self.cell: nn.RNNBase = getattr(nn, op)(
            weight.shape[2],
            hidden,
            bias=bias is not None,
            bidirectional=directions == 2,
            **options,
        )
        given = {"weight_ih": weight, "weight_hh": recurrence}
        if bias is not None:
            given["bias_ih"], given["bias_hh"] = bias.chunk(2, 1)
        for name, tensors in given.items():
            for tensor, suffix in zip(tensors, ("", "_reverse"), strict=False):
                own = getattr(self.cell, f"{name}_l0{suffix}")
                ordered = _ordered(op, tensor)
                if own.shape != ordered.shape:
                    raise ValueError(
                        f"{name} must have shape {list(own.shape)}, but got {list(ordered.shape)}"
                    )
                setattr(self.cell, f"{name}_l0{suffix}", nn.Parameter(ordered))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """All states and the last ones, of shapes as ONNX has them.

        Args:
            x: shape (steps, batch, inputs).

        Returns:
            Shape (steps, directions, batch, hidden), then (directions, batch, hidden); of an LSTM
            its cells as well.
        """
        states, last = self.cell(x.flip(0) if self.backwards else x)
        states = states.flip(0) if self.backwards else states
        states = states.unflatten(2, (self.directions, -1)).permute(0, 2, 1, 3)
        return (states, *last) if isinstance(last, tuple) else (states, last)


def _activations(op: str, settings: Mapping[str, Any], directions: int) -> list[str]:
    """Those of one direction."""
    for name in UNUSED:
        if settings.get(name, 0):
            raise ValueError(f"{name} must not be set")
    if op == "GRU" and not settings.get("linear_before_reset", 0):
        raise ValueError("linear_before_reset must be 1, as torch.nn's is")
    known = ACTIVATIONS[op]
    given: Sequence[str] = settings.get("activations") or known[0] * directions
    plain = [name.lower() for name in given]
    for each in known:
        if plain == each * directions:
            return each
    raise ValueError(f"activations must be one of {known} per direction, but got {plain}")


def _ordered(op: str, tensor: Tensor) -> Tensor:
    """Rows by gate, as torch.nn has them."""
    gates = tensor.chunk(len(GATES[op]))
    return torch.cat([gates[place] for place in GATES[op]]).contiguous()
