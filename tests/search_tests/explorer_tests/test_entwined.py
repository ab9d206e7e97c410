"""Fine-tuning between the levels: who is trained, who starts from whose weights."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from random import Random

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from search.explorer import Candidate, Explorer, Failed, Scored, SearchConfig, Tuned
from search.explorer.outcomes import Outcome
from tests.search_tests.explorer_tests.simulation import FLOORS, GROUPS, Device, relax, scores

CONFIG = SearchConfig(0.5, beam_width=2, children=3, levels=3, entwined=10)


def scores_at(checkpoint: str) -> Mapping[str, Tensor]:
    """Scores after training: near those before it, differently for every checkpoint."""
    seed = int.from_bytes(hashlib.sha256(checkpoint.encode()).digest()[:4], "big")
    generator = torch.Generator().manual_seed(seed)
    return {
        name: row * (0.3 * torch.randn(row.shape, generator=generator, dtype=row.dtype)).exp()
        for name, row in scores().items()
    }


class TrainingDevice(Device):
    """Trains too: each step of a lineage takes a little off the loss."""

    def answer(self, candidate: Candidate) -> Outcome:
        known = Device.answer(self, replace(candidate, needs="loss"))
        if candidate.needs == "latency" or not isinstance(known, Scored):
            return Device.answer(self, candidate)
        before = 0 if candidate.start is None else candidate.start.steps
        loss = known.loss * 0.99 ** (before + candidate.steps)
        if candidate.needs == "weights":
            return Tuned(f"weights/{candidate.digest}", loss, 0.01)
        return Scored(loss, 0.01)


def make(config: SearchConfig = CONFIG) -> Explorer:
    return Explorer(config, GROUPS, scores(), FLOORS, relax=relax, scores_at=scores_at)


def driven(explorer: Explorer, device: Device) -> list[Candidate]:
    asked = []
    while not explorer.done:
        for candidate in explorer.ask():
            asked.append(candidate)
            explorer.tell(candidate, device.answer(candidate))
    return asked


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.15]))
def test_the_tree_depends_on_neither_order_nor_restarts(seed: int, failing: float) -> None:
    order, device = Random(seed), TrainingDevice(failing=failing)
    expected = make()
    driven(expected, device)
    explorer = make()
    while not explorer.done:
        explorer.ask(order.randint(0, 8))
        waiting = explorer.outstanding()
        for candidate in order.sample(waiting, order.randint(0, len(waiting))):
            explorer.tell(candidate, device.answer(candidate))
        if order.random() < 0.1:
            state = json.loads(json.dumps(explorer.state()))
            explorer = Explorer.restore(
                state, GROUPS, scores(), FLOORS, relax=relax, scores_at=scores_at
            )
    assert explorer.tree() == expected.tree()
    assert [n.digest for n in explorer.finalists()] == [n.digest for n in expected.finalists()]


def test_nodes_kept_before_the_last_level_are_trained_and_no_others() -> None:
    explorer = make()
    driven(explorer, TrainingDevice())
    trained = {node.digest for node in explorer.nodes() if node.tuned is not None}
    kept = [node for node in explorer.nodes() if node.kept and node.level]
    assert {node.level for node in kept} == {1, 2, 3}
    assert trained == {node.digest for node in kept if node.level < CONFIG.levels}
    assert explorer.progress()["tuned"] == len(trained) > 2


def test_children_start_from_the_weights_of_their_parents_and_keep_their_units() -> None:
    explorer = make()
    driven(explorer, TrainingDevice())
    nodes = {node.digest: node for node in explorer.nodes()}
    later = [node for node in nodes.values() if node.start is not None]
    assert len(later) > 5
    for node in later:
        assert node.start is not None
        parent = nodes[node.start.node]
        assert isinstance(parent.tuned, Tuned)
        assert node.start.checkpoint == f"weights/{parent.digest}"
        before = parent.start.steps if parent.start else 0
        assert node.start.steps == before + CONFIG.entwined
        assert node.digest != node.plan.digest
        for group, units in node.plan.kept.items():
            mine, theirs = set(units), set(parent.plan.kept[group])
            assert mine <= theirs or mine >= theirs
    assert max(node.start.steps for node in later if node.start) == 2 * CONFIG.entwined


def test_scores_after_training_choose_the_units() -> None:
    explorer = make()
    driven(explorer, TrainingDevice())
    (child, *_) = [
        node
        for node in explorer.nodes()
        if node.start is not None and node.start.plan.widths != node.plan.widths
    ]
    assert child.start is not None
    now = scores_at(child.start.checkpoint)
    cut = [g for g, units in child.plan.kept.items() if len(units) < len(child.start.plan.kept[g])]
    assert cut
    for group in cut:
        before, after = child.start.plan.kept[group], child.plan.kept[group]
        best = sorted(before, key=lambda unit: -float(now[group][unit]))[: len(after)]
        assert sorted(best) == list(after)


def test_widths_are_measured_once_whatever_the_weights() -> None:
    explorer = make()
    asked = driven(explorer, TrainingDevice())
    measured = [tuple(each.plan.widths.items()) for each in asked if each.needs == "latency"]
    assert len(measured) == len(set(measured))
    assert explorer.progress()["measured"] == len(measured)


def test_a_node_that_could_not_be_trained_hands_down_the_weights_that_it_began_with() -> None:
    class Untrained(TrainingDevice):
        def answer(self, candidate: Candidate) -> Outcome:
            if candidate.needs == "weights":
                return Failed("killed", "out of memory")
            return super().answer(candidate)

    explorer = make()
    driven(explorer, Untrained())
    assert all(node.start is None for node in explorer.nodes())
    assert explorer.finalists()


def test_without_entwined_steps_nothing_is_trained() -> None:
    explorer = make(replace(CONFIG, entwined=0))
    asked = driven(explorer, TrainingDevice())
    assert {each.needs for each in asked} == {"latency", "loss"}
    assert all(node.digest == node.plan.digest for node in explorer.nodes())
