"""The widths that a search may choose from, and the cheapest ways to reach a latency target.

Knows stairs, floors, penalties and the prior; requests and measures nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from search.explorer.importance import Importance
from search.explorer.knapsack import Option, cheapest
from search.explorer.prior import LatencyPrior, Sample

Widths = Mapping[str, int]


@dataclass(frozen=True)
class Space:
    """Allowed widths per group (widest first, none below its floor), with prior and penalties."""

    allowed_widths: Mapping[str, tuple[int, ...]]
    importance: Importance
    prior: LatencyPrior
    fits: Callable[[Widths], bool] | None = None

    @classmethod
    def above_floors(
        cls, prior: LatencyPrior, importance: Importance, floors: Mapping[str, int]
    ) -> "Space":
        """The stairs at or above the floors."""
        allowed_widths = {
            name: tuple(width for width in rows if width >= floors[name])
            for name, rows in prior.stairs.items()
        }
        return cls(allowed_widths, importance, prior)

    def learned(self, prior: LatencyPrior) -> "Space":
        """The same widths with another prior."""
        return replace(self, prior=prior)

    def limited(self, fits: Callable[[Widths], bool]) -> "Space":
        """The same, for plans that `fits` accepts; whatever it accepts it accepts narrower too."""
        return replace(self, fits=fits)

    def reaches(self, widths: Widths, target: float, predict: Callable[[Widths], float]) -> bool:
        """Whether a plan is predicted to take at most `target`, and is small enough."""
        return predict(widths) <= target and (self.fits is None or self.fits(widths))

    def fastest(self) -> dict[str, int]:
        """The narrowest stair of every group; each stair is faster than all wider ones."""
        return {name: widths[-1] for name, widths in self.allowed_widths.items()}

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
        return self.prior.saving(group, width)


def anchored(space: Space, sample: Sample) -> Callable[[Widths], float]:
    """The prior's prediction near a measured plan."""

    def predict(widths: Widths) -> float:
        return space.prior.anchored(widths, sample)

    return predict
