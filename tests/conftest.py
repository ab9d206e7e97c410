"""How the tests are spread over processes, and how many threads each of these has."""

from __future__ import annotations

import os
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

END_TO_END = "tests/e2e_tests/"
OWN_STACK = "tests/e2e_tests/test_faults.py"
# There are as many test processes as cores: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def scope(nodeid: str) -> str:
    """Each test goes wherever there is time, but those end-to-end tests that share one stack."""
    shares = nodeid.startswith(END_TO_END) and not nodeid.startswith(OWN_STACK)
    return END_TO_END if shares else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = scope
    return scheduler
