"""What earlier phases found, as later ones need it, and the keys under which it is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jobs.tables import Measurement
from latency_probes.messages import Settings, Target
from search.explorer import Failed, Measured
from workers.decision import NewRequest
from workers.phases.demands import beta as beta_of
from workers.phases.demands import demands, furthest, tightest
from workers.results import Chosen, Finetuned, Packaged, Prepared
from workers.snapshot import Snapshot

PREPARE = "prepare"
PACKAGE_DENSE = "package:dense"
FINISH = "finish"


def group_rise(snapshot: Snapshot, group: str, ratio: float) -> float | None:
    """The loss rise of a group at a ratio; None while it is not known."""
    result = snapshot.result(sensitivity_key(group, ratio))
    if result is None:
        return None
    return math.inf if result["rise"] is None else float(result["rise"])


def sensitivity_key(group: str, ratio: float) -> str:
    """The task that finds one sensitivity."""
    return f"sensitivity:{group}:{ratio:g}"


def finetune_key(digest: str) -> str:
    """The task that fine-tunes a finalist."""
    return f"finetune:{digest}"


def package_key(digest: str) -> str:
    """The task that turns a finalist into files."""
    return f"package:{digest}"


def final_purpose(digest: str) -> str:
    """The request that measures a finalist with its true weights."""
    return f"final:{digest}"


def prepared_result(snapshot: Snapshot) -> Prepared:
    """What the preparation found; every phase after it can rely on that."""
    result = snapshot.result(PREPARE)
    if result is None:
        raise LookupError(f"{snapshot.job.id} must be prepared, but is not")
    return Prepared.model_validate(result)


def dense_request(
    prepared: Prepared,
    seed: int,
    purpose: str,
    target: Target | None = None,
    selector: str | None = None,
) -> NewRequest:
    """The dense model against itself: its latency, and an A/A test for free."""
    blob, strict = prepared.dense_skeleton, Settings.strict(seed=seed, profile=True)
    return NewRequest(purpose, blob, blob, strict, target=target, selector=selector)


def dense_measurement(snapshot: Snapshot) -> Measurement:
    """The strict measurement of the dense model, which every later phase can rely on."""
    dense = snapshot.dense
    if dense is None:
        raise LookupError(f"{snapshot.job.id} must have its dense model measured, but has not")
    return dense


def dense_ms(snapshot: Snapshot) -> float:
    """L₀, the dense latency in milliseconds."""
    latency_ms = dense_measurement(snapshot).latency_ms
    if latency_ms is None:
        raise LookupError(f"{snapshot.job.id} must have a dense latency, but has an error")
    return latency_ms


def usual_reference_ms(snapshot: Snapshot, dense: Measurement) -> float | None:
    """What the dense skeleton takes on the device that measured it when nothing disturbs it: near
    the fastest of the job's measurements there. None while there are few."""
    seen = sorted(
        row.reference_ms
        for row in snapshot.found.values()
        if row.reference_ms is not None
        and row.device_id == dense.device_id
        and row.reference_digest == dense.reference_digest
        and row.target_key == dense.target_key
    )
    return seen[len(seen) // 8] if len(seen) >= 3 else None


def beta(snapshot: Snapshot) -> float:
    """β = B / L₀, the budget on the job's own device as a ratio to the dense latency."""
    return beta_of(snapshot.spec.budget, snapshot.dense)


def levels(snapshot: Snapshot) -> int:
    """Of the search; fewer than the job asked for where its device cannot tell them apart."""
    return int((snapshot.job.progress or {}).get("levels", snapshot.spec.search.levels))


def finalists(snapshot: Snapshot) -> list[Chosen]:
    """The plans that the search settled on so far; none before it did."""
    state = snapshot.search_state or {}
    return [Chosen.model_validate(each) for each in state.get("chosen", ())]


@dataclass(frozen=True)
class Verified:
    """A finalist with everything known of it but its test accuracy.

    Attributes:
        latency: on the job's own device.
        further: on each of its further devices.
        judged: what the search would be told of all of them.
    """

    chosen: Chosen
    finetuned: Finetuned
    packaged: Packaged
    latency: Measurement
    further: tuple[Measurement, ...]
    judged: Measured

    @property
    def is_calm(self) -> bool:
        """Whether no device was disturbed while it was measured."""
        return all(row.verdict == "ok" for row in (self.latency, *self.further))

    @property
    def validation_accuracy(self) -> float:
        """Of the file where layers are in int8, else of the model."""
        of_file = self.packaged.validation_accuracy
        return self.finetuned.validation_accuracy if of_file is None else of_file

    def rank(self, budget: float) -> tuple[int, float, str]:
        """Interval within the budget first, then its middle, then the rest by latency; among those
        that meet it the most accurate on the validation images."""
        accuracy, ratio = self.validation_accuracy, self.judged.ratio
        if ratio > budget:
            return 2, ratio, self.chosen.digest
        return 0 if self.judged.ratio_high <= budget else 1, -accuracy, self.chosen.digest


def winner(snapshot: Snapshot) -> Verified | None:
    """The finalist to hand back; None if none could be measured."""
    known = [_verified(snapshot, each) for each in finalists(snapshot)]
    measured = [each for each in known if each is not None]
    return min(measured, key=lambda each: each.rank(tightest(snapshot)), default=None)


def final_rows(snapshot: Snapshot, digest: str) -> list[Measurement | None]:
    """A finalist with its true weights on every device, the job's own first; None where it was
    not measured."""
    return [snapshot.measurement(final_purpose(digest) + each.mark) for each in demands(snapshot)]


def judged(snapshot: Snapshot, digest: str) -> Measured | None:
    """What the search would be told of a finalist with its true weights; None where a device has
    no number."""
    rows = final_rows(snapshot, digest)
    found = furthest(demands(snapshot), [None if row is None else as_outcome(row) for row in rows])
    return found if isinstance(found, Measured) else None


def as_outcome(row: Measurement) -> Measured | Failed:
    """A stored measurement as the explorer takes it."""
    if row.ratio is None or row.ratio_low is None or row.ratio_high is None:
        return Failed(row.error_kind or "invalid", row.error_message or "it has no ratio")
    return Measured(row.ratio, row.ratio_low, row.ratio_high, row.latency_ms)


def _verified(snapshot: Snapshot, chosen: Chosen) -> Verified | None:
    found = snapshot.results([finetune_key(chosen.digest), package_key(chosen.digest)])
    seen = judged(snapshot, chosen.digest)
    if seen is None or found is None:
        return None
    latency, *further = [row for row in final_rows(snapshot, chosen.digest) if row is not None]
    finetuned, packaged = Finetuned.model_validate(found[0]), Packaged.model_validate(found[1])
    return Verified(chosen, finetuned, packaged, latency, tuple(further), seen)
