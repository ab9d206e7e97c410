"""Trials of shapes: pruned copies run on the meta device. They know no numbers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from torch._export.utils import _compiling_state_context

from search.graph.exported.export import BATCH, batched
from search.graph.exported.rnn_shapes import OneStep
from search.graph.pruning_graph import PruningGraph
from search.graph.trial_log import TrialLog
from search.graph.verification.comparison import (
    failure_on_smaller_tensors,
    outputs_of,
    random_plan,
)
from search.graph.verification.trial_result import TrialResult
from search.plan import Plan, best_of
from search.surgery import prune
from search.tensors import copy_with, named_tensors


class ShapeTrial:
    """Runs pruned copies on the meta device: shapes only, so it costs next to nothing.

    They run as an export would see them: a forward may take another way there (the attention of
    transformers repeats its keys by a constant then).
    A batch of another size than the traced one shows sizes that do not follow it.

    Args:
        graph: the analysis of a float64 copy.
        log: of its trials.
    """

    def __init__(self, graph: PruningGraph, log: TrialLog) -> None:
        self._graph, self._log = graph, log

    @property
    def is_possible(self) -> bool:
        """Whether the dense copy runs there: not with constants on another device, or with sizes
        that depend on data."""
        verdict = self._log.verdict("shapes", [], lambda: {"fit": self._batch is not None})
        return verdict is not None and bool(verdict["fit"])

    def result(self, names: Sequence[str]) -> TrialResult:
        """What is found when the groups `names` lose half of their units."""
        return self._result("shapes of half", names, random_plan(self._graph.groups, names, 0))

    def result_of_min_widths(self, names: Sequence[str]) -> TrialResult:
        """What is found when the groups `names` keep as little as they may."""
        kept = dict(self._graph.dense_plan().kept)
        for group in self._graph.groups:
            if group.name in names:
                kept[group.name] = best_of(
                    range(group.width), group.min_width, group.required_any_of
                )
        return self._result("shapes of the min_width", names, Plan(kept))

    def _result(self, trial: str, names: Sequence[str], plan: Plan) -> TrialResult:
        def run() -> str | None:
            return None if self._batch is None else self._problem(plan, self._batch)

        return TrialResult(self._log.problem(trial, names, run))

    @cached_property
    def _model(self) -> nn.Module:
        tensors = named_tensors(self._graph.model)
        return copy_with(self._graph.model, {name: t.to("meta") for name, t in tensors.items()})

    @cached_property
    def _batch(self) -> list[Tensor] | None:
        """Inputs that the dense copy runs on; None where there are none."""
        traced = [value.to("meta") for value in self._graph.example_inputs]
        larger = [value[[0, 1, 1]] if batched(value, BATCH) else value for value in traced]
        dense = self._graph.dense_plan()
        batches = [larger, traced] if self._graph.dynamic_batch else [traced]
        return next((each for each in batches if self._problem(dense, each) is None), None)

    def _problem(self, plan: Plan, inputs: Sequence[Tensor]) -> str | None:
        try:
            with torch.device("meta"), _compiling_state_context(), OneStep():
                outputs_of(prune(self._model, self._graph, plan), inputs)
        except Exception as error:  # whatever the forward of a user's module raises
            return failure_on_smaller_tensors(error)
        return None
