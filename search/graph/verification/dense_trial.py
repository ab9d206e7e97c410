"""Trials of the dense graph: whether the model repeats it, and which groups it depends on.

Nothing is pruned here; units are only zeroed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from torch import Tensor

from search.graph.pruning_graph import PruningGraph
from search.graph.trial_log import TrialLog, Verdict
from search.graph.verification.comparison import (
    CONTROL,
    TOLERANCE,
    UNLIKE,
    first_examples,
    outputs_of,
    relative_error,
)
from search.graph.verification.draw import Draw
from search.graph.verification.masked_reference import MaskedReference
from search.graph.verification.one_example_first import Inputs
from search.plan import Plan, best_of


class DenseTrial:
    """Runs the dense graph on one draw of the parameters.

    Args:
        graph: the analysis of a float64 copy, which is redrawn before the first trial that is
            run.
        draw: of the parameters.
        reference: the dense graph.
        log: of the trials.
    """

    def __init__(
        self, graph: PruningGraph, draw: Draw, reference: MaskedReference, log: TrialLog
    ) -> None:
        self._graph, self._draw = graph, draw
        self._reference, self._log = reference, log

    def moved_by(self, names: Sequence[str]) -> set[str]:
        """Those of the groups `names` without half the units of which the dense graph computes
        something else: what `Influence` cannot see where a gradient is zero or does not exist.
        Empty if the time is over."""

        def run() -> Verdict:
            moved = self._moved_by(names, self._without([]), self._without(names))
            return {"moved": sorted(moved)}

        verdict = self._verdict("moved by", names, run)
        return set() if verdict is None else set(verdict["moved"])

    def _moved_by(
        self, names: Sequence[str], before: list[Tensor], after: list[Tensor], first: int = 0
    ) -> set[str]:
        """Those of names[first:] that matter where names[:first] are cut already.

        Args:
            names: groups.
            before: what the graph computes without half the units of names[:first].
            after: what it computes without half of those of all `names`.
            first: how many of the groups are cut in `before`.
        """
        if relative_error(after, before) < CONTROL * TOLERANCE:
            return set()
        if len(names) - first == 1:
            return {names[first]}
        middle = (first + len(names)) // 2
        between = self._without(names[:middle])
        found = self._moved_by(names[:middle], before, between, first)
        return found | self._moved_by(names, between, after, middle)

    def _without(self, names: Sequence[str]) -> list[Tensor]:
        """What the graph computes without half the units of the groups `names`."""
        kept = dict(self._graph.dense_plan().kept)
        for group in self._graph.groups:
            if group.name in names:
                count = (group.width + 1) // 2 if group.min_width else 0
                kept[group.name] = best_of(range(group.width), count, group.required_any_of)
        atoms = self._graph.kept_atoms(Plan(kept))
        return self._reference.outputs(self._graph.example_inputs, atoms)

    def error(self) -> float:
        """How far the model itself is from its exported graph, with nothing cut.

        Python may decide by the number of examples: where the model with one is off, it is tried
        with two.

        Returns:
            A relative error: the smaller one; 0 if the graph runs with neither, or the time is
            over before that is known.
        """
        verdict = self._verdict("dense", [], lambda: {"error": self._smallest_error()})
        return 0.0 if verdict is None else float(verdict["error"])

    def _smallest_error(self) -> float:
        two = self._graph.example_inputs
        errors: list[float] = []
        for inputs in (first_examples(self._graph.dynamic_batch, two), two):
            if inputs is not None:
                with suppress(Exception):  # the export for two may have no sizes for one
                    errors.append(dense_error(self._graph, self._reference, inputs))
            if errors and errors[-1] <= UNLIKE:
                break
        return min(errors, default=0.0)

    def _verdict(
        self, trial: str, names: Sequence[str], run: Callable[[], Verdict]
    ) -> Verdict | None:
        def run_drawn() -> Verdict:
            self._draw.apply(self._graph.model)
            return run()

        return self._log.verdict(f"{trial} {self._draw.seed} {self._draw.scale}", names, run_drawn)


def dense_error(graph: PruningGraph, reference: MaskedReference, inputs: Inputs) -> float:
    """How far the outputs of the dense model are from those of its exported graph.

    Args:
        graph: the analysis of the model, on the parameters as they are.
        reference: the exported graph.
        inputs: of both.

    Returns:
        A relative error.
    """
    kept = graph.kept_atoms(graph.dense_plan())
    return relative_error(outputs_of(graph.model, inputs), reference.outputs(inputs, kept))
