"""Archtree as ask and tell: hands out candidates, takes outcomes, saves and restores itself.

It knows no device, model or service. Everything it decides is a function of its settings, its
inputs and the set of outcomes, never of their order: so its state is just those outcomes, and
restoring replays them.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from search.errors import ExplorerError
from search.explorer.config import SearchConfig
from search.explorer.importance import GraphOrGroups, Importance, ScoreLike, SensitivityLike
from search.explorer.levels import archtree
from search.explorer.limits import limits_of
from search.explorer.node import Candidate, Node
from search.explorer.outcomes import Needs, Tuned, outcome_to_json, read_outcome
from search.explorer.preparation import Relax, SearchStatus
from search.explorer.progress import best_so_far, remaining_measurements
from search.explorer.rounds import QuestionRound
from search.explorer.saved_state import (
    SavedSensitivity,
    config_from_json,
    config_to_json,
    inputs_to_json,
    outcomes_from_json,
    rows_from_json,
    rows_to_json,
)
from search.explorer.segments import Segment
from search.explorer.tree import ScoresAt, Tree, pareto

VERSION = 2  # 1 asked its questions in another order
Key = tuple[str, Needs]


class Explorer:
    """The tree search, driven from outside.

    `ask` for candidates, get their latency or loss anywhere and in any order, and `tell` it:

        while not explorer.done:
            for candidate in explorer.ask():
                explorer.tell(candidate, outcome_of(candidate))

    Args:
        config: Budget, beam, children, levels and so on.
        graph: A traced graph, or its groups.
        scores: One vector of importance per searched group.
        floors: Least width per group; soft (see `relax`).
        relax: `relax(n)` gives the floors after the tolerance was doubled n times; called when
            even the plan at the floors is over the budget. By default floors are halved.
        sensitivity: Measured loss rises, which compare across layers as scores cannot.
        staircases: Ratios measured earlier, group -> width -> ratio (see `staircases()`).
        segments: Layers whose precision is searched too; by default all stay float.
        int8_staircases: Ratios measured earlier with all segments in int8.
        scores_at: The scores with the weights of a checkpoint, see `SearchConfig.entwined`.
    """

    def __init__(
        self,
        config: SearchConfig,
        graph: GraphOrGroups,
        scores: Mapping[str, ScoreLike],
        floors: Mapping[str, int],
        *,
        relax: Relax | None = None,
        sensitivity: SensitivityLike | None = None,
        staircases: Mapping[str, Mapping[Any, float]] | None = None,
        segments: Sequence[Segment] = (),
        int8_staircases: Mapping[str, Mapping[Any, float]] | None = None,
        scores_at: ScoresAt | None = None,
    ) -> None:
        groups = graph if isinstance(graph, Sequence) else graph.groups
        importance = Importance(
            groups, scores, sensitivity,
            blocks=config.blocks, multiple=config.multiple, segments=segments,
        )  # fmt: skip
        self.config = config
        self.infeasible: dict[str, Any] | None = None
        self._inputs = inputs_to_json(floors, sensitivity, staircases, importance, int8_staircases)
        self._tree = Tree(config, importance, limits_of(graph, config), scores_at)
        self._status = SearchStatus(
            stairs=rows_from_json(self._inputs["staircases"]),
            int8_stairs=rows_from_json(self._inputs.get("int8_staircases", {})),
        )
        self._issued: dict[Key, Candidate] = {}
        self._queued: list[Key] = []
        self._open: set[Key] = set()
        self._answered: set[Key] = set()
        self._stopped = self._finished = False
        self._steps = archtree(self._tree, self._status, self._inputs["floors"], relax)
        self._round = QuestionRound((), "all")
        self._advance()

    # --- candidates and outcomes

    def ask(self, n: int | None = None) -> list[Candidate]:
        """At most n candidates that were not handed out yet; none while waiting or done."""
        count = len(self._queued) if n is None else max(n, 0)
        taken, self._queued = self._queued[:count], self._queued[count:]
        return [self._issued[key] for key in taken]

    def tell(self, candidate: Candidate, outcome: object) -> None:
        """Takes the outcome of a candidate; the first one counts, later ones are ignored.

        Args:
            candidate: As handed out; only its digest and needs are read.
            outcome: `Measured`, `Scored`, `Tuned`, `Failed`, or any object with such attributes.

        Raises:
            ExplorerError: The candidate was never handed out.
            TypeError: The outcome does not fit the candidate.
        """
        key = (candidate.digest, candidate.needs)
        if key not in self._issued:
            raise ExplorerError(f"candidate must come from ask(), but got {key}")
        if key in self._answered or self._stopped:
            return
        self._record(key, outcome)

    def outstanding(self) -> list[Candidate]:
        """Handed out without an outcome, in digest order; to be measured again after a restore."""
        waiting = self._open.difference(self._queued)
        return [self._issued[key] for key in sorted(waiting)]

    def stop(self) -> None:
        """Ends the search with the best so far; what is outstanding no longer counts."""
        if not self._finished:
            self._stopped = True
            self._finish()

    def hurry(self) -> bool:
        """From the next barrier on: a stair of each group is enough, and the next level is the
        last. Whether it was in no hurry before."""
        return self._status.pace.hurry()

    def has_result(self, *, simple: bool = True) -> bool:
        """Whether a scored plan is within the budget; `simple`: the uniform network is one."""
        return self._tree.has_result(simple)

    @property
    def answer(self) -> Node | None:
        """The dense model in int8, where it is as good as in float and ended the search."""
        return self._status.answer

    @property
    def done(self) -> bool:
        """Whether no further candidate will be handed out."""
        return self._finished

    # --- reading

    def progress(self) -> dict[str, Any]:
        """Where the search stands, as a JSON object."""
        nodes = self._tree.nodes.values()
        latencies = sum(needs == "latency" for _, needs in self._open)
        left = remaining_measurements(self._tree, self._status, latencies)
        return {
            "phase": "done" if self._finished and not self.infeasible else self._status.phase,
            "level": self._status.level,
            "levels": len(self._status.targets) or self.config.levels,
            "measured": self._tree.measured_widths() - 1,
            "scored": sum(node.loss is not None for node in nodes),
            "tuned": sum(isinstance(node.tuned, Tuned) for node in nodes),
            "failed": sum(node.error is not None for node in nodes),
            "waiting": len(self._open),
            "remaining": 0 if self._finished else left,
            "floors_doubled": self._status.floors_doubled,
            "hurried": self._status.pace.hurried_from is not None,
            "stopped": self._stopped,
            "best": best_so_far(self._tree, self.finalists(1)),
        }

    def tree(self) -> list[dict[str, Any]]:
        """Every node as a JSON object, by level and digest."""
        return [node.row() for node in self.nodes()]

    def nodes(self) -> list[Node]:
        """Every node, by level and digest."""
        return self._tree.ordered()

    @property
    def unordered(self) -> Collection[Node]:
        """Every node, in no order."""
        return self._tree.nodes.values()

    @property
    def steps(self) -> int:
        """How often the search has proposed or was hurried so far: what only its state tells."""
        return len(self._tree.recall) + (self._status.pace.hurried_from is not None)

    def front(self) -> list[Node]:
        """The Pareto front of ratio and loss over all scored nodes, slowest first."""
        return pareto(self._tree.nodes.values())

    def finalists(self, n: int | None = None) -> list[Node]:
        """The best n nodes within the budget, best first.

        Those inside the window whose whole interval is within the budget come first, then the
        others inside it, then faster ones; each by loss. Nodes that were never scored (`loss` is
        None) come last: they exist after a stop or when evaluations failed.
        """
        return self._tree.within_budget()[: self.config.beam_width if n is None else n]

    def staircases(self) -> dict[str, dict[str, float]]:
        """Ratios of single groups measured so far, to be kept per model and target."""
        return rows_to_json(self._status.stairs)

    def int8_staircases(self) -> dict[str, dict[str, float]]:
        """The same with all segments in int8, to be kept per model, target and format."""
        return rows_to_json(self._status.int8_stairs)

    @property
    def root(self) -> Node:
        """The dense plan."""
        return self._tree.root

    @property
    def floors(self) -> dict[str, int]:
        """The floors in force, after any relaxing."""
        return dict(self._status.floors)

    # --- saving

    def state(self) -> dict[str, Any]:
        """All outcomes, and what was handed out, as a JSON object for `restore`."""
        outcomes = []
        for digest, needs in sorted(self._answered):
            outcome = self._tree.nodes[digest].outcome(needs)
            if outcome is not None:
                outcomes.append({"digest": digest, "needs": needs, **outcome_to_json(outcome)})
        return {
            "version": VERSION,
            "config": config_to_json(self.config),
            "given": self._inputs,
            "outcomes": outcomes,
            "proposed": self._tree.recall.to_json(),
            "unasked": [list(key) for key in self._queued],
            "hurried": self._status.pace.hurried_from,
            "stopped": self._stopped,
        }

    @classmethod
    def restore(
        cls,
        state: Mapping[str, Any],
        graph: GraphOrGroups,
        scores: Mapping[str, ScoreLike],
        floors: Mapping[str, int],
        *,
        relax: Relax | None = None,
        forget: Collection[str] = (),
        segments: Sequence[Segment] = (),
        scores_at: ScoresAt | None = None,
    ) -> "Explorer":
        """An explorer that goes on exactly where the saved one was.

        Sensitivities and staircases travel in the state; graph, scores and floors must be those
        that it was made with.

        Args:
            forget: Digests whose latency turned out to be wrong: it is outstanding again, and what
                had followed from it is gone.

        Raises:
            ExplorerError: The state is malformed, or was made with other inputs.
        """
        try:
            if state["version"] not in (1, VERSION):
                raise ExplorerError(f"state version must be {VERSION}, but got {state['version']}")
            inputs = state["given"]
            explorer = cls(
                config_from_json(state["config"]), graph, scores, floors,
                relax=relax, segments=segments, scores_at=scores_at,
                sensitivity=SavedSensitivity.read(inputs["sensitivity"]),
                staircases=inputs["staircases"],
                int8_staircases=inputs.get("int8_staircases"),
            )  # fmt: skip
            if explorer._inputs != inputs:
                raise ExplorerError(
                    "graph, scores and floors must be those the state was made with"
                )
            explorer._status.pace.hurried_from = state.get("hurried")
            explorer._tree.recall.expect(() if forget else state.get("proposed", ()))
            explorer._replay(state["outcomes"], forget, all_known=state["version"] == VERSION)
            queued = {tuple(key) for key in state["unasked"]}
            explorer._queued = [key for key in explorer._queued if key in queued]
            if state["stopped"]:
                explorer.stop()
            return explorer
        except (KeyError, TypeError, AttributeError) as error:
            raise ExplorerError(
                f"state must come from Explorer.state(), but got {error!r}"
            ) from error

    # --- inside

    def _record(self, key: Key, outcome: object) -> None:
        digest, needs = key
        node = self._tree.nodes[digest]
        node.tell(read_outcome(needs, outcome), needs)
        self._answered.add(key)
        self._open.discard(key)
        if key in self._queued:
            self._queued.remove(key)
        if needs == "latency" and self._round.worth_scoring(node):
            self._hand_out(node.request("loss"))
        self._advance()

    def _advance(self) -> None:
        """Runs the search up to the next barrier that is not met yet."""
        while not self._finished and not self._blocked():
            try:
                self._round = next(self._steps)
                self._hand_out(self._round.candidates)
            except StopIteration:
                self.infeasible = self._status.infeasible
                self._finish()

    def _blocked(self) -> bool:
        return any(self._round.barrier == "all" or needs == "latency" for _, needs in self._open)

    def _hand_out(self, candidates: Sequence[Candidate]) -> None:
        for candidate in candidates:
            self._issued[candidate.key] = candidate
            self._queued.append(candidate.key)
            self._open.add(candidate.key)

    def _finish(self) -> None:
        self._finished = True
        self._steps.close()
        self._open.clear()
        self._queued.clear()

    def _replay(
        self, outcomes: Sequence[Mapping[str, Any]], forget: Collection[str], *, all_known: bool
    ) -> None:
        left = outcomes_from_json(outcomes)
        for digest in forget:
            left.pop((digest, "latency"), None)
        while ready := sorted(self._open & left.keys()):
            for key in ready:
                self._record(key, left.pop(key))
        if left and not forget and all_known:
            raise ExplorerError(
                f"state must hold known candidates only, but got {sorted(left)[:3]}"
            )
