"""What the device is, and how it was while it measured, read from /proc and /sys. Whatever cannot
be read is None: unknown. The root is passed in, so that tests bring their own."""

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from latency_probes.messages import Capabilities, RuntimeInfo
from latency_probes.samples import Conditions

_ROOT = Path("/")


def read_conditions(cores: Sequence[int], root: Path = _ROOT) -> Conditions:
    """The state of these cores and of the machine, now."""
    frequency = root / f"sys/devices/system/cpu/cpu{cores[0] if cores else 0}/cpufreq"
    memory = _number(_line(root / "proc/meminfo", "MemAvailable"))
    load = _number(_text(root / "proc/loadavg"))
    return Conditions(
        cores=tuple(cores),
        governor=_text(frequency / "scaling_governor"),
        frequency_mhz=_frequency_mhz(frequency, root),
        temperature_c=_temperature_c(root),
        load=load,
        memory_available_mb=None if memory is None else round(memory / 1024),
    )


def read_capabilities(
    runtimes: Mapping[str, RuntimeInfo], cores: Sequence[int], root: Path = _ROOT
) -> Capabilities:
    """What to tell the server when enrolling."""
    memory = _number(_line(root / "proc/meminfo", "MemTotal"))
    return Capabilities(
        cpu=(_line(root / "proc/cpuinfo", "model name") or platform.machine() or "unknown")[:200],
        cores=max(len(cores), 1),
        memory_mb=max(round((memory or 0) / 1024), 1),
        os=platform.platform()[:200],
        hostname=platform.node()[:200] or "unknown",
        runtimes=dict(runtimes),
    )


def usable_cores() -> tuple[int, ...]:
    """The cores that this process may run on."""
    return tuple(sorted(os.sched_getaffinity(0)))


def parse_cores(text: str) -> tuple[int, ...]:
    """A list of CPU numbers as `taskset` takes it: "1", "0,2", "2-5".

    Raises:
        ValueError: it is no such list, or names a core that this process may not use.
    """
    cores: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        try:
            cores.update(range(int(first), int(last if dash else first) + 1))
        except ValueError as error:
            raise ValueError(f"cores must be like 1 or 0,2 or 2-5, but got {text!r}") from error
    usable = usable_cores()
    if not cores or not cores <= set(usable):
        raise ValueError(f"cores must be among {list(usable)}, but got {text!r}")
    return tuple(sorted(cores))


def _frequency_mhz(frequency: Path, root: Path) -> float | None:
    khz = _number(_text(frequency / "scaling_cur_freq"))
    mhz = khz / 1000 if khz else _number(_line(root / "proc/cpuinfo", "cpu MHz"))
    return mhz or None


def _temperature_c(root: Path) -> float | None:
    """The hottest thermal zone."""
    zones = (root / "sys/class/thermal").glob("thermal_zone*/temp")
    found = [value / 1000 for zone in zones if (value := _number(_text(zone))) is not None]
    return max(found, default=None)


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace").strip()[:100_000]
    except OSError:
        return None


def _line(path: Path, key: str) -> str | None:
    """The value of the first `key: value` line."""
    for line in (_text(path) or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def _number(text: str | None) -> float | None:
    try:
        return float(text.split()[0]) if text else None
    except ValueError:
        return None
