"""One cell of the comparison: a network, a budget and a way; and what a row of cells says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WAYS = ("float", "int8", "float, then int8", "both")
SIMPLE = WAYS[:3]
CLEAR = 0.005  # half a point of accuracy
FASTER = 0.85


@dataclass(frozen=True)
class Cell:
    """What a way reached at a budget.

    Attributes:
        ratio: of the dense latency, with its interval `low` to `high`.
        accuracy: of the ONNX file, on the test images.
        layers: how many are in int8.
        seconds: what it took.
    """

    network: str
    budget: float
    way: str
    ratio: float
    low: float
    high: float
    accuracy: float
    layers: int
    seconds: float

    def meets(self, budget: float) -> bool:
        return self.ratio <= budget


def best_simple(cells: Sequence[Cell], budget: float) -> Cell | None:
    """The most accurate of the simple ways within a budget, whatever budget it was made for."""
    meeting = [cell for cell in cells if cell.way in SIMPLE and cell.meets(budget)]
    return max(meeting, key=lambda cell: (cell.accuracy, -cell.ratio), default=None)


def verdict(both: Cell, simple: Cell | None) -> Mapping[str, object]:
    """How both together compare with the best simple way.

    Returns:
        `points`: of accuracy; `speed`: the ratio of latencies; `word`: `clearly better` by half
        a point, or as accurate at 0.85 of the latency; `better`, `equal` or `worse`; `alone`
        where no simple way meets the budget.
    """
    if simple is None:
        return {"points": None, "speed": None, "word": "alone"}
    gain, speed = both.accuracy - simple.accuracy, both.ratio / simple.ratio
    if gain >= CLEAR or (gain >= 0 and speed <= FASTER):
        word = "clearly better"
    else:
        word = "better" if gain > 0 else "equal" if gain == 0 else "worse"
    return {"points": 100 * gain, "speed": speed, "word": word}
