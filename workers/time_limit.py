"""Whether a job has spent the time that it may search and train."""

from __future__ import annotations

import math
from datetime import datetime

from search.explorer import Explorer
from search.time_limit import LAST_SHARE, keep_time
from workers.snapshot import Snapshot


def began(snapshot: Snapshot) -> str:
    """When the job began to search, as its saved search says. Before there is one, the job was
    changed last when it came to be searching."""
    return str((snapshot.search_state or {}).get("began", snapshot.job.updated_at.isoformat()))


def spent_s(snapshot: Snapshot, now: datetime) -> float:
    """Seconds since the job began to search."""
    return (now - datetime.fromisoformat(began(snapshot))).total_seconds()


def limit_left_s(snapshot: Snapshot, now: datetime) -> float:
    """What is left of the seconds that search and fine-tuning may take; infinite without a limit.
    A job that is not searching yet has all of them."""
    limit_s = snapshot.spec.constraints.time_limit_s
    if limit_s is None:
        return math.inf
    has_begun = snapshot.search_state is not None
    return max(0.0, limit_s - spent_s(snapshot, now)) if has_begun else limit_s


def is_left_to_training(snapshot: Snapshot, now: datetime) -> bool:
    """Whether no more of a limited time is the search's: what it found is not confirmed by
    measurements that a disturbed device may repeat; the last one tells."""
    limit_s = snapshot.spec.constraints.time_limit_s
    return limit_s is not None and spent_s(snapshot, now) >= LAST_SHARE * limit_s


def keep_to_time(explorer: Explorer, snapshot: Snapshot, now: datetime) -> bool:
    """Hurries the job's search or ends it, if its time or its user says so; whether it did."""
    if explorer.done:
        return False
    if snapshot.job.stop_requested:
        explorer.stop()
        return True
    return keep_time(explorer, spent_s(snapshot, now), snapshot.spec.constraints.time_limit_s)


def is_over(snapshot: Snapshot, now: datetime) -> bool:
    """Whether search and fine-tuning end with what they have: they were asked to, or their time is
    over."""
    limit_s = snapshot.spec.constraints.time_limit_s
    is_late = limit_s is not None and spent_s(snapshot, now) >= limit_s
    return snapshot.job.stop_requested or is_late
