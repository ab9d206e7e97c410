"""The budgets that the one result of a job must meet: on its own device, and on further ones.

Each device measures for itself. The search is told one number for them all, that of the device
which is furthest from its budget:

| symbol | meaning |
|---|---|
| r_d, β_d | measured ratio and budget on device d, as parts of the dense latency there |
| β | the tightest β_d: the budget of the search |
| r | max over d of r_d · β / β_d: at most β where every budget is met, and 1 for the dense model |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jobs.runtimes import dense_on
from jobs.spec import BudgetSpec
from jobs.tables import Measurement
from search.explorer import Failed, Measured
from workers.snapshot import Snapshot


@dataclass(frozen=True)
class Demand:
    """A budget on one device.

    Attributes:
        mark: behind the purposes of its requests; none on the job's own device.
        beta: the budget as a part of the dense latency there.
        dense: the dense model's measurement there.
    """

    mark: str
    beta: float
    dense: Measurement

    @property
    def selector(self) -> str | None:
        """Who answers its requests; None: whoever measures the job."""
        return f"id:{self.dense.device_id}" if self.mark else None


def mark(number: int) -> str:
    """Of the purposes on a further device, by its place in the job's document."""
    return f"@{number}"


def further_dense(snapshot: Snapshot) -> list[Measurement | None]:
    """The dense model on each further device, as far as it was measured."""
    count = len(snapshot.spec.further_devices)
    return [snapshot.measurement(dense_on(number)) for number in range(count)]


def are_known(snapshot: Snapshot) -> bool:
    """Whether the dense model is measured on every device."""
    rows = (snapshot.dense, *further_dense(snapshot))
    return all(row is not None and row.latency_ms is not None for row in rows)


def demands(snapshot: Snapshot) -> tuple[Demand, ...]:
    """The budgets, that of the job's own device first.

    Raises:
        LookupError: a dense model is not measured yet.
    """
    found = []
    for number, (budget, dense) in enumerate(_given(snapshot)):
        if dense is None:
            raise LookupError(f"{snapshot.job.id} must have its dense model measured, but has not")
        found.append(Demand(mark(number - 1) if number else "", beta(budget, dense), dense))
    return tuple(found)


def beta(budget: BudgetSpec, dense: Measurement | None) -> float:
    """β = B / L₀, a budget as a ratio to the dense latency.

    Raises:
        LookupError: it is in milliseconds, and the dense model is not measured.
    """
    if budget.ratio is not None:
        return budget.ratio
    if dense is None or dense.latency_ms is None:
        raise LookupError("the dense model must be measured, but is not")
    return (budget.latency_ms or 0.0) / dense.latency_ms


def tightest(snapshot: Snapshot) -> float:
    """The budget of the search; raises as `beta` does."""
    return min(beta(*each) for each in _given(snapshot))


def furthest(
    asked: Sequence[Demand], found: Iterable[Measured | Failed | None]
) -> Measured | Failed | None:
    """What the search is told.

    Args:
        asked: all demands of a job.
        found: what each device measured; None where it has not yet.

    Returns:
        One failure for any that there is; None while something is missing. The latency in
        milliseconds is that of the job's own device.
    """
    known = list(found)
    failed = next((each for each in known if isinstance(each, Failed)), None)
    if failed is not None:
        return failed
    rows = [each for each in known if isinstance(each, Measured)]
    if len(rows) < len(asked):
        return None
    least = min(each.beta for each in asked)
    scaled = [
        (row.ratio * scale, row.ratio_low * scale, row.ratio_high * scale)
        for row, scale in zip(rows, (least / each.beta for each in asked), strict=True)
    ]
    ratio, low, high = (max(column) for column in zip(*scaled, strict=True))
    return Measured(ratio, low, high, rows[0].latency_ms)


def _given(snapshot: Snapshot) -> list[tuple[BudgetSpec, Measurement | None]]:
    """Each budget with the dense model's measurement on its device, the job's own first."""
    budgets = (snapshot.spec.budget, *snapshot.spec.further_devices)
    return list(zip(budgets, (snapshot.dense, *further_dense(snapshot)), strict=True))
