"""A synthetic network of twelve groups on a synthetic device whose latency is a staircase.

The network has the shape of a ResNet-20: three stages of widths 16, 32, 64, a residual group per
stage and three inner groups in each. Latency is not monotone in width, and noisy.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from search.explorer import Candidate, Explorer, Failed, Measured, Scored
from search.explorer.outcomes import Outcome
from search.sensitivity import Sensitivity


@dataclass(frozen=True)
class FakeGroup:
    name: str
    width: int
    status: str = "prunable"
    required_any_of: tuple[tuple[int, ...], ...] = ()
    min_width: int = 1
    channels: int = 1


GROUPS = tuple(
    FakeGroup(f"stage{stage}.{part}", width)
    for stage, width in enumerate((16, 32, 64))
    for part in ("residual", "inner0", "inner1", "inner2")
)
FLOORS = {group.name: max(1, group.width // 4) for group in GROUPS}
LAYERS = [
    (f"stage{stage}.{first}", f"stage{stage}.{second}")
    for stage in range(3)
    for inner in ("inner0", "inner1", "inner2")
    for first, second in (("residual", inner), (inner, "residual"))
]
OVERHEAD = 0.15


def scores(seed: int = 0) -> dict[str, Tensor]:
    """Log-normal scores, as weights' norms are."""
    generator = torch.Generator().manual_seed(seed)
    return {
        group.name: torch.randn(group.width, generator=generator, dtype=torch.float64).exp()
        for group in GROUPS
    }


def relax(times: int) -> dict[str, int]:
    return {name: max(1, floor >> times) for name, floor in FLOORS.items()}


def _steps(width: int) -> float:
    """Width as the device sees it: whole blocks of 8, and a slow path for odd widths."""
    if width % 4:
        return 8 * math.ceil(width / 8) * 1.3
    return 8 * math.ceil(width / 8) if width % 8 == 0 else 8 * math.ceil(width / 8) - 2


@dataclass
class Device:
    """Answers candidates; noise is a function of the digest and the seed."""

    seed: int = 0
    noise: float = 0.005
    interval: float = 0.008
    failing: float = 0.0
    importance: dict[str, Tensor] = field(default_factory=scores)
    latencies: int = 0
    losses: int = 0

    def latency(self, widths: Mapping[str, int]) -> float:
        """True ratio to dense."""
        full = {group.name: group.width for group in GROUPS}
        body = sum(
            _steps(widths[first]) * _steps(widths[second]) / (full[first] * full[second])
            for first, second in LAYERS
        ) / len(LAYERS)
        return OVERHEAD + (1 - OVERHEAD) * body

    def loss(self, kept: Mapping[str, Iterable[int]]) -> float:
        """True loss: what is removed, weighted by group, more than additive."""
        rise = 0.0
        for index, group in enumerate(GROUPS):
            values = self.importance[group.name]
            gone = max(0.0, 1.0 - float(values[list(kept[group.name])].sum() / values.sum()))
            weight = 1.0 if group.name.endswith("residual") else 0.2 + 0.1 * (index % 4)
            rise += weight * gone**1.5
        return 0.2 + rise + 0.1 * rise**2

    def answer(self, candidate: Candidate) -> Outcome:
        if self._uniform(candidate, "fails") < self.failing:
            return Failed("crashed", "the child process ended")
        if candidate.needs == "loss":
            self.losses += 1
            return Scored(self.loss(candidate.plan.kept))
        self.latencies += 1
        scale = 1.0 + self.noise * (2.0 * self._uniform(candidate, "noise") - 1.0) * math.sqrt(3)
        ratio = self.latency(candidate.plan.widths) * scale
        half = self.interval * ratio
        return Measured(ratio, ratio - half, ratio + half, 10 * ratio)

    def _uniform(self, candidate: Candidate, purpose: str) -> float:
        material = f"{self.seed}:{candidate.digest}:{candidate.needs}:{purpose}".encode()
        return int.from_bytes(hashlib.sha256(material).digest()[:6], "big") / 2**48


def drive(explorer: Explorer, device: Device) -> Explorer:
    """Asks and tells until done."""
    while not explorer.done:
        candidates = explorer.ask()
        if not candidates:
            raise RuntimeError("the explorer waits for an answer that nobody was asked for")
        for candidate in candidates:
            explorer.tell(candidate, device.answer(candidate))
    return explorer


def best_units(values: Tensor, width: int) -> list[int]:
    order = torch.argsort(values, descending=True, stable=True)
    return [int(unit) for unit in order[:width]]


def best_uniform_loss(device: Device, budget: float) -> float:
    """The least loss of uniform pruning that truly meets the budget."""
    losses = []
    for percent in range(1, 100):
        widths = {group.name: max(1, group.width * percent // 100) for group in GROUPS}
        if device.latency(widths) <= budget:
            kept = {name: best_units(device.importance[name], widths[name]) for name in widths}
            losses.append(device.loss(kept))
    return min(losses, default=math.inf)


def sensitivity(device: Device) -> Sensitivity:
    """The loss rises of single groups, as `layer_sensitivity` would measure them."""
    dense = {group.name: list(range(group.width)) for group in GROUPS}
    ratios = (1 / 8, 1 / 4, 1 / 2, 3 / 4)
    rises = {}
    for group in GROUPS:
        widths = [round(group.width * (1 - ratio)) for ratio in ratios]
        cuts = [best_units(device.importance[group.name], width) for width in widths]
        losses = [device.loss({**dense, group.name: cut}) for cut in cuts]
        rises[group.name] = tuple(loss - device.loss(dense) for loss in losses)
    return Sensitivity(ratios, rises)
