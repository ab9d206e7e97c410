"""A file that was compared with its model. Knows not how it was made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from onnx import ModelProto
from torch import nn

from search.errors import OnnxError, SkeletonError
from search.onnx_in.files import parsed
from search.onnx_in.reading import DOMAINS
from search.onnx_out.checking import Samples, tolerance, worst_difference
from search.onnx_out.interface import Interface

Way = Literal["edited", "exported", "kept"]
REFUSALS = (ArithmeticError, KeyError, LookupError, OnnxError, RuntimeError, SkeletonError,
            TypeError, ValueError)  # fmt: skip


@dataclass(frozen=True)
class Delivered:
    """A file that equals its model.

    Attributes:
        way: how it was made.
        reason: why it was not edited; "" where it was.
        opset: of the standard operators.
        notes: what of the interface could not be kept, as sentences.
        batches: the batch sizes at which it was compared.
        worst_difference: at these, relative to the largest output.
        sizes: input -> its shape without the batch, as it was compared.
    """

    onnx_bytes: bytes
    way: Way
    reason: str
    opset: int
    notes: tuple[str, ...]
    batches: tuple[int, ...]
    worst_difference: float
    sizes: dict[str, tuple[int, ...]]


def checked(
    made: bytes | ModelProto,
    model: nn.Module,
    samples: Samples,
    batches: Sequence[int],
    way: Way,
    reason: str = "",
    notes: tuple[str, ...] = (),
) -> Delivered:
    """The file with what is known of it.

    Raises:
        ArithmeticError: it differs from the model by more than rounding.
        RuntimeError: ONNX Runtime does not run it.
    """
    data = made if isinstance(made, bytes) else made.SerializeToString(deterministic=True)
    proto = parsed(data)
    worst = worst_difference(model, data, samples, batches)
    if not worst <= tolerance(proto):
        raise ArithmeticError(
            f"the ONNX file must equal the model within {tolerance(proto)}, but differs by "
            f"{worst:.3g}"
        )
    names = [port.name for port in Interface.of(proto).inputs]
    sizes = {
        name: tuple(value.shape[1:])
        for name, value in zip(names, samples(batches[0]), strict=True)
    }
    return Delivered(data, way, reason, opset_of(proto), notes, tuple(batches), worst, sizes)


def opset_of(proto: ModelProto) -> int:
    """That of the standard operators."""
    return int(next(each.version for each in proto.opset_import if each.domain in DOMAINS))


def fixed_batch(interface: Interface) -> int:
    """The batch of a file that has a fixed one; 1 where it does not say."""
    size = (interface.inputs[0].sizes or (None,))[0]
    return size if isinstance(size, int) else 1
