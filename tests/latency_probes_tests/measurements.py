"""Small valid measurements and requests for tests."""

from collections.abc import Sequence

from latency_probes.messages import MeasureRequest, Settings, Target, Workload
from latency_probes.samples import Measurement, Replicate, summary


def replicate(candidate: int = 600, reference: int = 1000, *, rounds: int = 2) -> Replicate:
    """A replicate whose every sample is the same."""
    return Replicate(
        candidate_ns=((candidate,) * 3,) * rounds,
        reference_ns=((reference,) * 3,) * rounds,
        candidate_cold_ns=2 * candidate,
        reference_cold_ns=2 * reference,
    )


def measurement(candidates: Sequence[int] = (600, 605, 610), reference: int = 1000) -> Measurement:
    """A valid measurement with one replicate per candidate latency (ns)."""
    replicates = tuple(replicate(c, reference) for c in candidates)
    return Measurement(
        **summary(replicates),
        kind="screening",
        replicates=replicates,
        verdict="ok",
        runtime_version="1.0",
    )


def request(
    candidate: bytes = b"candidate",
    reference: bytes = b"reference",
    *,
    request_id: str = "req_1",
    inline: bool = True,
    target: Target | None = None,
    settings: Settings | None = None,
) -> MeasureRequest:
    """A valid request for these models."""
    return MeasureRequest(
        request_id=request_id,
        attempt=1,
        lease_token="lease-1",
        candidate=Workload.of(candidate, inline=inline),
        reference=Workload.of(reference, inline=inline),
        target=target or Target(),
        settings=settings or Settings(),
    )
