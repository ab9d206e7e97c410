"""Figures: a number, what was asked of it, and how they are printed. Measures nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One measured quantity.

    Attributes:
        low: what was asked at least; None where nothing was.
        high: what was asked at most; None where nothing was.
    """

    name: str
    value: float
    unit: str = ""
    low: float | None = None
    high: float | None = None

    @property
    def is_met(self) -> bool | None:
        """Whether it is as asked; None where nothing was asked."""
        if self.low is None and self.high is None:
            return None
        above = self.low is None or self.value >= self.low
        return above and (self.high is None or self.value <= self.high)

    @property
    def asked(self) -> str:
        """What was asked, in words."""
        bounds = [("≥", self.low), ("≤", self.high)]
        return " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)

    def document(self) -> dict[str, Any]:
        """This figure as JSON."""
        return {**asdict(self), "met": self.is_met}


def table(figures: Iterable[Figure]) -> str:
    """One line per figure."""
    marks = {True: "met", False: "MISSED", None: ""}
    lines = [
        f"  {figure.name:<64} {figure.value:>10.4g} {figure.unit:<10} "
        f"{figure.asked:<16} {marks[figure.is_met]}"
        for figure in figures
    ]
    return "\n".join(line.rstrip() for line in lines)
