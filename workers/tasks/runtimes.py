"""Notes which runtimes take part where a job chooses one, so that what the device announces later
changes nothing."""

from __future__ import annotations

from jobs.runtimes import DENSE, taking_part
from workers.phases.precision import formats_of
from workers.results import Runtimes
from workers.work import Done, Work


def runtimes(work: Work) -> Done:
    """Those of the device, with their formats, and the one that was asked first."""
    device = work.snapshot.device
    if device is None:
        raise LookupError(f"{work.snapshot.job.id} must have a device, but has none")
    told = (device.capabilities or {}).get("runtimes") or {}
    names = {*taking_part(told), work.snapshot.requests[DENSE].target["runtime"]}
    found = {name: formats_of(device.capabilities, name) for name in sorted(names)}
    return Done(Runtimes(runtimes=found).document())
