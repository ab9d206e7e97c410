"""One example is enough where it gives what two do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from search.graph import trace
from search.graph.dependency.labels import KeepMask
from search.graph.exported.deadline import NEVER
from search.graph.pruning_graph import PruningGraph
from search.graph.trial_log import TrialLog, Verdicts
from search.graph.verification.draw import Draw
from search.graph.verification.drawn_trial import DrawnTrial
from search.graph.verification.masked_reference import MaskedReference
from search.graph.verification.one_example_first import Inputs, OneExampleFirst
from search.graph.verification.subject import Subject
from search.graph.verification.trials import Trials
from search.tensors import named_tensors
from tests.search_tests.graph_tests.verification_tests.verifying import statuses, verified
from tests.search_tests.models import Plain, image

ONE, TWO = [torch.zeros(1, 3)], [torch.zeros(2, 3)]


class Finder:
    """Finds a fixed problem with one example and another with two; raises where it is an error."""

    def __init__(self, problems: Mapping[int, str | Exception | None]) -> None:
        self.problems, self.tried = problems, list[int]()

    def __call__(self, inputs: Inputs) -> str | None:
        self.tried.append(len(inputs[0]))
        problem = self.problems[len(inputs[0])]
        if isinstance(problem, Exception):
            raise problem
        return problem


def outcomes(finder: Finder, examples: OneExampleFirst) -> tuple[list[str | None], list[int]]:
    """What three trials find, and on how many examples."""
    return [examples.problem(finder, repr) for _ in range(3)], finder.tried


def test_one_example_is_enough_once_two_have_failed_as_well() -> None:
    examples = OneExampleFirst(ONE, TWO, lambda inputs: True)
    found = outcomes(Finder({1: "off", 2: "off"}), examples)
    assert found == (["off"] * 3, [1, 2, 1, 1])


def test_one_example_is_enough_where_nothing_goes_wrong() -> None:
    examples = OneExampleFirst(ONE, TWO, lambda inputs: True)
    assert outcomes(Finder({1: None, 2: "off"}), examples) == ([None] * 3, [1, 1, 1])


def test_one_example_is_not_tried_again_where_two_pass() -> None:
    examples = OneExampleFirst(ONE, TWO, lambda inputs: True)
    assert outcomes(Finder({1: "off", 2: None}), examples) == ([None] * 3, [1, 2, 2, 2])


def test_one_example_is_not_tried_again_where_the_graph_has_no_sizes_for_it() -> None:
    examples = OneExampleFirst(ONE, TWO, lambda inputs: True)
    found = outcomes(Finder({1: ValueError(), 2: "off"}), examples)
    assert found == (["off"] * 3, [1, 2, 2, 2])


def test_one_example_is_not_tried_again_where_the_dense_model_is_another_one_there() -> None:
    tried: list[Inputs] = []

    def is_like_export(inputs: Inputs) -> bool:
        tried.append(inputs)
        return False

    examples = OneExampleFirst(ONE, TWO, is_like_export)
    found = outcomes(Finder({1: "off", 2: "off"}), examples)
    assert found == (["off"] * 3, [1, 2, 2, 2])
    assert tried == [ONE]


def test_what_two_examples_raise_is_the_problem() -> None:
    error = ValueError("no sizes")
    examples = OneExampleFirst(None, TWO, lambda inputs: True)
    assert outcomes(Finder({2: error}), examples) == ([repr(error)] * 3, [2, 2, 2])


class Recorded(DrawnTrial):
    """Fails always, and makes the first draw smaller."""

    NAME = "recorded"

    def __init__(self, graph: PruningGraph, draw: Draw, log: TrialLog) -> None:
        examples = OneExampleFirst(ONE, TWO, lambda inputs: True)
        super().__init__(graph, draw, examples, log)
        self.tried: list[tuple[int, float]] = []

    def _problem(self, names: Sequence[str], inputs: Inputs) -> str | None:
        if self._draw.scale == 1.0:
            self._draw.rescale(self._graph.model)
        self.tried.append((len(inputs[0]), self._draw.scale))
        return "off"

    def _failure(self, error: Exception) -> str:
        raise error


def test_what_a_trial_leaves_for_the_next_one_is_taken_from_the_log() -> None:
    graph = trace(Plain().requires_grad_(False), image())

    def made(verdicts: Verdicts) -> tuple[Recorded, TrialLog]:
        log = TrialLog(verdicts, NEVER)
        return Recorded(graph, Draw(0), log), log

    first, log = made(Verdicts())
    expected = [first.result(["conv1"]) for _ in range(2)]
    assert first.tried == [(1, 0.7), (2, 0.7), (1, 0.7)]
    second, _ = made(Verdicts.from_json(log.verdicts.to_json()))
    assert [second.result(["conv1"]) for _ in range(2)] == expected
    assert second.tried == []
    second.result(["conv2"])
    assert second.tried == [(1, 0.7)]


class Squeezed(nn.Module):
    """It drops the batch of one, as a batch of two shows that it should not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.b(self.a(x[:, :, 0, 0]).squeeze().relu())
        return made


def test_a_model_that_differs_for_one_example_is_tried_with_two() -> None:
    assert statuses(trace(Squeezed(), image()))["a"] == "prunable"


class Folded(nn.Module):
    """Attention whose heads share a dimension with the examples."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj, self.head = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        examples, tokens, _ = x.shape
        folded = self.qkv(x).view(examples, tokens, 3, 4, 2).permute(2, 0, 3, 1, 4).flatten(1, 2)
        q, k, v = folded.unbind()
        mixed = torch.bmm(torch.bmm(q, k.mT).softmax(-1), v).unflatten(0, (examples, 4))
        logits: Tensor = self.head(self.proj(mixed.transpose(1, 2).flatten(2)).mean(1))
        return logits


class CountedReference(MaskedReference):
    """Notes on how many examples it is run."""

    def __init__(self, subject: Subject, counts: list[int]) -> None:
        tensors = named_tensors(subject.graph.model)
        super().__init__(subject.exported, subject.propagation, tensors)
        self._counts = counts

    def outputs(self, inputs: Sequence[Tensor], kept: KeepMask) -> list[Tensor]:
        self._counts.append(len(inputs[0]))
        return super().outputs(inputs, kept)


def test_one_example_is_enough_where_heads_share_a_dimension_with_the_examples() -> None:
    """A batch of two is tried in the second round alone."""
    counts: list[int] = []

    class Counted(Trials):
        def reference(self, subject: Subject) -> MaskedReference:
            return CountedReference(subject, counts)

    graph = verified(Folded(), (torch.randn(2, 5, 8),), Counted)
    assert statuses(graph) == {"qkv": "prunable", "proj": "prunable", "head": "frozen"}
    assert counts == [1, 2, 1]  # the last one on small weights
