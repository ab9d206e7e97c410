"""Data is taken as people hold it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from search.objectives import UNLABELLED
from secateur.data import labelled, parts_of
from secateur.errors import DataError

INPUTS, LABELS = torch.rand(10, 3), torch.arange(10)
PAIRS = TensorDataset(INPUTS, LABELS)


@pytest.mark.parametrize(
    "data",
    [
        (INPUTS, LABELS),
        [INPUTS, LABELS],
        PAIRS,
        DataLoader(PAIRS, batch_size=4),
        [(INPUTS[:6], LABELS[:6]), (INPUTS[6:], LABELS[6:])],
        [(INPUTS, LABELS)],
        [(INPUTS[index], index) for index in range(10)],
        ((INPUTS[start : start + 5], LABELS[start : start + 5]) for start in (0, 5)),
    ],
)
def test_every_form_gives_the_same_examples(data: Any) -> None:
    found = labelled(data, "train")
    assert torch.equal(found.inputs, INPUTS)
    assert torch.equal(found.labels, LABELS)


@pytest.mark.parametrize(
    "data",
    [
        LABELS,
        [],
        None,
        3,
        (INPUTS, LABELS[:4]),
        (INPUTS, LABELS.float()),
        (INPUTS, INPUTS, INPUTS),
    ],
)
def test_other_things_are_refused_in_words(data: Any) -> None:
    with pytest.raises(DataError, match="must"):
        labelled(data, "train")


def test_parts_are_disjoint_and_validation_is_cut_off_only_where_none_is_given() -> None:
    parts = parts_of((INPUTS, LABELS), None, calibration=2, seed=0)
    drawn = torch.cat([parts.fit.labels, parts.calibration.labels, parts.validation.labels])
    assert sorted(drawn.tolist()) == list(range(10))
    given = parts_of((INPUTS, LABELS), (INPUTS, LABELS), calibration=2, seed=0)
    assert (len(given.fit), len(given.calibration), len(given.validation)) == (8, 2, 10)


@pytest.mark.parametrize("data", [INPUTS, list(INPUTS.split(4))])
def test_inputs_alone_are_judged_by_the_dense_network(data: Any) -> None:
    parts = parts_of(data, None, calibration=2, seed=0)
    assert parts.objective is UNLABELLED
    judged = parts.judged_by(torch.nn.Linear(INPUTS.shape[1], 3))
    assert judged.fit.labels.shape == (len(parts.fit), 3)
    assert judged.objective is UNLABELLED
