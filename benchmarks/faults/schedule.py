"""What goes wrong, when, and for how long: drawn from a seed before the run begins. Moments are
counted in answers that have come in, so that faults fall into the run on every machine."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

# Kind -> relative frequency, and the bounds of how long it lasts, in seconds.
KINDS = {
    "kill agent": (6, 0.0, 2.0),
    "drain agent": (2, 0.0, 1.0),
    "cut link": (6, 0.0, 0.0),
    "take down link": (3, 0.2, 3.0),
    "hold up link": (3, 0.2, 4.0),
    "kill broker": (2, 0.0, 1.5),
    "restart broker": (1, 0.0, 1.5),
    "kill collector": (2, 0.0, 1.0),
}
_EVERY = 12


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong once `after` answers have come in, and is mended after
    `lasts_s`."""

    after: int
    kind: str
    target: str
    lasts_s: float


def draw(measurements: int, agents: Sequence[str], seed: int, frozen_s: float) -> list[Fault]:
    """About one fault in every dozen answers, each kind at least once, and early on one agent that
    is frozen for longer than its lease: its request goes to another, and its answer is late."""
    chance = random.Random(f"faults {seed}")
    more = max(measurements // _EVERY - len(KINDS), 0)
    weights = [weight for weight, _, _ in KINDS.values()]
    kinds = [*KINDS, *chance.choices(list(KINDS), weights, k=more)]
    chance.shuffle(kinds)
    moments = sorted(chance.sample(range(1, measurements), len(kinds)))
    pairs = zip(moments, kinds, strict=True)
    drawn = [_drawn(moment, kind, agents, chance) for moment, kind in pairs]
    frozen = Fault(measurements // 4, "freeze agent", chance.choice(agents), frozen_s)
    return sorted([*drawn, frozen], key=lambda fault: fault.after)


def _drawn(after: int, kind: str, agents: Sequence[str], chance: random.Random) -> Fault:
    _, least, most = KINDS[kind]
    if kind.endswith("agent"):
        target = chance.choice(agents)
    elif kind.endswith("link"):
        target = chance.choice([*agents, "collector"])
    else:
        target = kind.split()[-1]
    return Fault(after, kind, target, round(chance.uniform(least, most), 2))
