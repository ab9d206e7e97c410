"""The arithmetic of the comparison of searches, and each way on a tiny network."""

from dataclasses import replace

import pytest

from benchmarks.search.cells import Cell, difference, packed, table, unpacked


def cell(way: str, right: list[bool], seed: int = 0, ratio: float = 0.345) -> Cell:
    return Cell(
        network="net", budget=0.35, way=way, seed=seed, ratio=ratio, low=ratio - 0.001,
        high=ratio + 0.001, accuracy=sum(right) / len(right), right=packed(right),
        images=len(right), measured=10, steps=100, seconds=1.0, device_s=0.5,
    )  # fmt: skip


def test_answers_are_packed_and_unpacked() -> None:
    right = [False, False, True, True, False, True, True, True, False]
    assert unpacked(cell("tree", right)) == [int(each) for each in right]


def test_a_difference_pairs_the_images() -> None:
    ours, other = [True] * 900 + [False] * 100, [True] * 880 + [False] * 120
    middle, low, high = difference([cell("tree", ours)], [cell("halp", other)])
    assert middle == pytest.approx(2.0)
    assert 1.0 < low < 2.0 < high < 3.0  # the standard error of 20 in 1000 is 0.44 points
    same = difference([cell("tree", ours)], [cell("halp", ours)])
    assert same == (0.0, 0.0, 0.0)


def test_a_difference_is_the_mean_over_seeds() -> None:
    ours = [cell("tree", [True] * 4, seed=0), cell("tree", [True, True, False, False], seed=1)]
    other = [replace(each, way="halp", right=packed([True, False, False, False])) for each in ours]
    assert difference(ours, other)[0] == pytest.approx(100 * (0.75 + 0.25) / 2)


def test_the_table_says_who_is_over_the_budget() -> None:
    cells = [cell("tree", [True, True]), cell("halp", [True, False], ratio=0.36)]
    rows = table(cells).splitlines()
    assert rows[2].startswith("| net | 0.35 | tree | 1 | 0.345 | 100.00 % |  | 10 | 1 |")
    assert rows[3].startswith("| net | 0.35 | halp | 1 | 0.360 (over) | 50.00 % | +50.00 [")
    assert cells[0].fits
    assert not cells[1].meets
    assert not cell("tree", [True], ratio=0.3).fits
