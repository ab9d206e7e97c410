"""Requests and measurements: only the holder of the lease is believed, and nothing is lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy.orm import Session

from jobs.repository import measurements, requests
from jobs.repository.measurements import Finding
from jobs.states import RequestState
from jobs.tables import Device, Measurement, Request
from latency_probes.messages import Settings, Target
from tests.jobs_tests.builders import REFERENCE, SKELETON, at, make_device, make_job, make_request

CONDITIONS = {
    "cores": [1],
    "governor": "performance",
    "environment": "Linux 6.1",
    "sentinel_baseline_ns": 1000,
}
GOOD = Finding(
    runtime_version="1.20",
    protocol=1,
    ratio=0.7,
    ratio_low=0.69,
    ratio_high=0.71,
    latency_ms=7.0,
    reference_ms=10.0,
    verdict="ok",
    raw={"replicates": [[1, 2], [3, 4]]},
    conditions=CONDITIONS,
)
BAD = Finding(error_kind="crashed", error_message="signal 11")


def assigned(session: Session) -> tuple[Request, Device]:
    """A request that a device holds until 30 s after noon."""
    device = make_device(session)
    request = make_request(session, make_job(session))
    held = requests.assign(session, request.id, device.id, at(0), 30)
    if held is None:
        raise LookupError("request must be pending")
    return held, device


def answer(
    session: Session,
    request: Request,
    device: Device,
    finding: Finding = GOOD,
    *,
    attempt: int = 1,
    token: str | None = None,
) -> bool:
    return requests.complete(
        session,
        request.id,
        attempt=attempt,
        lease_token=token or str(request.lease_token),
        device_id=device.id,
        finding=finding,
        now=at(5),
    )


class TestRequests:
    def test_the_same_purpose_is_one_request(self, session: Session) -> None:
        job = make_job(session)
        assert make_request(session, job, "dense").id == make_request(session, job, "dense").id
        assert len(requests.for_job(session, job.id)) == 1

    def test_target_and_settings_come_back_as_they_were(self, session: Session) -> None:
        request = make_request(session, make_job(session))
        assert Target.model_validate(request.target) == Target()
        assert Settings.model_validate(request.settings) == Settings()

    def test_pending_requests_come_oldest_first(self, session: Session) -> None:
        job = make_job(session)
        late = make_request(session, job, now=at(2))
        early = make_request(session, job, now=at(1))
        assert [row.id for row in requests.pending(session)] == [early.id, late.id]

    def test_assigning_gives_attempt_token_and_lease(self, session: Session) -> None:
        request, device = assigned(session)
        assert (request.state, request.attempt) == (RequestState.DISPATCHED, 1)
        assert (request.device_id, request.lease_until) == (device.id, at(30))
        assert requests.loads(session) == {device.id: 1}
        assert [row.id for row in requests.dispatched(session, device.id)] == [request.id]

    def test_an_assigned_request_is_not_assigned_again(self, session: Session) -> None:
        request, device = assigned(session)
        assert requests.assign(session, request.id, device.id, at(1), 30) is None

    def test_a_request_without_a_stream_entry_is_found(self, session: Session) -> None:
        request, _ = assigned(session)
        assert [row.id for row in requests.unsent(session)] == [request.id]
        assert requests.sent(session, request.id, 1, "17-0")
        assert not requests.unsent(session)

    def test_a_renewed_lease_lasts_longer(self, session: Session) -> None:
        request, _ = assigned(session)
        assert requests.renew(session, request.id, 1, at(20), 30)
        assert not requests.expired(session, at(49))
        assert [row.id for row in requests.expired(session, at(50))] == [request.id]

    def test_a_released_request_gets_a_new_attempt_and_token(self, session: Session) -> None:
        request, device = assigned(session)
        old = request.lease_token
        assert requests.release(session, request.id, 1)
        assert not requests.release(session, request.id, 1)
        again = requests.assign(session, request.id, device.id, at(40), 30)
        assert again is not None
        assert again.attempt == 2
        assert again.lease_token != old

    def test_an_abandoned_request_is_over(self, session: Session) -> None:
        request, device = assigned(session)
        assert requests.abandon(session, str(request.job_id))
        assert not requests.abandon(session, str(request.job_id))
        assert not answer(session, request, device, token="x" * 40)

    def test_a_failed_request_can_be_opened_again(self, session: Session) -> None:
        request, device = assigned(session)
        assert not requests.reopen(session, request.id)
        assert answer(session, request, device, BAD)
        assert requests.reopen(session, request.id)
        assert (request.state, request.lease_token) == (RequestState.PENDING, None)


class TestResults:
    def test_the_holder_is_counted(self, session: Session) -> None:
        request, device = assigned(session)
        assert answer(session, request, device)
        assert request.state == RequestState.DONE
        found = measurements.find(session, str(request.measurement_id))
        assert found is not None
        assert (found.ratio, found.counted, found.raw) == (0.7, True, GOOD.raw)
        assert found.target_key == "onnxruntime/CPUExecutionProvider/b1/t1"

    def test_an_error_fails_the_request_and_counts(self, session: Session) -> None:
        request, device = assigned(session)
        assert answer(session, request, device, BAD)
        assert request.state == RequestState.FAILED
        found = measurements.find(session, str(request.measurement_id))
        assert found is not None
        assert (found.error_kind, found.error_message) == ("crashed", "signal 11")

    def test_a_late_result_of_a_lost_lease_is_kept_and_not_counted(self, session: Session) -> None:
        request, device = assigned(session)
        old = str(request.lease_token)
        requests.release(session, request.id, 1)
        requests.assign(session, request.id, device.id, at(40), 30)
        assert not answer(session, request, device, token=old)
        assert request.state == RequestState.DISPATCHED
        rows = measurements.for_job(session, str(request.job_id), counted_only=False)
        assert measurements.count(session) == 0
        assert [row.counted for row in rows] == [False]
        assert measurements.for_job(session, str(request.job_id)) == []

    def test_a_result_delivered_twice_is_kept_once_and_answered_alike(
        self, session: Session
    ) -> None:
        request, device = assigned(session)
        token = str(request.lease_token)
        assert answer(session, request, device, token=token)
        assert answer(session, request, device, token=token)
        assert measurements.count(session, request.job_id) == 1

    def test_another_device_cannot_answer(self, session: Session) -> None:
        request, device = assigned(session)
        other = make_device(session, "other")
        token = str(request.lease_token)
        assert not answer(session, request, other, token=token)
        assert request.state == RequestState.DISPATCHED
        assert answer(session, request, device, token=token)

    def test_a_wrong_token_or_attempt_does_not_count(self, session: Session) -> None:
        request, device = assigned(session)
        assert not answer(session, request, device, token="0" * 40)
        assert not answer(session, request, device, attempt=2)
        assert request.state == RequestState.DISPATCHED

    def test_an_unknown_request_is_refused(self, session: Session) -> None:
        with pytest.raises(LookupError, match="request must exist, but got 'req_x'"):
            requests.complete(
                session, "req_x", attempt=1, lease_token="t", device_id="d", finding=GOOD
            )


def dense_now(device: Device, **more: Any) -> Measurement:
    """The dense model as another job measures it on the device now."""
    values: dict[str, Any] = {
        "device_id": device.id,
        "target_key": Target().key,
        "reference_digest": REFERENCE,
        "protocol": 1,
        "runtime_version": "1.20",
        "reference_ms": 10.0,
        "conditions": CONDITIONS,
    }
    return Measurement(**(values | more))


class TestCache:
    def cached(self, session: Session, device: Device, **now: Any) -> bool:
        digest, kind = now.pop("skeleton_digest", SKELETON), now.pop("kind", "screening")
        return (
            measurements.cached(session, digest, dense_now(device, **now), kind=kind) is not None
        )

    @pytest.mark.parametrize(
        "now",
        [
            {},
            {"reference_ms": 10.4},
            {"conditions": CONDITIONS | {"sentinel_baseline_ns": 1090}},
            {"conditions": CONDITIONS | {"load": 3.0, "temperature_c": 70.0}},
        ],
    )
    def test_the_same_question_is_answered(self, session: Session, now: dict[str, Any]) -> None:
        request, device = assigned(session)
        answer(session, request, device)
        assert self.cached(session, device, **now)

    @pytest.mark.parametrize(
        "now",
        [
            {"skeleton_digest": "c" * 64},
            {"reference_digest": "c" * 64},
            {"target_key": "other"},
            {"kind": "strict"},
            {"protocol": 2},
            {"device_id": "dev_other"},
            {"runtime_version": "1.21"},
            {"reference_ms": 10.6},
            {"reference_ms": 9.4},
            {"conditions": CONDITIONS | {"governor": "powersave"}},
            {"conditions": CONDITIONS | {"governor": None}},
            {"conditions": CONDITIONS | {"cores": [0]}},
            {"conditions": CONDITIONS | {"environment": "Linux 6.2"}},
            {"conditions": CONDITIONS | {"sentinel_baseline_ns": 1120}},
            {"conditions": CONDITIONS | {"sentinel_baseline_ns": 0}},
            {"conditions": None},
        ],
    )
    def test_another_question_or_another_state_of_the_device_is_not(
        self, session: Session, now: dict[str, Any]
    ) -> None:
        request, device = assigned(session)
        answer(session, request, device)
        assert not self.cached(session, device, **now)

    @pytest.mark.parametrize(
        "finding",
        [
            BAD,
            replace(GOOD, verdict="noisy"),
            replace(GOOD, conditions={"governor": "performance", "cores": [1]}),
        ],
        ids=["error", "noisy", "without facts"],
    )
    def test_only_good_measurements_with_facts_answer(
        self, session: Session, finding: Finding
    ) -> None:
        request, device = assigned(session)
        answer(session, request, device, finding)
        assert not self.cached(session, device)
        assert not self.cached(session, device, conditions=finding.conditions)

    def test_an_older_one_answers_where_the_newest_does_not_fit(self, session: Session) -> None:
        request, device = assigned(session)
        answer(session, request, device)
        later = make_request(session, make_job(session))
        held = requests.assign(session, later.id, device.id, at(60), 30)
        assert held is not None
        answer(session, held, device, replace(GOOD, reference_ms=20.0))
        assert self.cached(session, device)
        assert self.cached(session, device, reference_ms=20.0)

    def test_what_is_not_counted_does_not_answer(self, session: Session) -> None:
        request, device = assigned(session)
        answer(session, request, device, token="0" * 40)
        assert not self.cached(session, device)
