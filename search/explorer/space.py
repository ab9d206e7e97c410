"""The widths that a search may choose from, and the cheapest ways to reach a latency target.

Knows stairs, floors, penalties and the prior; requests and measures nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from search.explorer.importance import Importance
from search.explorer.knapsack import Option, cheapest
from search.explorer.prior import LatencyPrior, Sample
from search.explorer.segments import Pattern

Widths = Mapping[str, int]


@dataclass(frozen=True)
class Space:
    """Allowed widths per group (widest first, none below its floor), with prior and penalties.

    Attributes:
        gain: a width is a stair only if it saves this ratio against every larger one.
        pattern: the precision of every segment, where it is fixed.
    """

    allowed_widths: Mapping[str, tuple[int, ...]]
    importance: Importance
    prior: LatencyPrior
    gain: float = 0.0
    fits: Callable[[Widths], bool] | None = None
    pattern: Pattern = field(default_factory=dict)

    @classmethod
    def above_floors(
        cls,
        prior: LatencyPrior,
        importance: Importance,
        floors: Mapping[str, int],
        gain: float = 0.0,
    ) -> "Space":
        """The stairs at or above the floors."""
        allowed_widths = {
            name: tuple(width for width in rows if width >= floors[name])
            for name, rows in prior.stairs.items()
        }
        return cls(allowed_widths, importance, prior, gain)

    def learned(self, prior: LatencyPrior) -> "Space":
        """The same widths with another prior."""
        return replace(self, prior=prior)

    def limited(self, fits: Callable[[Widths], bool]) -> "Space":
        """The same, for plans that `fits` accepts; whatever it accepts it accepts narrower too."""
        return replace(self, fits=fits)

    def patterns(self) -> Sequence[Pattern]:
        """Where a search begins: all float, all that may be in int8, and int8 where it saves time
        as far as that is known of single segments. One alone without segments."""
        widths = {name: self.allowed_widths[name] for name in self.importance.segments}
        roots: list[Pattern] = [
            {name: max(each) for name, each in widths.items()},
            {name: min(each) for name, each in widths.items()},
            {name: self._faster(name) for name in widths},
        ]
        return [root for place, root in enumerate(roots) if root not in roots[:place]]

    def _faster(self, segment: str) -> int:
        """The precision in which a segment alone is faster."""
        widths = self.allowed_widths[segment]
        return max(widths, key=lambda width: self.prior.cut(segment, width, {}))

    def under(self, pattern: Pattern) -> "Space":
        """The same with the precision of every segment fixed: of the widths those that are stairs
        then."""
        if not self.importance.segments:
            return self
        allowed = {
            name: (pattern[name],) if name in pattern else self._stairs_under(name, pattern)
            for name in self.allowed_widths
        }
        return replace(self, allowed_widths=allowed, pattern=dict(pattern))

    def _stairs_under(self, group: str, pattern: Pattern) -> tuple[int, ...]:
        kept: list[int] = []
        most = -float("inf")
        for width in self.allowed_widths[group]:
            saved = self.prior.cut(group, width, pattern)
            if saved > most + (self.gain if kept else 0.0):
                kept.append(width)
                most = saved
        return tuple(kept)

    def reaches(self, widths: Widths, target: float, predict: Callable[[Widths], float]) -> bool:
        """Whether a plan is predicted to take at most `target`, and is small enough."""
        return predict(widths) <= target and (self.fits is None or self.fits(widths))

    def fastest(self) -> dict[str, int]:
        """The narrowest stair of every group, in the pattern that is fastest with them; each stair
        is faster than all wider ones."""
        spaces = [self.under(pattern) for pattern in self.patterns()]
        narrowest = [
            {name: widths[-1] for name, widths in space.allowed_widths.items()} for space in spaces
        ]
        return min(narrowest, key=self.prior.ratio) if len(narrowest) > 1 else narrowest[0]

    def narrower(self, group: str, width: int) -> int | None:
        """The next stair below a width."""
        return next((stair for stair in self.allowed_widths[group] if stair < width), None)

    def wider(self, group: str, width: int) -> int | None:
        """The next stair above a width."""
        return next(
            (stair for stair in reversed(self.allowed_widths[group]) if stair > width), None
        )

    def cheapest(
        self,
        target: float,
        predict: Callable[[Widths], float],
        *,
        least: Widths | None = None,
        most: Widths | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> dict[str, int] | None:
        """Least penalty at a predicted ratio of at most `target`: a multiple-choice knapsack.

        Args:
            target: Ratio to reach.
            predict: Ratio of a plan; need not be additive.
            least: No group gets narrower than this.
            most: No group gets wider than this.
            weights: Factors on the penalties of groups.

        Returns:
            Widths, or None when no plan within the bounds reaches the target.
        """
        options = {}
        for name, widths in self.allowed_widths.items():
            low = least[name] if least else 0
            high = most[name] if most else widths[0]
            factor = weights[name] if weights else 1.0
            options[name] = [
                Option(
                    width, factor * self.importance.penalty(name, width), self._saving(name, width)
                )
                for width in widths
                if low <= width <= high
            ]
            if not options[name]:
                return None
        return cheapest(options, lambda widths: self.reaches(widths, target, predict))

    def _saving(self, group: str, width: int) -> float:
        return self.prior.saving(group, width, self.pattern)


def anchored(space: Space, sample: Sample) -> Callable[[Widths], float]:
    """The prior's prediction near a measured plan."""

    def predict(widths: Widths) -> float:
        return space.prior.anchored(widths, sample)

    return predict
