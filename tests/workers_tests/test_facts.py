"""Which finalist wins, and what later phases may rely on."""

from __future__ import annotations

import pytest

from jobs.tables import Measurement
from search.explorer import Measured
from tests.workers_tests.bench import Bench
from tests.workers_tests.test_decision import add_job, look
from workers.outcome import result_document
from workers.phases.facts import Verified, dense_measurement, prepared_result
from workers.results import Blob, Chosen, Finetuned, Packaged

BUDGET = 0.5
PACKAGED = Packaged(
    onnx=Blob(digest="a" * 64, size=1, location="a"), files={}, worst_difference=0.0
)


def finalist(name: str, ratio: float, *, accuracy: float, width: float = 0.0) -> Verified:
    high = ratio + width
    return Verified(
        Chosen(digest=name, plan={}, ratio=ratio, loss=None),
        Finetuned(weights="w", steps=1, validation_loss=0.0, validation_accuracy=accuracy),
        PACKAGED,
        Measurement(ratio=ratio, ratio_low=ratio, ratio_high=high),
        (),
        Measured(ratio, ratio, high),
    )


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (finalist("b", 0.49, accuracy=0.9), finalist("a", 0.40, accuracy=0.8)),
        (finalist("b", 0.49, accuracy=0.8), finalist("a", 0.49, accuracy=0.9, width=0.02)),
        (finalist("b", 0.49, accuracy=0.8, width=0.02), finalist("a", 0.51, accuracy=0.9)),
        (finalist("b", 0.51, accuracy=0.8), finalist("a", 0.52, accuracy=0.9)),
        (finalist("a", 0.49, accuracy=0.9), finalist("b", 0.49, accuracy=0.9)),
    ],
    ids=[
        "accuracy decides within the budget",
        "the whole interval within the budget comes first",
        "the middle within the budget comes next",
        "latency decides above the budget",
        "the digest breaks ties",
    ],
)
def test_ranking_of_finalists(better: Verified, worse: Verified) -> None:
    assert better.rank(BUDGET) < worse.rank(BUDGET)


def test_missing_facts_are_said_and_not_guessed(bench: Bench) -> None:
    snapshot = look(bench, add_job(bench))
    with pytest.raises(LookupError, match="must be prepared"):
        prepared_result(snapshot)
    with pytest.raises(LookupError, match="must have its dense model measured"):
        dense_measurement(snapshot)
    with pytest.raises(LookupError, match="must be finished"):
        result_document(snapshot, None)
