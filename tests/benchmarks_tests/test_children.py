"""Child processes: every ending becomes a row, and none outlives its limits."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.coverage.__main__ import main
from benchmarks.coverage.children import ROOT, Child, Command, Limits, child_command, run
from benchmarks.coverage.examination import examine
from benchmarks.coverage.names import installed_peers
from benchmarks.coverage.peers import PEERS, examine_peer
from search import PruningGraph, trace
from tests.benchmarks_tests.nets import HERE
from tests.benchmarks_tests.test_oracle import rolled

LIMITS = Limits(time_s=60, checks_s=60, memory_bytes=10**10)
TIGHT = Limits(time_s=60, checks_s=60, memory_bytes=3 * 10**8)


def test_small_network_goes_through_all_stages_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.json"
    out.write_text(json.dumps([{"name": f"{HERE}:mixer", "status": "ok"}]))
    names = ["--models", f"{HERE}:chain", f"{HERE}:mixer", "--resume", "--json", str(out)]
    assert main(names) == 0
    kept, row = json.loads(out.read_text())
    assert kept["name"] == f"{HERE}:mixer"
    assert (row["status"], row["reason"]) == ("ok", "")
    assert 0.2 < row["macs_removed"] < 0.9
    assert {"build", "trace", "prune", "equality", "onnx", "load"} <= row["detail"][
        "stages"
    ].keys()
    printed = capsys.readouterr()
    assert f"[1/1] {HERE}:chain  ok" in printed.err
    assert "2 models:" in printed.out


def test_wrong_name_ends_the_command_with_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--models", "keras:x", "--json", str(tmp_path / "rows.json")]) == 2
    assert "--models must be names" in capsys.readouterr().err


def test_model_that_never_returns_is_killed() -> None:
    limits = Limits(3, 3, 10**10)
    (row,) = run([f"{HERE}:endless"], child_command(limits), limits)
    assert row.status == "timeout"
    assert row.reason.endswith(": more than 3 s")
    assert row.seconds < 10


def test_child_that_takes_too_much_memory_is_killed() -> None:
    (row,) = run(["x"], script("x = [bytearray(10**8) for _ in range(9)]; time.sleep(60)"), TIGHT)
    assert (row.status, row.reason) == ("failed", "start: more than 0.3 GB of memory")


def test_child_that_dies_is_quoted() -> None:
    (row,) = run(
        ["x"], script("print('no luck', file=sys.stderr, flush=True); os._exit(7)"), TIGHT
    )
    assert (row.status, row.reason) == ("failed", "start: died of exit status 7: no luck")


def test_checks_have_a_limit_of_their_own() -> None:
    limits = Limits(time_s=60, checks_s=0.3, memory_bytes=10**10)
    note = "open(sys.argv[1] + '/stage', 'w').write('onnx'); time.sleep(60)"
    (row,) = run(["x"], script(note), limits)
    assert (row.status, row.reason) == ("timeout", "onnx: more than 0.3 s")
    assert row.detail["traced"]


def script(code: str) -> Command:
    """A child that runs `code` instead of a benchmark; its folder is the first argument."""
    imports = "import os, sys, time; "
    return lambda name, folder: [sys.executable, "-c", imports + code, str(folder)]


def test_end_of_a_child_ends_what_it_started() -> None:
    def command(name: str, folder: Path) -> list[str]:
        return ["sh", "-c", f"sleep 60 & echo $! > {folder}/pid; wait"]

    child = Child("x", command, LIMITS, 1)
    pid = written_pid(child)
    child.end()
    deadline = time.monotonic() + 5
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(pid)


def test_interrupt_ends_the_children(tmp_path: Path) -> None:
    options = ["--models", f"{HERE}:endless", "--json", str(tmp_path / "rows.json")]
    command = [sys.executable, "-m", "benchmarks.coverage", *options]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 20
        while not children_of(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        started = children_of(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 130
        assert process.stderr is not None
        assert "--resume goes on" in process.stderr.read()
    assert started
    assert not any(map(alive, started))


def test_interrupt_while_a_child_is_being_started_ends_it_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self.pid)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            list(run(["x"], script("time.sleep(60)"), LIMITS))
    finally:
        signal.signal(signal.SIGINT, before)
    assert not any(map(alive, started))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("lyric", "build: ValueError: python:.* must return an nn.Module, but got str"),
        ("nowhere", "build: AttributeError: .*nowhere"),
    ],
)
def test_model_that_cannot_be_built_is_a_failed_row(
    tmp_path: Path, name: str, reason: str
) -> None:
    row = examine(f"{HERE}:{name}", tmp_path, time_limit_s=60)
    assert row.status == "failed"
    assert re.match(reason, row.reason)


def test_model_without_anything_to_cut_is_frozen_with_a_reason(tmp_path: Path) -> None:
    row = examine(f"{HERE}:single", tmp_path, time_limit_s=60, quick=True)
    assert (row.status, row.macs_removed) == ("frozen", 0.0)
    assert row.reason


def test_peer_that_is_not_installed_is_not_asked(tmp_path: Path) -> None:
    assert PEERS.keys() >= set(installed_peers())
    row = examine_peer("torch-pruning", f"{HERE}:single", tmp_path)
    assert row.name == f"torch-pruning/{HERE}:single"
    assert row.status in ("failed", "frozen")
    assert row.reason


def test_graph_that_cuts_wrong_columns_is_a_wrong_output(tmp_path: Path) -> None:
    def mistaken(*arguments: object, **named: object) -> PruningGraph:
        return rolled(trace(*arguments, **named), "consumer")  # type: ignore[arg-type]

    row = examine(f"{HERE}:chain", tmp_path, time_limit_s=60, tracer=mistaken)
    assert row.status == "failed"
    assert row.reason.startswith("equality: WrongOutput: ")
    assert row.detail["wrong_output"]


def written_pid(child: Child) -> int:
    path, deadline = child._path / "pid", time.monotonic() + 10
    while time.monotonic() < deadline:
        if path.exists() and (text := path.read_text().strip()):
            return int(text)
        time.sleep(0.02)
    raise TimeoutError("the child wrote no pid")


def children_of(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(each) for each in listed.read_text().split()] if listed.exists() else []


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(") ")[-1][0] != "Z"
