"""The fault run in small: agents, broker, collector and links break, and every request still ends
in exactly one counted answer, the right one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from benchmarks.faults.__main__ import table
from benchmarks.faults.run import run
from benchmarks.faults.schedule import KINDS

MEASUREMENTS = 120


def test_every_request_ends_in_one_counted_answer(tmp_path: Path) -> None:
    outcome = run(tmp_path, measurements=MEASUREMENTS, agents=3, seed=2, lease_s=6.0)
    assert outcome.is_right, outcome
    assert json.loads(json.dumps(asdict(outcome)))["verdict"]["lost"] == 0
    assert f"requests {MEASUREMENTS:>35}" in table(outcome)
    assert set(outcome.faults) == {*KINDS, "freeze agent"}
    assert outcome.verdict.results + sum(outcome.verdict.errors.values()) == MEASUREMENTS
