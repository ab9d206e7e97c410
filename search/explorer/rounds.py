"""The questions of a search come in rounds, each closed by a barrier.

The search is a generator. It yields a `QuestionRound` and is resumed once the barrier is met, so
nothing that it decides can depend on the order in which answers arrive.
"""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar

from search.explorer.node import Candidate, Node

T = TypeVar("T")


def nothing(node: Node) -> bool:
    """No node is scored before its round is over."""
    return False


@dataclass(frozen=True)
class QuestionRound:
    """Questions to issue, and what must be answered before the search goes on.

    `latency` waits for every latency issued so far and lets losses go on beside the next round;
    `all` waits for everything.

    Attributes:
        worth_scoring: whether a node of this round is scored as soon as its latency is known; a
            function of the node alone, so that the order of the answers does not matter.
    """

    candidates: tuple[Candidate, ...]
    barrier: Literal["latency", "all"]
    worth_scoring: Callable[[Node], bool] = nothing


RoundGenerator = Generator[QuestionRound, None, T]


def measure(
    nodes: Iterable[Node],
    *,
    score: Iterable[Node] = (),
    worth_scoring: Callable[[Node], bool] = nothing,
) -> RoundGenerator[None]:
    """Requests the latency of nodes, and starts scoring others; waits for latencies only."""
    latencies = [candidate for node in _ordered(nodes) for candidate in node.request("latency")]
    losses = [candidate for node in _ordered(score) for candidate in node.request("loss")]
    yield QuestionRound((*latencies, *losses), "latency", worth_scoring)


def score(nodes: Iterable[Node]) -> RoundGenerator[None]:
    """Requests the loss of nodes and waits for every answer still open."""
    losses = [candidate for node in _ordered(nodes) for candidate in node.request("loss")]
    yield QuestionRound(tuple(losses), "all")


def tune(nodes: Iterable[Node]) -> RoundGenerator[None]:
    """Requests the weights of nodes after a few steps of fine-tuning; waits for every answer."""
    weights = [candidate for node in _ordered(nodes) for candidate in node.request("weights")]
    yield QuestionRound(tuple(weights), "all")


def _ordered(nodes: Iterable[Node]) -> list[Node]:
    return sorted(nodes, key=lambda node: node.digest)
