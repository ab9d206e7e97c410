"""An analysis that ran out of time goes on from the verdicts it had, and ends as if it had not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from search.errors import LateError
from search.graph import PruningGraph, trace
from search.graph.exported.deadline import LATE, NEVER, Deadline, OutOfTime
from search.graph.trial_log import TrialLog, Verdict, Verdicts
from tests.search_tests.graph_tests.around import Readings, conv
from tests.search_tests.models import image


class Net(nn.Module):
    """One of its widths is a constant, so that the user's class and the graph are both tried."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(3, 6), conv(6, 4)
        self.head = nn.Linear(4 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.head(self.second(self.first(x).relu()).reshape(-1, 256))
        return made


def found(graph: PruningGraph) -> list[tuple[str, str, str, str, int]]:
    return [(g.name, g.status, g.reason, g.form, g.min_width) for g in graph.groups]


@pytest.fixture(scope="module")
def whole() -> tuple[PruningGraph, int]:
    """An analysis that had the time it needed, and how often it read the time."""
    clock = Readings()
    return trace(Net(), image(), clock=clock), clock.count


def cut_short(
    share: float, readings: int, verdicts: Verdicts | None = None
) -> PruningGraph | None:
    try:
        return trace(Net(), image(), verdicts=verdicts, clock=Readings(share * readings))
    except LateError:
        return None


@pytest.fixture(scope="module")
def short(whole: tuple[PruningGraph, int]) -> list[PruningGraph]:
    """Analyses that ran out of time at different trials."""
    cut = [cut_short(share, whole[1]) for share in (0.5, 0.7, 0.85, 0.95)]
    return [graph for graph in cut if graph is not None]


def test_an_analysis_reports_whether_it_is_complete(
    whole: tuple[PruningGraph, int], short: list[PruningGraph]
) -> None:
    graph, _ = whole
    assert (graph.complete, graph.unfinished) == (True, ())
    assert (graph.report()["complete"], graph.report()["unfinished"]) == (True, [])
    assert len({len(each.verdicts.entries) for each in short}) > 1
    for each in short:
        late = [group.name for group in each.groups if group.reason == LATE]
        assert not each.complete
        assert list(each.unfinished) == late
        assert each.report()["unfinished"] == late
    assert any(each.unfinished for each in short)


def test_an_analysis_that_goes_on_ends_as_one_that_had_the_time(
    whole: tuple[PruningGraph, int], short: list[PruningGraph]
) -> None:
    graph, readings = whole
    for each in short:
        verdicts, clock = Verdicts.from_json(each.verdicts.to_json()), Readings()
        later = trace(Net(), image(), verdicts=verdicts, clock=clock)
        assert found(later) == found(graph)
        assert later.complete
        assert later.verdicts.entries[: len(verdicts.entries)] == verdicts.entries
        assert later.verdicts == graph.verdicts
        assert not verdicts.entries or clock.count < readings


def test_a_round_without_time_loses_no_verdict(whole: tuple[PruningGraph, int]) -> None:
    graph, readings = whole
    idle = cut_short(0.5, readings, graph.verdicts)
    assert idle is None or idle.verdicts == graph.verdicts


def test_closed_verdicts_give_the_same_groups_however_much_time_there_is(
    whole: tuple[PruningGraph, int], short: list[PruningGraph]
) -> None:
    for each in (whole[0], *short):
        again = trace(Net(), image(), verdicts=replace(each.verdicts, closed=True))
        assert found(again) == found(each)
        assert again.complete is each.complete


def test_no_trial_is_run_of_which_the_verdict_is_known() -> None:
    calls = []

    class Counted(Net):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(torch.compiler.is_exporting())
            return super().forward(x)

    graph = trace(Counted(), image())
    held = calls.count(False)
    again = trace(Counted(), image(), verdicts=graph.verdicts)
    of_recasting = calls.count(False) - held
    assert found(again) == found(graph)
    assert of_recasting <= 1 < held


def test_verdicts_on_another_model_are_left_aside(whole: tuple[PruningGraph, int]) -> None:
    class Other(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).softmax(1)

    other = trace(Other(), image(), verdicts=whole[0].verdicts)
    assert found(other) == found(trace(Other(), image()))
    assert not set(dict(other.verdicts.entries)) & set(dict(whole[0].verdicts.entries))


class Set(nn.Module):
    """What it computes hangs on what is set in it, and the graph does not show it."""

    def __init__(self, *, fixed: bool, table: float = 1.0) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 8), nn.Linear(8, 3)
        self.register_buffer("table", torch.tensor([table]))
        self.fixed = fixed

    def forward(self, x: Tensor) -> Tensor:
        width = 8 if self.fixed else self.one.weight.shape[0]
        made: Tensor = self.other(self.one(x).relu() / width**0.5) * self.table
        return made


@pytest.mark.parametrize("change", [{"fixed": False}, {"fixed": True, "table": 2.0}])
def test_what_is_set_in_a_model_is_part_of_what_verdicts_are_on(change: dict[str, Any]) -> None:
    x = (torch.rand(2, 4),)
    verdicts = trace(Set(fixed=True), x).verdicts
    assert trace(Set(fixed=True), x, verdicts=verdicts).verdicts == verdicts
    other = trace(Set(**change), x, verdicts=verdicts).verdicts
    assert not set(dict(other.entries)) & set(dict(verdicts.entries))


def test_a_class_that_was_typed_in_is_known_by_its_code() -> None:
    def typed(factor: str) -> nn.Module:
        space: dict[str, Any] = {"nn": nn}
        text = f"""
class Typed(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(4, 8), nn.Linear(8, 3)
    def forward(self, x):
        return self.other(self.one(x).relu()) * ({factor})
"""
        exec(text, space)
        kind: type[nn.Module] = space["Typed"]
        return kind()

    x = (torch.rand(2, 4),)
    verdicts = trace(typed("2.0"), x).verdicts
    assert trace(typed("2.0"), x, verdicts=verdicts).verdicts == verdicts
    other = trace(typed("self.one.weight.shape[0] / 4"), x, verdicts=verdicts).verdicts
    assert not set(dict(other.entries)) & set(dict(verdicts.entries))


def test_text_that_holds_no_verdicts_is_refused() -> None:
    with pytest.raises(ValueError, match="must be what to_json wrote, but got KeyError"):
        Verdicts.from_json("{}")


def test_files_of_earlier_versions_are_read() -> None:
    verdicts = Verdicts((("a digest", {"problem": None}),), closed=True)
    text = '{"told": [["a digest", {"problem": null}]], "closed": true}'
    assert Verdicts.from_json(text) == verdicts
    assert verdicts.to_json() == text


class Runner:
    """Runs trials whose verdicts are their own names, and notes each."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def verdict(self, log: TrialLog, names: Sequence[str]) -> Verdict | None:
        def run() -> Verdict:
            self.names += names
            return {"names": list(names)}

        return log.verdict("trial", names, run)


def test_after_one_trial_too_late_none_is_run() -> None:
    times = iter([0.0, 0.0, 2.0, 2.0, 2.0])
    log, runner = TrialLog(Verdicts(), Deadline(1.0, lambda: next(times))), Runner()
    assert runner.verdict(log, ["a"]) == {"names": ["a"]}
    assert [runner.verdict(log, [name]) for name in "bc"] == [None, None]
    assert log.is_out_of_time
    assert runner.names == ["a"]


def test_a_trial_that_is_interrupted_leaves_no_verdict() -> None:
    def run() -> Verdict:
        raise OutOfTime

    log = TrialLog(Verdicts(), NEVER)
    assert log.verdict("trial", ["a"], run) is None
    assert log.verdicts == Verdicts()


def test_verdicts_from_the_first_other_trial_on_are_dropped() -> None:
    first, runner = TrialLog(Verdicts(), NEVER), Runner()
    for name in "abc":
        runner.verdict(first, [name])
    second = TrialLog(first.verdicts, NEVER)
    for name in "ax":
        runner.verdict(second, [name])
    assert runner.names == list("abcx")
    assert [verdict["names"] for _, verdict in second.verdicts.entries] == [["a"], ["x"]]


def test_the_same_trial_of_another_subject_is_run() -> None:
    first, runner = TrialLog(Verdicts(), NEVER), Runner()
    runner.verdict(first, ["a"])
    second = TrialLog(first.verdicts, NEVER)
    second.begin("another")
    runner.verdict(second, ["a"])
    assert runner.names == ["a", "a"]


def test_closed_verdicts_on_something_else_close_nothing() -> None:
    runner, closed = Runner(), Verdicts((("another digest", {}),), closed=True)
    log = TrialLog(closed, NEVER)
    assert runner.verdict(log, ["a"]) == {"names": ["a"]}
    assert not log.verdicts.closed
    after = TrialLog(Verdicts(closed=True), NEVER)
    assert runner.verdict(after, ["b"]) is None
