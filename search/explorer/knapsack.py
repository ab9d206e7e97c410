"""Multiple-choice knapsack over group widths: least penalty for each latency saving.

Knows nothing of trees or measurements. The dynamic program runs over savings in steps of
`RESOLUTION` of the dense latency; best[s] is the least penalty of a plan that saves ≥ s.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESOLUTION = 1 / 2000


@dataclass(frozen=True)
class Option:
    """One width that a group may take, what it costs in penalty and saves in latency."""

    width: int
    penalty: float
    saving: float


class TradeOff:
    """The trade-off between penalty and saving: `at(s)` is the best plan that saves ≥ s steps."""

    def __init__(self, options: Mapping[str, Sequence[Option]]) -> None:
        self._names = sorted(options)
        self._options = {name: list(options[name]) for name in self._names}
        self._steps = {
            name: [max(0, round(option.saving / RESOLUTION)) for option in rows]
            for name, rows in self._options.items()
        }
        self.most = sum(max(steps) for steps in self._steps.values())
        best = np.full(self.most + 1, np.inf)
        best[0] = 0.0
        self._chosen: dict[str, np.ndarray] = {}
        for name in self._names:
            best, self._chosen[name] = self._add(best, name)

    def _add(self, best: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
        index = np.arange(len(best))
        totals = np.stack([
            best[np.maximum(index - steps, 0)] + option.penalty
            for option, steps in zip(self._options[name], self._steps[name], strict=True)
        ])  # fmt: skip
        chosen = np.argmin(totals, axis=0)
        return totals[chosen, index], chosen

    def at(self, saving: int) -> dict[str, int]:
        """Widths of the best plan that saves at least `saving` steps (0 ≤ saving ≤ most)."""
        widths = {}
        for name in reversed(self._names):
            row = int(self._chosen[name][saving])
            widths[name] = self._options[name][row].width
            saving = max(saving - self._steps[name][row], 0)
        return widths


def cheapest(
    options: Mapping[str, Sequence[Option]], reaches: Callable[[Mapping[str, int]], bool]
) -> dict[str, int] | None:
    """Least penalty among the plans of the trade-off curve that `reaches` accepts.

    `reaches` may judge by a prediction that is not additive, as long as it grows with the
    saving; the curve is bisected by it. None when even the largest saving does not reach.
    """
    if not options:
        return None
    curve = TradeOff(options)
    if not reaches(curve.at(curve.most)):
        return None
    low, high = -1, curve.most
    while high - low > 1:
        middle = (low + high) // 2
        if reaches(curve.at(middle)):
            high = middle
        else:
            low = middle
    return curve.at(high)
