"""Which 8-bit formats a runtime computes exactly on this machine.

Kernels of x86 before VNNI add two products of an unsigned and a signed byte in 16 bits, and cut
what is too large; ONNX Runtime and OpenVINO turn signed activations into unsigned ones for them.
"""

from collections.abc import Callable
from importlib.resources import files
from typing import Literal

import numpy as np

# One product of matrices between Q and DQ, (16, 64) by (64, 16), all weights 127. The tests build
# the files: a device has no onnx package.
SHAPE, LARGEST = (16, 64), 255.0
SUM = 255 * 127 * 64

Run = Callable[[bytes, np.ndarray], np.ndarray]


def exact_formats(run: Run) -> tuple[str, ...]:
    """The formats with signed weights; of seven bits where eight are not exact.

    Args:
        run: gives the output of an ONNX model for one input.
    """
    unsigned = "u8s8" if is_exact(run, "uint8") else "u8s7"
    return (unsigned, "s8s8") if is_exact(run, "int8") else (unsigned,)


def is_exact(run: Run, activations: Literal["uint8", "int8"]) -> bool:
    """Asks for the largest sum that there is."""
    model = files("latency_probes.runtimes").joinpath(f"sums_{activations}.onnx").read_bytes()
    found = run(model, np.full(SHAPE, LARGEST, np.float32))
    return bool((found > 0.99 * SUM).all())
