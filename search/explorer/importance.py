"""What keeping k units of a group is worth, and which units those are. Knows no latency.

| symbol | meaning | shape |
|---|---|---|
| I_g | scores of group g | (W_g,) |
| kept_g(k) | part of ΣI_g that the k best units hold | scalar in (0, 1] |
| S_g(r) | measured loss rise when the part r of group g alone is removed | scalar ≥ 0 |
| penalty_g(k) | S_g(1 − k/W_g) where measured, else −log kept_g(k) | scalar ≥ 0 |
"""

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from search.errors import ExplorerError
from search.explorer.segments import FLOAT, INT8, Segment
from search.floors import monotone_curve, predicted_rise
from search.plan import INT8 as INT8_LAYER
from search.plan import Plan, best_of
from search.widths import narrowest, step_of

_TIE = 1e-4  # of −log kept beside a measured rise: orders widths that the rise leaves equal
_LEAST_KEPT = 1e-9


class GroupLike(Protocol):
    """The part of a `Group` that the explorer reads."""

    @property
    def name(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def status(self) -> str: ...
    @property
    def min_width(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def required_any_of(self) -> Sequence[Sequence[int]]: ...


class GraphLike(Protocol):
    """The part of a `PruningGraph` that the explorer reads."""

    @property
    def groups(self) -> Sequence[GroupLike]: ...


GraphOrGroups = GraphLike | Sequence[GroupLike]


class ScoreLike(Protocol):
    """A tensor or an array."""

    def tolist(self) -> list[float]: ...


class SensitivityLike(Protocol):
    """The part of a `Sensitivity` that the explorer reads."""

    @property
    def ratios(self) -> Sequence[float]: ...
    @property
    def rises(self) -> Mapping[str, Sequence[float]]: ...


class Importance:
    """Penalties and kept units of every group, computed once.

    Args:
        groups: All groups, frozen ones too: a plan names every group.
        scores: One vector per searched group; a group without scores stays dense.
        sensitivity: Measured loss rises; scores compare only within a layer, these compare
            across layers.
        blocks: Groups that can go altogether are searched as well; else they stay dense.
        multiple: Channels that stay are a multiple of this, unless all do.
        segments: Layers whose precision is searched.
    """

    def __init__(
        self,
        groups: Sequence[GroupLike],
        scores: Mapping[str, ScoreLike],
        sensitivity: SensitivityLike | None = None,
        *,
        blocks: bool = False,
        multiple: int = 1,
        segments: Sequence[Segment] = (),
    ) -> None:
        self.segments = {segment.name: segment for segment in segments}
        self.all_widths = {group.name: group.width for group in groups}
        searched = [
            group
            for group in groups
            if group.status != "frozen" and group.name in scores and (blocks or group.min_width)
        ]
        self.widths = {group.name: group.width for group in searched}
        self.min_widths = {group.name: narrowest(group, multiple) for group in searched}
        self.steps = {group.name: step_of(group, multiple) for group in searched}
        values = {name: _read_scores(name, width, scores) for name, width in self.widths.items()}
        self._order = {name: _order(row) for name, row in values.items()}
        self._parts = {group.name: group.required_any_of for group in groups}
        self._kept: dict[str, dict[int, tuple[int, ...]]] = {name: {} for name in self.all_widths}
        for name in self.segments:
            self.widths[name], self.min_widths[name], self.steps[name] = FLOAT, INT8, 1
            values[name] = np.ones(1)
        self._penalties = {
            name: _penalties(name, values[name], sensitivity) for name in self.widths
        }
        self.fingerprint = _fingerprint(self.all_widths, values)

    def penalty(self, group: str, width: int) -> float:
        """What is lost when the group keeps its `width` best units; 0 when all are kept."""
        return self._penalties[group][width]

    def total(self, widths: Mapping[str, int]) -> float:
        """Penalty of a whole plan; lower is better."""
        return math.fsum(self.penalty(name, widths[name]) for name in self.widths)

    def plan(self, widths: Mapping[str, int]) -> Plan:
        """The plan that keeps the best units of every group; ties go to the lower index.

        A group with parts may keep a unit more than its width, see `best_of`.
        """
        kept = {
            name: self._best(name, widths[name] if name in self.widths else width)
            for name, width in self.all_widths.items()
        }
        precision = {
            layer: INT8_LAYER
            for name, segment in self.segments.items()
            if widths[name] == INT8
            for layer in segment.layers
        }
        return Plan(kept, precision=precision)

    def continuing(self, plan: Plan, scores: Mapping[str, ScoreLike]) -> "Importance":
        """The same penalties, with units in the order of other scores: first those that `plan`
        keeps, of which there are newer weights, then the others."""
        other = copy.copy(self)
        other._kept = {name: {} for name in self.all_widths}
        other._order = {
            name: _kept_first(_order(_read_scores(name, width, scores)), plan.kept[name])
            for name, width in self.group_widths.items()
        }
        return other

    def _best(self, group: str, width: int) -> tuple[int, ...]:
        """The units of one group; worked out once for each width."""
        known = self._kept[group]
        if width not in known:
            known[width] = (
                best_of(self._order[group], width, self._parts[group])
                if group in self.widths
                else tuple(range(width))
            )
        return known[width]

    @property
    def group_widths(self) -> dict[str, int]:
        """Full width of every searched group, without the segments."""
        return {name: width for name, width in self.widths.items() if name not in self.segments}

    def pattern(self, precision: int) -> dict[str, int]:
        """All segments in one precision."""
        return dict.fromkeys(self.segments, precision)


def _order(row: np.ndarray) -> list[int]:
    """Units, the best first."""
    order: list[int] = np.argsort(-row, kind="stable").tolist()
    return order


def _kept_first(order: Sequence[int], kept: Sequence[int]) -> list[int]:
    stays = frozenset(kept)
    return sorted(order, key=lambda unit: unit not in stays)


def _read_scores(name: str, width: int, scores: Mapping[str, ScoreLike]) -> np.ndarray:
    row = np.asarray(scores[name].tolist(), dtype=np.float64)
    if row.shape != (width,):
        raise ExplorerError(f"scores of {name} must have shape ({width},), but got {row.shape}")
    if not np.isfinite(row).all():
        raise ExplorerError(f"scores of {name} must be finite, but got {row.tolist()}")
    return row


def _penalties(
    name: str, row: np.ndarray, sensitivity: SensitivityLike | None
) -> tuple[float, ...]:
    """penalty_g(k) for k = 0 … W_g, falling in k."""
    width = len(row)
    loss_of_score = _log_loss(row)
    if sensitivity is None or name not in sensitivity.rises:
        return tuple(loss_of_score.tolist())
    curve = monotone_curve(sensitivity.ratios, sensitivity.rises[name])
    rises = [predicted_rise(curve, 1.0 - kept / width) for kept in range(width + 1)]
    return tuple((np.array(rises) + _TIE * loss_of_score).tolist())


def _log_loss(row: np.ndarray) -> np.ndarray:
    """−log kept_g(k) for k = 0 … W_g; all-equal scores count units."""
    positive = row - min(float(row.min()), 0.0)
    if positive.sum() <= 0:
        positive = np.ones_like(positive)
    kept = np.concatenate([[0.0], np.cumsum(np.sort(positive)[::-1])]) / positive.sum()
    loss: np.ndarray = -np.log(np.clip(kept, _LEAST_KEPT, 1.0))
    return np.minimum.accumulate(loss)


def _fingerprint(widths: Mapping[str, int], values: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(widths):
        digest.update(f"{name}:{widths[name]};".encode())
        if name in values:
            digest.update(values[name].astype("<f8").tobytes())
    return digest.hexdigest()
