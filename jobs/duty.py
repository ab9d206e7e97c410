"""How much of the time that candidates of a job waited its devices spent on measuring them.

Pure numbers; knows no table and no clock.

| symbol | meaning | unit |
|---|---|---|
| waiting | the time in which at least one candidate was asked of a device and not answered | s |
| busy | what the measuring processes of these candidates took | s |
| duty | busy / waiting | 1 |
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Span:
    """One measured candidate: when it was asked for and answered, and what it took."""

    device_id: str
    asked_at: datetime
    answered_at: datetime
    busy_s: float


def duties(spans: Iterable[Span]) -> dict[str, float]:
    """The duty of each device; what waits for any of several devices waits for the one that
    answers."""
    by_device: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        by_device[span.device_id].append(span)
    return {
        device: sum(each.busy_s for each in its) / waited
        for device, its in by_device.items()
        if (waited := _waiting_s(its)) > 0
    }


def _waiting_s(spans: Iterable[Span]) -> float:
    """The length of all spans together; where they overlap, once."""
    total, end = 0.0, float("-inf")
    for span in sorted(spans, key=lambda each: each.asked_at):
        began, ended = span.asked_at.timestamp(), span.answered_at.timestamp()
        total += max(0.0, ended - max(began, end))
        end = max(end, ended)
    return total
