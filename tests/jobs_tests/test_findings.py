"""Findings: what a device sent, as columns."""

from __future__ import annotations

from jobs.findings import finding_of
from latency_probes.messages import MeasureError
from latency_probes.samples import Measurement, Replicate, summary

REPLICATE = Replicate(
    candidate_ns=((70, 71),),
    reference_ns=((100, 100),),
    candidate_cold_ns=90,
    reference_cold_ns=120,
)


def measurement() -> Measurement:
    replicates = (REPLICATE,) * 3
    return Measurement(
        **summary(replicates),
        kind="screening",
        replicates=replicates,
        verdict="ok",
        runtime_version="1.20",
    )


def test_numbers_become_columns_and_samples_are_kept_as_sent() -> None:
    sent = measurement()
    finding = finding_of(sent)
    assert (finding.ratio, finding.verdict, finding.protocol) == (sent.ratio, "ok", sent.protocol)
    assert finding.raw is not None
    assert finding.raw["replicates"][0]["candidate_ns"] == [[70, 71]]
    assert finding.error_kind is None


def test_nothing_that_was_sent_is_lost() -> None:
    sent = measurement()
    finding = finding_of(sent)
    assert finding.raw is not None
    stored = finding.raw | {"conditions": finding.conditions}
    assert (
        Measurement.model_validate_json(Measurement.model_validate(stored).model_dump_json())
        == sent
    )


def test_an_error_becomes_kind_and_message() -> None:
    finding = finding_of(MeasureError(kind="timeout", message="60 s are over"))
    assert (finding.error_kind, finding.error_message) == ("timeout", "60 s are over")
    assert finding.ratio is None
