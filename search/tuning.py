"""Answers what a search asks of weights, in this process: builds candidates, and fine-tunes the
nodes that are kept.

Between two levels of the search the nodes kept learn from the dense model for a few steps, and
their children are cut from what they have learnt (the flow of SInGE: pruning and fine-tuning
entwined).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from search.candidates import quantized, rounded_candidate
from search.criteria import score_channels
from search.errors import ConfigError
from search.explorer import Candidate, Scored, Start, Tuned
from search.finetuning import Finetune, FinetuneConfig
from search.lineage import Origin, regrown
from search.objectives import CLASSIFICATION, Objective
from search.plan import Plan
from search.quantization import Format
from search.quantization.model import QuantizedModel
from search.tensors import load_tensors, stored_tensors

if TYPE_CHECKING:
    from search.graph import PruningGraph


@dataclass
class Tuner:
    """Builds and fine-tunes nodes, and keeps their weights in memory under their digests.

    Attributes:
        model: the dense model, the teacher; not touched.
        graph: its analysis.
        calibration: batches of inputs and targets, for recalibration and criteria.
        fit: inputs (N, …) and targets (N, …) to train on; None where nothing is trained.
        config: how to train; its steps are those of a search without entwined ones.
        criterion: by which the units are scored anew.
        form: the integers of int8 layers; None: all is float.
    """

    model: nn.Module
    graph: PruningGraph
    calibration: Sequence[tuple[Tensor, Tensor]]
    fit: tuple[Tensor, Tensor] | None
    config: FinetuneConfig
    criterion: str = "l1"
    form: Format | None = None
    blocks: bool = False
    objective: Objective = CLASSIFICATION
    _weights: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    _scores: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    _last: tuple[str, Origin] | None = None

    def origin(self, start: Start | None) -> Origin | None:
        """What a candidate is cut from; None for the dense model."""
        if start is None:
            return None
        if self._last is None or self._last[0] != start.checkpoint:
            weights = self._weights[start.checkpoint]
            origin = Origin.of(self.model, self.graph, start.plan, weights)
            self._last = start.checkpoint, origin
        return self._last[1]

    def built(self, plan: Plan, start: Start | None) -> nn.Module:
        """The candidate to be scored, see `rounded_candidate`."""
        return rounded_candidate(
            self.model, self.graph, plan, self._inputs, self.form, origin=self.origin(start)
        )

    def tuned(self, candidate: Candidate, scored: Callable[[nn.Module], Scored]) -> Tuned:
        """Trains a node for the steps that it asks for; its loss is that of the rounded model.

        Raises:
            ConfigError: there is nothing to train on.
        """
        if self.fit is None:
            raise ConfigError("there must be data to fit on to train a candidate, but is none")
        student = rounded_candidate(
            self.model, self.graph, candidate.plan, self._inputs,
            origin=self.origin(candidate.start),
        )  # fmt: skip
        trained = self._rounded(student, candidate)
        config = replace(self.config, steps=candidate.steps)
        Finetune(trained, self.model, *self.fit, config, objective=self.objective).run()
        if isinstance(trained, QuantizedModel):
            load_tensors(student, trained.float_tensors(), strict=False)
        self._keep(candidate, student)
        found = scored(trained)
        return Tuned(candidate.digest, found.loss, found.standard_error)

    def scores(self, checkpoint: str) -> Mapping[str, Tensor]:
        """One score a unit, with the weights of a checkpoint."""
        return self._scores[checkpoint]

    @property
    def _inputs(self) -> list[Tensor]:
        return [images for images, _ in self.calibration]

    def _rounded(self, student: nn.Module, candidate: Candidate) -> nn.Module:
        if self.form is None or not candidate.plan.precision:
            return student
        return quantized(self.model, self.graph, candidate.plan, student, self._inputs, self.form)

    def _keep(self, candidate: Candidate, student: nn.Module) -> None:
        weights = stored_tensors(student)
        self._weights[candidate.digest] = weights
        full = regrown(self.model, self.graph, candidate.plan, weights)
        self._scores[candidate.digest] = score_channels(
            full, self.graph, self.criterion, self.calibration,
            blocks=self.blocks, objective=self.objective,
        )  # fmt: skip
