"""Losses, metrics and distillation of the two objectives."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from search.criteria import score_channels
from search.evaluation import accuracy, cross_entropy_loss, loss_with_error
from search.finetuning import Finetune, FinetuneConfig
from search.graph import trace
from search.objectives import CLASSIFICATION, UNLABELLED, scores_of
from tests.search_tests.learning_tests.networks import small_net, striped_images

IMAGES, LABELS = striped_images(96)


def test_classification_is_cross_entropy_and_accuracy() -> None:
    model = small_net()
    with torch.no_grad():
        outputs = model.eval()(IMAGES)
    losses = functional.cross_entropy(outputs, LABELS, reduction="none").double()
    batches = list(zip(IMAGES.split(40), LABELS.split(40), strict=True))
    loss, error = loss_with_error(model, batches)
    assert loss == pytest.approx(float(losses.mean()))
    assert error == pytest.approx(float(losses.std(correction=0)) / 96**0.5)
    assert cross_entropy_loss(model, batches) == loss
    assert accuracy(model, batches) == float((outputs.argmax(1) == LABELS).double().mean())


def test_the_dense_model_is_at_no_distance_from_itself() -> None:
    model, other = small_net(), small_net(seed=5)
    targets = scores_of(model, IMAGES.split(40))
    assert torch.allclose(targets, model.eval()(IMAGES).detach(), atol=1e-5)
    batches = [(IMAGES, targets)]
    assert cross_entropy_loss(model, batches, UNLABELLED) == pytest.approx(0.0, abs=1e-6)
    assert accuracy(model, batches, UNLABELLED) == 1.0
    assert cross_entropy_loss(other, batches, UNLABELLED) > 0.01
    assert accuracy(other, batches, UNLABELLED) < 1.0


def test_taylor_without_labels_tells_units_apart_at_the_dense_model() -> None:
    model = small_net()
    graph = trace(model, (IMAGES[:2],))
    batches = [(IMAGES, scores_of(model, [IMAGES]))]
    scores = score_channels(model, graph, "taylor", batches, objective=UNLABELLED)
    assert all(float(each.max()) > 0 for each in scores.values())


def test_a_student_learns_from_the_dense_model_alone() -> None:
    teacher, student = small_net(), small_net(seed=3)
    targets = scores_of(teacher, [IMAGES])
    config = FinetuneConfig(steps=40, batch_size=32, learning_rate=0.02, shift=0, flip=False)
    before = cross_entropy_loss(student, [(IMAGES, targets)], UNLABELLED)
    Finetune(student, teacher, IMAGES, targets, config, objective=UNLABELLED).run()
    assert cross_entropy_loss(student, [(IMAGES, targets)], UNLABELLED) < 0.5 * before


def test_distillation_weighs_labels_and_the_dense_model() -> None:
    outputs, taught = torch.randn(8, 4), torch.randn(8, 4)
    labels = torch.arange(8) % 4
    hard = functional.cross_entropy(outputs, labels)
    assert CLASSIFICATION.distillation(outputs, taught, labels, 4.0, 0.0) == pytest.approx(hard)
    soft = CLASSIFICATION.distillation(outputs, taught, labels, 4.0, 1.0)
    assert UNLABELLED.distillation(outputs, taught, taught, 4.0, 0.3) == pytest.approx(soft)
