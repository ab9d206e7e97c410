"""Weights of a pruned model, put back into the dense one."""

import pytest
import torch

from search.candidates import rounded_candidate
from search.errors import WeightsError
from search.evaluation import cross_entropy_loss
from search.explorer import Candidate, Scored, Start
from search.finetuning import FinetuneConfig
from search.graph import trace
from search.lineage import Origin, regrown
from search.plan import Plan
from search.surgery import kept_indices, prune
from search.tensors import named_tensors, stored_tensors
from search.tuning import Tuner
from tests.search_tests.learning_tests.networks import small_net, striped_images
from tests.search_tests.models import Residual


def halved(graph, last: int = 0) -> Plan:  # type: ignore[no-untyped-def]
    """Every second unit of each prunable group, from `last` on."""
    return Plan(
        {
            group.name: tuple(range(last, group.width, 2))
            if group.status == "prunable"
            else tuple(range(group.width))
            for group in graph.groups
        }
    )


def test_what_was_kept_has_the_new_weights_and_the_rest_the_dense_ones() -> None:
    model = Residual().eval()
    graph = trace(model, (torch.zeros(2, 3, 8, 8),))
    plan = halved(graph)
    pruned = prune(model, graph, plan)
    with torch.no_grad():
        for parameter in pruned.parameters():
            parameter.add_(1.0)
    full = regrown(model, graph, plan, stored_tensors(pruned))
    again = prune(full, graph, plan)
    for name, tensor in pruned.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    others = prune(full, graph, halved(graph, last=1))
    dense = prune(model, graph, halved(graph, last=1))
    cut = {member.tensor for group in graph.prunable for member in group.members}
    assert cut
    for name, tensor in named_tensors(others).items():
        if name in cut and not name.startswith("head"):
            assert torch.equal(tensor, named_tensors(dense)[name]), name


def test_weights_of_another_plan_are_refused() -> None:
    model = small_net().eval()
    graph = trace(model, (torch.zeros(2, 2, 8, 8),))
    weights = stored_tensors(model)
    with pytest.raises(WeightsError, match="must have the shape"):
        regrown(model, graph, halved(graph), weights)


def test_a_child_of_a_trained_node_begins_better_than_without_it() -> None:
    images, labels = striped_images(256)
    model = small_net(width=8)
    batches = [(images[:64], labels[:64])]
    graph = trace(model.eval(), (images[:2],))
    config = FinetuneConfig(40, batch_size=32, shift=0, flip=False)
    tuner = Tuner(model, graph, batches, (images, labels), config)
    plan = halved(graph)

    def scored(candidate: torch.nn.Module) -> Scored:
        return Scored(cross_entropy_loss(candidate, batches))

    asked = Candidate(plan, plan.digest, 1, None, "knapsack", "weights", None, 40)
    answer = tuner.tuned(asked, scored)
    assert answer.checkpoint == plan.digest
    assert tuner.scores(answer.checkpoint).keys() == {group.name for group in graph.prunable}
    origin = tuner.origin(Start(plan.digest, plan, answer.checkpoint, 40))
    assert origin is not None
    assert tuner.origin(None) is None
    with_it = cross_entropy_loss(origin.parent, batches)
    assert with_it == pytest.approx(answer.loss, rel=1e-4)
    assert with_it < cross_entropy_loss(prune(model, graph, plan).eval(), batches)
    inputs = [images for images, _ in batches]
    again = rounded_candidate(model, graph, plan, inputs, origin=origin)
    for name, parameter in origin.parent.named_parameters():  # nothing is left to be fitted
        assert torch.equal(dict(again.named_parameters())[name], parameter), name


def test_a_child_is_fitted_to_its_parent_where_the_parent_has_what_it_keeps() -> None:
    model = Residual().eval()
    graph = trace(model, (torch.zeros(2, 3, 8, 8),))
    plan = halved(graph)
    origin = Origin.of(model, graph, plan, stored_tensors(prune(model, graph, plan)))
    (group, *_) = graph.prunable
    narrower = Plan({**plan.kept, group.name: plan.kept[group.name][1:]})
    wider = Plan({**plan.kept, group.name: tuple(range(group.width))})
    cut = {member.tensor for member in group.members if member.dim == 0}
    assert cut
    within = origin.kept_of_parent(graph, kept_indices(graph, narrower), graph.shapes)
    beyond = origin.kept_of_parent(graph, kept_indices(graph, wider), graph.shapes)
    for name in cut:
        assert within[name] == {0: list(range(1, len(plan.kept[group.name])))}
        assert name not in beyond
    assert set(within) == set(graph.shapes)
