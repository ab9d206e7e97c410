"""Turns what a device sent into what the server keeps: numbers in columns, the samples as sent."""

from __future__ import annotations

from jobs.repository.measurements import Finding
from latency_probes.messages import MeasureError
from latency_probes.samples import Measurement


def finding_of(outcome: Measurement | MeasureError) -> Finding:
    """The columns for an outcome; all that was sent stays in `raw` and `conditions`."""
    if isinstance(outcome, MeasureError):
        return Finding(error_kind=outcome.kind, error_message=outcome.message)
    return Finding(
        runtime_version=outcome.runtime_version,
        protocol=outcome.protocol,
        ratio=outcome.ratio,
        ratio_low=outcome.ratio_low,
        ratio_high=outcome.ratio_high,
        latency_ms=outcome.latency_ms,
        reference_ms=outcome.reference_ms,
        verdict=outcome.verdict,
        raw=outcome.model_dump(mode="json", exclude={"conditions"}),
        conditions=outcome.conditions.model_dump(mode="json"),
    )
