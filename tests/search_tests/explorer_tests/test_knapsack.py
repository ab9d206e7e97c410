import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.explorer.knapsack import RESOLUTION, Option, cheapest

steps = st.integers(0, 60)


def option_rows() -> st.SearchStrategy[list[Option]]:
    row = st.tuples(st.floats(0, 5), steps)
    return st.lists(row, min_size=1, max_size=4).map(
        lambda rows: [
            Option(10 - index, penalty, count * RESOLUTION)
            for index, (penalty, count) in enumerate(rows)
        ]
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(option_rows(), min_size=1, max_size=4), st.integers(0, 120))
def test_the_knapsack_is_as_cheap_as_trying_everything(
    rows: list[list[Option]], wanted: int
) -> None:
    options = {f"g{index}": row for index, row in enumerate(rows)}
    lookup = {(name, o.width): o for name, row in options.items() for o in row}

    def saving(widths: dict[str, int]) -> int:
        return sum(round(lookup[item].saving / RESOLUTION) for item in widths.items())

    found = cheapest(options, lambda widths: saving(dict(widths)) >= wanted)
    costs = [
        sum(option.penalty for option in choice)
        for choice in itertools.product(*rows)
        if sum(round(option.saving / RESOLUTION) for option in choice) >= wanted
    ]
    if found is None:
        assert not costs
    else:
        assert sum(lookup[item].penalty for item in found.items()) == pytest.approx(min(costs))


def test_equal_plans_keep_the_widest() -> None:
    options = {"a": [Option(8, 0.0, 0.0), Option(4, 0.0, 0.0)]}
    assert cheapest(options, lambda widths: True) == {"a": 8}


def test_no_groups_no_plan() -> None:
    assert cheapest({}, lambda widths: True) is None
