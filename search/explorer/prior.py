"""Predicts the latency ratio of a plan from staircases and whole-model measurements.

It proposes and never decides: every candidate is measured.

| symbol | meaning | shape |
|---|---|---|
| d_g(w) | 1 − measured ratio with only group g cut to w | scalar |
| x | features: d_g per group, then κ's: Π(1 − d_g) − 1 + Σ d_g ≥ 0 | (G + 1,) |
| θ_g | how much of a group's own saving remains beside other cuts; prior mean 1 | (G,) |
| κ | 0: cuts add up; 1: they multiply (two groups share a layer); prior mean ½ | scalar |

1 − ratio = Σ θ_g d_g − κ (Π(1 − d_g) − 1 + Σ d_g), fitted by ridge regression around the means.
"""

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from search.explorer.staircase import Stairs

Widths = Mapping[str, int]


@dataclass(frozen=True)
class Int8Stairs:
    """What is known of cuts while layers are in int8.

    Attributes:
        ratio: of the dense model with all segments in int8.
        stairs: group -> width -> ratio with only this group cut, all segments in int8.
        segments: names of the segments in the order of the network.
        shares: group -> segment -> the part of the group's weights that lie there.
    """

    ratio: float
    stairs: Mapping[str, Mapping[int, float]]
    segments: tuple[str, ...]
    shares: Mapping[str, Mapping[str, float]]

    def cut(self, group: str, width: int, in_float: float) -> float:
        """What a cut saves of the dense float latency; where it was not measured, in proportion to
        what it saves in float."""
        ratio = self.stairs.get(group, {}).get(width)
        return in_float * self.ratio if ratio is None else self.ratio - ratio

    def share(self, group: str, widths: Widths) -> float:
        """The part of a group that is in int8."""
        parts = self.shares.get(group, {})
        return math.fsum(parts.get(name, 0.0) for name in self.segments if widths[name] == 0)


_MODEL_NOISE = 0.008  # what the features cannot explain of a whole-model ratio
_SPREAD_THETA, _SPREAD_KAPPA = 0.25, 0.5
_LEAST_THETA, _MOST_KAPPA = 0.2, 2.0
_LEAST_RATIO = 0.01
_MISSED = 0.02  # typical error of the prediction at a plan not measured yet
_REACH = 0.12  # ratio difference over which an anchor's residual fades
_FOCUS = 0.15  # ratio difference at which a sample counts half


@dataclass(frozen=True)
class Sample:
    """A measured plan; `noise` is the standard error of its ratio."""

    widths: Widths
    ratio: float
    noise: float = 0.0


class LatencyPrior:
    """Additive over groups at first, corrected by `fitted`.

    Args:
        stairs: Allowed widths of each searched group and segment with their ratios.
        int8: What cuts save in int8; a group that spans both precisions mixes the two.
    """

    def __init__(self, stairs: Mapping[str, Stairs], int8: Int8Stairs | None = None) -> None:
        self.stairs = {name: dict(stairs[name]) for name in sorted(stairs)}
        self.int8 = int8
        self._theta = dict.fromkeys(self.stairs, 1.0)
        self._kappa = 0.5

    def knows(self, widths: Widths) -> bool:
        """Whether every width is one of the stairs."""
        return all(widths[name] in rows for name, rows in self.stairs.items())

    def cut(self, name: str, width: int, widths: Widths) -> float:
        """d_g(w) under the precisions in `widths`; of a segment, what int8 saves."""
        in_float = 1.0 - self.stairs[name][width]
        if self.int8 is None or name in self.int8.segments or in_float == 0.0:
            return in_float
        share = self.int8.share(name, widths)
        return (1.0 - share) * in_float + share * self.int8.cut(name, width, in_float)

    def saving(self, group: str, width: int, widths: Widths) -> float:
        """θ_g d_g(w): the additive part, for the knapsack."""
        return self._theta[group] * self.cut(group, width, widths)

    def additive(self, widths: Widths) -> float:
        """1 − Σ d_g: what the ratio would be if all savings added up; an optimist's view."""
        return 1.0 - math.fsum(self._cuts(widths))

    def ratio(self, widths: Widths) -> float:
        """Predicted ratio of a plan whose widths are all stairs."""
        cuts = self._cuts(widths)
        total = math.fsum(map(operator.mul, self._theta.values(), cuts))
        return max(_LEAST_RATIO, 1.0 - total + self._kappa * _overlap(cuts))

    def anchored(self, widths: Widths, anchor: "Sample") -> float:
        """Prediction shifted by what it misses at a measured plan.

        The shift fades with the distance, and with the noise of the measurement.
        """
        if not self.knows(anchor.widths):
            return self.ratio(widths)
        predicted, at_anchor = self.ratio(widths), self.ratio(anchor.widths)
        nearness = math.exp(-abs(predicted - at_anchor) / _REACH)
        trust = _MISSED**2 / (_MISSED**2 + anchor.noise**2)
        return max(_LEAST_RATIO, predicted + (anchor.ratio - at_anchor) * nearness * trust)

    def fitted(self, samples: Sequence["Sample"], around: float) -> "LatencyPrior":
        """A prior corrected by measured plans.

        Args:
            samples: Measured plans, in an order that does not depend on arrival.
            around: Ratio of interest; samples far from it count less.
        """
        fitted = LatencyPrior(self.stairs, self.int8)
        known = [sample for sample in samples if self.knows(sample.widths)]
        if not known or not self.stairs:
            return fitted
        x = np.stack([fitted._features(sample.widths) for sample in known])
        x[:, -1] *= -1.0
        y = 1.0 - np.array([sample.ratio for sample in known])
        noise = _MODEL_NOISE**2 + np.array([sample.noise for sample in known]) ** 2
        mean = np.array([1.0] * len(self.stairs) + [0.5])
        spread = np.array([_SPREAD_THETA] * len(self.stairs) + [_SPREAD_KAPPA])
        weight = 1.0 / (noise * (1.0 + ((1.0 - y - around) / _FOCUS) ** 2))
        normal = (x.T * weight) @ x + np.diag(spread**-2.0)
        solution = mean + np.linalg.solve(normal, (x.T * weight) @ (y - x @ mean))
        theta = np.maximum(solution[:-1], _LEAST_THETA)
        fitted._theta = dict(zip(self.stairs, theta.tolist(), strict=True))
        fitted._kappa = float(np.clip(solution[-1], 0.0, _MOST_KAPPA))
        return fitted

    def _features(self, widths: Widths) -> np.ndarray:
        cuts = self._cuts(widths)
        return np.array([*cuts, _overlap(cuts)])

    def _cuts(self, widths: Widths) -> list[float]:
        return [self.cut(name, widths[name], widths) for name in self.stairs]


def _overlap(cuts: Sequence[float]) -> float:
    return math.prod(1.0 - cut for cut in cuts) - 1.0 + math.fsum(cuts)
