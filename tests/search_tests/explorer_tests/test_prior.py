import itertools

import pytest

from search.explorer.prior import LatencyPrior, Sample

STAIRS = {"a": {8: 1.0, 4: 0.7}, "b": {16: 1.0, 8: 0.8}, "c": {16: 1.0, 8: 0.9, 4: 0.85}}
PLANS = [
    dict(zip(STAIRS, widths, strict=True))
    for widths in itertools.product(*(rows for rows in STAIRS.values()))
]


def true_ratio(widths: dict[str, int]) -> float:
    """a and b multiply, and c saves only half beside others."""
    a, b, c = (STAIRS[name][widths[name]] for name in STAIRS)
    return a * b - 0.5 * (1 - c)


def test_one_group_alone_is_predicted_as_measured() -> None:
    assert LatencyPrior(STAIRS).ratio({"a": 4, "b": 16, "c": 16}) == pytest.approx(0.7)


def test_measurements_correct_the_prediction() -> None:
    prior = LatencyPrior(STAIRS)
    fitted = prior.fitted([Sample(plan, true_ratio(plan)) for plan in PLANS[::2]], around=0.6)

    def error(each: LatencyPrior) -> float:
        return max(abs(each.ratio(plan) - true_ratio(plan)) for plan in PLANS[1::2])

    assert error(fitted) < 0.4 * error(prior)


def test_an_anchored_prediction_agrees_with_its_anchor() -> None:
    prior, anchor = LatencyPrior(STAIRS), {"a": 4, "b": 8, "c": 16}
    assert prior.anchored(anchor, Sample(anchor, 0.61)) == pytest.approx(0.61)


def test_a_noisy_anchor_shifts_the_prediction_less() -> None:
    prior, anchor = LatencyPrior(STAIRS), {"a": 4, "b": 8, "c": 16}
    sharp = prior.anchored(anchor, Sample(anchor, 0.9, noise=0.005))
    noisy = prior.anchored(anchor, Sample(anchor, 0.9, noise=0.05))
    assert prior.ratio(anchor) < noisy < sharp < 0.9


def test_an_anchor_off_the_stairs_is_ignored() -> None:
    prior, plan = LatencyPrior(STAIRS), {"a": 4, "b": 8, "c": 16}
    assert prior.anchored(plan, Sample({"a": 1, "b": 1, "c": 1}, 0.2)) == prior.ratio(plan)


def test_samples_off_the_stairs_teach_nothing() -> None:
    prior, plan = LatencyPrior(STAIRS), PLANS[-1]
    fitted = prior.fitted([Sample({"a": 1, "b": 1, "c": 1}, 0.2)], around=0.5)
    assert fitted.ratio(plan) == prior.ratio(plan)


def test_savings_stay_positive_whatever_was_measured() -> None:
    slow = [Sample(plan, 1.5) for plan in PLANS[1:]]
    fitted = LatencyPrior(STAIRS).fitted(slow, around=0.5)
    assert all(fitted.saving(name, min(rows), {}) > 0 for name, rows in STAIRS.items())
