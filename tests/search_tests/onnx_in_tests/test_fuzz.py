"""Whatever is done to a file, the reader takes it or refuses it in its own words."""

from __future__ import annotations

import random
import warnings

import pytest

from benchmarks.onnx_fuzz import bases, mutated, outcome

FILES = bases()


@pytest.mark.parametrize("place", range(len(FILES)))
def test_the_files_themselves_are_taken(place: int) -> None:
    assert outcome(FILES[place]) == "taken"


@pytest.mark.parametrize("part", range(4))
def test_mutated_files_are_taken_or_refused(part: int) -> None:
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about numbers that overflow
        for number in range(100):
            source = random.Random(f"{part}/{number}")
            found[number] = outcome(mutated(FILES[number % len(FILES)], source))
    others = {number: said for number, said in found.items() if said not in ("taken", "refused")}
    assert not others
    assert set(found.values()) == {"taken", "refused"}
