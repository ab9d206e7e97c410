"""A trial on drawn parameters, on one example first: what trials that compare numbers share.

What they compare with what is up to each of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from search.graph.exported.deadline import LATE
from search.graph.pruning_graph import PruningGraph
from search.graph.trial_log import TrialLog, Verdict
from search.graph.verification.draw import Draw
from search.graph.verification.one_example_first import Inputs, OneExampleFirst
from search.graph.verification.trial_result import TrialResult


class DrawnTrial(ABC):
    """Tries groups on one draw of the parameters, once or many times.

    Args:
        graph: the analysis of a float64 copy, which is redrawn before the first trial that is
            run.
        draw: of the parameters; its seed is that of the plans too.
        examples: how many examples are tried.
        log: of the trials.
    """

    NAME: ClassVar[str]  # in the log

    def __init__(
        self, graph: PruningGraph, draw: Draw, examples: OneExampleFirst, log: TrialLog
    ) -> None:
        self._graph, self._draw = graph, draw
        self._examples, self._log = examples, log
        self._error = 0.0

    def result(self, names: Sequence[str]) -> TrialResult:
        """What is found when the groups `names` are cut together."""

        def run() -> Verdict:
            self._draw.apply(self._graph.model)
            problem = self._examples.problem(
                lambda inputs: self._problem(names, inputs), self._failure
            )
            return replace(self._state(), problem=problem).to_verdict()

        trial = f"{self.NAME} {self._draw.seed} {self._draw.scale}"
        verdict = self._log.verdict(trial, names, run)
        if verdict is None:
            return replace(self._state(), problem=LATE)
        result = TrialResult.from_verdict(verdict)
        self._restore(result)
        return result

    @abstractmethod
    def _problem(self, names: Sequence[str], inputs: Inputs) -> str | None:
        """What goes wrong with `inputs` when the groups are cut."""

    @abstractmethod
    def _failure(self, error: Exception) -> str:
        """What is reported where `_problem` raises `error`."""

    def _passed(self, error: float) -> None:
        self._error = max(self._error, error)

    def _state(self) -> TrialResult:
        """What the next trial on the draw has to know."""
        return TrialResult(
            error=self._error,
            scale=self._draw.scale,
            rescalings_left=self._draw.rescalings_left,
            uses_one=self._examples.uses_one,
            one_suffices=self._examples.one_suffices,
        )

    def _restore(self, result: TrialResult) -> None:
        self._error = result.error
        self._draw.scale = result.scale
        self._draw.rescalings_left = result.rescalings_left
        self._examples.uses_one = result.uses_one
        self._examples.one_suffices = result.one_suffices
