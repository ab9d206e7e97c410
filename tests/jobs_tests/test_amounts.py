"""Budgets are read as people write them."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.errors import SpecError
from jobs.spec import BudgetSpec
from jobs.validation import validate


@pytest.mark.parametrize(
    ("budget", "ratio", "latency_ms"),
    [
        ("60%", 0.6, None),
        ("60 %", 0.6, None),
        ("0.6x", 0.6, None),
        ("0.6X", 0.6, None),
        (".6", 0.6, None),
        ("20ms", None, 20.0),
        (" 20 ms ", None, 20.0),
        ("0.02s", None, 20.0),
        ("2e4us", None, 20.0),
        ({"ratio": "60%"}, 0.6, None),
        ({"ratio": 0.6}, 0.6, None),
        ({"latency_ms": "0.02 s"}, None, 20.0),
        ({"latency_ms": "20"}, None, 20.0),
        ({"latency_ms": 20}, None, 20.0),
    ],
)
def test_budgets_are_read_as_people_write_them(
    budget: Any, ratio: float | None, latency_ms: float | None
) -> None:
    read = validate(BudgetSpec, budget)
    assert read.ratio == (None if ratio is None else pytest.approx(ratio))
    assert read.latency_ms == (None if latency_ms is None else pytest.approx(latency_ms))


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("60", "write 60ms or 60%"),
        ("fast", "such as 60%, 0.6x, 20ms or 0.02s"),
        ("20mb", "such as 60%, 0.6x, 20ms or 0.02s"),
        ("", "such as"),
        ("1e999%", "such as"),
        ("2x", "write 50% for 2 times as fast"),
        ("-1%", "must be > 0"),
        ({"ratio": "20ms"}, "a part of the dense latency, such as 60%"),
        ({"ratio": 60}, "60 % is 0.6, or write 60%"),
        ({"ratio": "60"}, "60 % is 0.6, or write 60%"),
        ({"latency_ms": "60%"}, "a latency, such as 20ms"),
        ({"latency_ms": "0ms"}, "must be > 0"),
    ],
)
def test_what_is_no_budget_is_refused_with_what_to_write(budget: Any, words: str) -> None:
    with pytest.raises(SpecError) as refused:
        validate(BudgetSpec, budget)
    assert words in str(refused.value)
