"""Outcomes that a candidate may have. Knows nothing of who measured or scored it."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from search.errors import ExplorerError

Needs = Literal["latency", "loss", "weights"]


@dataclass(frozen=True)
class Measured:
    """A latency as a ratio to the dense model, with its interval."""

    ratio: float
    ratio_low: float
    ratio_high: float
    latency_ms: float | None = None


@dataclass(frozen=True)
class Scored:
    """A calibration loss; lower is better. Its standard error, where it is known."""

    loss: float
    standard_error: float | None = None


@dataclass(frozen=True)
class Tuned:
    """Weights after a few steps of fine-tuning: where they and the scores of their units are kept,
    and their calibration loss."""

    checkpoint: str
    loss: float
    standard_error: float | None = None


@dataclass(frozen=True)
class Failed:
    """A measurement or an evaluation that gave no number, and why."""

    kind: str
    message: str


Outcome = Measured | Scored | Tuned | Failed


def read_outcome(needs: Needs, outcome: object) -> Outcome:
    """Reads any object with the attributes of `Measured`, `Scored`, `Tuned` or `Failed`.

    A number that cannot be (a ratio ≤ 0, a loss that is not finite) is a failure of kind
    `invalid`: a failed candidate is data, not an exception.

    Raises:
        TypeError: The object has none of the attributes that the candidate needs.
    """
    for failure in (outcome, getattr(outcome, "error", None)):
        if hasattr(failure, "kind") and hasattr(failure, "message"):
            return Failed(str(failure.kind), str(failure.message))
    if needs == "latency" and hasattr(outcome, "ratio"):
        return _measured(outcome)
    if needs == "weights" and hasattr(outcome, "checkpoint"):
        scored = _scored(outcome)
        if isinstance(scored, Failed):
            return scored
        return Tuned(str(outcome.checkpoint), scored.loss, scored.standard_error)
    if needs == "loss" and hasattr(outcome, "loss"):
        return _scored(outcome)
    raise TypeError(
        f"outcome of a candidate that needs {needs} must have its attributes, but got {outcome!r}"
    )


def _measured(outcome: Any) -> Measured | Failed:
    ratio = float(outcome.ratio)
    low, high = float(outcome.ratio_low), float(outcome.ratio_high)
    if not (math.isfinite(ratio) and ratio > 0 and low <= ratio <= high < math.inf):
        return Failed("invalid", f"ratio is {ratio} in [{low}, {high}]")
    latency = getattr(outcome, "latency_ms", None)
    return Measured(ratio, low, high, None if latency is None else float(latency))


def _scored(outcome: Any) -> Scored | Failed:
    loss, error = float(outcome.loss), getattr(outcome, "standard_error", None)
    if not math.isfinite(loss):
        return Failed("invalid", f"loss is {loss}")
    return Scored(loss, None if error is None else float(error))


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    """The outcome as a JSON object that `outcome_from_json` reads back exactly."""
    return dict(vars(outcome))


def outcome_from_json(document: dict[str, Any]) -> Outcome:
    """Inverse of `outcome_to_json`."""
    for kind in (Measured, Scored, Tuned, Failed):
        if set(document) == set(kind.__dataclass_fields__) or (
            kind is Scored and set(document) == {"loss"}
        ):
            return kind(**document)
    raise ExplorerError(
        f"outcome must be measured, scored, tuned or failed, but got {sorted(document)}"
    )
