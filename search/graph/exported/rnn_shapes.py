"""Recurrent layers where only shapes are wanted: not step by step.

torch writes them out, one cell after the other: minutes for the export of a long sequence, seconds
for a forward on the meta device. It knows torch's kernels and modes, and no graphs.

Rare case. Models: LSTM, GRU and RNN layers; of benchmarks/coverage/models.txt sequencer2d_s, and
lstm_tagger and gru_tagger of its own networks.
Without it: an export grows with the sequence, and may not end within the time limit.
Tests: those of a long sequence and of one step in test_trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

_aten = torch.ops.aten
# Private tables of torch's operators: `py_kernels` has the Python kernels by dispatch key, and
# `_dispatch_cache` the kernels that were resolved. After an export the kernels are as before.
_OPERATORS = (_aten.gru.input, _aten.lstm.input, _aten.rnn_relu.input, _aten.rnn_tanh.input)
_BIDIRECTIONAL = 4  # its place among the arguments that follow the parameters
_NAMES = ("gru", "lstm", "rnn_relu", "rnn_tanh")


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


class OneStep(TorchFunctionMode):
    """Inside, recurrent layers on the meta device take one step, which all others are like.

    A packed sequence is left alone.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") not in _NAMES or not _is_padded(args):
            return func(*args, **(kwargs or {}))
        x, *rest = args
        time = 1 if rest[-1] else 0
        outputs, *states = func(x.narrow(time, 0, min(1, x.shape[time])), *rest)
        sizes = [x.shape[dim] if dim == time else size for dim, size in enumerate(outputs.shape)]
        return outputs.new_empty(sizes), *states


def _is_padded(args: Sequence[Any]) -> bool:
    """x (B, T, I) or (T, B, I) on the meta device, states, a list of parameters."""
    return len(args) > 2 and args[0].is_meta and isinstance(args[2], list)
