"""The wire protocol: what a message must refuse, since neither side trusts the other."""

import json
import math
from typing import Any

import pytest

from latency_probes.messages import (
    MAX_INLINE_BYTES,
    MAX_MESSAGE_BYTES,
    Heartbeat,
    MeasureError,
    MeasureResult,
    MessageError,
    Settings,
    Target,
    Workload,
    encode,
    parse_report,
    parse_request,
)
from tests.latency_probes_tests.measurements import measurement, request


def _result(**changes: Any) -> dict[str, Any]:
    outcome = json.loads(measurement().model_dump_json()) | changes
    return {
        "version": 1, "type": "result", "request_id": "r", "attempt": 0, "lease_token": "t",
        "outcome": outcome,
    }  # fmt: skip


def test_a_target_without_a_provider_has_its_runtime_s_usual_one() -> None:
    assert Target(runtime="openvino").provider == "CPU"
    assert Target(runtime="torch").key == "torch/eager/b1/t1"
    assert Target(runtime="torch", provider="cuda").provider == "cuda"
    assert Target.model_validate({"runtime": "ncnn"}).provider == "CPUExecutionProvider"


def test_runtime_auto_has_no_provider_and_becomes_that_of_one_runtime() -> None:
    auto = Target(runtime="auto", batch_size=2, threads=3)
    assert Target.model_validate(auto.model_dump(mode="json")) == auto
    assert auto.in_runtime("openvino").key == "openvino/CPU/b2/t3"
    with pytest.raises(ValueError, match="leave the provider out with runtime auto"):
        Target(runtime="auto", provider="CPU")


def test_a_request_survives_the_wire() -> None:
    sent = request(settings=Settings.strict(seed=3), target=Target(threads=2))
    assert parse_request(encode(sent)) == sent


def test_both_kinds_of_outcome_survive_the_wire() -> None:
    for outcome in (measurement(), MeasureError(kind="timeout", message="after 3 s")):
        sent = MeasureResult(request_id="r", attempt=2, lease_token="t", outcome=outcome)
        assert parse_report(encode(sent)) == sent


def test_a_heartbeat_needs_a_time_zone() -> None:
    beat = {"version": 1, "type": "heartbeat", "state": "online", "cores": [1]}
    aware = json.dumps(beat | {"sent_at": "2026-01-01T00:00:00Z"})
    assert isinstance(parse_report(aware), Heartbeat)
    with pytest.raises(MessageError, match="timezone"):
        parse_report(json.dumps(beat | {"sent_at": "2026-01-01T00:00:00"}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ratio", math.nan),
        ("ratio", -0.6),
        ("ratio", 0.5),
        ("ratio_low", 0.1),
        ("latency_ms", math.inf),
        ("verdict", "fine"),
        ("replicates", []),
        ("surprise", 1),
    ],
)
def test_a_result_that_does_not_follow_from_its_samples_is_refused(field: str, value: Any) -> None:
    with pytest.raises(MessageError):
        parse_report(json.dumps(_result(**{field: value})))


@pytest.mark.parametrize("sample", [-5, 0, math.nan, 1.5, "fast", 10**14])
def test_a_sample_that_is_no_positive_count_of_nanoseconds_is_refused(sample: Any) -> None:
    result = _result()
    result["outcome"]["replicates"][0]["candidate_ns"][0][0] = sample
    with pytest.raises(MessageError):
        parse_report(json.dumps(result))


def test_rounds_must_be_paired() -> None:
    result = _result()
    result["outcome"]["replicates"][0]["candidate_ns"].append([600])
    with pytest.raises(MessageError, match="same number of rounds"):
        parse_report(json.dumps(result))


def test_too_many_samples_are_refused() -> None:
    result = _result()
    for replicate in result["outcome"]["replicates"]:
        replicate["candidate_ns"] = replicate["reference_ns"] = [[1] * 700] * 20
    with pytest.raises(MessageError, match="at most 50000, but got 84000"):
        parse_report(json.dumps(result))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"type": "result"}', "\x00", "null"])
def test_malformed_messages_are_refused(text: str) -> None:
    with pytest.raises(MessageError):
        parse_report(text)
    with pytest.raises(MessageError):
        parse_request(text)


def test_a_message_over_the_limit_is_refused_unread() -> None:
    with pytest.raises(MessageError, match="at most"):
        parse_report(" " * (MAX_MESSAGE_BYTES + 1))


def test_a_refusal_does_not_repeat_the_input() -> None:
    with pytest.raises(MessageError) as refusal:
        parse_request(json.dumps({"spam" * 1000: "spam" * 1000}))
    assert len(str(refusal.value)) < 2000


def test_small_models_travel_inline_and_large_ones_do_not() -> None:
    small = Workload.of(b"x" * 1000)
    assert small.unpack() == b"x" * 1000
    assert Workload.of(b"x" * 1000, inline=False).data is None
    incompressible = bytes(i * i * 7919 >> 5 & 255 for i in range(5 * MAX_INLINE_BYTES))
    assert Workload.of(incompressible * 4).data is None


@pytest.mark.parametrize(
    "change",
    [{"digest": "0" * 64}, {"size": 999}, {"size": 1001}, {"data": "eJw="}, {"data": "@"}],
)
def test_an_inline_model_is_checked_against_its_digest(change: dict[str, Any]) -> None:
    workload = Workload.of(b"x" * 1000).model_copy(update=change)
    with pytest.raises(MessageError):
        workload.unpack()


def test_a_decompression_bomb_stops_at_the_announced_size() -> None:
    bomb = Workload.of(b"\0" * 2**22).model_copy(update={"size": 1000})
    with pytest.raises(MessageError):
        bomb.unpack()


def test_settings_refuse_fewer_replicates_at_most_than_at_least() -> None:
    with pytest.raises(ValueError, match=r"max_replicates must be >= replicates \(4\), but got 3"):
        Settings(replicates=4, max_replicates=3)


def test_equal_targets_have_equal_keys() -> None:
    assert Target().key == "onnxruntime/CPUExecutionProvider/b1/t1"


def test_a_workload_without_its_data_cannot_be_unpacked() -> None:
    with pytest.raises(MessageError, match="must carry its data inline"):
        Workload.of(b"x", inline=False).unpack()


def test_a_message_too_long_for_the_other_side_is_not_sent() -> None:
    blob = Workload.of(b"x").model_copy(update={"data": "A" * MAX_MESSAGE_BYTES})
    with pytest.raises(MessageError, match="at most"):
        encode(request().model_copy(update={"candidate": blob}))
