"""Ctrl-C while a job is followed: the first asks it to stop with the best so far, the second
cancels it, the third leaves.

Handlers only count; whoever polls asks the service.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from api.client import Client


class Interrupts:
    """How often Ctrl-C was pressed, and what was done about it."""

    def __init__(self) -> None:
        self._pressed = 0
        self._answered = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Counts SIGINT in the block; a third one is a KeyboardInterrupt again."""
        before = signal.signal(signal.SIGINT, self._press)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _press(self, number: int, frame: FrameType | None) -> None:
        self._pressed += 1
        if self._pressed > 2:
            raise KeyboardInterrupt

    def answer(self, client: "Client", job_id: str, tell: Callable[[str], None]) -> None:
        """Asks the service for what was not asked for yet."""
        from api.client import ApiProblem

        while self._answered < min(self._pressed, 2):
            self._answered += 1
            try:
                if self._answered == 1:
                    tell("Stopping with the best so far. Ctrl-C again cancels the job.")
                    client.jobs.stop(job_id)
                else:
                    tell("Cancelling the job.")
                    client.jobs.cancel(job_id)
            except ApiProblem as refused:  # it has just ended
                tell(str(refused))
