"""The sweep finds what was lost on the way and sends it again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobs import removal, status
from jobs.repository import datasets, devices, inputs, jobs, measurements, models, requests, tasks
from jobs.spec import DatasetSpec, ModelSpec
from jobs.states import DeviceState, JobState, RequestState
from jobs.tables import Dataset
from latency_probes import keys
from tests.workers_tests.collector_tests.yard import Yard
from tests.workers_tests.nets import HERE
from tests.workers_tests.test_decision import look
from workers.collector import streams
from workers.collector.dispatching import dispatch
from workers.collector.sweeping import CHECK_S, MAX_LOSSES, STALE_S, sweep
from workers.decision import Decision, apply


def sent(yard: Yard) -> tuple[str, str]:
    """A request in its device's stream; the ids of both."""
    device_id, request_id = yard.device(), yard.request("screening:a")
    dispatch(yard.context, yard.streams)
    return device_id, request_id


def keep_alive(yard: Yard, device_id: str) -> None:
    with yard.bench.write() as session:
        devices.heartbeat(session, device_id, DeviceState.ONLINE, yard.context.clock())


def test_request_of_a_silent_device_is_taken_back_and_given_to_another(yard: Yard) -> None:
    silent, request_id = sent(yard)
    yard.later(yard.lease_s + 1)
    sweep(yard.context, yard.streams)
    assert yard.look_at_device(silent).state == DeviceState.OFFLINE
    assert yard.look_at(request_id).state == RequestState.PENDING
    other = yard.device("other")
    dispatch(yard.context, yard.streams)
    request = yard.look_at(request_id)
    assert (request.device_id, request.attempt) == (other, 2)


def test_request_that_its_device_has_not_read_yet_is_left_with_it(yard: Yard) -> None:
    device_id, request_id = sent(yard)
    yard.later(yard.lease_s + 1)
    keep_alive(yard, device_id)
    sweep(yard.context, yard.streams)
    request = yard.look_at(request_id)
    assert (request.state, request.attempt) == (RequestState.DISPATCHED, 1)
    assert request.lease_until is not None
    assert request.lease_until > yard.context.clock()


def test_request_that_its_device_holds_is_left_with_it(yard: Yard) -> None:
    device_id, request_id = sent(yard)
    yard.claim(device_id)
    yard.later(yard.lease_s + 1)
    keep_alive(yard, device_id)
    sweep(yard.context, yard.streams)
    assert yard.look_at(request_id).state == RequestState.DISPATCHED


def test_device_that_drains_finishes_what_it_has_begun(yard: Yard) -> None:
    device_id, begun = sent(yard)
    waiting = yard.request("screening:b")
    dispatch(yard.context, yard.streams)
    yard.claim(device_id)
    with yard.bench.write() as session:
        devices.drain(session, device_id)
    yard.later(yard.lease_s + 1)
    keep_alive(yard, device_id)
    sweep(yard.context, yard.streams)
    assert yard.look_at(begun).state == RequestState.DISPATCHED
    assert yard.look_at(waiting).state == RequestState.PENDING
    assert [each.request_id for each in yard.received(device_id)] == [begun]


def test_request_that_nobody_waits_for_is_taken_out_of_the_queue(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    device_id, unwanted = sent(yard)
    with yard.bench.write() as session:
        requests.abandon(session, yard.job_id)
    wanted = yard.request("screening:b")
    dispatch(yard.context, yard.streams)
    sweep(yard.context, yard.streams)
    queue = [unwanted, wanted]  # just sent: another collector may not have noted it yet
    assert [each.request_id for each in yard.received(device_id)] == queue
    monkeypatch.setattr(streams, "NEW_S", -2)
    sweep(yard.context, yard.streams)
    assert [each.request_id for each in yard.received(device_id)] == [wanted]


def test_request_that_vanished_from_the_stream_is_taken_back(yard: Yard) -> None:
    device_id, request_id = sent(yard)
    yard.redis.flushdb()
    yard.later(yard.lease_s + 1)
    keep_alive(yard, device_id)
    sweep(yard.context, yard.streams)
    assert yard.look_at(request_id).state == RequestState.PENDING


def test_request_that_loses_every_device_ends_with_a_typed_error(yard: Yard) -> None:
    device_id, request_id = yard.device(), yard.request("screening:a")
    for attempt in range(1, MAX_LOSSES + 1):
        keep_alive(yard, device_id)
        dispatch(yard.context, yard.streams)
        assert yard.look_at(request_id).attempt == attempt
        yard.later(yard.lease_s + 1)
        sweep(yard.context, yard.streams)
    ended = yard.look_at(request_id)
    with yard.context.read() as session:
        (row,) = measurements.for_job(session, yard.job_id)
    assert (ended.state, ended.measurement_id) == (RequestState.FAILED, row.id)
    assert (row.error_kind, row.attempt) == ("device_lost", MAX_LOSSES)
    assert ("advance", yard.job_id) in yard.bench.take_messages()


def test_lease_that_still_runs_is_left_alone(yard: Yard) -> None:
    _, request_id = sent(yard)
    yard.later(yard.lease_s - 1)
    sweep(yard.context, yard.streams)
    assert yard.look_at(request_id).state == RequestState.DISPATCHED


def test_device_is_offline_after_a_silence_and_not_before(yard: Yard) -> None:
    device_id = yard.device()
    yard.later(yard.context.settings.silence_s - 1)
    sweep(yard.context, yard.streams)
    assert yard.look_at_device(device_id).state == DeviceState.ONLINE
    yard.later(2)
    sweep(yard.context, yard.streams)
    assert yard.look_at_device(device_id).state == DeviceState.OFFLINE


def resent(yard: Yard, *steps: str) -> list[str]:
    yard.bench.take_messages()
    sweep(yard.context, yard.streams)
    return [identifier for name, identifier in yard.bench.take_messages() if name in steps]


def add_task(yard: Yard, key: str = "s") -> str:
    with yard.bench.write() as session:
        return tasks.add(session, yard.job_id, "score", key, {}, now=yard.bench.now).id


def test_task_whose_message_was_lost_is_sent_again_once_per_while(yard: Yard) -> None:
    task_id = add_task(yard)
    assert resent(yard, "run_task") == []
    yard.later(STALE_S + 1)
    assert resent(yard, "run_task") == [task_id]
    assert resent(yard, "run_task") == []


def test_task_whose_worker_died_is_sent_again(yard: Yard) -> None:
    task_id = add_task(yard)
    with yard.bench.write() as session:
        tasks.claim(session, task_id, yard.context.clock(), 60.0)
    yard.later(59)
    assert resent(yard, "run_task") == []
    yard.later(2)
    assert resent(yard, "run_task") == [task_id]


def touch(yard: Yard) -> None:
    with yard.bench.write() as session:
        jobs.save_progress(session, yard.job_id, {}, now=yard.context.clock())


def test_job_that_nothing_moved_for_a_while_is_advanced(yard: Yard) -> None:
    touch(yard)
    assert resent(yard, "advance") == []
    yard.later(STALE_S + 1)
    assert resent(yard, "advance") == [yard.job_id]


def test_job_with_a_wish_is_advanced_at_once(yard: Yard) -> None:
    with yard.bench.write() as session:
        status.request_stop(session, yard.job_id, now=yard.context.clock())
    assert resent(yard, "advance") == [yard.job_id]


def test_what_waits_in_a_queue_is_not_sent_again(yard: Yard) -> None:
    waits, lost = add_task(yard), add_task(yard, "lost")
    yard.later(STALE_S + 1)
    yard.context = replace(yard.context, waiting=lambda: {("run_task", waits)})
    assert resent(yard, "run_task") == [lost]


def test_job_that_waits_for_another_try_says_so_and_is_left_alone(yard: Yard) -> None:
    trouble = "another try in 160 s: the disk is full"
    with yard.bench.write() as session:
        job = jobs.lock(session, yard.job_id)
        assert job is not None
        jobs.postpone(session, job, trouble, in_s=160.0, now=yard.context.clock())
    dispatch(yard.context, yard.streams)
    assert look(yard.bench, yard.job_id).job.waiting_for == trouble
    yard.later(STALE_S + 1)
    assert resent(yard, "advance") == []
    yard.later(160)
    assert resent(yard, "advance") == [yard.job_id]


def test_job_that_has_ended_is_not_advanced(yard: Yard) -> None:
    apply(yard.context, look(yard.bench, yard.job_id), Decision(to_state=JobState.CANCELLED))
    yard.later(3600)
    assert resent(yard, "advance") == []


def test_uploads_whose_check_was_lost_are_checked_again(yard: Yard) -> None:
    model_spec = ModelSpec(name="new", architecture=f"{HERE}:small", input_shape=(1, 2, 2))
    data_spec = DatasetSpec(name="new", format="python", function=f"{HERE}:stripes")
    yard.later(3600)
    with yard.bench.write() as session:
        now = yard.context.clock()
        model = models.create(session, model_spec, weights_digest="0" * 64, now=now)
        dataset = datasets.create(session, data_spec, now=now)
    assert model is not None
    assert dataset is not None
    assert model.id not in resent(yard, "check_model")
    assert resent(yard, "check_dataset") == []
    yard.later(CHECK_S + 1)
    steps = resent(yard, "check_model", "check_dataset")
    assert {model.id, dataset.id} <= set(steps)
    assert resent(yard, "check_model") == []


def test_streams_of_a_removed_device_are_dropped(yard: Yard) -> None:
    device_id, request_id = sent(yard)
    other = yard.device("other")
    yard.say(device_id, "a late word")
    yard.say(other, "a word")
    with yard.bench.write() as session:
        devices.revoke(session, device_id)
        removal.remove_device(session, device_id)
    sweep(yard.context, yard.streams)
    names = (keys.requests_stream(device_id), keys.results_stream(device_id))
    assert yard.redis.exists(*names) == 0
    assert yard.redis.exists(keys.results_stream(other)) == 1
    assert yard.look_at(request_id).device_id == device_id


def test_check_that_a_worker_holds_is_sent_again_only_when_its_lease_is_over(yard: Yard) -> None:
    spec = DatasetSpec(name="new", format="python", function=f"{HERE}:stripes")
    with yard.bench.write() as session:
        now = yard.context.clock()
        dataset = datasets.create(session, spec, now=now)
        assert dataset is not None
        inputs.claim(session, Dataset, dataset.id, now, 2 * CHECK_S)
    yard.later(CHECK_S + 1)
    assert resent(yard, "check_dataset") == []
    yard.later(CHECK_S)
    assert resent(yard, "check_dataset") == [dataset.id]
