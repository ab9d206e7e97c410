"""Rules of recalibration, scoring and fine-tuning."""

from __future__ import annotations

import copy
import importlib
import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from search.errors import ConfigError, WeightsError
from search.evaluation import Judgement, accuracy, cross_entropy_loss
from search.finetuning import (
    Finetune,
    FinetuneConfig,
    Trained,
    augment,
    distillation_loss,
    native_bfloat16,
)
from search.gradient_clipping import clip_by_weights
from search.recalibration import recalibrate
from search.time_limit import steps_in_time
from tests.search_tests.learning_tests.networks import small_net, striped_images


@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("Finetune", "finetuning"),
        ("FinetuneConfig", "finetuning"),
        ("Reference", "recalibration"),
        ("accuracy", "evaluation"),
        ("recalibrate", "recalibration"),
    ],
)
def test_scripts_find_the_former_names_in_search_training(name: str, home: str) -> None:
    offered = getattr(importlib.import_module("search.training"), name)
    assert offered.__module__ == f"search.{home}"


def finetune(config: FinetuneConfig, student: nn.Module | None = None) -> Finetune:
    images, labels = striped_images(60)
    return Finetune(student or small_net(1), small_net(2), images, labels, config)


def test_recalibration_replaces_the_statistics_by_the_mean_over_batches() -> None:
    model = small_net()
    batches = [torch.randn(4, 2, 8, 8) + shift for shift in (0.0, 1.0, 5.0)]
    with torch.no_grad():
        means = torch.stack([model.conv(x).mean((0, 2, 3)) for x in batches])
    model.bn.running_mean = torch.full((6,), 100.0)
    recalibrate(model, batches)
    assert model.bn.running_mean is not None
    torch.testing.assert_close(model.bn.running_mean, means.mean(0))
    assert model.bn.momentum == 0.1


def test_recalibration_touches_no_flag_and_draws_no_dropout() -> None:
    model = small_net()
    model.dropout.eval()
    flags = [module.training for module in model.modules()]
    before = torch.random.get_rng_state()
    recalibrate(model, [torch.ones(4, 2, 8, 8)])
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.random.get_rng_state(), before)


def test_recalibration_needs_a_batch_only_where_there_is_batch_norm() -> None:
    with pytest.raises(ConfigError, match="at least one batch"):
        recalibrate(small_net(), [])
    recalibrate(nn.Linear(2, 2), [])


def test_loss_and_accuracy_weigh_images_not_batches() -> None:
    model = small_net()
    model.train()
    images, labels = striped_images(10)
    uneven = [(images[:7], labels[:7]), (images[7:], labels[7:])]
    loss, right = cross_entropy_loss(model, uneven), accuracy(model, uneven)
    assert model.training
    model.eval()
    with torch.no_grad():
        logits = model(images)
    assert loss == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-6)
    assert right == (logits.argmax(1) == labels).sum().item() / 10
    with pytest.raises(ConfigError, match="at least one image"):
        accuracy(model, [])


def test_augmentation_shifts_and_mirrors_each_image_as_a_whole() -> None:
    images = torch.rand(40, 2, 5, 6) + 0.1
    generator = torch.Generator().manual_seed(0)
    augmented = augment(images, shift=1, flip=True, generator=generator)
    seen = set()
    for image, result in zip(images, augmented, strict=True):
        padded = functional.pad(image, (1, 1, 1, 1))
        for top, left, flip in itertools.product(range(3), range(3), (False, True)):
            window = padded[:, top : top + 5, left : left + 6]
            if torch.equal(window.flip(2) if flip else window, result):
                seen.add((top, left, flip))
                break
        else:
            pytest.fail("an augmented image is no shifted, mirrored window of its own image")
    assert len(seen) > 8


def test_distillation_loss_is_zero_for_a_perfect_copy_and_plain_without_weight() -> None:
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    soft = distillation_loss(logits, logits, labels, temperature=4.0, weight=1.0)
    assert soft.item() == pytest.approx(0.0, abs=1e-6)
    hard = distillation_loss(logits, torch.randn(5, 3), labels, temperature=4.0, weight=0.0)
    torch.testing.assert_close(hard, functional.cross_entropy(logits, labels))


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    config = FinetuneConfig(steps=100, learning_rate=0.2, warmup=0.1)
    rates = [config.learning_rate_at(step) for step in range(101)]
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[10] == 0.2
    assert math.isclose(rates[100], 0.0, abs_tol=1e-12)


def test_a_training_that_is_to_end_earlier_ends_there_with_its_learning_rate_fallen() -> None:
    run = finetune(FinetuneConfig(steps=1000, batch_size=16, learning_rate=0.2, warmup=0.1))
    run.run(max_steps=4)
    run.end_at(12)
    assert run.run() == 8
    assert run.done
    assert run.config.learning_rate_at(11) < 0.02 < 0.1 < run.config.learning_rate_at(4)


def test_a_training_comes_to_as_many_steps_as_there_is_time_for() -> None:
    assert steps_in_time(10, 200, 5.0, 15.0) == 40
    assert steps_in_time(10, 200, 5.0, math.inf) == 200
    assert steps_in_time(10, 200, 5.0, 500.0) == 200
    assert steps_in_time(10, 200, 5.0, -1.0) == 10
    assert steps_in_time(0, 200, 0.0, 15.0) == 200  # nothing known yet


@pytest.mark.parametrize("amp", ["float32", "bfloat16"])
def test_any_slicing_with_any_restart_gives_the_same_bits(amp: str) -> None:
    config = FinetuneConfig(steps=9, batch_size=16, amp=amp, shift=1)  # type: ignore[arg-type]
    whole = finetune(config)
    assert whole.run() == 9
    state = finetune(config).state_dict()
    for slice_steps in (1, 3, 0, 5):
        torch.rand(slice_steps)
        part = finetune(config, small_net(seed=77))
        part.load_state_dict(state)
        assert part.run(max_steps=slice_steps) == slice_steps
        state = part.state_dict()
    assert int(state["step"]) == 9
    for name, value in whole.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_running_out_of_time_stops_between_steps() -> None:
    ticks = iter([0.0, 1.0, 2.0, 3.0, 4.0])
    task = finetune(FinetuneConfig(steps=9, batch_size=16))
    assert task.run(time_limit_s=2.5, clock=lambda: next(ticks)) == 2
    assert (task.step, task.done) == (2, False)


def test_finetuning_learns_and_leaves_teacher_and_random_state_alone() -> None:
    images, labels = striped_images(240)
    student, teacher = small_net(1), small_net(2)
    teacher_before = copy.deepcopy(teacher.state_dict())
    random_before = torch.random.get_rng_state()
    config = FinetuneConfig(steps=60, batch_size=32, distillation_weight=0.0, shift=0)
    before = cross_entropy_loss(student, [(images, labels)])
    task = Finetune(student, teacher, images, labels, config)
    task.run()
    assert task.done
    assert task.run() == 0
    assert cross_entropy_loss(student, [(images, labels)]) < before / 2
    assert torch.equal(torch.random.get_rng_state(), random_before)
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, teacher_before[name])
    assert all(value.is_contiguous() for value in student.state_dict().values())
    assert not student.training
    assert teacher.training


def test_a_snapshot_of_another_student_is_refused_whole() -> None:
    task = finetune(FinetuneConfig(steps=1))
    other = finetune(FinetuneConfig(steps=1), small_net(0, width=5)).state_dict()
    before = task.state_dict()
    with pytest.raises(
        WeightsError, match=r"snapshot of this student, but got .*student\.bn\.bias"
    ):
        task.load_state_dict(other)
    assert torch.equal(task.state_dict()["student.fc.weight"], before["student.fc.weight"])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("steps", -1),
        ("batch_size", 1),
        ("learning_rate", 0.0),
        ("warmup", 1.0),
        ("momentum", 1.0),
        ("weight_decay", -0.1),
        ("temperature", 0.0),
        ("distillation_weight", 1.5),
        ("shift", -1),
        ("amp", "float16"),
    ],
)
def test_bad_settings_are_refused_by_name(setting: str, value: object) -> None:
    settings = {"steps": 1, setting: value}
    with pytest.raises(ConfigError, match=f"{setting} must be .*, but got {value!r}"):
        FinetuneConfig(**settings)  # type: ignore[arg-type]


def test_bad_data_are_refused() -> None:
    images, labels = striped_images(10)
    config = FinetuneConfig(steps=1)
    with pytest.raises(ConfigError, match="equally many and ≥ 2, but got 10 and 9"):
        Finetune(small_net(), small_net(), images, labels[:9], config)
    with pytest.raises(ConfigError, match=r"\(N, C, H, W\) to be augmented, but got \(10, 128\)"):
        Finetune(small_net(), small_net(), images.flatten(1), labels, config)


def test_native_bfloat16_answers_for_this_cpu() -> None:
    assert native_bfloat16() in (True, False)


def test_a_run_tells_its_mean_loss_and_accuracy() -> None:
    trained = Trained().with_batch(1.0, 0.5).with_batch(3.0, 1.0)
    assert (trained.steps, trained.loss, trained.accuracy) == (2, 2.0, 0.75)


def test_runs_that_are_joined_went_as_their_steps_did() -> None:
    joined = Trained(3, 0.6, 0.5).joined(Trained(1, 0.2, 0.9))
    assert joined.steps == 4
    assert joined.loss == pytest.approx(0.5)
    assert joined.accuracy == pytest.approx(0.6)
    assert joined.joined(Trained()) == joined
    assert Trained().joined(joined) == joined


def folded() -> nn.Module:
    """Five convolutions without norms whose values grow from layer to layer."""
    torch.manual_seed(1)
    layers = [nn.Conv2d(2, 12, 3)] + [nn.Conv2d(12, 12, 3, padding=1) for _ in range(4)]
    with torch.no_grad():
        for layer in layers[1:]:
            layer.weight.mul_(8.0)
    body = [each for layer in layers for each in (layer, nn.ReLU())]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(12 * 36, 4))


def test_gradients_are_clipped_to_a_hundredth_of_the_weights() -> None:
    large, small, zero = (nn.Parameter(torch.full((4,), value)) for value in (1.0, 1.0, 0.0))
    large.grad, small.grad = torch.full((4,), 3.0), torch.full((4,), 1e-3)
    zero.grad = torch.full((4,), 3.0)
    clip_by_weights([large, small, zero, nn.Parameter(torch.ones(2))])
    torch.testing.assert_close(large.grad, torch.full((4,), 0.01))
    torch.testing.assert_close(small.grad, torch.full((4,), 1e-3))
    torch.testing.assert_close(zero.grad.norm(), torch.tensor(1e-5))


def test_a_network_without_norms_is_trained_at_the_rate_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, labels = striped_images(60)
    means = []
    for _ in range(2):
        student, teacher = folded(), folded()
        with torch.no_grad():
            for weight in student.parameters():
                weight.add_(0.2 * weight.abs().mean() * torch.randn_like(weight))
        run = Finetune(student, teacher, images, labels, FinetuneConfig(20, batch_size=20))
        run.run(max_steps=1)
        first = run.trained.loss
        run.run()
        means.append(run.trained.loss / first)
        monkeypatch.setattr("search.finetuning.clip_by_weights", lambda parameters: None)
    assert means[0] < 1
    assert not means[1] < 100


def test_a_model_is_worse_with_fewer_right_answers_or_a_greater_loss() -> None:
    good = Judgement(loss=0.5, accuracy=0.9)
    assert Judgement(0.1, 0.8).is_worse_than(good)
    assert Judgement(0.6, 0.9).is_worse_than(good)
    assert Judgement(math.nan, 0.9).is_worse_than(good)
    assert not Judgement(0.5, 0.9).is_worse_than(good)
    assert not Judgement(0.9, 0.95).is_worse_than(good)
