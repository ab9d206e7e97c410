"""Verification ends in time: what is open then is frozen, and a step that takes too long ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from search.errors import GraphError
from search.graph import trace
from search.graph.dependency.labels import KeepMask
from search.graph.exported.deadline import LATE
from search.graph.exported.export import TOO_LATE
from search.graph.trial_log import TrialLog
from search.graph.verification.draw import Draw
from search.graph.verification.influence import Influence, projected_gradient
from search.graph.verification.masked_reference import MaskedReference
from search.graph.verification.subject import Subject
from search.graph.verification.trial_result import Trial
from search.graph.verification.trials import Trials
from search.tensors import named_tensors
from tests.search_tests.graph_tests.around import Ending, Readings
from tests.search_tests.graph_tests.verification_tests.verifying import (
    forms,
    reason,
    statuses,
    verified,
)
from tests.search_tests.models import FixedView, Plain, image


def same(x: Tensor) -> Tensor:
    return x


class Slow(Plain):
    """Its forward calls `first` on the input, other than in an export.

    A plain function, because copies of the model would copy the object of a method.
    """

    def __init__(self, first: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if torch.compiler.is_exporting() else self.first(x))


@pytest.mark.parametrize("readings", [0, 1, 2])
def test_the_time_limit_freezes_what_is_not_verified(readings: int) -> None:
    clock = Readings(readings + 1)  # one for the limit
    graph = verified(Plain(), image(), clock=clock)
    assert {group.reason for group in graph.groups[:2]} == {LATE}


def test_a_trace_whose_time_is_over_in_a_trial_returns_what_it_has() -> None:
    clock = Ending(same)
    graph = trace(Slow(lambda x: clock.end(x)), image(), time_limit_s=1.0, clock=clock)
    assert {group.reason for group in graph.groups[:2]} == {LATE}
    assert not graph.complete


@pytest.mark.parametrize(("time_limit_s", "reason"), [(4.0, LATE), (15.0, "")])
def test_twenty_times_the_limit_may_pass_without_computing(
    time_limit_s: float, reason: str
) -> None:
    wall = Ending(same)
    model = Slow(lambda x: wall.end(x))
    graph = trace(model, image(), time_limit_s=time_limit_s, clock=lambda: 0.0, wall_clock=wall)
    assert wall.has_begun
    assert {group.reason for group in graph.groups[:2]} == {reason}


def test_a_trace_takes_one_thread_and_leaves_the_setting_as_it_was() -> None:
    before, seen = torch.get_num_threads(), set[int]()

    class Looking(Plain):
        def forward(self, x: Tensor) -> Tensor:
            seen.add(torch.get_num_threads())
            return super().forward(x)

    torch.set_num_threads(3)
    try:
        trace(Looking(), image())
        with pytest.raises(GraphError):
            trace(nn.Identity(), image())
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == {1}


def test_an_export_is_interrupted_when_the_time_is_over() -> None:
    clock = Ending(torch.relu)

    class SlowExport(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(clock.end(x))

    with pytest.raises(GraphError, match="must be exported within the time limit"):
        trace(SlowExport(), image(), time_limit_s=1.0, clock=clock)
    assert clock.has_begun
    assert not clock.has_returned
    assert statuses(trace(Plain(), image()))["conv1"] == "prunable"


def test_what_needs_an_export_that_ends_too_late_is_frozen() -> None:
    clock = Ending(torch.relu)

    class SlowSingle(FixedView):
        """The graph of its float64 copy cannot serve it, for it holds a number that may depend on
        the dtype; so it is exported again."""

        def forward(self, x: Tensor) -> Tensor:
            x = clock.end(x) if x.dtype is torch.float32 else x
            return super().forward(x + 1e-30)

    graph = trace(SlowSingle(), image(), time_limit_s=1.0, clock=clock)
    assert clock.has_begun
    assert forms(graph) == {"conv1": "module", "fc1": "module"}
    assert reason(graph, "conv2") == TOO_LATE


class SlowReference(MaskedReference):
    def __init__(self, subject: Subject, clock: Ending) -> None:
        tensors = named_tensors(subject.graph.model)
        super().__init__(subject.exported, subject.propagation, tensors)
        self._clock = clock

    def outputs(self, inputs: Sequence[Tensor], kept: KeepMask) -> list[Tensor]:
        found: list[Tensor] = self._clock.end(super().outputs, inputs, kept)
        return found


class SlowTrials(Trials):
    """One part of the trials takes all of the time."""

    def __init__(self, log: TrialLog, part: str, clock: Ending) -> None:
        super().__init__(log)
        self._part, self._clock = part, clock

    def reference(self, subject: Subject) -> MaskedReference:
        if self._part != "reference":
            return super().reference(subject)
        return SlowReference(subject, self._clock)

    def influence(self, subject: Subject) -> Influence:
        if self._part != "gradient":
            return super().influence(subject)
        return Influence(
            subject, self.log, lambda *args: self._clock.end(projected_gradient, *args)
        )


@pytest.mark.parametrize("part", ["model", "reference", "gradient"])
def test_a_forward_or_backward_that_would_end_too_late_is_interrupted(part: str) -> None:
    clock = Ending(lambda call, *args: call(*args))
    model = Slow(lambda x: clock.end(torch.abs, x)) if part == "model" else Plain()
    graph = verified(model, image(), lambda log: SlowTrials(log, part, clock), clock=clock)
    assert {group.reason for group in graph.groups[:2]} == {LATE}
    assert clock.has_begun
    assert not clock.has_returned


class SlowClass(Trials):
    """The time is over when the user's class is to be compared with the graph."""

    def __init__(self, log: TrialLog, clock: Ending) -> None:
        super().__init__(log)
        self._clock = clock

    def module_vs_graph(self, subject: Subject, draw: Draw) -> Trial:
        trial: Trial = self._clock.end(super().module_vs_graph, subject, draw)
        return trial


def test_what_the_time_leaves_open_of_the_forms_the_exported_graph_loses() -> None:
    clock = Ending(lambda call, *args: call(*args))
    graph = verified(FixedView(), image(), lambda log: SlowClass(log, clock), clock=clock)
    assert clock.has_begun
    assert forms(graph) == dict.fromkeys(("conv1", "conv2", "fc1"), "graph")
