"""The agent: receives requests, measures one at a time, delivers what it found.

    receive -> parse -> obtain models -> measure -> spool on disk -> publish -> acknowledge ->
    unspool

Killed anywhere, it repeats the rest: before the spool the request is still pending and is claimed
again; after it, the result is published again, and the server counts it once.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from latency_probes.agent.backoff import Backoff
from latency_probes.agent.heartbeat import Pulse, Work
from latency_probes.agent.models import ModelCache
from latency_probes.agent.server import Refused, Unavailable
from latency_probes.agent.spool import Spool
from latency_probes.messages import (
    Lease,
    MeasureError,
    MeasureRequest,
    MeasureResult,
    MessageError,
    Settings,
    Target,
    encode,
    lease_of,
    parse_request,
)
from latency_probes.samples import Measurement
from latency_probes.spawn import Stop, Withdrawn
from latency_probes.transport import Delivery, Transport, TransportError

_log = logging.getLogger(__name__)

_RECEIVE_S = 1.0
_FETCH_S = 300.0  # a server that is being restarted is back by then


class Measures(Protocol):
    """What the agent needs of a `Measurer`."""

    def measure(
        self,
        candidate: Path,
        reference: Path,
        target: Target,
        settings: Settings,
        stop: Stop | None = None,
    ) -> Measurement | MeasureError: ...


class Agent:
    """One device's work, until `drain` or `stop`, which set `ending`. No request ends it: what it
    cannot do is answered with a typed error.

    Args:
        source: of the jitter of waiting times.
        clock: seconds that only ever grow.
    """

    def __init__(
        self,
        transport: Transport,
        measurer: Measures,
        models: ModelCache,
        spool: Spool,
        pulse: Pulse,
        *,
        source: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._transport, self._measurer, self._models = transport, measurer, models
        self._spool, self._pulse = spool, pulse
        self._source = source or random.Random()
        self.ending = threading.Event()

    def drain(self) -> None:
        """Take no new request; finish the one being measured, then end."""
        self.ending.set()
        self._pulse.drain()

    def stop(self) -> None:
        """End now; what is being measured stays pending and is claimed again at the next start."""
        self.drain()
        self._pulse.abandon()

    def run(self) -> None:
        """Work until told to end. A server that is away is waited for."""
        backoff = Backoff(self._source)
        known = False
        while not self.ending.is_set():
            try:
                self._deliver()
                if not known:
                    self._work_through(self._transport.reclaim())
                    known = True
                    continue
                delivery = self._transport.receive(_RECEIVE_S)
                backoff.reset()
                if delivery is not None:
                    self._work(delivery)
            except TransportError as error:
                known = False
                wait_s = backoff.next_s()
                _log.warning("the server is away, trying again in %.1f s: %s", wait_s, error)
                self.ending.wait(wait_s)
        self._deliver_once()

    def _work_through(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            if self.ending.is_set():
                return
            self._work(delivery)

    def _work(self, delivery: Delivery) -> None:
        try:
            request = parse_request(delivery.text)
        except MessageError as error:
            self._refuse(delivery, error)
            return
        if not self._spool.holds(request):
            work = Work(delivery.entry_id, request.request_id)
            self._pulse.work_on(work)
            try:
                outcome = self._outcome(request, work)
            except Withdrawn:
                _log.info("request %s is given up", request.request_id)
                return
            finally:
                self._pulse.work_on(None)
            self._keep(request, delivery.entry_id, outcome)
            _log.info("request %s: %s", request.request_id, _in_a_line(outcome))
        self._deliver()

    def _refuse(self, delivery: Delivery, error: MessageError) -> None:
        """Answer what cannot be read, if it says whose request it is: else it would come again."""
        _log.error("entry %s is no request: %s", delivery.entry_id, error)
        if lease := lease_of(delivery.text):
            problem = MeasureError(kind="invalid", message=f"the agent cannot read it: {error}")
            self._keep(lease, delivery.entry_id, problem)
            self._deliver()
        else:
            self._transport.acknowledge(delivery.entry_id)

    def _outcome(self, request: MeasureRequest, work: Work) -> Measurement | MeasureError:
        try:
            candidate, reference = self._obtain(request, work)
            return self._measurer.measure(
                candidate, reference, request.target, request.settings, work.taken
            )
        except (MessageError, Refused) as error:
            return MeasureError(kind="invalid", message=str(error)[:2000])
        except Unavailable as error:
            message = f"a model could not be fetched within {_FETCH_S:.0f} s: {error}"
            return MeasureError(kind="timeout", message=message[:2000])
        except (Withdrawn, TransportError):
            raise
        except Exception as error:  # a full disk, a runtime's mistake: it would come again
            _log.exception("request %s cannot be answered", request.request_id)
            message = f"the agent failed: {type(error).__name__}: {error}"
            return MeasureError(kind="crashed", message=message[:2000])

    def _obtain(self, request: MeasureRequest, work: Work) -> list[Path]:
        """Both models, fetched again and again for a while, as long as the request is ours."""
        backoff, deadline = Backoff(self._source), self._clock() + _FETCH_S
        while True:
            try:
                return self._models.obtain(request.candidate, request.reference)
            except Unavailable as error:
                if self._clock() >= deadline:
                    raise
                _log.warning("a model cannot be fetched yet: %s", error)
            if self.ending.is_set() or work.taken.wait(backoff.next_s()):
                raise Withdrawn

    def _keep(
        self,
        request: MeasureRequest | Lease,
        entry_id: str,
        outcome: Measurement | MeasureError,
    ) -> None:
        def text(found: Measurement | MeasureError) -> str:
            return encode(
                MeasureResult(
                    request_id=request.request_id,
                    attempt=request.attempt,
                    lease_token=request.lease_token,
                    outcome=found,
                )
            )

        try:
            result = text(outcome)
        except MessageError as error:
            result = text(MeasureError(kind="invalid", message=str(error)))
        try:
            self._spool.put(request, entry_id, result)
        except OSError as error:
            _log.error("a result is sent without being kept on disk: %s", error)
            self._transport.publish(result)
            self._transport.acknowledge(entry_id)

    def _deliver(self) -> None:
        """Publish what is spooled, then acknowledge it, then forget it."""
        for path, spooled in self._spool.waiting():
            self._transport.publish(spooled.text)
            self._transport.acknowledge(spooled.entry_id)
            path.unlink(missing_ok=True)

    def _deliver_once(self) -> None:
        try:
            self._deliver()
        except TransportError as error:
            _log.warning("results stay on disk until the next start: %s", error)


def _in_a_line(outcome: Measurement | MeasureError) -> str:
    if isinstance(outcome, MeasureError):
        return f"{outcome.kind}: {outcome.message[:200]}"
    return f"{outcome.latency_ms:.3f} ms, ratio {outcome.ratio:.4f}, {outcome.verdict}"
