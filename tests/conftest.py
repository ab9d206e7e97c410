"""How the tests are spread over processes."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

END_TO_END = "tests/e2e_tests/"


def scope(nodeid: str) -> str:
    """Each test goes wherever there is time, but the end-to-end tests, which share one stack."""
    return END_TO_END if nodeid.startswith(END_TO_END) else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = scope
    return scheduler
