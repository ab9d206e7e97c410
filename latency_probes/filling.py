"""Weights for a skeleton: slices of one memory-mapped noise file, scaled by fan-in.

Latency does not depend on the values as long as no activation becomes subnormal, infinite or NaN,
which scaling by fan-in and positive variances prevent. Needs numpy: for the measuring child only.
"""

import math
import os
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latency_probes.onnx_reader import Node, OnnxFormatError, Structure, Tensor, Value

Array = npt.NDArray[Any]

NOISE_FLOATS = 2**21
_SEED = 20260101
_DTYPES = {1: np.float32, 10: np.float16, 11: np.float64}
_INTEGERS = {2: np.uint8, 3: np.int8, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_}
# Inputs that multiply, divide or go under a root: around one, never near zero.
_NEAR_ONE = {
    ("BatchNormalization", 1), ("BatchNormalization", 4), ("LayerNormalization", 1),
    ("InstanceNormalization", 1), ("GroupNormalization", 1),
    ("Mul", 0), ("Mul", 1), ("Div", 1), ("Pow", 0), ("Pow", 1), ("Sqrt", 0),
}  # fmt: skip


def noise_file(directory: Path) -> Path:
    """The file of standard-normal float32 noise, written once and completely or not at all."""
    path = directory / f"noise-{_SEED}-{NOISE_FLOATS}.f32"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(_SEED).standard_normal(NOISE_FLOATS, dtype=np.float32)
        handle, name = tempfile.mkstemp(dir=directory, prefix="noise-")
        with os.fdopen(handle, "wb") as file:
            noise.tofile(file)
        Path(name).replace(path)
    return path


def open_noise(directory: Path) -> Array:
    """The noise, mapped read-only into memory."""
    return np.memmap(noise_file(directory), dtype=np.float32, mode="r")


def fill(structure: Structure, noise: Array) -> dict[str, Array]:
    """Values for every initializer that is marked for filling; a pure function of the two.

    Raises:
        OnnxFormatError: one of them is not of a floating-point type.
    """
    uses = _first_uses(structure)
    return {
        name: _values(tensor, *uses.get(name, (Node("", (), ()), 0)), noise)
        for name, tensor in structure.initializers.items()
        if tensor.filled
    }


def example_inputs(
    structure: Structure,
    batch_size: int,
    noise: Array,
    sizes: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Array]:
    """Noise for every floating-point input, zeros for the others (valid indices).

    Args:
        sizes: input -> its shape without the batch, for models that leave sizes free.

    Raises:
        OnnxFormatError: a shape is not fixed or its batch is not `batch_size`.
    """
    found = {}
    for value in structure.inputs:
        dims = _input_dims(value, batch_size, (sizes or {}).get(value.name, ()))
        if value.data_type in _DTYPES:
            found[value.name] = _slice(value.name, dims, noise).astype(_DTYPES[value.data_type])
        elif value.data_type in _INTEGERS:
            found[value.name] = np.zeros(dims, _INTEGERS[value.data_type])
        else:
            raise OnnxFormatError(f"input {value.name!r} has unknown type {value.data_type}")
    return found


def _input_dims(value: Value, batch_size: int, sizes: Sequence[int]) -> tuple[int, ...]:
    dims = (value.dims[0] or batch_size, *value.dims[1:]) if value.dims else ()
    if len(sizes) == len(dims) - 1:
        free = (size or given for size, given in zip(dims[1:], sizes, strict=True))
        dims = (dims[0], *free)
    if not dims or min(dims) < 1:
        raise OnnxFormatError(
            f"input {value.name!r} must have a fixed shape, or one that the request tells, but "
            f"got {value.dims}"
        )
    if dims[0] != batch_size:
        raise OnnxFormatError(
            f"input {value.name!r} must have batch size {batch_size}, but got {dims[0]}"
        )
    return dims


def _first_uses(structure: Structure) -> Mapping[str, tuple[Node, int]]:
    uses: dict[str, tuple[Node, int]] = {}
    for node in structure.nodes:
        for place, name in enumerate(node.inputs):
            uses.setdefault(name, (node, place))
    return uses


def _values(tensor: Tensor, node: Node, place: int, noise: Array) -> Array:
    if tensor.data_type not in _DTYPES:
        raise OnnxFormatError(
            f"initializer {tensor.name!r} must be floating-point to be filled, "
            f"but got type {tensor.data_type}"
        )
    values = _slice(tensor.name, tensor.dims, noise)
    if (node.op, place) in _NEAR_ONE:
        values = 1 + 0.1 * np.tanh(values)
    else:
        values = values * np.float32(_scale(tensor.dims, node))
    return np.ascontiguousarray(values, dtype=_DTYPES[tensor.data_type])


def _scale(dims: tuple[int, ...], node: Node) -> float:
    """He's scale for weights, a small one for vectors."""
    if len(dims) < 2:
        return 0.1
    if node.op == "Gemm":
        fan_in = dims[1] if node.attributes.get("transB") == (1,) else dims[0]
    elif node.op == "MatMul":
        fan_in = dims[-2]
    else:
        fan_in = math.prod(dims[1:])
    return math.sqrt(2 / max(fan_in, 1))


def _slice(name: str, dims: tuple[int, ...], noise: Array) -> Array:
    count = math.prod(dims)
    start = zlib.crc32(name.encode()) % len(noise)
    if start + count <= len(noise):
        return noise[start : start + count].reshape(dims)
    return np.resize(np.roll(noise, -start), count).reshape(dims)
