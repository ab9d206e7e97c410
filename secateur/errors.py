"""What the library raises by itself.

SecateurError
├── AccuracyOutOfReach the result is less accurate than it may be
├── BudgetOutOfReach   the fastest network that is left still takes too long
├── DataError          the training or validation data is not inputs and labels
└── MeasuringError     the device could not measure the network

Errors of the analysis and the search are those of `search.errors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from secateur.result import Result


class SecateurError(Exception):
    """Anything that this package raises on purpose."""


class AccuracyOutOfReach(SecateurError):
    """The result is less accurate on the validation data than it may be.

    Attributes:
        least: The accuracy that was asked for.
        result: What was found, all the same.
    """

    def __init__(self, least: float, result: Result) -> None:
        super().__init__(
            f"accuracy must be at least {least:.4f}, but the result has {result.accuracy:.4f} at "
            f"{100 * result.ratio:.4g} % of the dense latency (dense {result.dense_accuracy:.4f}):"
            " raise the budget, fine-tune for more steps, or lower the floor"
        )
        self.least, self.result = least, result


class BudgetOutOfReach(SecateurError):
    """The fastest network that is left takes too long, or none keeps to the other limits too.

    Attributes:
        budget: As a ratio to the dense latency.
        fastest: The lowest ratio that was measured.
        beside: The other limits in words, where they are what none keeps to.
    """

    def __init__(self, budget: float, fastest: float, beside: str = "") -> None:
        super().__init__(
            f"no network that was found keeps to {100 * budget:.4g} % of the dense latency and to "
            f"{beside} at once: raise one of them"
            if beside
            else f"the budget must be within reach, but it is {100 * budget:.4g} % of the dense "
            f"latency, and the fastest network still takes {100 * fastest:.4g} %: raise it"
        )
        self.budget, self.fastest, self.beside = budget, fastest, beside


class DataError(SecateurError, ValueError):
    """The training or validation data is not inputs and labels."""


class MeasuringError(SecateurError):
    """The device could not measure the network."""
