"""Fine-tuning by distillation.

Knows nothing of plans, groups or devices. The loss is that of an objective, of labels (Hinton et
al. 2015) (1 − w) · CE(student, label) + w · T² · KL(teacher/T ‖ student/T):

| symbol | meaning |
|---|---|
| T | temperature: both logits are divided by it before the softmax |
| w | distillation weight |
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from search.errors import ConfigError, WeightsError
from search.gradient_clipping import clip_by_weights
from search.memory_layout import lay_out
from search.objectives import CLASSIFICATION, Objective
from search.recalibration import recalibration
from search.training_flags import in_evaluation

Amp = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class FinetuneConfig:
    """How to fine-tune.

    The learning rate is a pure function of the step: it rises linearly for `warmup` of the steps
    and then falls along a half cosine to zero. `shift` is the largest random shift in pixels (0:
    none), `flip` mirrors half of the images. `bfloat16` runs both networks under autocast: about
    1.6 times faster on a CPU with native support (see `native_bfloat16`), slower elsewhere.
    """

    steps: int
    batch_size: int = 128
    learning_rate: float = 0.05
    warmup: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    temperature: float = 4.0
    distillation_weight: float = 0.9
    seed: int = 0
    shift: int = 2
    flip: bool = True
    amp: Amp = "float32"

    def __post_init__(self) -> None:
        _require(self.steps >= 0, "steps must be ≥ 0", self.steps)
        _require(self.batch_size >= 2, "batch_size must be ≥ 2", self.batch_size)
        _require(self.learning_rate > 0, "learning_rate must be > 0", self.learning_rate)
        _require(0 <= self.warmup < 1, "warmup must be in [0, 1)", self.warmup)
        _require(0 <= self.momentum < 1, "momentum must be in [0, 1)", self.momentum)
        _require(self.weight_decay >= 0, "weight_decay must be ≥ 0", self.weight_decay)
        _require(self.temperature > 0, "temperature must be > 0", self.temperature)
        weight = self.distillation_weight
        _require(0 <= weight <= 1, "distillation_weight must be in [0, 1]", weight)
        _require(self.shift >= 0, "shift must be ≥ 0", self.shift)
        known = get_args(Amp)
        _require(self.amp in known, f"amp must be one of {known}", self.amp)

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then a half cosine down to zero."""
        rising = self.warmup * self.steps
        if step < rising:
            return self.learning_rate * (step + 1) / (rising + 1)
        share = (step - rising) / max(self.steps - rising, 1)
        return self.learning_rate * (1 + math.cos(math.pi * share)) / 2


def _require(holds: bool, rule: str, value: object) -> None:
    if not holds:
        raise ConfigError(f"{rule}, but got {value!r}")


def native_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware, so that `amp="bfloat16"` pays."""
    return any(name.endswith("bf16") and has for name, has in torch.cpu.get_capabilities().items())


def amp_here(asked: Amp | Literal["auto"]) -> Amp:
    """The precision; of `auto` the one that is fastest on this CPU."""
    if asked != "auto":
        return asked
    return "bfloat16" if native_bfloat16() else "float32"


def augment(images: Tensor, *, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Each image shifted by its own offset, zeros moving in, and mirrored with probability ½.

    Args:
        images: (B, C, H, W).
        shift: largest offset in pixels, both ways and on both axes.
        flip: whether to mirror left to right.
        generator: the only source of randomness.

    Returns:
        (B, C, H, W), in channels-last memory.
    """
    count, _, height, width = images.shape
    padded = functional.pad(images, (shift,) * 4)
    top, left = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=generator)
    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    index = torch.arange(count)[:, None, None]
    return padded[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def distillation_loss(
    logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float, weight: float
) -> Tensor:
    """(1 − w) · CE + w · T² · KL(teacher/T ‖ student/T), the mean over the batch."""
    return CLASSIFICATION.distillation(logits, teacher_logits, labels, temperature, weight)


@dataclass(frozen=True)
class Trained:
    """How a run of steps went.

    Attributes:
        steps: how many there were.
        loss: mean distillation loss over them; 0 where there was none.
        accuracy: mean share of augmented training images that the student got right.
    """

    steps: int = 0
    loss: float = 0.0
    accuracy: float = 0.0

    def with_batch(self, loss: float, accuracy: float) -> Trained:
        """With one step more."""
        steps = self.steps + 1
        return Trained(
            steps,
            self.loss + (loss - self.loss) / steps,
            self.accuracy + (accuracy - self.accuracy) / steps,
        )

    def joined(self, later: Trained) -> Trained:
        """With the steps of another run."""
        steps = self.steps + later.steps
        part = later.steps / max(steps, 1)
        return Trained(
            steps,
            self.loss + (later.loss - self.loss) * part,
            self.accuracy + (later.accuracy - self.accuracy) * part,
        )


class Finetune:
    """SGD with Nesterov momentum on the student, in place, in slices of any length. Where no batch
    norm keeps its values in bounds, gradients are clipped (`search.gradient_clipping`).

    The batch, its augmentation, dropout and the learning rate are pure functions of (seed, step):
    with a fixed number of threads any slicing, with any number of `state_dict` and
    `load_state_dict` in between, gives the same bits.

    Args:
        student: fine-tuned in place.
        teacher: the dense model; used in eval mode, never changed.
        images: (N, C, H, W), or any (N, …) when neither shift nor flip is on.
        labels: targets of the objective, (N, …): class indices (N,).
        config: how to fine-tune.
        channels_last: images are (N, H, W, C).
        objective: the loss to learn by.

    Attributes:
        step: steps run so far, those before a snapshot included.
        trained: how the last `run` went.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        images: Tensor,
        labels: Tensor,
        config: FinetuneConfig,
        *,
        channels_last: bool = False,
        objective: Objective = CLASSIFICATION,
    ) -> None:
        if len(images) != len(labels) or len(images) < 2:
            raise ConfigError(
                f"images and labels must be equally many and ≥ 2, but got {len(images)} "
                f"and {len(labels)}"
            )
        augmented = config.shift > 0 or config.flip
        if augmented and images.ndim != 4:
            raise ConfigError(
                f"images must be (N, C, H, W) to be augmented, but got {tuple(images.shape)}"
            )
        self.student, self.teacher, self.config = student, teacher, config
        self.step = 0
        self.trained = Trained()
        self._layout = torch.contiguous_format
        self._channels_last, self._objective = channels_last, objective
        self._images, self._labels = images, labels
        self._batch_size = min(config.batch_size, len(images))
        self._is_clipped = recalibration(student) != "batch norm"
        self._order: tuple[int, Tensor] | None = None
        self._parameters = {n: p for n, p in student.named_parameters() if p.requires_grad}
        matrices = [p for p in self._parameters.values() if p.ndim > 1]
        vectors = [p for p in self._parameters.values() if p.ndim <= 1]
        self._optimizer = torch.optim.SGD(
            [
                {"params": matrices, "weight_decay": config.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            momentum=config.momentum,
            nesterov=config.momentum > 0,
        )

    @property
    def done(self) -> bool:
        return self.step >= self.config.steps

    def end_at(self, step: int) -> None:
        """Goes on to this step; the learning rate falls to zero there."""
        self.config = replace(self.config, steps=step)

    def run(
        self,
        max_steps: int | None = None,
        time_limit_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> int:
        """Runs until done, `max_steps` are run or the time is over; returns the steps run.

        The student is left in eval mode, its weights in contiguous memory.
        """
        self.trained = Trained()
        self._layout = lay_out(self.student, self._images)
        started, first = clock(), self.step
        try:
            with in_evaluation(self.teacher):
                self.student.train()
                while not self.done and (max_steps is None or self.step - first < max_steps):
                    if time_limit_s is not None and clock() - started >= time_limit_s:
                        break
                    self._run_step()
                    self.step += 1
        finally:
            self.student.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            self.student.eval()
        return self.step - first

    def _run_step(self) -> None:
        config = self.config
        for group in self._optimizer.param_groups:
            group["lr"] = config.learning_rate_at(self.step)
        images, labels = self._batch()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_mixed(config.seed, self.step, 2))
            with torch.autocast("cpu", torch.bfloat16, enabled=config.amp == "bfloat16"):
                with torch.no_grad():
                    teacher_logits = self.teacher(images)
                logits = self.student(images)
        loss = self._objective.distillation(
            logits.float(),
            teacher_logits.float(),
            labels,
            config.temperature,
            config.distillation_weight,
        )
        self._optimizer.zero_grad()
        loss.backward()
        if self._is_clipped:
            clip_by_weights(self._parameters.values())
        self._optimizer.step()
        self.trained = self.trained.with_batch(
            loss.detach().item(), self._objective.right(logits, labels).float().mean().item()
        )

    def _batch(self) -> tuple[Tensor, Tensor]:
        steps_per_epoch = len(self._images) // self._batch_size
        epoch, position = divmod(self.step, steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(_mixed(self.config.seed, epoch, 0))
            self._order = (epoch, torch.randperm(len(self._images), generator=generator))
        start = position * self._batch_size
        index = self._order[1][start : start + self._batch_size]
        images = self._images[index]
        config = self.config
        if config.shift > 0 or config.flip:
            generator = torch.Generator().manual_seed(_mixed(config.seed, self.step, 1))
            last = self._channels_last
            images = images.permute(0, 3, 1, 2) if last else images
            images = augment(images, shift=config.shift, flip=config.flip, generator=generator)
            images = images.permute(0, 2, 3, 1) if last else images
        if self._layout is torch.contiguous_format:
            images = images.clone(memory_format=torch.contiguous_format)  # of one channel too
        return images, self._labels[index]

    def state_dict(self) -> dict[str, Tensor]:
        """A flat snapshot, ready for safetensors: `step`, `student.*`, `momentum.*`."""
        state = {"step": torch.tensor(self.step)}
        for name, value in self.student.state_dict().items():
            state[f"student.{name}"] = value.detach().clone(memory_format=torch.contiguous_format)
        for name, parameter in self._parameters.items():
            momentum = self._optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                state[f"momentum.{name}"] = momentum.clone(memory_format=torch.contiguous_format)
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues from a snapshot of the same student under the same config.

        Raises:
            WeightsError: a name or shape of the snapshot is not the student's.
        """
        own = {f"student.{name}": value for name, value in self.student.state_dict().items()}
        given = {name for name in state if name.startswith("student.")}
        wrong = sorted(given ^ own.keys()) or sorted(
            name for name in own if own[name].shape != state[name].shape
        )
        if wrong or "step" not in state:
            raise WeightsError(f"state must be a snapshot of this student, but got {wrong} wrong")
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(state[name])
        for name, parameter in self._parameters.items():
            momentum = state.get(f"momentum.{name}")
            if momentum is None:
                self._optimizer.state.pop(parameter, None)
            else:
                self._optimizer.state[parameter] = {"momentum_buffer": momentum.clone()}
        self.step = int(state["step"])


def _mixed(seed: int, number: int, stream: int) -> int:
    """A 64-bit seed of its own for each (seed, number, stream): SplitMix64's finaliser."""
    mask = (1 << 64) - 1
    value = (seed * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9 + stream + 1) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return value ^ (value >> 31)
