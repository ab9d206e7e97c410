"""Keeps the children running: starts them again with back-off when they die, stops them in order.

Knows nothing of what they do. One thread, one loop; the caller decides when `tick` runs.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from api.stack.children import Child, ChildSpec, stop_children

FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 10.0
STEADY_S = 20.0
TOLD_DEATHS = 3


def delay_s(deaths: int) -> float:
    """Pause before the start that follows the given number of quick deaths."""
    return min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** max(0, deaths - 1))


@dataclass
class _Seat:
    spec: ChildSpec
    child: Child | None
    deaths: int = 0
    due_s: float = 0.0


class Supervisor:
    """The children of one stack.

    Args:
        report: Receives one line per event worth telling.
        changed: Called after every start, with name and process id of all that run.
    """

    def __init__(
        self,
        report: Callable[[str], None],
        changed: Callable[[dict[str, int]], None] = lambda _: None,
    ) -> None:
        self._report = report
        self._changed = changed
        self._seats: list[_Seat] = []

    def start(self, spec: ChildSpec) -> None:
        """Starts a child and keeps it running from now on."""
        self._seats.append(_Seat(spec, Child(spec)))
        self._changed(self.running())

    def running(self) -> dict[str, int]:
        """Process ids by name."""
        alive = (seat for seat in self._seats if seat.child is not None)
        return {seat.spec.name: seat.child.pid for seat in alive if seat.child is not None}

    def tick(self) -> None:
        """Looks after every child once."""
        for seat in self._seats:
            if seat.child is None:
                self._start_again(seat)
            elif (status := seat.child.poll()) is not None:
                self._bury(seat, seat.child, status)

    def run(self, stopping: Callable[[], bool], *, interval_s: float = 0.1) -> None:
        """Looks after the children until `stopping` says so."""
        while not stopping():
            self.tick()
            time.sleep(interval_s)

    def stop(self, order: Sequence[str] = ()) -> None:
        """Ends all children, stage by stage.

        Args:
            order: Prefixes of names, in the order in which they are to end; all others
                end first.
        """
        named = [[seat for seat in self._seats if seat.spec.name.startswith(p)] for p in order]
        known = {id(seat) for stage in named for seat in stage}
        for stage in [[seat for seat in self._seats if id(seat) not in known], *named]:
            stop_children([seat.child for seat in stage if seat.child is not None])
        self._seats.clear()

    def _bury(self, seat: _Seat, child: Child, status: int) -> None:
        child.sweep()
        lived_s = time.monotonic() - child.started_s
        seat.deaths = 1 if lived_s > STEADY_S else seat.deaths + 1
        pause_s = delay_s(seat.deaths)
        seat.child, seat.due_s = None, time.monotonic() + pause_s
        if seat.deaths <= TOLD_DEATHS:
            what = "keeps ending" if seat.deaths == TOLD_DEATHS else "ended"
            self._report(
                f"{seat.spec.name} {what} ({ending(status)}); it is started again. "
                f"Its log is {seat.spec.log_path}"
            )

    def _start_again(self, seat: _Seat) -> None:
        if time.monotonic() >= seat.due_s:
            seat.spec = seat.spec.renew() if seat.spec.renew is not None else seat.spec
            seat.child = Child(seat.spec)
            self._changed(self.running())


def ending(status: int) -> str:
    """How a process ended, in words."""
    return f"signal {-status}" if status < 0 else f"status {status}"
