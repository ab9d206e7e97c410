"""The order in which results arrive changes nothing of what a job finds."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.workers_tests.workshop import Workshop

SEARCH = {"levels": 2, "beam_width": 2, "children": 3, "calibration_images": 32, "finalists": 2}


def outcome(workshop: Workshop, chance: random.Random | None) -> tuple[Any, ...]:
    """The finalists and the tree of a job that is played up to its fine-tuning."""
    job_id = workshop.submit(search=SEARCH)
    workshop.play(job_id, chance=chance, until=lambda: workshop.job(job_id).state == "finetuning")
    snapshot = workshop.snapshot(job_id)
    workshop.bench.take_messages()
    return snapshot.search_state, sorted(snapshot.requests), sorted(snapshot.tasks)


@pytest.fixture(scope="module")
def in_order(workshop: Workshop) -> tuple[Any, ...]:
    return outcome(workshop, None)


@pytest.mark.parametrize("seed", [1, 2])
def test_plans_do_not_depend_on_the_order_of_results(
    workshop: Workshop, in_order: tuple[Any, ...], seed: int
) -> None:
    shuffled = outcome(workshop, random.Random(seed))
    assert shuffled[0]["chosen"] == in_order[0]["chosen"]
    assert shuffled[1:] == in_order[1:]
