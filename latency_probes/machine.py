"""What this machine is, read from /proc and /sys. Whatever cannot be read is None, which means
unknown: nothing is guessed. Read in a child, since a file of a broken driver may hang; so it needs
only the standard library. The root is passed in, so that tests bring their own."""

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latency_probes import sysfs

_ROOT = Path("/")
_CHARACTERS = 200
_MOST_GPUS = 32
# The kernel's word -> ours. Only what decides which kernels a runtime can choose.
_ISA = dict.fromkeys(
    (
        "sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512vl",
        "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
        "amx_fp16", "neon", "vfpv4", "sve", "sve2", "i8mm", "bf16", "sme",
    )
) | {"asimd": "neon", "asimdhp": "fp16", "asimddp": "dotprod"}  # fmt: skip
_MARKS = {".dockerenv": "docker", "run/.containerenv": "podman"}
_NAMED = ("kubepods", "docker", "containerd", "lxc")
_DISPLAY = "0x03"


def read(
    cores: Sequence[int], root: Path = _ROOT, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The facts of `messages.Machine`, for the first of these cores where cores differ."""
    core = root / f"sys/devices/system/cpu/cpu{cores[0] if cores else 0}"
    found = {
        "cpu": _cpu(root),
        "board": sysfs.text(root / "proc/device-tree/model")
        or sysfs.text(root / "sys/class/dmi/id/product_name"),
        "architecture": platform.machine() or None,
        "os": _os(root),
        "kernel": platform.release() or None,
        "hostname": platform.node() or None,
        "power": _power(root),
        "container": _container(root, os.environ if environment is None else environment),
    }
    short = {key: value[:_CHARACTERS] if value else None for key, value in found.items()}
    return short | {
        "isa": _isa(root),
        "caches_kb": _caches_kb(core),
        "memory_mb": _memory_mb(root),
        "gpus": _gpus(root),
    }


def _cpu(root: Path) -> str | None:
    """The model's name; on Arm, which has none, the numbers of implementer and part."""
    path = root / "proc/cpuinfo"
    if name := sysfs.line(path, "model name") or sysfs.line(path, "Hardware"):
        return name
    maker, part = sysfs.line(path, "CPU implementer"), sysfs.line(path, "CPU part")
    return f"implementer {maker} part {part}" if maker and part else None


def _isa(root: Path) -> list[str] | None:
    path = root / "proc/cpuinfo"
    flags = sysfs.line(path, "flags") or sysfs.line(path, "Features")
    if flags is None:
        return None
    return sorted({_ISA[flag] or flag for flag in flags.split() if flag in _ISA})


def _caches_kb(core: Path) -> dict[str, int] | None:
    """L1d, L1i, L2, L3 ... in KiB, as this core sees them."""
    found = {}
    for index in sysfs.folders(core / "cache") or ():
        level, kind = sysfs.text(index / "level"), sysfs.text(index / "type")
        size = sysfs.text(index / "size") or ""
        if level and kind and size.endswith("K") and size[:-1].isdigit():
            letter = {"Data": "d", "Instruction": "i"}.get(kind, "")
            found[f"L{level}{letter}"[:16]] = int(size[:-1])
    return found or None


def _memory_mb(root: Path) -> int | None:
    """The machine's memory, or the control group's limit where that is less."""
    total = sysfs.number(sysfs.line(root / "proc/meminfo", "MemTotal"))
    limit = sysfs.number(sysfs.text(root / "sys/fs/cgroup/memory.max"))
    known = [kb for kb in (total, limit / 1024 if limit else None) if kb]
    return max(round(min(known) / 1024), 1) if known else None


def _gpus(root: Path) -> list[str] | None:
    """Names from the NVIDIA driver, `pci vendor:device` of other display controllers, and drivers
    of those that are no PCI devices."""
    nvidia = sysfs.folders(root / "proc/driver/nvidia/gpus") or []
    found = [sysfs.line(gpu / "information", "Model") or "NVIDIA" for gpu in nvidia]
    buses = sysfs.folders(root / "sys/bus/pci/devices")
    cards = sysfs.folders(root / "sys/class/drm")
    for device in buses or ():
        if (sysfs.text(device / "class") or "").startswith(_DISPLAY):
            maker, model = (sysfs.text(device / name) or "?" for name in ("vendor", "device"))
            if maker != "0x10de" or not nvidia:
                found.append(f"pci {maker.removeprefix('0x')}:{model.removeprefix('0x')}")
    for card in cards or ():
        uevent = card / "device/uevent"
        driver = _values(sysfs.text(uevent)).get("DRIVER")
        if card.name[4:].isdigit() and driver and not (card / "device/vendor").exists():
            found.append(driver)
    if not found and buses is None and cards is None:
        return None
    return [name[:_CHARACTERS] for name in found[:_MOST_GPUS]]


def _power(root: Path) -> str | None:
    """`mains` where a supply is on line, else `battery` where one is discharged."""
    found = set()
    for supply in sysfs.folders(root / "sys/class/power_supply") or ():
        if sysfs.text(supply / "scope") == "Device":
            continue  # the battery of a mouse
        if sysfs.text(supply / "online") not in (None, "0"):
            found.add("mains")
        elif sysfs.text(supply / "status") == "Discharging":
            found.add("battery")
    return next((kind for kind in ("mains", "battery") if kind in found), None)


def _container(root: Path, environment: Mapping[str, str]) -> str | None:
    """Which kind of container this is; `none` where the first process is a machine's init."""
    if kind := environment.get("container") or sysfs.text(root / "run/systemd/container"):
        return kind
    for mark, kind in _MARKS.items():
        if (root / mark).exists():
            return kind
    groups = sysfs.text(root / "proc/1/cgroup") or ""
    if kind := next((name for name in _NAMED if name in groups), None):
        return kind
    return "none" if sysfs.text(root / "proc/1/comm") in ("systemd", "init") else None


def _os(root: Path) -> str | None:
    name = _values(sysfs.text(root / "etc/os-release")).get("PRETTY_NAME")
    return name.strip('"') if name else platform.system() or None


def _values(text: str | None) -> dict[str, str]:
    """`KEY=value` lines."""
    pairs = (entry.partition("=") for entry in (text or "").splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
