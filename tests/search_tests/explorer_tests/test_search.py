"""Whole searches on the synthetic device."""

from dataclasses import replace

import pytest

from search.errors import ConfigError
from search.explorer import Explorer, Measured, Node, SearchConfig
from search.explorer.levels import diverse
from search.plan import Plan
from search.sensitivity import Sensitivity
from tests.search_tests.explorer_tests.simulation import (
    FLOORS,
    GROUPS,
    Device,
    best_uniform_loss,
    drive,
    relax,
    scores,
    sensitivity,
)


def searched(
    budget: float, device: Device, *, rises: Sensitivity | None = None, beam_width: int = 3
) -> Explorer:
    config = SearchConfig(budget, beam_width=beam_width, children=4, levels=4, seed=device.seed)
    explorer = Explorer(config, GROUPS, device.importance, FLOORS, relax=relax, sensitivity=rises)
    return drive(explorer, device)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("budget", [0.3, 0.4, 0.5, 0.7, 0.9])
def test_the_budget_is_met_closely_and_better_than_uniform(budget: float, seed: int) -> None:
    device = Device(seed=seed, importance=scores(seed))
    finalists = searched(budget, device, rises=sensitivity(device)).finalists(3)
    for node in finalists:
        assert node.ratio is not None
        assert 0.955 * budget <= node.ratio <= 0.995 * budget
    best = finalists[0]
    assert isinstance(best.latency, Measured)
    assert best.latency.ratio_high <= budget
    assert best.loss is not None
    assert best.loss < best_uniform_loss(device, budget)
    assert device.latencies <= 160


def test_without_sensitivities_the_scores_alone_find_a_plan() -> None:
    device = Device()
    best = searched(0.6, device).finalists(1)[0]
    assert best.loss is not None
    assert best.loss < best_uniform_loss(device, 0.6)


def test_no_plan_is_below_the_floors_in_force() -> None:
    explorer = searched(0.6, Device())
    assert explorer.progress()["floors_doubled"] == 0
    for node in explorer.nodes():
        if node.level > 0:
            assert all(node.widths[name] >= floor for name, floor in explorer.floors.items())


def test_floors_that_leave_no_room_are_relaxed_and_it_is_reported() -> None:
    tight = {group.name: group.width for group in GROUPS}
    device = Device()
    explorer = Explorer(
        SearchConfig(0.5, levels=2, beam_width=1, children=2), GROUPS, scores(), tight
    )
    drive(explorer, device)
    assert explorer.progress()["floors_doubled"] > 0
    assert explorer.finalists(1)[0].meets(0.5)
    assert all(explorer.floors[name] < tight[name] for name in tight)


@pytest.mark.parametrize("failing", [0.1, 0.3])
def test_failures_drop_candidates_and_never_hang(failing: float) -> None:
    explorer = searched(0.6, Device(failing=failing))
    assert explorer.finalists(1)[0].meets(0.6)
    failed = [row for row in explorer.tree() if row["error"]]
    assert {row["error"] for row in failed} == {"crashed: the child process ended"}
    assert explorer.progress()["failed"] == len(failed)


def test_when_everything_fails_the_search_ends_and_says_so() -> None:
    explorer = searched(0.6, Device(failing=1.0))
    assert explorer.finalists(1) == []
    assert explorer.infeasible is not None
    assert explorer.infeasible["minimum_ratio"] is None
    assert "unknown time" in explorer.infeasible["message"]


def test_an_unreachable_budget_is_infeasible_with_both_numbers() -> None:
    device = Device()
    explorer = searched(0.1, device)
    assert explorer.infeasible is not None
    assert explorer.infeasible["budget"] == 0.1
    assert explorer.infeasible["minimum_ratio"] > 0.1
    assert explorer.infeasible["fastest_stairs_ratio"] > 0.1
    assert explorer.progress()["phase"] == "infeasible"
    assert device.latencies <= 50


def test_a_budget_above_dense_is_met_by_the_dense_plan_without_measuring() -> None:
    device = Device()
    explorer = searched(1.2, device)
    assert [node.origin for node in explorer.finalists()] == ["dense"]
    assert (device.latencies, device.losses) == (0, 1)


def test_a_network_without_prunable_groups_is_infeasible() -> None:
    explorer = Explorer(SearchConfig(0.5), GROUPS, {}, {})
    drive(explorer, Device())
    assert explorer.infeasible is not None
    assert explorer.infeasible["minimum_ratio"] == 1.0


def test_known_staircases_are_not_measured_again() -> None:
    first, second = Device(), Device()
    known = searched(0.6, first).staircases()
    config = SearchConfig(0.6, beam_width=3, children=4, levels=4)
    drive(Explorer(config, GROUPS, scores(), FLOORS, relax=relax, staircases=known), second)
    assert first.latencies - second.latencies >= 40


def test_stairs_are_measured_down_to_the_minimum_when_the_budget_needs_it() -> None:
    device = Device(noise=0.0)
    config = SearchConfig(0.27, beam_width=2, children=2, levels=2, staircase_points=1)
    explorer = drive(Explorer(config, GROUPS, scores(), FLOORS), device)
    assert explorer.infeasible is not None or explorer.finalists(1)[0].meets(0.27)


def test_the_front_falls_in_ratio_and_rises_in_loss() -> None:
    front = searched(0.5, Device()).front()
    assert front[0].origin == "dense"
    assert len(front) > 3
    pairs = list(zip(front, front[1:], strict=False))
    assert all((a.ratio or 0) > (b.ratio or 0) for a, b in pairs)
    assert all((a.loss or 0) < (b.loss or 0) for a, b in pairs)


def test_kept_nodes_form_the_beam() -> None:
    rows = searched(0.5, Device(), beam_width=3).tree()
    kept = [row for row in rows if row["kept"]]
    assert all(row["loss"] is not None for row in kept)
    assert {row["level"] for row in kept} == {0, 1, 2, 3, 4}
    known = {row["digest"] for row in rows}
    assert all(row["parent"] in known for row in rows if row["origin"] != "dense")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_refinements_end_by_themselves_with_a_plan_that_is_no_worse(seed: int) -> None:
    config = SearchConfig(0.5, beam_width=2, children=4, levels=2, seed=seed)
    importance, found, measured = scores(seed), list[Node](), list[int]()
    for rounds in (0, 1, 8, 64):
        device = Device(seed=seed, importance=importance)
        explorer = drive(
            Explorer(
                replace(config, refinements=rounds), GROUPS, importance, FLOORS,
                relax=relax, sensitivity=sensitivity(device),
            ),
            device,
        )  # fmt: skip
        found += explorer.finalists(1)
        measured.append(device.latencies)
        assert explorer.progress()["level"] == config.levels
        least = explorer.floors
        assert all(
            node.widths[name] >= least[name]
            for node in explorer.nodes()
            if node.level and node.origin != "uniform"
            for name in least
        )
    losses = [node.loss or 0.0 for node in found]
    assert losses == sorted(losses, reverse=True)
    assert (losses[-1] < losses[0]) == (seed != 1)  # which finds nothing better, and ends at once
    assert measured[0] < measured[1] <= measured[2] == measured[3]


def test_levels_are_widened_where_the_device_cannot_tell_them_apart() -> None:
    config = SearchConfig(0.6, beam_width=2, children=3, levels=6)
    for interval, levels in ((0.01, 6), (0.1, 3), (0.5, 1)):
        device = Device(noise=interval / 4, interval=interval)
        explorer = drive(Explorer(config, GROUPS, scores(), FLOORS, relax=relax), device)
        assert explorer.progress()["levels"] == levels
        assert {node.level for node in explorer.nodes()} == set(range(levels + 1))
        assert explorer.finalists(1)[0].meets(0.6)


def test_netadapt_cuts_one_group_at_a_time() -> None:
    device = Device()
    config = SearchConfig.netadapt(0.7, len(GROUPS), levels=8)
    explorer = drive(Explorer(config, GROUPS, scores(), FLOORS, relax=relax), device)
    origins = {row["origin"] for row in explorer.tree()}
    assert origins <= {"dense", "minimum", "fastest", "floors", "stair", "cut", "shrink", "grow"}
    assert explorer.finalists(1)[0].meets(0.7)


def test_halp_is_one_knapsack() -> None:
    explorer = drive(Explorer(SearchConfig.halp(0.8), GROUPS, scores(), FLOORS), Device())
    assert [row["origin"] for row in explorer.tree() if row["level"] > 0] == ["knapsack"]


def test_a_beam_of_more_nodes_is_not_worse() -> None:
    losses = [
        searched(0.5, Device(), beam_width=width).finalists(1)[0].loss or 0.0 for width in (1, 4)
    ]
    assert losses[1] <= losses[0] * 1.02


@pytest.mark.parametrize(("multiple", "budget"), [(3, 0.5), (8, 0.5), (16, 0.9)])
def test_channels_that_stay_are_a_multiple(multiple: int, budget: float) -> None:
    config = SearchConfig(budget, beam_width=2, children=3, levels=3, multiple=multiple)
    explorer = drive(Explorer(config, GROUPS, scores(), FLOORS, relax=relax), Device())
    full = {group.name: group.width for group in GROUPS}
    for node in explorer.nodes():
        for name, width in node.widths.items():
            assert width == full[name] or width % multiple == 0
    assert explorer.finalists(1)[0].meets(budget)


class Counted:
    """Groups, and as many parameters as units are kept."""

    groups = GROUPS

    @staticmethod
    def parameters(plan: Plan) -> int:
        return sum(map(len, plan.kept.values()))


def test_the_result_keeps_to_the_limit_of_parameters() -> None:
    plain, limited = (
        SearchConfig(0.6, beam_width=2, children=4, levels=3, max_parameters=most)
        for most in (None, 190)
    )
    free = drive(Explorer(plain, Counted(), scores(), FLOORS, relax=relax), Device())
    assert Counted.parameters(free.finalists(1)[0].plan) > 190
    kept = drive(Explorer(limited, Counted(), scores(), FLOORS, relax=relax), Device())
    finalists = kept.finalists()
    assert finalists
    for node in finalists:
        assert Counted.parameters(node.plan) <= 190
        assert node.meets(0.6)
    state = Explorer.restore(kept.state(), Counted(), scores(), FLOORS, relax=relax)
    assert [each.digest for each in state.finalists()] == [each.digest for each in finalists]


def test_a_limit_of_size_alone_keeps_its_levels_and_costs_little_latency() -> None:
    config = SearchConfig(
        1.0, beam_width=2, children=4, levels=3, max_parameters=404, refinements=0
    )  # nine tenths of all
    explorer = drive(
        Explorer(config, Counted(), scores(), FLOORS, relax=relax), Device(interval=0.1)
    )
    best = explorer.finalists(1)[0]
    assert explorer.progress()["levels"] == 3
    assert Counted.parameters(best.plan) <= 404
    assert best.ratio is not None
    assert best.ratio > 0.85


class Weighed(Counted):
    """As much memory as units are kept, in megabytes, for every example of a batch."""

    @staticmethod
    def memory_bytes(plan: Plan, batch_size: int) -> int:
        return 10**6 * batch_size * Counted.parameters(plan)


def test_the_result_keeps_to_the_limit_of_memory_at_its_batch_size() -> None:
    config = SearchConfig(
        0.6, beam_width=2, children=4, levels=3, max_memory_mb=380.0, batch_size=2
    )
    finalists = drive(Explorer(config, Weighed(), scores(), FLOORS, relax=relax), Device())
    assert finalists.finalists()
    assert all(Counted.parameters(node.plan) <= 190 for node in finalists.finalists())
    with pytest.raises(ConfigError, match="max_memory_mb needs a PruningGraph"):
        Explorer(config, Counted(), scores(), FLOORS)


def test_a_limit_of_parameters_needs_a_graph_that_counts_them() -> None:
    with pytest.raises(ConfigError, match="needs a PruningGraph"):
        Explorer(SearchConfig(0.6, max_parameters=10), GROUPS, scores(), FLOORS)


def test_a_beam_holds_no_twins_while_there_are_others() -> None:
    explorer = Explorer(SearchConfig(0.5), GROUPS, scores(), FLOORS, relax=relax)
    dense = {group.name: group.width for group in GROUPS}
    (one, two, three) = (group.name for group in GROUPS[:3])

    def node(cuts: dict[str, int]) -> Node:
        widths = dense | cuts
        return replace(explorer.root, widths=widths, digest=str(sorted(cuts.items())))

    best, twin, other = node({one: 8}), node({one: 4}), node({two: 8, three: 8})
    assert diverse([best, twin, other], 2) == [best, other]
    assert diverse([best, twin, other], 3) == [best, other, twin]
    assert diverse([best, twin], 2) == [best, twin]
