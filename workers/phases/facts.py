"""What earlier phases found, as later ones need it, and the keys under which it is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jobs.tables import Measurement
from latency_probes.messages import Settings, Target
from workers.decision import NewRequest
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
    prepared: Prepared, seed: int, purpose: str, target: Target | None = None
) -> NewRequest:
    """The dense model against itself: its latency, and an A/A test for free."""
    blob, strict = prepared.dense_skeleton, Settings.strict(seed=seed, profile=True)
    return NewRequest(purpose, blob, blob, strict, target=target)


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


def usual_reference_ms(snapshot: Snapshot) -> float | None:
    """What the dense skeleton takes on the job's device when nothing disturbs it: near the fastest
    of the job's measurements. None while there are few."""
    dense = dense_measurement(snapshot)
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
    """β = B / L₀, the budget as a ratio to the dense latency."""
    budget = snapshot.spec.budget
    if budget.ratio is not None:
        return budget.ratio
    return (budget.latency_ms or 0.0) / dense_ms(snapshot)


def levels(snapshot: Snapshot) -> int:
    """Of the search; fewer than the job asked for where its device cannot tell them apart."""
    return int((snapshot.job.progress or {}).get("levels", snapshot.spec.search.levels))


def finalists(snapshot: Snapshot) -> list[Chosen]:
    """The plans that the search settled on so far; none before it did."""
    state = snapshot.search_state or {}
    return [Chosen.model_validate(each) for each in state.get("chosen", ())]


@dataclass(frozen=True)
class Verified:
    """A finalist with everything known of it but its test accuracy."""

    chosen: Chosen
    finetuned: Finetuned
    packaged: Packaged
    latency: Measurement

    @property
    def validation_accuracy(self) -> float:
        """Of the file where layers are in int8, else of the model."""
        of_file = self.packaged.validation_accuracy
        return self.finetuned.validation_accuracy if of_file is None else of_file

    def rank(self, budget: float) -> tuple[int, float, str]:
        """Interval within the budget first, then its middle, then the rest by latency; among those
        that meet it the most accurate on the validation images."""
        accuracy, ratio = self.validation_accuracy, self.latency.ratio
        if ratio is None or ratio > budget:
            return 2, float("inf") if ratio is None else ratio, self.chosen.digest
        is_within = self.latency.ratio_high is not None and self.latency.ratio_high <= budget
        return 0 if is_within else 1, -accuracy, self.chosen.digest


def winner(snapshot: Snapshot) -> Verified | None:
    """The finalist to hand back; None if none could be measured."""
    known = [_verified(snapshot, each) for each in finalists(snapshot)]
    measured = [each for each in known if each is not None]
    return min(measured, key=lambda each: each.rank(beta(snapshot)), default=None)


def _verified(snapshot: Snapshot, chosen: Chosen) -> Verified | None:
    latency = snapshot.measurement(final_purpose(chosen.digest))
    found = snapshot.results([finetune_key(chosen.digest), package_key(chosen.digest)])
    if latency is None or latency.ratio is None or found is None:
        return None
    finetuned, packaged = Finetuned.model_validate(found[0]), Packaged.model_validate(found[1])
    return Verified(chosen, finetuned, packaged, latency)
