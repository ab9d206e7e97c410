"""What a machine is, read from made-up roots; whatever is missing is unknown, never guessed."""

from pathlib import Path
from typing import Any

import pytest

from latency_probes import machine
from latency_probes.conditions import usable_cores
from latency_probes.messages import Capabilities, Machine
from latency_probes.spawn import describe_device
from tests.latency_probes_tests.roots import root

_CACHE = "sys/devices/system/cpu/cpu2/cache"
_LAPTOP = {
    "proc/cpuinfo": "processor : 0\nmodel name : Fast One\nflags : fpu avx2 avx512_vnni\n",
    "proc/meminfo": "MemTotal: 4194304 kB\n",
    f"{_CACHE}/index0/level": "1\n",
    f"{_CACHE}/index0/type": "Data\n",
    f"{_CACHE}/index0/size": "48K\n",
    f"{_CACHE}/index1/level": "3\n",
    f"{_CACHE}/index1/type": "Unified\n",
    f"{_CACHE}/index1/size": "32768K\n",
    "etc/os-release": 'NAME="Some"\nPRETTY_NAME="Some Linux 12"\n',
    "sys/class/dmi/id/product_name": "Notebook 7\n",
    "sys/bus/pci/devices/0/class": "0x030000\n",
    "sys/bus/pci/devices/0/vendor": "0x8086\n",
    "sys/bus/pci/devices/0/device": "0x46a6\n",
    "sys/bus/pci/devices/1/class": "0x010000\n",
    "sys/class/power_supply/AC/online": "0\n",
    "sys/class/power_supply/BAT0/status": "Discharging\n",
    "proc/1/comm": "systemd\n",
}


def _read(directory: Path, files: dict[str, str]) -> dict[str, Any]:
    found = machine.read((2, 3), root(directory, files), {})
    Machine.model_validate(found)
    return found


def test_a_notebook_on_battery_is_read(tmp_path: Path) -> None:
    found = _read(tmp_path, _LAPTOP)
    assert (found["cpu"], found["board"], found["os"]) == (
        "Fast One",
        "Notebook 7",
        "Some Linux 12",
    )
    assert found["isa"] == ["avx2", "avx512_vnni"]
    assert found["caches_kb"] == {"L1d": 48, "L3": 32768}
    assert found["memory_mb"] == 4096
    assert found["gpus"] == ["pci 8086:46a6"]
    assert (found["power"], found["container"]) == ("battery", "none")


def test_an_arm_board_is_read(tmp_path: Path) -> None:
    files = {
        "proc/cpuinfo": "Features : fp asimd asimdhp asimddp sve crc32\n"
        "CPU implementer : 0x41\nCPU part : 0xd0b\n",
        "proc/device-tree/model": "Raspberry Pi 5 Model B\0",
        "sys/class/drm/card0/device/uevent": "DRIVER=v3d\nOF_NAME=gpu\n",
        "sys/class/drm/card0-HDMI-A-1/status": "connected\n",
    }
    found = _read(tmp_path, files)
    assert found["cpu"] == "implementer 0x41 part 0xd0b"
    assert found["board"] == "Raspberry Pi 5 Model B"
    assert found["isa"] == ["dotprod", "fp16", "neon", "sve"]
    assert found["gpus"] == ["v3d"]


def test_a_bare_machine_is_unknown(tmp_path: Path) -> None:
    found = _read(tmp_path, {})
    known = {name for name, value in found.items() if value is not None}
    assert known == {"architecture", "os", "kernel", "hostname"}


def test_a_machine_without_a_graphics_card_is_known_to_have_none(tmp_path: Path) -> None:
    assert _read(tmp_path, {"sys/bus/pci/devices/1/class": "0x010000\n"})["gpus"] == []


def test_a_graphics_card_with_its_driver_is_named_once(tmp_path: Path) -> None:
    files = {
        "proc/driver/nvidia/gpus/0/information": "Model: \t NVIDIA H200\nIRQ: 1\n",
        "sys/bus/pci/devices/0/class": "0x030200\n",
        "sys/bus/pci/devices/0/vendor": "0x10de\n",
        "sys/bus/pci/devices/0/device": "0x2335\n",
    }
    assert _read(tmp_path, files)["gpus"] == ["NVIDIA H200"]


@pytest.mark.parametrize(
    ("files", "power"),
    [
        ({"AC/online": "1", "BAT0/status": "Charging"}, "mains"),
        ({"AC/online": "1", "BAT0/status": "Discharging"}, "mains"),
        ({"BAT0/status": "Full"}, None),
        ({"mouse/scope": "Device", "mouse/status": "Discharging"}, None),
    ],
)
def test_the_source_of_power(tmp_path: Path, files: dict[str, str], power: str | None) -> None:
    supplies = {f"sys/class/power_supply/{name}": text for name, text in files.items()}
    assert _read(tmp_path, supplies)["power"] == power


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({".dockerenv": ""}, "docker"),
        ({"run/.containerenv": ""}, "podman"),
        ({"run/systemd/container": "systemd-nspawn\n"}, "systemd-nspawn"),
        ({"proc/1/cgroup": "0::/kubepods/besteffort\n", "proc/1/comm": "init"}, "kubepods"),
        ({"proc/1/comm": "init\n"}, "none"),
        ({"proc/1/comm": "python\n"}, None),
    ],
)
def test_the_kind_of_container(tmp_path: Path, files: dict[str, str], kind: str | None) -> None:
    assert _read(tmp_path, files)["container"] == kind


def test_the_limit_of_the_control_group_counts_where_it_is_less(tmp_path: Path) -> None:
    files = {"proc/meminfo": "MemTotal: 4194304 kB\n", "sys/fs/cgroup/memory.max": "1073741824\n"}
    assert _read(tmp_path, files)["memory_mb"] == 1024
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert machine.read((), tmp_path, {})["memory_mb"] == 4096


def test_rubbish_is_unknown(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": "MemTotal: lots\n",
        "proc/cpuinfo": "\0\xff" * 1000,
        f"{_CACHE}/index0/level": "1",
        f"{_CACHE}/index0/type": "Data",
        f"{_CACHE}/index0/size": "big",
        "sys/class/power_supply": "a file where a folder should be",
    }
    found = _read(tmp_path, files)
    assert {found[name] for name in ("cpu", "memory_mb", "caches_kb", "power")} == {None}


def test_a_child_describes_this_machine() -> None:
    found = describe_device({"replay": "latency_probes.runtimes.replay:Replay"}, usable_cores())
    assert isinstance(found, Capabilities)
    assert found.cores == len(usable_cores())
    assert list(found.runtimes) == ["replay"]
    assert found.kernel
