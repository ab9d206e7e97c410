from dataclasses import dataclass

import pytest

from search.explorer import Failed, Measured, Scored
from search.explorer.outcomes import outcome_from_json, outcome_to_json, read_outcome


@dataclass
class ProbeError:
    kind: str
    message: str


@dataclass
class ProbeAnswer:
    ratio: float = 0.0
    ratio_low: float = 0.0
    ratio_high: float = 0.0
    latency_ms: float | None = None
    error: ProbeError | None = None


def test_any_object_with_the_attributes_is_read() -> None:
    assert read_outcome("latency", ProbeAnswer(0.5, 0.4, 0.6, 7)) == Measured(0.5, 0.4, 0.6, 7.0)


def test_an_error_attribute_is_a_failure() -> None:
    answer = ProbeAnswer(error=ProbeError("timeout", "60 s"))
    assert read_outcome("latency", answer) == Failed("timeout", "60 s")


@dataclass
class ProbeFailure:
    kind: str
    message: str

    @property
    def error(self) -> str:
        return self.kind


def test_a_failure_is_read_by_its_own_attributes_first() -> None:
    failure = ProbeFailure("crashed", "signal 11")
    assert read_outcome("latency", failure) == Failed("crashed", "signal 11")


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("nan"), float("inf")])
def test_a_ratio_that_cannot_be_is_a_failure(ratio: float) -> None:
    outcome = read_outcome("latency", Measured(ratio, ratio, ratio))
    assert isinstance(outcome, Failed)
    assert outcome.kind == "invalid"


def test_a_loss_that_is_not_finite_is_a_failure() -> None:
    assert read_outcome("loss", Scored(float("nan"))) == Failed("invalid", "loss is nan")


def test_an_outcome_without_the_attributes_is_refused() -> None:
    with pytest.raises(TypeError, match="needs loss"):
        read_outcome("loss", Measured(0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    "outcome", [Measured(0.1, 0.05, 0.2), Scored(1 / 3), Failed("crashed", "signal 11")]
)
def test_an_outcome_survives_json(outcome: Measured | Scored | Failed) -> None:
    assert outcome_from_json(outcome_to_json(outcome)) == outcome


def test_other_json_is_refused() -> None:
    with pytest.raises(ValueError, match="measured, scored, tuned or failed"):
        outcome_from_json({"ratio": 1.0})
