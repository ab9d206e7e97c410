"""A trained network with its data, and what every way may ask of it: latencies and losses."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.joint.__main__ import images_of
from benchmarks.joint.networks import trained
from latency_probes.local import Failed, LocalModel, LocalProbe, Measured, Model
from latency_probes.messages import Settings
from search.criteria import score_channels
from search.evaluation import cross_entropy_loss
from search.finetuning import Finetune, FinetuneConfig
from search.graph import PruningGraph, trace
from search.sensitivity import Sensitivity, layer_sensitivity
from search.skeleton import export_onnx

CALIBRATION, VALIDATION, BATCH = 512, 5000, 128
Batches = list[tuple[Tensor, Tensor]]


class Device:
    """This machine, which counts what it measures."""

    def __init__(self, reference: bytes, cores: Sequence[int] | None) -> None:
        self._screening = LocalProbe(reference, cores=cores)
        self._strict = LocalProbe(reference, settings=Settings.strict(), cores=cores)
        self.measured, self.seconds = 0, 0.0

    def __call__(self, skeletons: Sequence[Model]) -> list[Measured | Failed]:
        """Screens candidates."""
        began = time.monotonic()
        self.measured += len(skeletons)
        found = self._screening(skeletons)
        self.seconds += time.monotonic() - began
        return found

    def strictly(self, file: bytes) -> Measured:
        """As the result is measured; not counted, as every way ends so."""
        (found,) = self._strict([LocalModel(file)])
        if isinstance(found, Failed):
            raise SystemExit(f"the result could not be measured: {found.message}")
        return found

    def close(self) -> None:
        self._screening.close()
        self._strict.close()


@dataclass
class Subject:
    """One network of the comparison.

    Attributes:
        name: of the network.
        train, test: inputs (N, 1, 28, 28) and labels (N,).
        out: where trained weights and measured sensitivities are kept.
        steps: of fine-tuning, for every way.
    """

    name: str
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    out: Path
    steps: int
    epochs: int = 10
    cores: Sequence[int] | None = None
    model: nn.Module = field(init=False)
    graph: PruningGraph = field(init=False)

    def __post_init__(self) -> None:
        self.model = trained(self.name, self.out, *self.train, self.epochs)
        self.graph = trace(self.model, (self.train[0][:2],))

    @classmethod
    def of(
        cls, name: str, data: Path, out: Path, steps: int, cores: Sequence[int] | None
    ) -> Subject:
        """The network of this name with Fashion-MNIST."""
        train, test = (images_of(data, kind) for kind in ("train", "t10k"))
        return cls(name, train, test, out, steps, cores=cores)

    @property
    def calibration(self) -> Batches:
        images, labels = self.train
        count = CALIBRATION
        return list(zip(images[:count].split(BATCH), labels[:count].split(BATCH), strict=True))

    @property
    def inputs(self) -> list[Tensor]:
        return [images for images, _ in self.calibration]

    @property
    def fit(self) -> tuple[Tensor, Tensor]:
        images, labels = self.train
        return images[CALIBRATION:-VALIDATION], labels[CALIBRATION:-VALIDATION]

    @property
    def validation(self) -> Batches:
        images, labels = (each[-VALIDATION:] for each in self.train)
        return list(zip(images.split(BATCH), labels.split(BATCH), strict=True))

    @cached_property
    def scores(self) -> dict[str, Tensor]:
        """L1 of every unit."""
        return score_channels(self.model, self.graph, "l1")

    def scores_by(self, criterion: str, *, blocks: bool = False) -> dict[str, Tensor]:
        """The scores of every unit; with `blocks`, of whole residual blocks too."""
        if criterion == "l1" and not blocks:
            return self.scores
        return score_channels(self.model, self.graph, criterion, self.calibration, blocks=blocks)

    def sensitivity(self, criterion: str = "l1", *, blocks: bool = False) -> Sensitivity:
        """The loss rises that every way which asks for them is given, least units first."""
        by = ("" if criterion == "l1" else f"{criterion}-") + ("blocks-" if blocks else "")
        path = self.out / f"{self.name}-{by}sensitivity.json"
        if not path.exists():
            found = layer_sensitivity(
                self.model, self.graph,
                lambda model: cross_entropy_loss(model, self.calibration),
                scores=self.scores_by(criterion, blocks=blocks), recalibration_batches=self.inputs,
            )  # fmt: skip
            document = {"ratios": found.ratios, "rises": found.rises}
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(document))
        known = json.loads(path.read_text())
        rises = {name: tuple(rise) for name, rise in known["rises"].items()}
        return Sensitivity(tuple(known["ratios"]), rises)

    def device(self) -> Device:
        """A device that has measured nothing yet."""
        return Device(self.file(self.model), self.cores)

    def file(self, model: nn.Module) -> bytes:
        """The ONNX file of a model."""
        return export_onnx(model, (self.train[0][:1],))

    def loss(self, model: nn.Module) -> float:
        """The calibration loss, by which ways choose."""
        return cross_entropy_loss(model, self.calibration)

    def finetune(self, model: nn.Module, seed: int, steps: int) -> nn.Module:
        """Trained in place, by distillation from the dense model."""
        config = FinetuneConfig(max(steps, 0), seed=seed)
        Finetune(model, self.model, *self.fit, config).run()
        return model

    def right(self, model: nn.Module) -> list[bool]:
        """Which test images it classifies right."""
        images, labels = self.test
        with torch.no_grad():
            said = torch.cat([model(part).argmax(1) for part in images.split(BATCH)])
        answers: list[bool] = (said == labels).tolist()
        return answers
