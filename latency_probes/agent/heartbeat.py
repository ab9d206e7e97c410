"""The thread that tells the server that the device lives and what it is, and renews the lease of
what it works on."""

import logging
import random
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Literal

from latency_probes.agent.backoff import Backoff
from latency_probes.messages import Heartbeat, Hello, encode
from latency_probes.transport import Transport, TransportError

_log = logging.getLogger(__name__)

State = Literal["online", "busy", "draining"]


class Work:
    """One request being measured. `taken` is set when the server has taken it away or nobody
    waits."""

    def __init__(self, entry_id: str, request_id: str) -> None:
        self.entry_id, self.request_id = entry_id, request_id
        self.taken = threading.Event()


class Pulse:
    """Beats every `interval_s`, and at once when it begins to drain, until closed; more often
    while the server is away, so that a device is not missing for longer than the server."""

    def __init__(
        self,
        transport: Transport,
        cores: Sequence[int],
        interval_s: float,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        source: random.Random | None = None,
    ) -> None:
        self._source = source or random.Random()
        self._transport, self._cores, self._interval_s, self._now = (
            transport, tuple(cores), interval_s, now,
        )  # fmt: skip
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._draining = False
        self._work: Work | None = None
        self._hello: Hello | None = None
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop beating and wait for the thread."""
        self._closed = True
        self._wake.set()
        self._thread.join()

    def drain(self) -> None:
        """From now on the device takes no new work."""
        self._draining = True
        self._wake.set()

    def announce(self, hello: Hello) -> None:
        """Say what the device is, now or as soon as the server can be used."""
        self._hello = hello
        self._wake.set()

    def work_on(self, work: Work | None) -> None:
        """Say what is being measured; None when nothing is."""
        with self._lock:
            self._work = work

    def abandon(self) -> None:
        """Give up what is being measured, if anything; it stays pending on the server."""
        with self._lock:
            if self._work is not None:
                self._work.taken.set()

    def beat(self) -> None:
        """One heartbeat and one renewal; and what there is to announce, until it is said.

        Raises:
            TransportError: the server cannot be used.
        """
        with self._lock:
            work = self._work
        state: State = "draining" if self._draining else "busy" if work else "online"
        request_id = work.request_id if work else None
        self._transport.publish(
            encode(
                Heartbeat(
                    state=state, sent_at=self._now(), cores=self._cores, request_id=request_id
                )
            )
        )
        if (hello := self._hello) is not None:
            self._transport.publish(encode(hello))
            self._hello = None
        if work and not self._transport.renew(work.entry_id):
            _log.info("request %s was taken away", work.request_id)
            work.taken.set()

    def _run(self) -> None:
        backoff = Backoff(self._source)
        failing = False
        while not self._closed:
            self._wake.clear()
            wait_s = self._interval_s
            try:
                self.beat()
                failing = False
                backoff.reset()
            except TransportError as error:
                if not failing:
                    _log.warning("no heartbeat: %s", error)
                failing = True
                wait_s = min(wait_s, backoff.next_s())
            self._wake.wait(wait_s)
