"""The names of states, and the ways between those of a job. `jobs.status` changes them; nothing
here does.

    queued ─> preparing ─> searching ─> finetuning ─> verifying ─> succeeded | infeasible
                  │             │  ^                       │
                  │             │  └───────────────────────┤ (all finalists miss the budget)
                  │             ├──────────────────────────^ (no other finalist is left)
                  │             └─> infeasible
                  └─> succeeded (the budget is above the dense latency)
    and from each of the five live states to failed and to cancelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class JobState(StrEnum):
    QUEUED = "queued"
    PREPARING = "preparing"
    SEARCHING = "searching"
    FINETUNING = "finetuning"
    VERIFYING = "verifying"
    SUCCEEDED = "succeeded"
    INFEASIBLE = "infeasible"
    FAILED = "failed"
    CANCELLED = "cancelled"


class InputState(StrEnum):
    """Of a model or a data set. `removed` is seen by nobody: jobs that have ended still name
    it."""

    CHECKING = "checking"
    READY = "ready"
    REJECTED = "rejected"
    REMOVED = "removed"


class TaskState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class RequestState(StrEnum):
    PENDING = "pending"
    DISPATCHED = "dispatched"
    DONE = "done"
    FAILED = "failed"


class CheckState(StrEnum):
    """Of a check of a device: `pending` until its first request is with the device."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class DeviceState(StrEnum):
    """`removed` is a revoked device that is not shown: what it measured still names it."""

    PENDING = "pending"
    ONLINE = "online"
    BUSY = "busy"
    DRAINING = "draining"
    OFFLINE = "offline"
    REVOKED = "revoked"
    REMOVED = "removed"


SHUT_OUT = frozenset({DeviceState.REVOKED, DeviceState.REMOVED})


# Also from a state that only another version knows.
ALWAYS = frozenset({JobState.FAILED, JobState.CANCELLED})

ALLOWED: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: ALWAYS | {JobState.PREPARING},
    JobState.PREPARING: ALWAYS | {JobState.SEARCHING, JobState.SUCCEEDED},
    JobState.SEARCHING: ALWAYS | {JobState.FINETUNING, JobState.VERIFYING, JobState.INFEASIBLE},
    JobState.FINETUNING: ALWAYS | {JobState.VERIFYING},
    JobState.VERIFYING: ALWAYS | {JobState.SEARCHING, JobState.SUCCEEDED, JobState.INFEASIBLE},
    JobState.SUCCEEDED: frozenset(),
    JobState.INFEASIBLE: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}

LIVE = frozenset(state for state, following in ALLOWED.items() if following)
TERMINAL = frozenset(ALLOWED) - LIVE
