"""Compares a file with the torch model that it is of, by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor, nn
from torch.utils import _pytree as pytree

TOLERANCE = 1e-3
HALF_TOLERANCE = 3e-2  # float16 has 11 bits, and a network loses some more
LEAST_SCALE = 1e-3  # below, rounding of values around one is all that is left

Samples = Callable[[int], tuple[Tensor, ...]]


def worst_difference(
    model: nn.Module, onnx_bytes: bytes, samples: Samples, batches: Sequence[int]
) -> float:
    """The largest difference of any output at any of the batch sizes, relative to the largest
    value of that output.

    Args:
        model: in evaluation mode.
        samples: gives the inputs of the model for so many examples.

    Raises:
        ArithmeticError: shapes or numbers of outputs differ, or a value is not finite.
        RuntimeError: ONNX Runtime does not run the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            onnx_bytes, options, providers=["CPUExecutionProvider"]
        )
        return max(_difference(model, session, samples(size)) for size in batches)
    except ArithmeticError:
        raise
    except Exception as error:  # the library has a class of its own for each status
        raise RuntimeError(f"ONNX Runtime does not run the file: {error}") from error


def tolerance(proto: ModelProto) -> float:
    """What is believed to be rounding: more where a file computes in half precision."""
    half = 10
    values = (*proto.graph.input, *proto.graph.output)
    kinds = {value.type.tensor_type.elem_type for value in values}
    kinds |= {tensor.data_type for tensor in proto.graph.initializer}
    return HALF_TOLERANCE if half in kinds else TOLERANCE


def _difference(model: nn.Module, session: Any, inputs: tuple[Tensor, ...]) -> float:
    ports = session.get_inputs()
    fed = {
        port.name: value.numpy().astype(_TYPES.get(port.type, value.numpy().dtype))
        for port, value in zip(ports, inputs, strict=True)
    }
    found = session.run(None, fed)
    with torch.no_grad():
        made = model(*inputs)
    wanted = [leaf for leaf in pytree.tree_leaves(made) if isinstance(leaf, Tensor)]
    if len(wanted) != len(found):
        raise ArithmeticError(f"outputs must be {len(wanted)}, but are {len(found)}")
    return max(_distance(a, b.numpy()) for a, b in zip(found, wanted, strict=True))


_TYPES = {"tensor(float16)": np.float16}


def _distance(found: Any, wanted: Any) -> float:
    if found.shape != wanted.shape:
        raise ArithmeticError(f"an output must have shape {wanted.shape}, but has {found.shape}")
    if not found.size:
        return 0.0
    scale = max(float(np.abs(wanted.astype(np.float64)).max()), LEAST_SCALE)
    apart = float(np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max())
    if not np.isfinite(apart):
        raise ArithmeticError("outputs must be finite, but are not")
    return apart / scale
