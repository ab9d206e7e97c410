"""Children are killed with all that they started, and take no more than they may."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from workers.child import GIB, Limits, most_memory, run_in_child

SHOW = """
import json, resource, sys
kinds = ("CORE", "CPU", "DATA", "FSIZE", "NOFILE")
limits = {kind: resource.getrlimit(getattr(resource, "RLIMIT_" + kind))[0] for kind in kinds}
print(json.dumps({"info": limits | {"request": sys.stdin.read()}}), flush=True)
print("more")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module for children, whose text a test writes to `child_of_a_test.py`."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "child_of_a_test.py").write_text(SHOW)
    return "child_of_a_test"


def test_child_gets_its_request_and_its_limits(module: str) -> None:
    ended = run_in_child(module, "hello", Limits(wall_s=30, memory_bytes=GIB, file_bytes=1000))
    assert ended.answer is not None
    info = ended.answer["info"]
    assert info["request"] == "hello"
    assert (info["DATA"], info["FSIZE"], info["CORE"]) == (GIB, 1000, 0)
    assert info["CPU"] == 30 * (os.cpu_count() or 1) + 1
    assert info["NOFILE"] <= resource.getrlimit(resource.RLIMIT_NOFILE)[1]


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("bytearray(2**30)", "MemoryError"),
        ("while True: print('x' * 10**6)", "File too large"),
        ("import os; os.abort()", "it crashed (SIGABRT)"),
        ("import sys; sys.exit('no way')", "no way"),
    ],
)
def test_child_that_takes_too_much_ends_with_the_reason(
    tmp_path: Path, module: str, program: str, words: str
) -> None:
    (tmp_path / f"{module}.py").write_text(program)
    limits = Limits(wall_s=30, memory_bytes=GIB // 2, file_bytes=10**7)
    ended = run_in_child(module, "", limits)
    assert ended.answer is None
    assert words in ended.words


def test_child_that_takes_too_long_is_killed_with_what_it_started(
    tmp_path: Path, module: str
) -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)", str(tmp_path)]
    program = f"import subprocess, time; subprocess.Popen({sleeper}); time.sleep(60)"
    (tmp_path / f"{module}.py").write_text(program)
    ended = run_in_child(module, "", Limits(wall_s=1.5))
    assert (ended.status, ended.words) == (None, "it took longer than 2 s and was stopped")
    left = [each.info["cmdline"] for each in psutil.process_iter(["cmdline"])]
    assert sleeper not in left


def test_memory_is_limited_by_what_is_used_and_not_by_what_is_reserved(
    tmp_path: Path, module: str
) -> None:
    reserve = "mmap.mmap(-1, 2**33, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)"
    program = f"import mmap; {reserve}; print('{{\"info\": {{}}}}')"
    (tmp_path / f"{module}.py").write_text(program)
    assert run_in_child(module, "", Limits(30, memory_bytes=GIB // 2)).answer == {"info": {}}


def test_child_ends_with_the_worker(tmp_path: Path, module: str) -> None:
    (tmp_path / f"{module}.py").write_text(
        f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()));"
        "time.sleep(60)"
    )
    program = f"from workers.child import *; run_in_child({module!r}, '', Limits(wall_s=60))"
    with subprocess.Popen([sys.executable, "-c", program]) as worker:
        deadline = time.monotonic() + 20
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        child = psutil.Process(int((tmp_path / "pid").read_text()))
        worker.kill()
    child.wait(10)


def test_memory_of_a_child_is_a_share_of_the_machine_s() -> None:
    assert 0 < most_memory() < psutil.virtual_memory().total
