"""Verifying: finalists are measured strictly with their true weights, and the most accurate one wins."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.states import JobState
from jobs.tables import Measurement
from latency_probes.messages import Settings
from workers.decision import Decision, NewRequest, NewTask
from workers.outcome import result_document
from workers.phases.finetuning import PACKAGE_DENSE, finalists, finetune_key, package_key
from workers.phases.preparing import beta
from workers.progress import progress
from workers.results import Blob, Chosen, Finetuned, Packaged
from workers.snapshot import Snapshot

FINISH = "finish"


@dataclass(frozen=True)
class Verified:
    """A finalist with everything known of it but its test accuracy."""

    chosen: Chosen
    finetuned: Finetuned
    packaged: Packaged
    latency: Measurement

    def rank(self, budget: float) -> tuple[int, float, str]:
        """Interval within the budget first, then the middle of it, then the rest by latency; among
        those that meet it the most accurate on the validation images."""
        low = -self.finetuned.validation_accuracy
        if (self.latency.ratio_high or budget + 1) <= budget:
            return 0, low, self.chosen.digest
        ratio = self.latency.ratio or budget + 1
        return (1, low, self.chosen.digest) if ratio <= budget else (2, ratio, self.chosen.digest)


def decide(snapshot: Snapshot) -> Decision:
    """Packages, measures, chooses, reads the test images once, and ends."""
    chosen = finalists(snapshot)
    packages = snapshot.results([PACKAGE_DENSE, *(package_key(each.digest) for each in chosen)])
    if packages is None:
        return Decision(progress=progress(snapshot, "verifying", 0.1))
    reference, *candidates = [Packaged.model_validate(each).onnx for each in packages]
    purposes = [final_purpose(each.digest) for each in chosen]
    if not all(snapshot.ended(purpose) for purpose in purposes):
        requests = tuple(
            final_request(snapshot, each, candidate, reference)
            for each, candidate in zip(chosen, candidates, strict=True)
        )
        return Decision(requests=requests, progress=progress(snapshot, "verifying", 0.3))
    best = winner(snapshot)
    if best is None:
        return Decision.fail(
            "No finalist could be measured",
            "every finalist failed on the device with its true weights; see the measurements",
        )
    if snapshot.result(FINISH) is None:
        payload = {"digest": best.chosen.digest}
        return Decision(
            tasks=(NewTask(FINISH, FINISH, payload),),
            progress=progress(snapshot, "verifying", 0.8),
        )
    return Decision(
        to_state=JobState.SUCCEEDED,
        result=result_document(snapshot),
        progress=progress(snapshot, "done", 1.0),
    )


def winner(snapshot: Snapshot) -> Verified | None:
    """The finalist to hand back; None if none could be measured."""
    known = [verified(snapshot, each) for each in finalists(snapshot)]
    measured = [each for each in known if each is not None]
    return min(measured, key=lambda each: each.rank(beta(snapshot)), default=None)


def verified(snapshot: Snapshot, chosen: Chosen) -> Verified | None:
    """A finalist's results together; None if the device could not measure it."""
    latency = snapshot.measurement(final_purpose(chosen.digest))
    found = snapshot.results([finetune_key(chosen.digest), package_key(chosen.digest)])
    if latency is None or latency.ratio is None or found is None:
        return None
    return Verified(
        chosen, Finetuned.model_validate(found[0]), Packaged.model_validate(found[1]), latency
    )


def final_purpose(digest: str) -> str:
    """The purpose of a finalist's last measurement."""
    return f"final:{digest}"


def final_request(
    snapshot: Snapshot, chosen: Chosen, candidate: Blob, reference: Blob
) -> NewRequest:
    """Both models with their true weights, strictly."""
    settings = Settings.strict(seed=snapshot.spec.search.seed)
    return NewRequest(final_purpose(chosen.digest), candidate, reference, settings)
