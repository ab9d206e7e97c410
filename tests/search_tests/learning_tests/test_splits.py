"""Rules of the splits: disjoint, complete, and the same for the same seed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from search.errors import ConfigError
from search.splits import split_indices


@given(count=st.integers(5, 3000), seed=st.integers(0, 9))
def test_parts_are_disjoint_and_cover_everything(count: int, seed: int) -> None:
    splits = split_indices(count, seed=seed)
    together = torch.cat([splits.fit, splits.calibration, splits.validation])
    assert together.sort().values.tolist() == list(range(count))
    assert min(len(splits.fit), len(splits.calibration), len(splits.validation)) >= 1


def test_the_same_seed_gives_the_same_parts_and_another_seed_others() -> None:
    first, again, other = (split_indices(6000, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.calibration, again.calibration)
    assert torch.equal(first.fit, again.fit)
    assert not torch.equal(first.calibration, other.calibration)


def test_asked_sizes_are_met_where_the_data_allow() -> None:
    splits = split_indices(60_000, seed=0, calibration=512, validation=2000)
    assert (len(splits.calibration), len(splits.validation)) == (512, 2000)
    small = split_indices(100, seed=0)
    assert (len(small.calibration), len(small.validation)) == (20, 20)


def test_too_few_images_and_empty_parts_are_refused() -> None:
    with pytest.raises(ConfigError, match="count must be ≥ 5 .* but got 4"):
        split_indices(4, seed=0)
    with pytest.raises(ConfigError, match="must be ≥ 1, but got 0 and 2000"):
        split_indices(100, seed=0, calibration=0)
