"""What is read from /proc and /sys, on made-up roots; whatever is missing is unknown."""

from pathlib import Path

import pytest

from latency_probes.conditions import parse_cores, read_conditions, usable_cores
from tests.latency_probes_tests.roots import root as _root


def test_a_full_machine_is_read(tmp_path: Path) -> None:
    frequency = "sys/devices/system/cpu/cpu3/cpufreq/"
    root = _root(
        tmp_path,
        {
            "proc/sys/kernel/osrelease": "6.1.0-rpi7\n",
            "proc/loadavg": "1.25 0.5 0.1 2/300 4000\n",
            "proc/meminfo": "MemTotal: 4194304 kB\nMemAvailable: 2097152 kB\n",
            frequency + "scaling_governor": "performance\n",
            frequency + "scaling_cur_freq": "2400000\n",
            "sys/class/thermal/thermal_zone0/temp": "41000\n",
            "sys/class/thermal/thermal_zone1/temp": "55500\n",
        },
    )
    found = read_conditions((3,), root)
    assert (found.governor, found.frequency_mhz, found.temperature_c) == (
        "performance",
        2400,
        55.5,
    )
    assert (found.load, found.memory_available_mb, found.cores) == (1.25, 2048, (3,))
    assert (found.environment or "").startswith("Linux 6.1.0-rpi7 MALLOC_MMAP_THRESHOLD_=33554432")


def test_a_bare_machine_is_unknown(tmp_path: Path) -> None:
    found = read_conditions((), tmp_path)
    assert (found.governor, found.frequency_mhz, found.temperature_c) == (None, None, None)
    assert (found.load, found.memory_available_mb) == (None, None)


def test_rubbish_is_unknown(tmp_path: Path) -> None:
    root = _root(
        tmp_path,
        proc__loadavg="high",
        sys__class__thermal__thermal_zone0__temp="hot",
    )
    found = read_conditions((0,), root)
    assert (found.load, found.temperature_c) == (None, None)


def test_the_frequency_falls_back_to_cpuinfo(tmp_path: Path) -> None:
    root = _root(tmp_path, proc__cpuinfo="model name : Fast One\ncpu MHz : 2100.5\n")
    assert read_conditions((0,), root).frequency_mhz == 2100.5


def test_cores_are_given_as_a_list() -> None:
    first, last = usable_cores()[0], usable_cores()[-1]
    assert parse_cores(f"{last},{first}") == tuple(sorted({first, last}))
    assert parse_cores(f"{first}-{first}") == (first,)


@pytest.mark.parametrize("text", ["", "x", "1-", "-1", "99999", "5-2", "0,,1"])
def test_cores_that_are_not_there_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cores must be"):
        parse_cores(text)
