from datetime import UTC, datetime, timedelta

import pytest

from jobs.duty import Span, duties

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


def span(device: str, asked: float, answered: float, busy: float) -> Span:
    return Span(device, NOON + timedelta(seconds=asked), NOON + timedelta(seconds=answered), busy)


def test_candidates_that_wait_together_wait_once() -> None:
    spans = [span("a", 0, 2, 1.8), span("a", 0, 4, 1.8), span("a", 1, 6, 1.8)]
    assert duties(spans) == {"a": pytest.approx(5.4 / 6)}


def test_time_in_which_nothing_was_asked_is_not_idle() -> None:
    spans = [span("a", 100, 102, 2.0), span("a", 0, 2, 1.0)]
    assert duties(spans) == {"a": pytest.approx(3 / 4)}


def test_each_device_has_its_own() -> None:
    spans = [span("a", 0, 2, 1.0), span("b", 0, 4, 3.0)]
    assert duties(spans) == {"a": pytest.approx(0.5), "b": pytest.approx(0.75)}
    assert duties([]) == {}
    assert duties([span("a", 1, 1, 0.0)]) == {}
