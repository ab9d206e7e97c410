"""Budgets on the command line: read by the rules of the service, and written into file names."""

from collections.abc import Mapping

import typer


def read_budget(latency: str | None, ratio: str | None) -> dict[str, float]:
    """The budget of a job; a wrong one is refused before anything is started."""
    from jobs.errors import SpecError
    from jobs.spec import BudgetSpec
    from jobs.validation import validate

    if (latency is None) == (ratio is None):
        got = "neither" if latency is None else "both"
        raise typer.BadParameter(
            f"one of --latency 20ms and --ratio 60% must be given, but got {got}"
        )
    field, text = ("ratio", ratio) if latency is None else ("latency_ms", latency)
    try:
        budget = validate(BudgetSpec, {field: text})
    except SpecError as error:
        told = "; ".join(each.message.removeprefix(f"{field} ") for each in error.problems)
        raise typer.BadParameter(
            f"--{'ratio' if latency is None else 'latency'} {told}"
        ) from error
    return budget.model_dump(exclude_none=True)


def words(budget: Mapping[str, float]) -> str:
    """A budget in a file name."""
    if "ratio" in budget:
        return f"{100 * budget['ratio']:g}-percent"
    return f"{budget['latency_ms']:g}ms"
