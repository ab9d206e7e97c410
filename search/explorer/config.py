"""What a user may set of the Archtree search. Knows nothing of models, devices or files."""

import math
from dataclasses import dataclass
from typing import Any

from search.errors import ConfigError

PROPOSALS = ("knapsack", "cut", "exchange")


@dataclass(frozen=True)
class SearchConfig:
    """Settings of one search.

    | symbol | field | meaning |
    |---|---|---|
    | β | budget | latency that the result must not exceed, as a ratio to the dense model |
    | N | beam_width | nodes kept at each level |
    | K | children | plans that each kept node proposes |
    | T | levels | intermediate latency targets, geometric from 1 to β |

    Args:
        budget: β > 0. From 1 on, the dense model already meets it.
        beam_width: N.
        children: K.
        levels: T.
        seed: Of the perturbed proposals.
        max_moves: How often a candidate that misses its target is moved and measured again.
        min_width: The hard minimum of every group, below any floor.
        staircase_points: Most widths measured alone per group; fewer where groups are many.
        stair_gain: A width is a stair only if it saves this ratio against every larger one.
        aim: Proposals aim at this part of a target, to leave room for the interval.
        window: The finalists' ratio lies in [window[0]·β, window[1]·β].
        floor_room: Floors are relaxed until the fastest plan above them takes at most this part
            of β: floors that leave no choice leave no search.
        proposals: Kinds of children: knapsack (a), single-group cut (b), exchange (c).
        perturbation: Spread of the perturbed knapsacks (log scale).
        learn: Correct the latency prior by whole-model measurements.
        blocks: Remove whole residual blocks too; else they all stay.
        entwined: Steps of fine-tuning that every node kept at a level gets before its children
            are made; they start from its weights. 0 trains nothing before the end.
        refinements: Most rounds at the budget after the levels: exchanges around what is best,
            and other knapsacks of as much latency. They end once a round brings nothing better.
        widen: Whether there are fewer levels where their targets would be closer than what the
            measured latencies tell apart.
        uniform: Whether the uniformly thinner network is measured and scored beside the tree.
        multiple: Channels that stay are a multiple of this, unless all do.
        max_parameters: The most that the result may have; None is no limit.
        max_memory_mb: The most that one call of the result may hold at once, in 10⁶ bytes, see
            `PruningGraph.memory_bytes`; None is no limit.
        batch_size: For which `max_memory_mb` counts.
    """

    budget: float
    beam_width: int = 4
    children: int = 6
    levels: int = 5
    seed: int = 0
    max_moves: int = 3
    min_width: int = 1
    staircase_points: int = 4
    stair_gain: float = 0.002
    aim: float = 0.985
    window: tuple[float, float] = (0.955, 0.995)
    floor_room: float = 0.75
    proposals: tuple[str, ...] = PROPOSALS
    perturbation: float = 0.4
    learn: bool = True
    blocks: bool = True
    entwined: int = 0
    refinements: int = 2
    widen: bool = True
    uniform: bool = True
    multiple: int = 1
    max_parameters: int | None = None
    max_memory_mb: float | None = None
    batch_size: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", tuple(self.window))
        object.__setattr__(self, "proposals", tuple(self.proposals))
        if not (math.isfinite(self.budget) and self.budget > 0):
            raise ConfigError(f"budget must be a finite ratio > 0, but got {self.budget}")
        counts = (
            "beam_width", "children", "levels", "min_width", "staircase_points", "multiple",
            "batch_size",
        )  # fmt: skip
        for name in counts:
            _require_at_least(name, getattr(self, name), 1)
        if self.max_parameters is not None:
            _require_at_least("max_parameters", self.max_parameters, 1)
        if self.max_memory_mb is not None and not 0 < self.max_memory_mb < math.inf:
            raise ConfigError(
                f"max_memory_mb must be finite and > 0, but got {self.max_memory_mb}"
            )
        for name in ("max_moves", "seed", "entwined", "refinements"):
            _require_at_least(name, getattr(self, name), 0)
        for name in ("stair_gain", "perturbation"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} must be finite and ≥ 0, but got {value}")
        if not 0 < self.floor_room <= 1:
            raise ConfigError(f"floor_room must be in (0, 1], but got {self.floor_room}")
        self._check_aim()
        unknown = [kind for kind in self.proposals if kind not in PROPOSALS]
        if unknown or not self.proposals:
            raise ConfigError(
                f"proposals must be one or more of {list(PROPOSALS)}, but got {self.proposals}"
            )

    def _check_aim(self) -> None:
        if len(self.window) != 2 or not 0 < self.window[0] < self.window[1] <= 1:
            raise ConfigError(f"window must be 0 < low < high ≤ 1, but got {self.window}")
        if not self.window[0] < self.aim <= self.window[1]:
            raise ConfigError(f"aim must lie inside the window {self.window}, but got {self.aim}")

    @property
    def targets(self) -> tuple[float, ...]:
        """λ_1 > … > λ_T = β."""
        return self.targets_apart(0.0)

    def targets_apart(self, least: float) -> tuple[float, ...]:
        """The same, fewer where neighbours would be less than `least` of the latency apart."""
        levels = self.levels
        if least > 0 and self.budget < 1:
            most = math.log(self.budget) / math.log1p(-min(least, 0.99))
            levels = min(levels, max(math.floor(most + 1e-9), 1))
        return tuple(self.budget ** (level / levels) for level in range(1, levels + 1))

    @property
    def entwined_steps(self) -> int:
        """The most steps that a finalist can have learnt in the tree."""
        return self.entwined * (self.levels - 1)

    def check_steps(self, steps: int) -> None:
        """Raises `ConfigError` unless a fine-tuning of `steps` in all leaves some for the end."""
        if self.entwined and self.entwined_steps >= steps:
            raise ConfigError(
                f"entwined times (levels - 1) must be less than the {steps} steps of fine-tuning, "
                f"which it is a part of, but got {self.entwined_steps}; lower entwined, or raise "
                "the steps"
            )

    @classmethod
    def netadapt(
        cls, budget: float, groups: int, *, levels: int = 20, **more: Any
    ) -> "SearchConfig":
        """NetAdapt: one node kept, every group proposes its own cut, nothing learned. Widths only,
        as it has them."""
        return cls(
            budget, beam_width=1, children=groups, levels=levels, proposals=("cut",),
            learn=False, refinements=0, widen=False, uniform=False, **{"blocks": False, **more},
        )  # fmt: skip

    @classmethod
    def halp(cls, budget: float, **more: Any) -> "SearchConfig":
        """HALP's knapsack: one step to the budget by the additive table alone. Widths only."""
        return cls(
            budget, beam_width=1, children=1, levels=1, max_moves=0, proposals=("knapsack",),
            learn=False, refinements=0, widen=False, uniform=False, **{"blocks": False, **more},
        )  # fmt: skip


def _require_at_least(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} must be an integer ≥ {least}, but got {value!r}")
