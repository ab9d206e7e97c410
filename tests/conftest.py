"""How the tests are spread over processes, and how many threads each of these has."""

from __future__ import annotations

import gc
import logging
import os
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

# Tests that share what takes long to set up go to one process: a stack, or a traced network whose
# skeletons are kept (about 30 s of processor time that a second process would spend again).
STACK, WORKSHOP = "the stack", "the workshop"
SHARED = {
    "tests/e2e_tests/": STACK,
    "tests/workers_tests/test_job_": WORKSHOP,
    "tests/workers_tests/test_library.py": WORKSHOP,
    "tests/workers_tests/test_running.py": WORKSHOP,
}
# All tests of a file here go to one process, because they share what took seconds to make.
TOGETHER = (
    "tests/api_tests/cli_tests/test_secrets.py",
    "tests/api_tests/cli_tests/test_up.py",
    "tests/search_tests/",
)
OWN_STACK = ("tests/e2e_tests/test_faults.py", "tests/e2e_tests/test_prune.py")
LONG = (*OWN_STACK, "tests/test_house.py", "tests/test_readme.py")  # half a minute in one piece
# There are more test processes than cores: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def scope(nodeid: str) -> str:
    """Each test goes wherever there is time, but those that share a stack or a network."""
    if nodeid.startswith(OWN_STACK):
        return nodeid
    if nodeid.startswith(TOGETHER):
        return nodeid.partition("::")[0]
    return next((kind for place, kind in SHARED.items() if nodeid.startswith(place)), nodeid)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is long in one piece begins first, so that no process is left with it at the end."""
    items.sort(
        key=lambda item: (
            scope(item.nodeid) not in (STACK, WORKSHOP),
            not item.nodeid.startswith(LONG),
        )
    )


def pytest_collection_finish() -> None:
    """Torch and the tests stay until the end: a collection that looks at them again and again
    takes a sixth of the time of traces and exports. What torch logs of them, nobody reads."""
    logging.getLogger("torch.__trace").setLevel(logging.ERROR)  # a record for every traced node
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = scope
    return scheduler
