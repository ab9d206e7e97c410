"""The order in which results arrive changes nothing of what a job finds."""

from __future__ import annotations

import random
from typing import Any

import pytest

from jobs.repository import candidates, requests
from jobs.states import RequestState
from jobs.tables import Request
from latency_probes.messages import MeasureError
from latency_probes.samples import Measurement
from tests.workers_tests.rows import measured
from tests.workers_tests.workshop import Answer, Question, Workshop, staircase

SEARCH = {
    "levels": 2,
    "beam_width": 2,
    "children": 3,
    "calibration_images": 32,
    "staircase_points": 2,
    "refinements": 0,
    "finalists": 2,
}
ENOUGH = 12


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


def test_answers_that_count_no_more_are_asked_again_and_change_nothing(
    workshop: Workshop, in_order: tuple[Any, ...]
) -> None:
    job_id, device_id = workshop.submit(search=SEARCH), workshop.device()

    def told() -> list[str]:
        """The plans whose latency the search has been told."""
        state = workshop.snapshot(job_id).search_state or {"explorer": {"outcomes": []}}
        return [
            each["digest"] for each in state["explorer"]["outcomes"] if each["needs"] == "latency"
        ]

    answer = spoiling(job_id, workshop)
    workshop.play(job_id, answer, device_id=device_id, until=lambda: len(told()) > ENOUGH)
    answered = workshop.requests(job_id, "screening")
    spoilt = [each for each in answered if is_spoilt(each) and each.state == RequestState.DONE]
    assert 0 < len(spoilt) < ENOUGH
    with workshop.bench.write() as session:
        for request in spoilt:
            assert requests.reopen(session, request.id)
    workshop.play(
        job_id, device_id=device_id, until=lambda: workshop.job(job_id).state == "finetuning"
    )
    snapshot = workshop.snapshot(job_id)
    workshop.bench.take_messages()
    assert (snapshot.search_state or {})["chosen"] == in_order[0]["chosen"]
    with workshop.bench.context.read() as session:
        tree = candidates.tree(session, job_id)
    assert {node.digest for node in tree} >= set(told())


def is_spoilt(request: Request) -> bool:
    """Every second one, so that the search goes on from a mixture."""
    return request.skeleton_digest < "8"


def spoiling(job_id: str, workshop: Workshop) -> Answer:
    """A device that takes every second candidate for 5 % slower than it is."""

    def answer(question: Question) -> Measurement | MeasureError:
        found = staircase(question)
        asked = {each.purpose: each for each in workshop.requests(job_id, "screening")}
        request = asked.get(question.purpose)
        if request is None or not is_spoilt(request) or isinstance(found, MeasureError):
            return found
        return measured(round(1.05e6 * found.latency_ms), round(1e6 * found.reference_ms))

    return answer
