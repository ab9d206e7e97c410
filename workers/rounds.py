"""The rounds in which a worker inspects a model, each in a child process, until all is verified.

What is known after a round is kept in the store: a worker that dies loses one round, and whoever
traces the model for a job takes the verdicts over. It knows no database.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict

from jobs.artifacts import ArtifactStore
from jobs.errors import ArtifactNotFound
from jobs.tables import Model
from search.graph.trial_log import Verdicts

# Most models take one round. The next is twice as long, so that a trial that is broken off at the
# end of one fits into another.
FIRST_ROUND_S = 150.0
# Below the hour after which the broker hands the message of a round to another worker.
LONGEST_WALL_S = 3000.0


class Rounds(BaseModel):
    """The inspection of a model so far.

    Attributes:
        weights_digest: of the weights that were inspected.
        count: how many rounds there were.
        granted_s: the processor time that they were allowed, in seconds.
        report: that of the last round that had one.
        verdicts: what its trials told, as `Verdicts.to_json` writes it.
        problem: why there is no report.
        over: there are no more rounds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights_digest: str
    count: int = 0
    granted_s: float = 0.0
    report: dict[str, Any] | None = None
    verdicts: str = ""
    problem: dict[str, Any] | None = None
    over: bool = False

    def limit_s(self, total_s: float) -> float:
        """The processor time of the next round, of `total_s` for all of them."""
        return min(FIRST_ROUND_S * 2.0**self.count, total_s - self.granted_s)

    def after(self, answer: dict[str, Any], total_s: float) -> Rounds:
        """With one more round, which gave `answer`; see `inspect_in_child`."""
        granted_s = self.granted_s + self.limit_s(total_s)
        done = {"count": self.count + 1, "granted_s": granted_s}
        is_last = granted_s >= total_s
        if "report" in answer:
            report, verdicts = answer["report"], answer["verdicts"]
            after = self.model_copy(update={**done, "report": report, "verdicts": verdicts})
            if report["complete"]:
                return after._closed("")
            return after._closed(_spent(total_s)) if is_last else after
        if answer.get("late") and not is_last:
            return self.model_copy(update=done)
        if self.report is None:
            return self.model_copy(update={**done, "problem": answer["problem"], "over": True})
        return self.model_copy(update=done)._closed(answer["problem"]["detail"])

    def known(self) -> Verdicts:
        """What the trials told so far."""
        return Verdicts.from_json(self.verdicts) if self.verdicts else Verdicts()

    def with_verdicts(self, verdicts: Verdicts) -> Rounds:
        """With other verdicts, closed: those of a trace for a job."""
        closed = replace(verdicts, closed=True).to_json()
        return self.model_copy(update={"verdicts": closed, "over": True})

    def _closed(self, why: str) -> Rounds:
        """The end; what is open stays so, because of `why`."""
        report = {**(self.report or {}), "unfinished_because": why}
        return self.with_verdicts(self.known()).model_copy(update={"report": report})


def _spent(total_s: float) -> str:
    return (
        f"the {total_s:.0f} s of processor time that an inspection may have are spent: allow more "
        "in SECATEUR_INSPECTION_LIMIT_S, and add the model again"
    )


def rounds_name(model_id: str) -> str:
    """Where the rounds of a model lie in the store."""
    return f"models/{model_id}/inspection.json"


def rounds_of(store: ArtifactStore, model: Model) -> Rounds:
    """The rounds of a model so far; none where the file is missing, or is not of its weights."""
    none = Rounds(weights_digest=model.weights_digest)
    try:
        rounds = Rounds.model_validate_json(store.get(rounds_name(model.id)))
        rounds.known()
    except (ArtifactNotFound, ValueError):
        return none
    return rounds if rounds.weights_digest == model.weights_digest else none


def keep_rounds(store: ArtifactStore, model_id: str, rounds: Rounds) -> None:
    """Puts the rounds of a model into the store."""
    store.put(rounds_name(model_id), rounds.model_dump_json().encode())
