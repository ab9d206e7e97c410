"""Who may join a pool, and when a device has drifted: the rules, on numbers."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.pools import DRIFT_WINDOW, Pool, drift, kind_of, refusal
from jobs.tables import Measurement

RUNTIMES = {"onnxruntime": {"version": "1.20"}, "openvino": {"version": "2024.1"}}
BOARD = {"cpu": "Cortex-A76", "cores": 4, "memory_mb": 8000, "runtimes": RUNTIMES}


def answer(**more: Any) -> Measurement:
    """A good A/A test at 10 ms."""
    good: dict[str, Any] = {
        "ratio": 1.0, "ratio_low": 0.99, "ratio_high": 1.01, "reference_ms": 10.0,
        "runtime_version": "1.20",
    }  # fmt: skip
    return Measurement(**(good | more))


@pytest.mark.parametrize(
    ("capabilities", "labels", "is_equal"),
    [
        ({}, {}, True),
        ({"memory_mb": 4000, "hostname": "b"}, {"room": "lab"}, True),
        ({"runtimes": RUNTIMES | {"openvino": {"version": "2025.0"}}}, {}, True),
        ({"runtimes": RUNTIMES | {"onnxruntime": {"version": "1.21"}}}, {}, False),
        ({"runtimes": {}}, {}, False),
        ({"cpu": "Cortex-A72"}, {}, False),
        ({"cores": 8}, {}, False),
        ({}, {"pool": "window"}, False),
    ],
)
def test_kind_is_processor_cores_runtime_and_label(
    capabilities: dict[str, Any], labels: dict[str, str], is_equal: bool
) -> None:
    mine = kind_of(BOARD, {}, "onnxruntime")
    assert (kind_of(BOARD | capabilities, labels, "onnxruntime") == mine) is is_equal


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"ratio": 1.019, "ratio_low": 1.018, "ratio_high": 1.0201},
        {"ratio": 0.97, "ratio_low": 0.95, "ratio_high": 0.981},
        {"reference_ms": 10.49},
        {"reference_ms": 9.51},
    ],
)
def test_device_that_measures_like_the_pool_may_join(found: dict[str, Any]) -> None:
    assert refusal(answer(**found), answer()) is None


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (
            {"ratio": None, "error_kind": "crashed", "error_message": "signal 11"},
            "it could not measure the dense model: crashed signal 11",
        ),
        ({"runtime_version": "1.21"}, "it runs version 1.21, the pool 1.20"),
        (
            {"ratio": 1.03, "ratio_low": 1.021, "ratio_high": 1.039},
            "the dense model against itself took 1.0300 [1.0210, 1.0390], which is not 1",
        ),
        (
            {"ratio": 0.97, "ratio_low": 0.961, "ratio_high": 0.979},
            "the dense model against itself took 0.9700 [0.9610, 0.9790], which is not 1",
        ),
        (
            {"ratio_low": 0.94, "ratio_high": 1.06},
            "it is too noisy: the dense model against itself took 1.0000 [0.9400, 1.0600]",
        ),
        (
            {"reference_ms": 10.6},
            "its reference latency of 10.6 ms is +6.0% off the pool's 10 ms",
        ),
        ({"reference_ms": None}, "it gave no reference latency"),
    ],
)
def test_device_that_measures_otherwise_is_refused(found: dict[str, Any], reason: str) -> None:
    assert refusal(answer(**found), answer()) == reason


@pytest.mark.parametrize(
    ("reference_ms", "onset"),
    [
        ([10, 10, 10, 10, 10], None),
        ([12, 12, 12, 12], None),
        ([12, 10, 10, 12, 10.4], None),
        ([10, 10, 12, 12, 12], 2),
        ([10, 12, 10, 12, 12], 1),
        ([9, 9, 9, 9, 9], 0),
        ([10.4, 10.4, 10.4, 10.4, 10.4], None),
    ],
)
def test_drift_is_told_by_the_median_of_the_last_measurements(
    reference_ms: list[float], onset: int | None
) -> None:
    assert len(reference_ms) <= DRIFT_WINDOW
    assert drift(reference_ms, 10.0) == onset


def test_pool_is_the_first_device_and_those_that_joined_and_were_not_set_aside() -> None:
    pool = Pool(baselines={"b": 10.0, "c": 10.0}, aside={"c": "it drifted", "a": "it drifted"})
    assert [each for each in "abcd" if pool.serves(each, "a")] == ["b"]
    assert Pool().serves("a", "a")
    assert not Pool().serves("b", "a")
