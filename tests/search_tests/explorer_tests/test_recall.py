"""A restored search takes its proposals from the saved state, and is the same without them."""

import json
from typing import Any

import pytest

from search.explorer import Explorer, SearchConfig, levels, proposals
from search.explorer.recall import Recall
from tests.search_tests.explorer_tests.simulation import (
    FLOORS,
    GROUPS,
    Device,
    drive,
    relax,
    scores,
)

SMALL = SearchConfig(0.6, beam_width=2, children=3, levels=3)


def restored(state: dict[str, Any]) -> Explorer:
    return Explorer.restore(json.loads(json.dumps(state)), GROUPS, scores(), FLOORS, relax=relax)


@pytest.fixture(scope="module")
def finished() -> Explorer:
    return drive(Explorer(SMALL, GROUPS, scores(), FLOORS, relax=relax), Device())


def test_restoring_proposes_nothing_anew(
    finished: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    propose = proposals.propose

    def noted(*arguments: Any) -> Any:
        asked.append(arguments[1].digest)
        return propose(*arguments)

    monkeypatch.setattr(levels, "propose", noted)
    assert restored(finished.state()).tree() == finished.tree()
    assert asked == []
    without = {name: value for name, value in finished.state().items() if name != "proposed"}
    assert restored(without).tree() == finished.tree()
    assert len(asked) >= 3  # a level each at least


def test_proposals_of_another_search_are_worked_out_anew(finished: Explorer) -> None:
    state = finished.state()
    wrong = [["children:1:deadbeef", []], *state["proposed"]]
    again = restored({**state, "proposed": wrong})
    assert again.tree() == finished.tree()
    assert again.state()["proposed"] == state["proposed"]


def test_a_step_is_recalled_by_its_name_alone_and_in_order() -> None:
    first = Recall(["b", "a"])
    assert first.get("one", lambda: [("cut", {"a": 1, "b": 2})]) == [("cut", {"a": 1, "b": 2})]
    assert first.get("two", list) == []
    assert first.to_json() == [["one", [["cut", [1, 2]]]], ["two", []]]
    again = Recall(["a", "b"])
    again.expect(first.to_json())
    assert again.get("one", list) == [("cut", {"a": 1, "b": 2})]
    assert again.get("other", lambda: [("grow", {"a": 3, "b": 3})]) == [("grow", {"a": 3, "b": 3})]
    assert again.get("two", lambda: [("grow", {"a": 4, "b": 4})]) == [("grow", {"a": 4, "b": 4})]
