"""Requests go to devices that can run them, the least loaded first."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.tables import Device, Request
from tests.workers_tests.rows import CAPABILITIES
from workers.collector.dispatching import IN_FLIGHT, can_run, missing, place

TARGET = {"runtime": "replay", "provider": "CPUExecutionProvider", "batch_size": 1, "threads": 1}


def device(name: str, **more: Any) -> Device:
    values: dict[str, Any] = {"labels": {}, "capabilities": CAPABILITIES} | more
    return Device(id=name, name=name, **values)


def request(name: str, selector: str = "any", **target: Any) -> Request:
    return Request(id=name, job_id="job_1", selector=selector, target=TARGET | target)


def test_least_loaded_device_gets_the_request() -> None:
    placed = place([request("r")], [device("a"), device("b")], {"a": 1})
    assert placed == {"r": "b"}


def test_requests_spread_over_equal_devices() -> None:
    placed = place([request("r1"), request("r2")], [device("b"), device("a")], {})
    assert placed == {"r1": "a", "r2": "b"}


def test_device_never_has_more_than_it_may_hold() -> None:
    waiting = [request(f"r{index}") for index in range(IN_FLIGHT + 3)]
    assert len(place(waiting, [device("a")], {})) == IN_FLIGHT
    assert place(waiting, [device("a")], {"a": IN_FLIGHT}) == {}


def test_oldest_request_comes_first_and_does_not_block_the_next() -> None:
    waiting = [request("nobody", selector="id:gone"), request("first"), request("second")]
    assert place(waiting, [device("a")], {"a": IN_FLIGHT - 1}) == {"first": "a"}


@pytest.mark.parametrize(
    ("selector", "fits"),
    [
        ("any", True),
        ("id:a", True),
        ("id:b", False),
        ("label:room=lab", True),
        ("label:room=attic", False),
        ("label:floor=1", False),
        ("where:cores >= 2 and labels.room = lab", True),
        ("where:runtimes.onnxruntime", False),
    ],
)
def test_selector_chooses_the_device(selector: str, fits: bool) -> None:
    assert can_run(device("a", labels={"room": "lab"}), request("r", selector)) is fits


@pytest.mark.parametrize(
    ("target", "fits"),
    [
        ({}, True),
        ({"runtime": "onnxruntime"}, False),
        ({"provider": "CUDAExecutionProvider"}, False),
        ({"threads": 2}, True),
        ({"threads": 3}, False),
    ],
)
def test_device_must_offer_runtime_provider_and_threads(
    target: dict[str, Any], fits: bool
) -> None:
    assert can_run(device("a"), request("r", **target)) is fits


def test_device_that_announced_nothing_runs_nothing() -> None:
    assert not can_run(device("a", capabilities={}), request("r"))


def test_what_is_missing_is_said_in_words() -> None:
    assert missing(request("r")) == (
        "any device that is online and offers replay with CPUExecutionProvider on 1 thread(s)"
    )
    assert missing(request("r", "label:room=lab")).startswith("a device that is label:room=lab")
    assert missing(request("r", "pool:a")).startswith(
        "a device that is id:a, or of its pool, that"
    )
    assert missing(request("r", "where:cores >= 4")).startswith("a device where cores >= 4 that")
