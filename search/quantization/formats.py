"""Formats: which integers stand for activations and for weights. Named as the field does."""

from __future__ import annotations

from dataclasses import dataclass

from search.errors import QuantizationError


@dataclass(frozen=True)
class IntegerType:
    """Integers of eight bits and the least and greatest that are used."""

    name: str
    low: int
    high: int
    bits: int = 8  # that symmetric values use

    @property
    def reach(self) -> int:
        """The greatest integer of symmetric values, from the middle."""
        return 64 if self.bits == 7 else self.high - self.middle

    @property
    def middle(self) -> int:
        """The zero point of values that lie on both sides of zero."""
        return (self.low + self.high + 1) // 2


UINT8, INT8 = IntegerType("uint8", 0, 255), IntegerType("int8", -128, 127)
INT7 = IntegerType("int8", -128, 127, bits=7)


@dataclass(frozen=True)
class Format:
    """How an int8 layer is stored: activations affine, weights symmetric.

    Attributes:
        name: activations, then weights: `u8s8`.
        activation: integers of activations, one scale and zero point per tensor.
        weight: integers of weights, one scale per output channel; the zero point is their middle,
            and as many are used below it as above.
    """

    name: str
    activation: IntegerType
    weight: IntegerType


USUAL = "u8s8"
FORMATS = {
    each.name: each
    for each in (
        Format("u8s8", UINT8, INT8),
        Format("s8s8", INT8, INT8),
        Format("u8u8", UINT8, UINT8),
        Format("u8s7", UINT8, INT7),  # two products fit 16 bits: x86 before VNNI adds them there
    )
}


def format_of(name: str) -> Format:
    """The format of a name.

    Raises:
        QuantizationError: there is none.
    """
    if name not in FORMATS:
        known = ", ".join(FORMATS)
        raise QuantizationError(f"format must be one of {known}, but got {name!r}")
    return FORMATS[name]
