"""A step that would end too late is not begun."""

from __future__ import annotations

from search.graph.deadline import Deadline


def test_the_next_step_is_taken_to_last_as_long_as_the_longest_before() -> None:
    times = iter([0.0, 30.0, 40.0, 45.0, 49.0, 50.0])
    expired = Deadline(60.0, lambda: next(times))
    assert [expired() for _ in range(5)] == [False, False, False, False, True]


def test_what_happens_before_the_first_question_is_no_step() -> None:
    times = iter([0.0, 50.0, 51.0])
    expired = Deadline(60.0, lambda: next(times))
    assert not expired()
    assert not expired()
