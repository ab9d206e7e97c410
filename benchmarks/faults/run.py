"""One fault run: asks, breaks things when their moment has come, mends them, and judges when all
is answered and quiet."""

from __future__ import annotations

import heapq
import logging
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import redis
from sqlalchemy import func, select

from benchmarks.faults.processes import Installation
from benchmarks.faults.questions import Answer, Questions
from benchmarks.faults.schedule import Fault, draw
from benchmarks.faults.verdict import Verdict, judge
from jobs import migrations
from jobs.settings import Settings
from jobs.states import RequestState
from jobs.tables import Request
from latency_probes import keys
from workers.collector.collector import SWEEP_S
from workers.context import Context, create_context

_log = logging.getLogger(__name__)
_TURN_S = 0.05
_STUCK_S = 120.0
_QUIET_S = 60.0
_ENDED = (RequestState.DONE, RequestState.FAILED)


@dataclass(frozen=True)
class Outcome:
    """A finished run: its verdict, the faults by kind, and what was still under way at its end."""

    verdict: Verdict
    faults: Mapping[str, int]
    left_over: Mapping[str, int]
    seconds: float

    @property
    def is_right(self) -> bool:
        """Whether every request has its one answer, and nothing is under way any more."""
        return self.verdict.is_right and not any(self.left_over.values())


def run(
    home: Path,
    *,
    measurements: int,
    agents: int,
    seed: int,
    delay_s: float = 0.05,
    lease_s: float = 30.0,
) -> Outcome:
    """Run on an empty directory.

    Args:
        delay_s: how long an agent takes for one measurement.
        lease_s: after this long without a sign a request is taken from its agent.
    """
    began = time.monotonic()
    context = server_context(home, lease_s=lease_s)
    questions = Questions(measurements, seed)
    (home / "logs").mkdir()
    questions.record(home / "recording.json", delay_s)
    with Installation(context, home) as installation:
        for number in range(agents):
            more = {"RUNTIMES": "replay", "REPLAY": str(home / "recording.json")}
            installation.add_agent(f"agent-{number}", **more).start()
        answers = questions.ask(context)
        frozen_s = lease_s + SWEEP_S + 3
        schedule = draw(measurements, list(installation.agents), seed, frozen_s)
        chaos = Chaos(installation, schedule)
        _until_answered(context, answers, chaos)
        left_over = _until_quiet(installation)
    seconds = time.monotonic() - began
    verdict = judge(context, answers)
    context.writing.kw["bind"].dispose()
    return Outcome(verdict, dict(chaos.happened), left_over, seconds)


class Chaos:
    """Breaks and mends what the schedule names. One fault at a time on each target; the next one
    waits."""

    def __init__(self, installation: Installation, schedule: list[Fault]) -> None:
        self._installation, self._schedule = installation, schedule
        self._mending: list[tuple[float, int, Callable[[], None], str]] = []
        self._order = count()
        self.happened: Counter[str] = Counter()

    @property
    def is_over(self) -> bool:
        return not self._schedule and not self._mending

    def turn(self, answered: int) -> None:
        """Mend what is due, then break what is due."""
        while self._mending and self._mending[0][0] <= time.monotonic():
            heapq.heappop(self._mending)[2]()
        broken = {target for *_, target in self._mending}
        for fault in [each for each in self._schedule if each.after <= answered]:
            if fault.target in broken:
                continue
            broken.add(fault.target)
            self._schedule.remove(fault)
            self.happened[fault.kind] += 1
            _log.info("%s: %s for %.1f s", fault.target, fault.kind, fault.lasts_s)
            due = time.monotonic() + fault.lasts_s
            mend = self._break(fault)
            heapq.heappush(self._mending, (due, next(self._order), mend, fault.target))

    def _break(self, fault: Fault) -> Callable[[], None]:
        """Break something; returns how to mend it."""
        installation = self._installation
        if fault.target in installation.agents and fault.kind.endswith("agent"):
            agent = installation.agents[fault.target]
            if fault.kind == "freeze agent":
                agent.send(signal.SIGSTOP)
                return lambda: agent.send(signal.SIGCONT)
            agent.end(signal.SIGTERM if fault.kind == "drain agent" else signal.SIGKILL)
            return agent.start
        if fault.target in installation.links and fault.kind.endswith("link"):
            link = installation.links[fault.target]
            breaks = {"cut link": link.cut, "take down link": link.take_down}
            breaks.get(fault.kind, link.hold_up)()
            return link.mend
        if fault.target == "broker":
            restart = fault.kind == "restart broker"
            installation.broker.end(signal.SIGTERM if restart else signal.SIGKILL)
            return installation.start_broker
        installation.collector.end()
        return installation.collector.start


def server_context(home: Path, *, lease_s: float) -> Context:
    """A migrated database and an artifact store in `home`; steps are sent nowhere."""
    settings = Settings(
        home=home,
        database_url=f"sqlite:///{home / 'secateur.db'}",
        artifact_url=str(home / "artifacts"),
        redis_url="redis://127.0.0.1:1/0",
        request_lease_s=lease_s,
    )
    migrations.upgrade(settings.database_url)
    return create_context(settings, lambda step, identifier: None)


def _until_answered(context: Context, answers: Mapping[str, Answer], chaos: Chaos) -> None:
    """Until every request has ended and all is mended, or nothing has moved for long."""
    answered, moved_at = 0, time.monotonic()
    while answered < len(answers) or not chaos.is_over:
        chaos.turn(answered)
        now_answered = _answered(context)
        if now_answered != answered:
            _log.info("%d of %d answered", now_answered, len(answers))
            answered, moved_at = now_answered, time.monotonic()
        if time.monotonic() - moved_at > _STUCK_S:
            return
        time.sleep(_TURN_S)


def _answered(context: Context) -> int:
    statement = select(func.count()).select_from(Request).where(Request.state.in_(_ENDED))
    with context.read() as session:
        return session.scalar(statement) or 0


def _until_quiet(installation: Installation) -> dict[str, int]:
    """Wait until no report and no request is under way; what is left at the deadline."""
    deadline = time.monotonic() + _QUIET_S
    while True:
        left = _under_way(installation)
        if not any(left.values()) or time.monotonic() > deadline:
            return left
        time.sleep(_TURN_S)


def _under_way(installation: Installation) -> dict[str, int]:
    left = {"results on disk": installation.spooled(), "requests delivered": 0}
    with redis.Redis.from_url(installation.address.url, decode_responses=True) as broker:
        for stream in broker.scan_iter("secateur:device:*:requests"):
            with suppress(redis.ResponseError):
                left["requests delivered"] += broker.xpending(stream, keys.GROUP)["pending"]
    return left
