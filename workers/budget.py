"""Turns a user's budget into β, the ratio to the dense latency, once the dense model is measured."""

from __future__ import annotations

from jobs.spec import BudgetSpec


def budget_ratio(budget: BudgetSpec, dense_latency_ms: float) -> float:
    """β = B / L₀."""
    if budget.ratio is not None:
        return budget.ratio
    if budget.latency_ms is None:
        raise ValueError("budget must give ratio or latency_ms, but got neither")
    return budget.latency_ms / dense_latency_ms
