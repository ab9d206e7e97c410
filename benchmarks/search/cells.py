"""One cell of the comparison, and what the cells of a network say together."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

OVER, SHORT = 1.01, 0.98  # of the budget, between which a result fits it
DRAWN = 2000


@dataclass(frozen=True)
class Cell:
    """What a way reached.

    Attributes:
        ratio: of the dense latency, strictly measured after training, with `low` and `high`.
        accuracy: on the test images; None where the way found nothing within the budget.
        right: which test images were classified right, as the bits of a hexadecimal number.
        measured: candidates measured on the way.
        steps: of fine-tuning, those in the tree included.
        seconds: in all; `device_s` of them measuring candidates.
    """

    network: str
    budget: float
    way: str
    seed: int
    ratio: float
    low: float
    high: float
    accuracy: float
    right: str
    images: int
    measured: int
    steps: int
    seconds: float
    device_s: float

    @property
    def meets(self) -> bool:
        """Whether it is never above the budget by more than a hundredth."""
        return self.ratio <= OVER * self.budget

    @property
    def fits(self) -> bool:
        """Whether it uses what the budget allows."""
        return SHORT * self.budget <= self.ratio <= OVER * self.budget

    def document(self) -> dict[str, Any]:
        return asdict(self)


def packed(right: Sequence[bool]) -> str:
    """The answers as the bits of a hexadecimal number, the first one highest."""
    return f"{int(''.join('1' if each else '0' for each in right), 2):x}"


def unpacked(cell: Cell) -> list[int]:
    """Inverse of `packed`."""
    return [int(bit) for bit in f"{int(cell.right, 16):0{cell.images}b}"]


def difference(ours: Sequence[Cell], other: Sequence[Cell]) -> tuple[float, float, float]:
    """Points of accuracy by which `ours` is better, with its 95 % interval: a paired bootstrap
    over test images and seeds.

    Args:
        ours: cells of one way, network and budget.
        other: those of another, of the same seeds in the same order.
    """
    gains = [
        [a - b for a, b in zip(unpacked(mine), unpacked(theirs), strict=True)]
        for mine, theirs in zip(ours, other, strict=True)
    ]
    source, drawn = random.Random(0), []
    counts = [[row.count(value) for value in (-1, 0, 1)] for row in gains]
    for _ in range(DRAWN):
        seeds = source.choices(range(len(counts)), k=len(counts))
        drawn.append(mean(_resampled(source, counts[seed]) for seed in seeds))
    drawn.sort()
    middle = mean(mean(row) for row in gains)
    low, high = drawn[DRAWN // 40], drawn[-DRAWN // 40]
    return 100 * middle, 100 * low, 100 * high


def _resampled(source: random.Random, counts: Sequence[int]) -> float:
    """The mean of as many draws from {−1, 0, 1} as there are images; near enough normal."""
    total = sum(counts)
    average = (counts[2] - counts[0]) / total
    variance = (counts[2] + counts[0]) / total - average**2
    return source.gauss(average, (variance / total) ** 0.5)


def table(cells: Sequence[Cell]) -> str:
    """Every way of every network and budget: means over seeds, and the tree's gain over it."""
    lines = [
        "| network | budget | way | seeds | latency ratio | test accuracy | the tree is better by "
        "| measured | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, float], dict[str, list[Cell]]] = {}
    for cell in cells:
        groups.setdefault((cell.network, cell.budget), {}).setdefault(cell.way, []).append(cell)
    for (network, budget), ways in groups.items():
        for way, own in ways.items():
            lines.append(_row(network, budget, way, own, ways.get("tree", [])))
    return "\n".join(lines)


def _row(network: str, budget: float, way: str, own: list[Cell], tree: list[Cell]) -> str:
    ours = {cell.seed: cell for cell in tree}
    pairs = [(ours[cell.seed], cell) for cell in own if cell.seed in ours and way != "tree"]
    gain = ""
    if pairs:
        middle, low, high = difference(*map(list, zip(*pairs, strict=True)))
        gain = f"{middle:+.2f} [{low:+.2f}, {high:+.2f}]"
    over = "" if all(cell.meets for cell in own) else " (over)"
    return (
        f"| {network} | {budget:g} | {way} | {len(own)} | "
        f"{mean(c.ratio for c in own):.3f}{over} | {100 * mean(c.accuracy for c in own):.2f} % | "
        f"{gain} | {mean(c.measured for c in own):.0f} | {mean(c.seconds for c in own):.0f} |"
    )
