import json
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.errors import ExplorerError
from search.explorer import Candidate, Explorer, Failed, Measured, Scored, SearchConfig
from search.sensitivity import Sensitivity
from tests.search_tests.explorer_tests.simulation import (
    FLOORS,
    GROUPS,
    Device,
    drive,
    relax,
    scores,
    sensitivity,
)

SMALL = SearchConfig(0.6, beam_width=2, children=3, levels=3, refinements=2)


def make(config: SearchConfig = SMALL) -> Explorer:
    return Explorer(config, GROUPS, scores(), FLOORS, relax=relax)


def restored(explorer: Explorer) -> Explorer:
    state = json.loads(json.dumps(explorer.state()))
    return Explorer.restore(state, GROUPS, scores(), FLOORS, relax=relax)


def drive_all(explorer: Explorer, device: Device) -> Explorer:
    """Answers what was handed out before, too."""
    for candidate in explorer.outstanding():
        explorer.tell(candidate, device.answer(candidate))
    return drive(explorer, device)


def outcome_of_search(explorer: Explorer) -> tuple[object, ...]:
    finalists = [(node.digest, node.ratio, node.loss) for node in explorer.finalists(4)]
    return finalists, explorer.tree(), explorer.staircases(), explorer.floors


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.15]))
def test_the_tree_depends_on_neither_order_nor_restarts(seed: int, failing: float) -> None:
    order, device = Random(seed), Device(failing=failing)
    expected = outcome_of_search(drive(make(), device))
    explorer = make()
    while not explorer.done:
        explorer.ask(order.randint(0, 8))
        waiting = explorer.outstanding()
        for candidate in order.sample(waiting, order.randint(0, len(waiting))):
            explorer.tell(candidate, device.answer(candidate))
        if order.random() < 0.1:
            explorer = restored(explorer)
    assert outcome_of_search(explorer) == expected


def test_a_restored_explorer_looks_like_the_saved_one_at_every_moment() -> None:
    explorer, device = make(), Device()
    while not explorer.done:
        for candidate in explorer.ask(3):
            explorer.tell(candidate, device.answer(candidate))
        explorer.ask(1)
        again = restored(explorer)
        assert again.state() == explorer.state()
        assert again.outstanding() == explorer.outstanding()
        assert again.progress() == explorer.progress()
        assert again.tree() == explorer.tree()
        for candidate in explorer.outstanding():
            explorer.tell(candidate, device.answer(candidate))


@pytest.mark.parametrize("answers", [8, 20, 45, 60])
def test_a_hurried_search_is_restored_as_it_was_at_every_moment(answers: int) -> None:
    explorer, device = make(), Device()
    while not explorer.done:
        if device.latencies >= answers:
            explorer.hurry()
        for candidate in explorer.ask(3):
            explorer.tell(candidate, device.answer(candidate))
        again = restored(explorer)
        assert again.state() == explorer.state()
        assert again.progress() == explorer.progress()
        assert again.tree() == explorer.tree()
    assert explorer.progress()["hurried"]
    assert explorer.finalists(1)[0].meets(0.6)


def test_a_search_in_a_hurry_measures_a_stair_of_each_group_and_goes_to_the_budget() -> None:
    explorer, device = make(), Device()
    assert [explorer.hurry(), explorer.hurry()] == [True, False]
    drive(explorer, device)
    assert [len(rows) for rows in explorer.staircases().values()] == [1] * len(GROUPS)
    assert {node.level for node in explorer.nodes()} <= {0, 1}
    shown, best = explorer.progress(), explorer.finalists(1)[0]
    assert (shown["level"], shown["levels"]) == (1, 1)
    assert best.loss is not None
    assert best.ratio is not None
    assert 0.955 * 0.6 <= best.ratio <= 0.6
    assert device.latencies < drive(make(), Device()).progress()["measured"] / 2


def test_the_level_after_a_hurry_is_the_last() -> None:
    explorer, device = make(replace(SMALL, levels=4, refinements=0)), Device()
    while not explorer.done:
        if explorer.progress()["level"] == 2:
            explorer.hurry()
        for candidate in explorer.ask():
            explorer.tell(candidate, device.answer(candidate))
    assert (explorer.progress()["level"], explorer.progress()["levels"]) == (3, 3)
    assert 0.955 * 0.6 <= (explorer.finalists(1)[0].ratio or 0.0) <= 0.6


@pytest.mark.parametrize("answers", [3, 12, 50])
def test_a_state_of_when_the_uniform_network_came_last_goes_on(answers: int) -> None:
    explorer, device = make(replace(SMALL, uniform=False)), Device()
    while device.latencies < answers:
        for candidate in explorer.ask(1):
            explorer.tell(candidate, device.answer(candidate))
    state = json.loads(json.dumps(explorer.state()))
    state["version"], state["config"]["uniform"] = 1, True
    del state["hurried"]
    again = Explorer.restore(state, GROUPS, scores(), FLOORS, relax=relax)
    assert outcome_of_search(drive_all(again, device)) == outcome_of_search(drive(make(), device))


def test_a_search_that_is_stopped_at_its_stairs_hands_back_the_uniform_network() -> None:
    explorer, device = make(), Device()
    while explorer.progress()["phase"] != "staircases":
        for candidate in explorer.ask():
            explorer.tell(candidate, device.answer(candidate))
    asked = next(each for each in explorer.ask() if each.needs == "loss")
    explorer.tell(asked, device.answer(asked))
    assert explorer.has_result()
    assert not explorer.has_result(simple=False)
    explorer.stop()
    best = explorer.finalists(1)[0]
    assert best.origin == "uniform"
    assert best.loss is not None
    assert best.meets(0.6)


@pytest.mark.parametrize("answers", [30, 70, 10_000])
def test_a_state_of_before_refinements_goes_on_as_it_was(answers: int) -> None:
    config = replace(SMALL, levels=8, refinements=0, widen=False)
    explorer, device = make(config), Device(interval=0.1)
    while not explorer.done and device.latencies < answers:
        for candidate in explorer.ask(5):
            explorer.tell(candidate, device.answer(candidate))
    state = json.loads(json.dumps(explorer.state()))
    for name in ("refinements", "widen"):
        del state["config"][name]
    again = Explorer.restore(state, GROUPS, scores(), FLOORS, relax=relax)
    assert again.state() == explorer.state()
    assert again.config == config
    assert again.progress()["levels"] == 8


def test_forgotten_latency_is_asked_again_and_the_tree_ends_as_if_it_had_never_been_told() -> None:
    device, wrong = Device(), Measured(0.55, 0.54, 0.56, None)
    expected = outcome_of_search(drive(make(), device))
    explorer = make()
    asked = explorer.ask()
    spoilt = asked[0].digest
    for candidate in asked:
        is_spoilt = candidate.digest == spoilt
        explorer.tell(candidate, wrong if is_spoilt else device.answer(candidate))
    for _ in range(3):
        for candidate in explorer.ask():
            explorer.tell(candidate, device.answer(candidate))
    state = json.loads(json.dumps(explorer.state()))
    again = Explorer.restore(state, GROUPS, scores(), FLOORS, relax=relax, forget=[spoilt])
    (candidate,) = again.outstanding()
    assert candidate.key == (spoilt, "latency")
    again.tell(candidate, device.answer(candidate))
    assert outcome_of_search(drive(again, device)) == expected


def test_losses_do_not_hold_up_measurements() -> None:
    explorer, device = make(), Device()
    losses = []
    while True:
        asked = explorer.ask()
        losses += [candidate for candidate in asked if candidate.needs == "loss"]
        latencies = [candidate for candidate in asked if candidate.needs == "latency"]
        if not latencies:
            break
        for candidate in latencies:
            explorer.tell(candidate, device.answer(candidate))
    assert explorer.progress()["level"] == 1
    assert len(losses) > 2
    assert explorer.outstanding() == sorted(losses, key=lambda candidate: candidate.key)


def test_a_plan_that_reaches_its_target_is_scored_while_others_are_measured() -> None:
    config = SearchConfig(0.6, beam_width=3, children=4, levels=3)
    explorer, device, waiting = make(config), Device(), list[Candidate]()
    early = 0
    while (level := explorer.progress()["level"]) < config.levels:
        waiting = waiting or explorer.ask()
        candidate = waiting.pop(0)
        outcome = device.answer(candidate)
        explorer.tell(candidate, outcome)
        others = any(each.needs == "latency" for each in waiting)
        if isinstance(outcome, Measured) and candidate.level == level > 0 and others:
            is_reached = outcome.ratio <= config.targets[level - 1]
            asked = explorer.ask()
            assert [each.key for each in asked] == [(candidate.digest, "loss")] * is_reached
            early += is_reached
            waiting += asked
    assert early > 2


def test_sensitivity_and_staircases_travel_in_the_state() -> None:
    device = Device()
    explorer = Explorer(
        SMALL,
        GROUPS,
        scores(),
        FLOORS,
        relax=relax,
        sensitivity=sensitivity(device),
        staircases={GROUPS[0].name: {"8": 0.9}},
    )
    again = restored(explorer)
    assert again.staircases() == explorer.staircases() == {GROUPS[0].name: {"8": 0.9}}
    assert outcome_of_search(drive(again, device)) == outcome_of_search(drive(explorer, device))


def test_an_infinite_rise_stays_json() -> None:
    rises = Sensitivity((0.5,), {GROUPS[0].name: (float("inf"),)})
    state = Explorer(SMALL, GROUPS, scores(), FLOORS, sensitivity=rises).state()
    assert "Infinity" not in json.dumps(state)


def test_other_scores_than_those_of_the_state_are_refused() -> None:
    with pytest.raises(ExplorerError, match="must be those the state was made with"):
        Explorer.restore(make().state(), GROUPS, scores(1), FLOORS, relax=relax)


@pytest.mark.parametrize("damage", [{"version": 9}, {"config": {}}, {"given": None}])
def test_a_state_that_is_none_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(ExplorerError, match="state"):
        Explorer.restore({**make().state(), **damage}, GROUPS, scores(), FLOORS)


def test_a_state_with_unknown_candidates_is_refused() -> None:
    outcomes = [{"digest": "abc", "needs": "loss", "loss": 1.0}]
    state = {**make().state(), "outcomes": outcomes}
    with pytest.raises(ExplorerError, match="must hold known candidates"):
        Explorer.restore(state, GROUPS, scores(), FLOORS, relax=relax)


def test_floors_of_unknown_groups_are_refused() -> None:
    with pytest.raises(ExplorerError, match="floors must name groups of the graph"):
        Explorer(SMALL, GROUPS, scores(), {"nowhere": 3})


def test_stop_ends_with_the_best_so_far() -> None:
    explorer, device = make(), Device()
    while explorer.progress()["level"] < 2:
        for candidate in explorer.ask():
            explorer.tell(candidate, device.answer(candidate))
    open_candidate = explorer.ask()[0]
    explorer.stop()
    assert explorer.done
    assert explorer.ask() == explorer.outstanding() == []
    assert explorer.progress()["stopped"]
    assert explorer.progress()["best"] is not None
    assert explorer.finalists(1)[0].meets(0.6)
    explorer.tell(open_candidate, device.answer(open_candidate))
    assert restored(explorer).tree() == explorer.tree()
    assert restored(explorer).done


def test_stop_after_the_end_changes_nothing() -> None:
    explorer = drive(make(), Device())
    state = explorer.state()
    explorer.stop()
    assert explorer.state() == state


def test_what_is_planned_does_not_grow_while_stairs_are_answered() -> None:
    explorer, device = make(), Device()
    planned, rounds = [], 0
    while explorer.progress()["phase"] in ("feasibility", "staircases"):
        asked = explorer.ask()
        for candidate in asked:
            explorer.tell(candidate, device.answer(candidate))
            shown = explorer.progress()
            if shown["phase"] == "staircases":
                planned.append(shown["measured"] + shown["remaining"])
        rounds += len(asked) > 2
    assert rounds >= 2
    assert len(planned) > 10
    assert max(planned) <= planned[0] + 1


def test_progress_counts_down_to_nothing() -> None:
    explorer, device = make(), Device()
    remaining = []
    while not explorer.done:
        for candidate in explorer.ask():
            explorer.tell(candidate, device.answer(candidate))
        remaining.append(explorer.progress()["remaining"])
    assert remaining[0] > 50
    assert remaining[-1] == 0
    assert explorer.progress()["phase"] == "done"


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
