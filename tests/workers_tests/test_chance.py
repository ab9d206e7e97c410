"""A dense model that is sure and wrong is refused; a weak or an untrained one is not."""

from __future__ import annotations

import math

import pytest
import torch

from api.cli.results import notes
from workers.loaders.errors import LoadError
from workers.phases.chance import is_at_chance, is_sure_and_wrong, lost
from workers.results import Blob, Prepared
from workers.tasks.metrics import Answers, answers


def judged(logits: torch.Tensor, labels: torch.Tensor) -> Prepared:
    """What the preparation finds of these scores."""
    said = answers(torch.nn.Identity(), [(logits, labels)])
    return Prepared(
        groups=[],
        dense_digest="",
        dense_skeleton=Blob(digest="", size=0, location=""),
        scores="",
        calibration_loss=0.0,
        validation_loss=said.loss,
        validation_accuracy=said.accuracy,
        chance=said.chance(logits.shape[1]),
    )


def scores(
    labels: torch.Tensor, classes: int, *, accuracy: float, certainty: float
) -> torch.Tensor:
    """Logits that are right for about this share of images, and `certainty` above the others."""
    generator = torch.Generator().manual_seed(1)
    wrong = torch.rand(len(labels), generator=generator) > accuracy
    others = (labels + torch.randint(1, classes, labels.shape, generator=generator)) % classes
    said = torch.where(wrong, others, labels)
    return torch.nn.functional.one_hot(said, classes) * certainty


def drawn(count: int, classes: int) -> torch.Tensor:
    return torch.randint(0, classes, (count,), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("count", "classes"), [(2000, 2), (2000, 10), (100, 10), (50, 1000)])
def test_sure_model_with_labels_in_another_order_is_refused(count: int, classes: int) -> None:
    labels = drawn(count, classes)
    logits = scores((labels + 1) % classes, classes, accuracy=0.9, certainty=12.0)
    assert is_sure_and_wrong(judged(logits, labels))


@pytest.mark.parametrize(("count", "classes"), [(2000, 2), (2000, 10), (50, 2), (50, 1000)])
def test_sure_model_that_says_one_class_always_is_refused(count: int, classes: int) -> None:
    labels = drawn(count, classes)
    logits = scores(torch.zeros_like(labels), classes, accuracy=1.0, certainty=12.0)
    assert is_sure_and_wrong(judged(logits, labels))


@pytest.mark.parametrize(("count", "classes"), [(2000, 10), (50, 2), (50, 1000), (12, 2)])
def test_good_model_is_not_at_chance_to_be_refused(count: int, classes: int) -> None:
    labels = drawn(count, classes)
    logits = scores(labels, classes, accuracy=0.8, certainty=12.0)
    assert not is_sure_and_wrong(judged(logits, labels))


@pytest.mark.parametrize(("count", "classes"), [(2000, 10), (50, 1000)])
def test_weak_model_that_is_as_unsure_as_it_is_weak_is_not_refused(
    count: int, classes: int
) -> None:
    labels = drawn(count, classes)
    logits = scores(labels, classes, accuracy=2 / classes, certainty=0.5)
    found = judged(logits, labels)
    assert is_at_chance(found)
    assert not is_sure_and_wrong(found)


def test_head_of_more_classes_than_the_data_has_claims_nothing_when_untrained() -> None:
    labels = drawn(400, 10)
    assert not is_sure_and_wrong(judged(torch.zeros(400, 1000), labels))


def test_share_of_the_largest_class_alone_is_chance() -> None:
    labels = torch.tensor([0] * 900 + [1] * 100)
    logits = scores(torch.zeros_like(labels), 2, accuracy=1.0, certainty=40.0)
    found = judged(logits, labels)
    assert found.chance is not None
    assert found.chance.accuracy == found.validation_accuracy == 0.9
    assert is_sure_and_wrong(found)


def test_guessing_finds_all_classes_equally_likely() -> None:
    labels = torch.tensor([0, 1] * 500)
    chance = Answers(torch.ones(1000), labels, labels).chance(2)
    assert chance.loss == pytest.approx(math.log(2))
    assert chance.accuracy == 0.5


def test_few_images_prove_nothing() -> None:
    labels = drawn(9, 2)
    assert not is_sure_and_wrong(
        judged(scores(1 - labels, 2, accuracy=1.0, certainty=9.0), labels)
    )


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(LoadError, match="must give finite scores on the validation images"):
        answers(torch.nn.Identity(), [(torch.full((4, 2), math.nan), drawn(4, 2))])


def test_result_that_fell_to_chance_is_told_and_a_weak_one_is_not() -> None:
    labels = drawn(1000, 4)
    good = judged(scores(labels, 4, accuracy=0.9, certainty=5.0), labels)
    told = lost(good, 0.27)
    assert told is not None
    assert "its accuracy is 27.0 %, where chance gives 2" in told
    assert "raise finetune.steps or the budget" in told
    assert lost(good, 0.5) is None
    guessing = judged(torch.rand(1000, 4), labels)
    assert lost(guessing, 0.25) is None  # the dense model was no better


def test_warning_comes_first_below_the_table() -> None:
    assert notes({"warning": "the result is no better than guessing", "test_images": 9})[0] == (
        "the result is no better than guessing"
    )
