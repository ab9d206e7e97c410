"""Who runs on which core: a probe that shares its machine keeps a core to itself."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

from api.stack.launcher import keep_to


@dataclass(frozen=True)
class CorePlan:
    """The cores of the servers (API, collector, workers) and of the probe.

    An empty tuple means "wherever the scheduler likes": with one core they take turns.
    """

    servers: tuple[int, ...]
    probe: tuple[int, ...]

    @property
    def all(self) -> tuple[int, ...]:
        """What a fine-tuning may use while nothing is measured; none where they take turns."""
        return (*self.servers, *self.probe)


def available_cores() -> tuple[int, ...]:
    """Cores that this process may run on, in ascending order."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def plan_cores(cores: Iterable[int], *, probe: bool) -> CorePlan:
    """Gives the last core to the probe and the others to everybody else.

    Args:
        cores: The cores that may be used.
        probe: Whether a local probe runs at all.
    """
    ordered = tuple(sorted(cores))
    if not probe:
        return CorePlan(servers=ordered, probe=())
    if len(ordered) < 2:
        return CorePlan(servers=(), probe=())
    return CorePlan(servers=ordered[:-1], probe=ordered[-1:])


def default_workers(plan: CorePlan) -> int:
    """One worker per core that the servers own."""
    return max(1, len(plan.servers))


def threads_per_worker(plan: CorePlan, workers: int) -> int:
    """Threads that a worker may use without crowding out its siblings."""
    return max(1, len(plan.servers) // workers)


def leave_the_probe_alone(plan: CorePlan) -> None:
    """Keeps this process off the probe's core. What it starts later inherits that."""
    if plan.probe:
        keep_to(set(plan.servers))
