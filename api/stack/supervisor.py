"""Keeps the children running: starts them again with back-off when they die, stops them in order.

Knows nothing of what they do. One loop; the caller decides when `tick` runs. Whatever goes wrong
when a child is started again is waited out: one child's trouble is nobody else's end.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass

from api.stack.aside import aside
from api.stack.children import Child, ChildSpec, stop_children
from api.stack.errors import NotYet

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
    child: Child | None = None
    status: int | None = None
    deaths: int = 0
    due_s: float = 0.0
    renewal: "Future[ChildSpec] | None" = None


class _Trouble:
    """Something that is tried again until it works: told once, and once more when it is over."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._told = ""
        self.times = 0

    def again(self, words: str) -> float:
        """It failed; returns the pause before the next try, in seconds."""
        self.times += 1
        if words != self._told:
            self._report(words)
            self._told = words
        return delay_s(self.times)

    def over(self, words: str) -> None:
        """It worked."""
        if self.times:
            self._report(words)
        self.times, self._told = 0, ""


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
        self._report = heedless(report)
        self._changed = changed
        self._seats: list[_Seat] = []
        self._troubles: dict[str, _Trouble] = {}
        self._noting = _Trouble(self._report)
        self._note_due_s: float | None = None

    def start(self, spec: ChildSpec) -> None:
        """Starts a child and keeps it running from now on.

        Raises:
            OSError: It cannot be started, or that it runs cannot be noted.
        """
        self._seats.append(_Seat(spec, Child(spec)))
        self._changed(self.running())

    def start_when_possible(self, spec: ChildSpec, stopping: Callable[[], bool]) -> None:
        """Keeps a child running of which the specification has to be renewed first. Returns as
        soon as it runs, as what it waits for has been told, or as `stopping` says so."""
        seat = _Seat(spec)
        self._seats.append(seat)
        while seat.child is None and not self._trouble(seat).times and not stopping():
            self.tick()
            time.sleep(0.01)

    def running(self) -> dict[str, int]:
        """Process ids by name."""
        alive = (seat for seat in self._seats if seat.child is not None)
        return {seat.spec.name: seat.child.pid for seat in alive if seat.child is not None}

    def deaths(self, name: str) -> int:
        """How often the child of this name ended in a row, each time soon after its start."""
        return max((seat.deaths for seat in self._seats if seat.spec.name == name), default=0)

    def tick(self) -> None:
        """Looks after every child once."""
        for seat in self._seats:
            if seat.child is None:
                self._start_again(seat)
            elif (status := seat.child.poll()) is not None:
                self._bury(seat, seat.child, status)
        self._tell_of_changes()

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
        seat.child, seat.status, seat.due_s = None, status, time.monotonic() + pause_s
        if seat.deaths <= TOLD_DEATHS:
            what = "keeps ending" if seat.deaths == TOLD_DEATHS else "ended"
            self._report(
                f"{seat.spec.name} {what} ({ending(status)}); it is started again. "
                f"Its log is {seat.spec.log_path}"
            )

    def _start_again(self, seat: _Seat) -> None:
        if time.monotonic() < seat.due_s:
            return
        try:
            spec = self._renewed(seat)
            if spec is None:
                return
            seat.child, seat.spec = Child(spec), spec
        except Exception as error:  # whatever it is, it may pass
            pause_s = self._trouble(seat).again(f"{seat.spec.name} {waiting_words(error)}")
            seat.due_s = time.monotonic() + pause_s
            return
        self._trouble(seat).over(f"{seat.spec.name} runs now.")
        self._note_due_s = time.monotonic()

    def _renewed(self, seat: _Seat) -> ChildSpec | None:
        """The specification for the next start; None while it is still being made."""
        renew, status = seat.spec.renew, seat.status
        if renew is None:
            return seat.spec
        if seat.renewal is None:
            seat.renewal = aside(lambda: renew(status))
        if not seat.renewal.done():
            return None
        renewal, seat.renewal = seat.renewal, None
        return renewal.result()

    def _trouble(self, seat: _Seat) -> _Trouble:
        return self._troubles.setdefault(seat.spec.name, _Trouble(self._report))

    def _tell_of_changes(self) -> None:
        if self._note_due_s is None or time.monotonic() < self._note_due_s:
            return
        try:
            self._changed(self.running())
        except Exception as error:  # a full disk may have room again
            pause_s = self._noting.again(f"what runs cannot be noted: {error_words(error)}")
            self._note_due_s = time.monotonic() + pause_s
            return
        self._noting.over("what runs is noted again.")
        self._note_due_s = None


def heedless(report: Callable[[str], None]) -> Callable[[str], None]:
    """The same, though nobody may hear it: a terminal or a pipe that is gone ends no stack."""

    def tell(line: str) -> None:
        with suppress(Exception):
            report(line)

    return tell


def ending(status: int) -> str:
    """How a process ended, in words."""
    return f"signal {-status}" if status < 0 else f"status {status}"


def waiting_words(error: Exception) -> str:
    """Why a child does not run, as the rest of a sentence that begins with its name."""
    if isinstance(error, NotYet):
        return f"waits for {error}"
    return f"cannot be started: {error_words(error)}. It is tried again"


def error_words(error: Exception) -> str:
    """An error in one line, with its kind where it says nothing."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
