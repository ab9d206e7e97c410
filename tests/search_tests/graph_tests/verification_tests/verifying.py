"""Verification without the rest of `trace`, with other trials, and with clocks: what its tests
share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from search.graph import PruningGraph
from search.graph.dependency.op_call import OpCall, Outcome, PropagationRule
from search.graph.dependency.operators.operator import Operator
from search.graph.dependency.operators.registry import OPERATORS
from search.graph.exported.deadline import NEVER, Deadline
from search.graph.exported.float64_mode import everything_in_float64
from search.graph.exported.single_thread import one_thread
from search.graph.tracing import subject_of
from search.graph.trial_log import TrialLog, Verdicts
from search.graph.verification.trial_result import TrialResult
from search.graph.verification.trials import Trials
from search.graph.verification.verifier import Verifier


def verified(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    make_trials: Callable[[TrialLog], Trials] = Trials,
    *,
    clock: Callable[[], float] | None = None,
    operators: Mapping[str, Operator] = OPERATORS,
) -> PruningGraph:
    """The analysis of a float64 copy, verified within a second on `clock`, or without a limit."""
    log = TrialLog(Verdicts(), NEVER if clock is None else Deadline(1.0, clock))
    with one_thread(), torch.enable_grad(), everything_in_float64():
        return Verifier(subject_of(model, inputs, operators), make_trials(log)).settled()


@dataclass
class FixedTrial:
    """A trial that is a function."""

    find: Callable[[Sequence[str]], TrialResult]

    def result(self, names: Sequence[str]) -> TrialResult:
        return self.find(names)


def statuses(graph: PruningGraph) -> dict[str, str]:
    """Group -> its status."""
    return {group.name: group.status for group in graph.groups}


def reason(graph: PruningGraph, name: str) -> str:
    """Why a group is frozen."""
    (group,) = [group for group in graph.groups if group.name == name]
    return group.reason


def forms(graph: PruningGraph) -> dict[str, str]:
    """Prunable group -> its form."""
    return {group.name: group.form for group in graph.prunable}


def with_rule(name: str, rule: PropagationRule) -> dict[str, Operator]:
    """All operators, one of which has another rule."""
    return {**OPERATORS, name: replace(OPERATORS[name], propagate=rule)}


def without_ties(rule: PropagationRule) -> PropagationRule:
    """The rule, wrong: it ties nothing."""

    def wrong(call: OpCall) -> Outcome:
        outputs, effect = rule(call)
        return outputs, replace(effect, ties=())

    return wrong
