"""Recurrent layers while a model is exported: the shapes of their outputs, and not step by step.

torch writes them out, one cell after the other, where only shapes are wanted: minutes for a long
sequence. It knows torch's kernels, and no graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

_aten = torch.ops.aten
_OPERATORS = (_aten.gru.input, _aten.lstm.input, _aten.rnn_relu.input, _aten.rnn_tanh.input)
_BIDIRECTIONAL = 4  # its place among the arguments that follow the parameters


@contextmanager
def shapes_at_once() -> Iterator[None]:
    """Inside, recurrent layers give outputs of the right shape when their input has no values."""
    written = {operator: dict(operator.py_kernels) for operator in _OPERATORS}
    for operator, kernels in written.items():
        operator.py_kernels.update({key: _quick(kernel) for key, kernel in kernels.items()})
        operator._dispatch_cache.clear()
    try:
        yield
    finally:
        for operator, kernels in written.items():
            operator.py_kernels.update(kernels)
            operator._dispatch_cache.clear()


def _quick(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """x (B, T, I), states (layers, B, H) each -> (B, T, H or 2 H) and the states."""

    def shaped(x: Tensor, hx: Any, params: Any, *rest: Any) -> Any:
        if not isinstance(x, FakeTensor):
            return kernel(x, hx, params, *rest)
        states = [hx] if isinstance(hx, Tensor) else list(hx)
        width = states[0].shape[-1] * (2 if rest[_BIDIRECTIONAL] else 1)
        made = x.new_empty((*x.shape[:-1], width))
        return (made, *(state.new_empty(state.shape) for state in states))

    return shaped
