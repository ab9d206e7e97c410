"""Whether a job has spent the time that it may search and train."""

from __future__ import annotations

from datetime import datetime

from search.time_limit import search_is_over
from workers.snapshot import Snapshot


def began(snapshot: Snapshot) -> str:
    """When the job began to search, as its saved search says. Before there is one, the job was
    changed last when it came to be searching."""
    return str((snapshot.search_state or {}).get("began", snapshot.job.updated_at.isoformat()))


def spent_s(snapshot: Snapshot, now: datetime) -> float:
    """Seconds since the job began to search."""
    return (now - datetime.fromisoformat(began(snapshot))).total_seconds()


def is_to_end(snapshot: Snapshot, now: datetime, *, has_result: bool) -> bool:
    """Whether the search ends with what it has: it was asked to, or its time is over."""
    limit_s = snapshot.spec.constraints.time_limit_s
    is_late = search_is_over(spent_s(snapshot, now), limit_s, has_result=has_result)
    return snapshot.job.stop_requested or is_late


def is_over(snapshot: Snapshot, now: datetime) -> bool:
    """Whether search and fine-tuning end with what they have."""
    return is_to_end(snapshot, now, has_result=False)
