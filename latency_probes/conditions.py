"""How the device was while it measured, read from /proc and /sys. Whatever cannot be read is None:
unknown. The root is passed in, so that tests bring their own."""

import os
from collections.abc import Sequence
from pathlib import Path

from latency_probes.samples import Conditions
from latency_probes.spawn import ALLOCATOR
from latency_probes.sysfs import line, number, text

_ROOT = Path("/")
_ALLOCATOR = " ".join(f"{name}={value}" for name, value in ALLOCATOR.items())


def read_conditions(cores: Sequence[int], root: Path = _ROOT) -> Conditions:
    """The state of these cores and of the machine, now."""
    frequency = root / f"sys/devices/system/cpu/cpu{cores[0] if cores else 0}/cpufreq"
    memory = number(line(root / "proc/meminfo", "MemAvailable"))
    load = number(text(root / "proc/loadavg"))
    kernel = text(root / "proc/sys/kernel/osrelease")
    return Conditions(
        cores=tuple(cores),
        governor=text(frequency / "scaling_governor"),
        environment=None if kernel is None else f"Linux {kernel[:100]} {_ALLOCATOR}",
        frequency_mhz=_frequency_mhz(frequency, root),
        temperature_c=_temperature_c(root),
        load=load,
        memory_available_mb=None if memory is None else round(memory / 1024),
    )


def usable_cores() -> tuple[int, ...]:
    """The cores that this process may run on."""
    return tuple(sorted(os.sched_getaffinity(0)))


def parse_cores(given: str) -> tuple[int, ...]:
    """A list of CPU numbers as `taskset` takes it: "1", "0,2", "2-5".

    Raises:
        ValueError: it is no such list, or names a core that this process may not use.
    """
    cores: set[int] = set()
    for part in given.split(","):
        first, dash, last = part.partition("-")
        try:
            cores.update(range(int(first), int(last if dash else first) + 1))
        except ValueError as error:
            raise ValueError(f"cores must be like 1 or 0,2 or 2-5, but got {given!r}") from error
    usable = usable_cores()
    if not cores or not cores <= set(usable):
        raise ValueError(f"cores must be among {list(usable)}, but got {given!r}")
    return tuple(sorted(cores))


def _frequency_mhz(frequency: Path, root: Path) -> float | None:
    khz = number(text(frequency / "scaling_cur_freq"))
    mhz = khz / 1000 if khz else number(line(root / "proc/cpuinfo", "cpu MHz"))
    return mhz or None


def _temperature_c(root: Path) -> float | None:
    """The hottest thermal zone."""
    zones = (root / "sys/class/thermal").glob("thermal_zone*/temp")
    found = [value / 1000 for zone in zones if (value := number(text(zone))) is not None]
    return max(found, default=None)
