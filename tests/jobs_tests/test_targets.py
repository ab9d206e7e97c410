"""A target that no registered device serves is refused, with what there is."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.errors import SpecError
from jobs.spec import TargetSpec
from jobs.states import DeviceState
from jobs.tables import Device
from jobs.targets import check_target

RUNTIMES = {"onnxruntime": {"version": "1", "providers": ["CPUExecutionProvider"]}}


def device(
    name: str = "pi",
    capabilities: dict[str, Any] | None = None,
    state: DeviceState = DeviceState.OFFLINE,
) -> Device:
    told = {"cores": 4, "memory_mb": 4000, "runtimes": RUNTIMES}
    return Device(
        id=f"dev_{name}", name=name, state=state, labels={"room": "kitchen"},
        capabilities=told if capabilities is None else capabilities,
    )  # fmt: skip


def refusal(devices: list[Device], **target: Any) -> str:
    """What is said of a target; empty where it is taken."""
    try:
        check_target(TargetSpec.model_validate(target), devices)
    except SpecError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "target",
    [
        {},
        {"device": "id:dev_pi"},
        {"device": "label:room=kitchen", "threads": 4},
        {"device": "where:memory_mb >= 4000"},
        {"runtime": "auto", "threads": 4},
    ],
)
def test_what_a_registered_device_serves_is_taken_though_it_is_offline(
    target: dict[str, Any],
) -> None:
    assert refusal([device()], **target) == ""


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (
            {"device": "id:dev_pie"},
            "target.device must be that of a registered device (pi is id:de",
        ),
        ({"device": "id:dev_pie"}, "did you mean 'dev_pi'?"),
        (
            {"device": "label:room=kitchem"},
            "labels are room=kitchen), but 'label:room=kitchem' ac",
        ),
        ({"device": "label:room=kitchem"}, "did you mean 'room=kitchen'?"),
        ({"device": "where:memory_mb >= 8000"}, "but 'where:memory_mb >= 8000' accepts none"),
        ({"runtime": "onnxrutime"}, "that pi offers (onnxruntime), but got 'onnxrutime'; did you"),
        (
            {"provider": "CUDAExecutionProvider"},
            "target.provider must be a provider that pi offer",
        ),
        (
            {"runtime": "auto", "threads": 8},
            "target.threads must be <= 4, the cores of pi, but got 8",
        ),
        ({"threads": 8}, "target.threads must be <= 4, the cores of pi, but got 8"),
    ],
)
def test_what_none_serves_is_refused_with_what_there_is(target: dict[str, Any], said: str) -> None:
    assert said in refusal([device()], **target)


def test_any_device_may_come_and_others_must_be_there() -> None:
    assert refusal([]) == ""
    assert "none is registered" in refusal([], device="label:room=kitchen")
    assert "none is registered" in refusal([device(state=DeviceState.REVOKED)], device="id:dev_pi")


def test_a_device_that_announced_nothing_may_offer_anything() -> None:
    silent = [device("new", {}), device("pi")]
    assert refusal(silent, runtime="openvino") == ""
    assert refusal(silent, device="where:memory_mb >= 8000") == ""
    assert "must be a runtime" in refusal(silent, device="id:dev_pi", runtime="openvino")


def test_auto_without_a_runtime_to_choose_from_is_refused() -> None:
    info = {"version": "1", "providers": ["CPUExecutionProvider"]}
    recorded = device(capabilities={"cores": 1, "runtimes": {"replay": info}})
    said = refusal([recorded], runtime="auto")
    assert "target.runtime must be named where auto has none to choose from" in said
    assert "but got 'auto', and pi offers replay" in said
    assert refusal([recorded, device("other")], runtime="auto") == ""
