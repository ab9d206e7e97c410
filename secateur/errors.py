"""What the library raises by itself.

SecateurError
├── BudgetOutOfReach   the fastest network that is left still takes too long
├── DataError          the training or validation data is not inputs and labels
└── MeasuringError     the device could not measure the network

Errors of the analysis and the search are those of `search.errors`.
"""


class SecateurError(Exception):
    """Anything that this package raises on purpose."""


class BudgetOutOfReach(SecateurError):
    """The fastest network that is left still takes too long.

    Attributes:
        budget: As a ratio to the dense latency.
        fastest: The lowest ratio that was measured.
    """

    def __init__(self, budget: float, fastest: float) -> None:
        super().__init__(
            f"the budget must be within reach, but it is {100 * budget:.4g} % of the dense "
            f"latency, and the fastest network still takes {100 * fastest:.4g} %: raise it"
        )
        self.budget, self.fastest = budget, fastest


class DataError(SecateurError, ValueError):
    """The training or validation data is not inputs and labels."""


class MeasuringError(SecateurError):
    """The device could not measure the network."""
