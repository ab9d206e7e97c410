import json
import random
from dataclasses import replace

import pytest

from search.errors import ExplorerError
from search.explorer import Explorer, Failed, Measured, Scored, SearchConfig
from tests.search_tests.explorer_tests.simulation import (
    FLOORS,
    GROUPS,
    Device,
    drive,
    relax,
    scores,
)

SMALL = SearchConfig(0.6, beam_width=2, children=3, levels=3)


def make(config: SearchConfig = SMALL) -> Explorer:
    return Explorer(config, GROUPS, scores(), FLOORS, relax=relax)


def outcome_of_search(explorer: Explorer) -> tuple[object, ...]:
    finalists = [(node.digest, node.ratio, node.loss) for node in explorer.finalists(4)]
    return finalists, explorer.tree(), explorer.staircases(), explorer.floors


@pytest.mark.parametrize("seed", range(4))
def test_the_tree_does_not_depend_on_the_order_of_tells(seed: int) -> None:
    expected = outcome_of_search(drive(make(), Device()))
    explorer, device, order = make(), Device(), random.Random(seed)
    waiting = []
    while not explorer.done:
        waiting += explorer.ask(order.randint(0, 5))
        if waiting and order.random() < 0.8:
            candidate = waiting.pop(order.randrange(len(waiting)))
            explorer.tell(candidate, device.answer(candidate))
    assert outcome_of_search(explorer) == expected


@pytest.mark.parametrize("seed", range(3))
def test_a_restored_explorer_goes_on_as_the_saved_one(seed: int) -> None:
    expected = outcome_of_search(drive(make(), Device()))
    explorer, device, order = make(), Device(), random.Random(seed)
    while not explorer.done:
        explorer.ask(order.randint(0, 8))
        waiting = explorer.outstanding()
        for candidate in order.sample(waiting, order.randint(0, len(waiting))):
            explorer.tell(candidate, device.answer(candidate))
        if order.random() < 0.4:
            state = json.loads(json.dumps(explorer.state()))
            restored = Explorer.restore(state, GROUPS, scores(), FLOORS, relax=relax)
            assert restored.state() == state
            assert restored.outstanding() == explorer.outstanding()
            assert restored.progress() == explorer.progress()
            explorer = restored
    assert outcome_of_search(explorer) == expected


def test_ask_hands_out_each_candidate_once() -> None:
    explorer = make()
    first = explorer.ask()
    assert first
    assert explorer.ask() == []
    assert explorer.outstanding() == sorted(first, key=lambda candidate: candidate.key)


def test_the_first_outcome_counts() -> None:
    explorer = make()
    candidate = next(c for c in explorer.ask() if c.needs == "latency")
    explorer.tell(candidate, Measured(0.2, 0.19, 0.21))
    explorer.tell(candidate, Measured(0.9, 0.89, 0.91))
    row = next(row for row in explorer.tree() if row["digest"] == candidate.digest)
    assert row["ratio"] == 0.2


def test_an_outcome_of_the_wrong_kind_is_refused() -> None:
    explorer = make()
    candidate = next(c for c in explorer.ask() if c.needs == "latency")
    with pytest.raises(TypeError, match="must have its attributes"):
        explorer.tell(candidate, Scored(0.3))


def test_a_candidate_never_asked_is_refused() -> None:
    candidate = make().ask()[0]
    explorer = make(replace(SMALL, min_width=2))
    with pytest.raises(ExplorerError, match="must come from ask"):
        explorer.tell(candidate, Failed("crashed", "?"))
