"""Pools: devices of one kind that measure a job together. The rules by which one joins and is set
aside, on numbers alone; what is done about it is the collector's.

| symbol | meaning |
|---|---|
| first | the device that measured the dense model, and so began the pool |
| reference_ms | the dense model's latency, as it is measured beside every candidate |
| baseline | a device's reference_ms when it joined; the first one's is that of the dense model |

Every ratio is paired with a reference on its own device. Devices of one kind may still differ
(cooling, memory, neighbours), hence the A/A test before anything counts and the watch after it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from jobs.ids import sha256_hex
from jobs.tables import Measurement

# What is asked of two measurements of one model on one device beside a busy neighbour.
AA_TOLERANCE = 0.02
# An interval wider than this includes 1 whatever the device does.
AA_HALF_WIDTH = 0.05
# Chosen, not measured: what is further off runs at another clock or beside a neighbour, and that
# moves ratios too.
REFERENCE_TOLERANCE = 0.05
# Three of five off is no single disturbance, and is noticed before much has to be asked again.
DRIFT_WINDOW = 5


@dataclass(frozen=True)
class Pool:
    """The devices of a job beside the first one, by id.

    Attributes:
        baselines: reference_ms of those that joined, in milliseconds.
        aside: Why those that were set aside, the first one perhaps among them, measure no more.
        drifted: Why those that drifted and had nobody to take over go on nevertheless.
        names: What all these devices are called.
    """

    baselines: Mapping[str, float] = field(default_factory=dict)
    aside: Mapping[str, str] = field(default_factory=dict)
    drifted: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)

    def serves(self, device_id: str, first: str) -> bool:
        """Whether what this device measures counts, in the pool that `first` began."""
        is_member = device_id == first or device_id in self.baselines
        return is_member and device_id not in self.aside


def kind_of(capabilities: Mapping[str, Any], labels: Mapping[str, str], runtime: str) -> str:
    """The digest of what makes two devices equal to a job: processor, number of cores, the
    version of its runtime, and the label `pool` where an operator set one."""
    version = (capabilities.get("runtimes", {}).get(runtime) or {}).get("version")
    facts = [capabilities.get("cpu"), capabilities.get("cores"), version, labels.get("pool")]
    return sha256_hex(json.dumps(facts))[:16]


def refusal(found: Measurement, dense: Measurement) -> str | None:
    """Why a device may not join after it measured the dense model against itself; None: it may.

    Args:
        found: Its answer.
        dense: The first device's.
    """
    if found.ratio is None or found.ratio_low is None or found.ratio_high is None:
        return f"it could not measure the dense model: {found.error_kind} {found.error_message}"
    if found.runtime_version != dense.runtime_version:
        return f"it runs version {found.runtime_version}, the pool {dense.runtime_version}"
    shown = f"{found.ratio:.4f} [{found.ratio_low:.4f}, {found.ratio_high:.4f}]"
    if found.ratio_high - found.ratio_low > 2 * AA_HALF_WIDTH * found.ratio:
        return f"it is too noisy: the dense model against itself took {shown}"
    if found.ratio_low > 1 + AA_TOLERANCE or found.ratio_high < 1 - AA_TOLERANCE:
        return f"the dense model against itself took {shown}, which is not 1"
    if found.reference_ms is None or dense.reference_ms is None:
        return "it gave no reference latency"
    if _is_off(found.reference_ms, dense.reference_ms):
        change = found.reference_ms / dense.reference_ms - 1
        return (
            f"its reference latency of {found.reference_ms:.4g} ms is {change:+.1%} off the "
            f"pool's {dense.reference_ms:.4g} ms"
        )
    return None


def update(version: str | None, dense: Measurement) -> str | None:
    """Why what a device measures with this version of its runtime is not comparable; None: it
    is."""
    if version == dense.runtime_version:
        return None
    return f"it runs version {version} of its runtime, the job began with {dense.runtime_version}"


def drift(reference_ms: Sequence[float], baseline_ms: float) -> int | None:
    """Which of a device's last `DRIFT_WINDOW` measurements is the first that drifted.

    Args:
        reference_ms: Of these measurements, oldest first.

    Returns:
        Its place; None if their median is within the tolerance, or there are not enough yet.
    """
    if len(reference_ms) < DRIFT_WINDOW or not _is_off(median(reference_ms), baseline_ms):
        return None
    return next(n for n, each in enumerate(reference_ms) if _is_off(each, baseline_ms))


def _is_off(reference_ms: float, baseline_ms: float) -> bool:
    return abs(reference_ms / baseline_ms - 1) > REFERENCE_TOLERANCE
