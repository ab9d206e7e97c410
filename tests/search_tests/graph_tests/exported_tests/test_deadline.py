"""A step that would end too late is not begun."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import pytest
import torch

from search.graph.exported.deadline import Deadline, own_processor_time
from search.graph.exported.single_thread import one_thread


def test_the_next_step_is_taken_to_last_as_long_as_the_longest_before() -> None:
    times = iter([0.0, 30.0, 40.0, 45.0, 49.0, 50.0])
    deadline = Deadline(60.0, lambda: next(times))
    assert [deadline.refuses_step() for _ in range(5)] == [False, False, False, False, True]


def test_what_happens_before_the_first_question_is_no_step() -> None:
    times = iter([0.0, 50.0, 51.0])
    deadline = Deadline(60.0, lambda: next(times))
    assert not deadline.refuses_step()
    assert not deadline.refuses_step()


def test_the_time_is_over_when_the_limit_behind_is_there() -> None:
    waits = iter([0.0, 1.0, 1.0, 600.0, 600.0])
    deadline = Deadline(60.0, lambda: 0.0, Deadline(600.0, lambda: next(waits)))
    assert [deadline.refuses_step(), deadline.is_over()] == [False, False]
    assert [deadline.refuses_step(), deadline.is_over()] == [True, True]


def test_both_limits_see_every_step() -> None:
    times, waits = iter([0.0, 10.0, 40.0, 55.0]), iter([0.0, 10.0, 40.0, 55.0])
    deadline = Deadline(80.0, lambda: next(times), Deadline(200.0, lambda: next(waits)))
    assert [deadline.refuses_step() for _ in range(3)] == [False, False, True]
    times, waits = iter([0.0, 10.0, 40.0, 55.0]), iter([0.0, 10.0, 40.0, 55.0])
    deadline = Deadline(200.0, lambda: next(times), Deadline(80.0, lambda: next(waits)))
    assert [deadline.refuses_step() for _ in range(3)] == [False, False, True]


def test_processor_time_counts_neither_waiting_nor_other_threads() -> None:
    clock, ended = own_processor_time(), threading.Event()

    def compute() -> None:
        while not ended.is_set():
            sum(range(1000))

    other = threading.Thread(target=compute)
    other.start()
    before, process = clock(), time.process_time()
    time.sleep(0.1)
    own, all_threads = clock() - before, time.process_time() - process
    ended.set()
    other.join()
    assert own < 0.01 < all_threads


def test_processor_time_of_a_thread_can_be_read_from_another() -> None:
    clock, read = own_processor_time(), list[float]()
    before = clock()
    reader = threading.Thread(target=lambda: read.append(clock()))
    reader.start()
    reader.join()
    assert before <= read[0] <= clock()


@pytest.mark.parametrize("fails", [False, True])
def test_one_thread_computes_and_the_setting_comes_back(fails: bool) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with suppress(ZeroDivisionError), one_thread():
            assert torch.get_num_threads() == 1
            assert 1 // (not fails)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_thread_that_uses_torch_first_inside_keeps_one_thread() -> None:
    before, numbers = torch.get_num_threads(), list[int]()
    has_looked, has_ended = threading.Event(), threading.Event()

    def compute() -> None:
        numbers.append(torch.get_num_threads())
        has_looked.set()
        has_ended.wait(60.0)
        numbers.append(torch.get_num_threads())

    other = threading.Thread(target=compute)
    torch.set_num_threads(3)
    try:
        with one_thread():
            other.start()
            assert has_looked.wait(60.0)
        has_ended.set()
        other.join()
        assert torch.get_num_threads() == 3
    finally:
        has_ended.set()
        torch.set_num_threads(before)
    assert numbers == [1, 1]
