"""Models drawn by chance."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from benchmarks.coverage.drawing import drawn
from benchmarks.coverage.names import ModelNameError, is_name

FEW = {"timm": lambda: ["a", "b", "c"], "torchvision": lambda: ["a", "d"]}


def names(count: int, seed: int = 0, known: Iterable[str] = ()) -> list[str]:
    return drawn(count, seed, list(FEW), set(known), FEW)


def test_a_seed_draws_the_same_names_again_and_another_one_others() -> None:
    assert names(3, seed=1) == names(3, seed=1)
    assert len({tuple(names(3, seed)) for seed in range(9)}) > 1


def test_each_name_is_drawn_once_and_those_that_are_known_never() -> None:
    assert set(names(5)) == {"timm:a", "timm:b", "timm:c", "torchvision:a", "torchvision:d"}
    assert set(names(3, known=["timm:a", "torchvision:d"])) == {
        "timm:b",
        "timm:c",
        "torchvision:a",
    }
    assert all(map(is_name, names(5)))


def test_more_names_than_there_are_cannot_be_drawn() -> None:
    with pytest.raises(ModelNameError, match="--draw must be at most 4, .* but got 5"):
        names(5, known=["timm:b"])
