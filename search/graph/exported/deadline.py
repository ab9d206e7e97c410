"""When to stop: before a step that would end too late. Knows clocks and torch's modes, and nothing
of pruning.

| symbol | meaning |
|---|---|
| PATIENCE | a wall limit, as a multiple of the limit of processor time that it stands behind |
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.compiler import is_dynamo_compiling
from torch.overrides import TorchFunctionMode

# On two cores with sixteen busy processes, a trace was seen to get a fifteenth of a core.
PATIENCE = 20.0
LATE = "unverified: the time limit was reached first"


def own_processor_time() -> Callable[[], float]:
    """A clock of the processor time that the calling thread takes, in seconds.

    Any thread may read it: on a GPU, a backward pass reads it from a thread of its own. What other
    threads of the process do does not count, as a server or a notebook may have busy ones; where
    the system has no clock per thread, it does.
    """
    if not hasattr(time, "pthread_getcpuclockid"):
        return time.process_time
    own = time.pthread_getcpuclockid(threading.get_ident())
    return lambda: time.clock_gettime(own)


class Deadline:
    """When to stop.

    A step is what happens between two calls of `refuses_step`; the next one is taken to last as
    long as the longest so far. What happens before the first call is no step.

    Args:
        time_limit_s: seconds from now.
        clock: seconds that only ever grow.
        behind: another limit; the time is also over when it is there.
    """

    def __init__(
        self, time_limit_s: float, clock: Callable[[], float], behind: Deadline | None = None
    ) -> None:
        self._clock, self._behind = clock, behind
        self._end = clock() + time_limit_s
        self._last: float | None = None
        self._longest_s = 0.0
        self.has_refused = False

    def refuses_step(self) -> bool:
        """Whether the time is over, or will be before the next step is done."""
        now = self._clock()
        if self._last is not None:
            self._longest_s = max(self._longest_s, now - self._last)
        self._last = now
        is_behind_over = self._behind is not None and self._behind.refuses_step()
        is_over = is_behind_over or now + self._longest_s >= self._end
        self.has_refused |= is_over
        return is_over

    def is_over(self) -> bool:
        """Whether the time is over now; no step begins."""
        return self._clock() >= self._end or (self._behind is not None and self._behind.is_over())


NEVER = Deadline(math.inf, lambda: 0.0)


class OutOfTime(BaseException):
    """The time is over. Like a cancellation it passes every `except Exception` of a model."""


class Interruptible(TorchFunctionMode):
    """Inside, every call of torch is a step: `is_late` is called before it.

    Dynamo, which traces what higher-order operators call, would trace this call too, so it is
    not made there.

    Raises:
        OutOfTime: it is late.
    """

    def __init__(self, is_late: Callable[[], bool]) -> None:
        super().__init__()
        self._is_late = is_late

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if not is_dynamo_compiling() and self._is_late():
            raise OutOfTime
        return func(*args, **(kwargs or {}))
