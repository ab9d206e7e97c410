"""The agent's loop on a fake transport and a fake measurer: nothing is lost, nothing is done
twice."""

import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from latency_probes.agent.backoff import Backoff
from latency_probes.agent.heartbeat import Pulse, Work
from latency_probes.agent.loop import Agent
from latency_probes.agent.models import ModelCache
from latency_probes.agent.server import Refused, Unavailable
from latency_probes.agent.spool import Spool
from latency_probes.messages import (
    Capabilities,
    Heartbeat,
    Hello,
    MeasureError,
    MeasureRequest,
    MeasureResult,
    MessageError,
    Settings,
    Target,
    Workload,
    encode,
    parse_report,
)
from latency_probes.samples import Measurement
from latency_probes.spawn import Stop, Withdrawn
from latency_probes.transport import TransportError
from tests.latency_probes_tests.fake_transport import FakeTransport
from tests.latency_probes_tests.measurements import measurement, request


class FakeMeasurer:
    """Answers at once with one measurement; `then` is called during it, with the stop it was
    given."""

    def __init__(self, then: Callable[[Stop | None], None] = lambda stop: None) -> None:
        self.then = then
        self.outcome: Measurement | MeasureError = measurement()
        self.models: list[bytes] = []

    def measure(
        self,
        candidate: Path,
        reference: Path,
        target: Target,
        settings: Settings,
        stop: Stop | None = None,
    ) -> Measurement | MeasureError:
        self.models.append(candidate.read_bytes())
        self.then(stop)
        if stop is not None and stop.is_set():
            raise Withdrawn
        return self.outcome


def _no_fetch(workload: Workload, path: Path) -> None:
    raise AssertionError("nothing should be fetched")


class Bench:
    """An agent with everything around it, restartable on the same directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.transport = FakeTransport()
        self.measurer = FakeMeasurer()
        self.fetch: Callable[[Workload, Path], None] = _no_fetch
        self.now = 0.0

    def agent(self) -> Agent:
        self.pulse = Pulse(self.transport, (0,), 60.0)
        models = ModelCache(self.directory / "models", self.fetch)
        spool = Spool(self.directory / "spool")
        return Agent(
            self.transport,
            self.measurer,
            models,
            spool,
            self.pulse,
            source=random.Random(0),
            clock=lambda: self.now,
        )

    def run_until(self, condition: Callable[[], bool]) -> None:
        """Run an agent in a thread until the condition holds, then drain it."""
        agent = self.agent()
        thread = threading.Thread(target=agent.run)
        thread.start()
        deadline = time.monotonic() + 10
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.005)
        agent.drain()
        thread.join(10)
        assert condition()

    def results(self) -> list[MeasureResult]:
        reports = map(parse_report, self.transport.published)
        return [report for report in reports if isinstance(report, MeasureResult)]

    def spooled(self) -> int:
        return len(list((self.directory / "spool").glob("*.json")))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def _send(bench: Bench, message: MeasureRequest | None = None) -> None:
    bench.transport.send(encode(message or request()))


def test_a_request_is_measured_published_and_acknowledged(bench: Bench) -> None:
    _send(bench)
    bench.run_until(lambda: len(bench.results()) == 1)
    (result,) = bench.results()
    assert (result.request_id, result.attempt, result.lease_token) == ("req_1", 1, "lease-1")
    assert result.outcome == measurement()
    assert bench.measurer.models == [b"candidate"]
    assert bench.transport.reclaim() == []
    assert bench.spooled() == 0


def test_what_is_no_request_is_dropped(bench: Bench) -> None:
    bench.transport.send("rubbish")
    _send(bench)
    bench.run_until(lambda: len(bench.results()) == 1)
    assert bench.transport.reclaim() == []


def test_a_request_left_by_a_killed_agent_is_measured_by_the_next(bench: Bench) -> None:
    _send(bench)
    assert bench.transport.receive(0) is not None
    bench.run_until(lambda: len(bench.results()) == 1)
    assert bench.transport.reclaim() == []


def test_a_result_waits_on_disk_while_the_server_is_away(bench: Bench) -> None:
    def lose_the_server(stop: Stop | None) -> None:
        bench.transport.away = True

    bench.measurer.then = lose_the_server
    _send(bench)
    bench.run_until(lambda: bench.spooled() == 1)
    assert bench.results() == []
    bench.transport.away = False
    bench.run_until(lambda: len(bench.results()) == 1)
    assert bench.measurer.models == [b"candidate"]
    assert bench.transport.reclaim() == []


def test_a_spooled_result_is_not_measured_again_when_its_request_is_claimed_again(
    bench: Bench,
) -> None:
    _send(bench)
    delivery = bench.transport.receive(0)
    assert delivery is not None
    text = encode(
        MeasureResult(
            request_id="req_1",
            attempt=1,
            lease_token="lease-1",
            outcome=MeasureError(kind="crashed", message="x"),
        )
    )
    Spool(bench.directory / "spool").put(request(), delivery.entry_id, text)
    bench.run_until(lambda: len(bench.results()) == 1)
    assert bench.measurer.models == []
    assert bench.transport.reclaim() == []


def test_a_request_taken_away_is_given_up(bench: Bench) -> None:
    def take_away(stop: Stop | None) -> None:
        bench.transport.take_away("1-0")
        bench.pulse.beat()

    bench.measurer.then = take_away
    _send(bench)
    bench.run_until(lambda: bench.measurer.models == [b"candidate"])
    assert bench.results() == []
    assert bench.spooled() == 0


def test_stopping_leaves_the_request_for_the_next_start(bench: Bench) -> None:
    agents: list[Agent] = []
    bench.measurer.then = lambda stop: agents[0].stop()
    agents.append(bench.agent())
    _send(bench)
    agents[0].run()
    assert bench.results() == []
    assert len(bench.transport.reclaim()) == 1


def test_draining_finishes_the_request_at_hand(bench: Bench) -> None:
    agents: list[Agent] = []
    bench.measurer.then = lambda stop: agents[0].drain()
    agents.append(bench.agent())
    _send(bench)
    _send(bench, request(request_id="req_2"))
    agents[0].run()
    assert [r.request_id for r in bench.results()] == ["req_1"]


def test_a_model_that_cannot_be_had_is_invalid(bench: Bench) -> None:
    def refuse(workload: Workload, path: Path) -> None:
        raise Refused("answered 404")

    bench.fetch = refuse
    _send(bench, request(inline=False))
    bench.run_until(lambda: len(bench.results()) == 1)
    outcome = bench.results()[0].outcome
    assert outcome == MeasureError(kind="invalid", message="answered 404")


def test_a_model_is_fetched_again_while_the_server_is_away(bench: Bench) -> None:
    tries: list[str] = []

    def second_time_lucky(workload: Workload, path: Path) -> None:
        tries.append(workload.digest)
        if len(tries) == 1:
            raise Unavailable("connection refused")
        path.write_bytes(b"fetched")

    bench.fetch = second_time_lucky
    _send(bench, request(inline=False))
    bench.run_until(lambda: len(bench.results()) == 1)
    assert bench.measurer.models == [b"fetched"]
    assert len(tries) == 3


def test_a_model_that_cannot_be_fetched_for_long_is_told(bench: Bench) -> None:
    def unreachable(workload: Workload, path: Path) -> None:
        bench.now += 200.0
        raise Unavailable("connection refused")

    bench.fetch = unreachable
    _send(bench, request(inline=False))
    bench.run_until(lambda: len(bench.results()) == 1)
    message = "a model could not be fetched within 300 s: connection refused"
    assert bench.results()[0].outcome == MeasureError(kind="timeout", message=message)


def test_whatever_goes_wrong_with_one_request_the_agent_answers_the_next(bench: Bench) -> None:
    def fail(stop: Stop | None) -> None:
        bench.measurer.then = lambda stop: None
        raise OSError(28, "No space left on device")

    bench.measurer.then = fail
    _send(bench)
    _send(bench, request(request_id="req_2"))
    bench.run_until(lambda: len(bench.results()) == 2)
    message = "the agent failed: OSError: [Errno 28] No space left on device"
    assert bench.results()[0].outcome == MeasureError(kind="crashed", message=message)
    assert bench.results()[1].outcome == measurement()
    assert bench.transport.reclaim() == []


def test_a_result_that_the_disk_has_no_room_for_is_sent_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Spool, "put", full)
    _send(bench)
    bench.run_until(lambda: len(bench.results()) == 1)
    assert bench.results()[0].outcome == measurement()
    assert bench.transport.reclaim() == []


def test_an_inline_model_that_is_not_what_it_says_is_invalid(bench: Bench) -> None:
    message = request()
    forged = message.candidate.model_copy(update={"digest": "0" * 64})
    _send(bench, message.model_copy(update={"candidate": forged}))
    bench.run_until(lambda: len(bench.results()) == 1)
    outcome = bench.results()[0].outcome
    assert isinstance(outcome, MeasureError)
    assert outcome.kind == "invalid"


def test_a_heartbeat_tells_the_state_and_renews_the_lease() -> None:
    transport = FakeTransport()
    pulse = Pulse(transport, (1,), 60.0, now=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    entry = transport.send("x")
    transport.receive(0)
    work = Work(entry, "req_1")
    pulse.beat()
    pulse.work_on(work)
    pulse.beat()
    assert not work.taken.is_set()
    transport.take_away(entry)
    pulse.drain()
    pulse.beat()
    assert work.taken.is_set()
    beats = [parse_report(text) for text in transport.published]
    assert [(b.state, b.request_id) for b in beats if isinstance(b, Heartbeat)] == [
        ("online", None),
        ("busy", "req_1"),
        ("draining", "req_1"),
    ]


def test_what_the_device_is_is_said_once_as_soon_as_the_server_is_there() -> None:
    transport = FakeTransport()
    pulse = Pulse(transport, (0,), 60.0)
    transport.away = True
    pulse.announce(Hello(capabilities=Capabilities(cores=1, runtimes={})))
    with pytest.raises(TransportError):
        pulse.beat()
    transport.away = False
    pulse.beat()
    pulse.beat()
    kinds = [parse_report(text).type for text in transport.published]
    assert kinds == ["heartbeat", "hello", "heartbeat"]


def test_the_pulse_survives_a_server_that_is_away() -> None:
    transport = FakeTransport()
    transport.away = True
    pulse = Pulse(transport, (0,), 0.01)
    pulse.start()
    time.sleep(0.05)
    transport.away = False
    deadline = time.monotonic() + 5
    while not transport.published and time.monotonic() < deadline:
        time.sleep(0.005)
    pulse.close()
    assert transport.published


def test_waits_double_up_to_a_limit_with_jitter_and_start_over_after_success() -> None:
    backoff = Backoff(random.Random(0))
    waits = [backoff.next_s() for _ in range(40)]
    wholes = [min(0.2 * 2**n, 10.0) for n in range(40)]
    assert all(w / 2 <= wait <= w for wait, w in zip(waits, wholes, strict=True))
    assert len(set(waits)) == 40
    backoff.reset()
    assert backoff.next_s() <= 0.2


def test_the_cache_serves_again_what_it_has_and_fetches_what_was_damaged(tmp_path: Path) -> None:
    fetched: list[str] = []

    def fetch(workload: Workload, path: Path) -> None:
        fetched.append(workload.digest)
        path.write_bytes(b"model")

    cache = ModelCache(tmp_path, fetch)
    workload = Workload.of(b"model", inline=False)
    (path,) = cache.obtain(workload)
    cache.obtain(workload)
    assert len(fetched) == 1
    path.write_bytes(b"damaged")
    cache.obtain(workload)
    assert len(fetched) == 2


def test_the_cache_removes_the_least_recently_used_but_never_what_is_asked_for(
    tmp_path: Path,
) -> None:
    cache = ModelCache(tmp_path, _no_fetch, limit_bytes=250)
    paths = []
    for number in range(3):
        paths += cache.obtain(Workload.of(bytes([number]) * 100))
        time.sleep(0.01)
    assert [path.exists() for path in paths] == [False, True, True]
    big = cache.obtain(*(Workload.of(bytes([n]) * 200) for n in (7, 8)))
    assert [path.exists() for path in big] == [True, True]


def test_half_written_files_of_a_killed_agent_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".part-x").write_bytes(b"half")
    (tmp_path / "broken.json").write_bytes(b"{")
    assert Spool(tmp_path).waiting() == []
    assert list(tmp_path.iterdir()) == []


def test_the_cache_passes_a_refusal_on(tmp_path: Path) -> None:
    lying = Workload.of(b"x" * 10).model_copy(update={"size": 9})
    with pytest.raises(MessageError):
        ModelCache(tmp_path, _no_fetch).obtain(lying)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_received_from_a_server_that_is_away() -> None:
    transport = FakeTransport()
    transport.away = True
    with pytest.raises(TransportError):
        transport.receive(0)
