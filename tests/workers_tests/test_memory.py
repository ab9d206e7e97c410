"""What a worker remembers changes nothing of what it decides, and is dropped where it is wrong."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from jobs.repository import candidates
from jobs.states import JobState
from tests.workers_tests.workshop import Workshop
from workers import advance as advancing
from workers.context import Context
from workers.decision import Decision, apply
from workers.library import KEPT, Library
from workers.memory import Memory, Rows
from workers.snapshot import Snapshot, take

SEARCH = {
    "levels": 2,
    "beam_width": 2,
    "children": 3,
    "calibration_images": 32,
    "staircase_points": 2,
    "refinements": 0,
    "finalists": 2,
}


@pytest.fixture(scope="module")
def second(workshop: Workshop) -> Library:
    """The library of another worker process."""
    return Library(workshop.bench.context)


def look(workshop: Workshop, job_id: str, memory: Memory | None = None) -> Snapshot:
    with workshop.bench.context.read() as session:
        snapshot = take(session, job_id, memory)
    assert snapshot is not None
    return snapshot


def content(decision: Decision) -> tuple[object, ...]:
    """All that is written but the nodes, and the seconds of the progress."""
    shown = decision.progress or {}
    counts = {each: shown[each] for each in shown if "_s" not in each and "left" not in each}
    state = None if decision.search is None else decision.search.state
    return (
        decision.tasks, decision.requests, state, decision.events, decision.to_state,
        decision.problem, counts,
    )  # fmt: skip


def rows_of(decision: Decision) -> dict[str, object]:
    """The nodes that are written, by digest."""
    return {each["digest"]: each for each in decision.search.rows} if decision.search else {}


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_decision_of_a_kept_search_is_that_of_a_restored_one_in_any_order_of_answers(
    workshop: Workshop, second: Library, seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, restored, nodes, written = [], [], [], []
    decide = advancing.decide

    def both(context: Context, library: Library, snapshot: Snapshot) -> Decision:
        job = snapshot.job
        if job.state != JobState.SEARCHING:
            return decide(context, library, snapshot)
        assert second.memory(job.id).search(job.version) is None
        other = decide(context, second, look(workshop, job.id))
        was_kept = library.memory(job.id).search(job.version) is not None
        decision = decide(context, library, snapshot)
        restored.append(content(other))
        kept.append((was_kept, content(decision)))
        assert rows_of(decision).items() <= rows_of(other).items()  # it tells more again
        nodes.append((job.progress or {})["measured"])
        written.append(len(rows_of(decision)))
        return decision

    monkeypatch.setattr(advancing, "decide", both)
    job_id = workshop.submit(search=SEARCH)
    chance = None if seed is None else random.Random(seed)
    workshop.play(job_id, chance=chance, until=lambda: workshop.job(job_id).state == "finetuning")
    workshop.bench.take_messages()
    assert [each for _, each in kept] == restored
    assert [was_kept for was_kept, _ in kept] == [False] + [True] * (len(kept) - 1)
    assert sum(written) < sum(nodes) / 2  # only what is new
    with workshop.bench.context.read() as session:
        tree = {
            row.digest: (row.ratio, row.loss, row.kept) for row in candidates.tree(session, job_id)
        }
    search = workshop.library.memory(job_id).take(workshop.job(job_id).version)
    assert search is not None
    assert tree == {
        node.digest: (node.ratio, node.loss, node.kept) for node in search.explorer.nodes()
    }


def test_worker_that_lost_the_race_drops_its_search(workshop: Workshop, second: Library) -> None:
    job_id, bench, library = workshop.submit(search=SEARCH), workshop.bench, workshop.library

    def has_news() -> bool:
        requests = workshop.requests(job_id, "screening")
        return len(requests) > 4 and all(each.measurement_id for each in requests)

    workshop.play(job_id, until=has_news)
    bench.take_messages()
    memory = library.memory(job_id)
    snapshot = look(workshop, job_id, memory)
    late = advancing.decide(bench.context, library, snapshot)
    advancing.advance(bench.context, second, job_id)
    winner = look(workshop, job_id, second.memory(job_id))
    assert winner.job.version > snapshot.job.version
    assert second.memory(job_id).search(winner.job.version) is not None
    assert apply(bench.context, snapshot, late)  # look again
    assert memory.search(snapshot.job.version) is None
    assert memory.search(winner.job.version) is None
    assert look(workshop, job_id).search_state == winner.search_state
    workshop.play(job_id, until=lambda: workshop.job(job_id).state == "finetuning")
    assert workshop.job(job_id).state == "finetuning"
    bench.take_messages()


def test_search_of_a_decision_that_failed_is_not_kept(workshop: Workshop) -> None:
    job_id, library = workshop.submit(search=SEARCH), workshop.library
    workshop.play(job_id, until=lambda: workshop.job(job_id).version > 1)
    workshop.bench.take_messages()
    memory = library.memory(job_id)
    snapshot = look(workshop, job_id, memory)
    assert memory.search(snapshot.job.version) is not None
    advancing.decide(workshop.bench.context, library, snapshot)  # and never written
    assert memory.search(snapshot.job.version) is None


def test_library_remembers_the_last_four_jobs(workshop: Workshop) -> None:
    library = Library(workshop.bench.context)
    memories = [library.memory(f"job_{number}") for number in range(KEPT + 1)]
    assert library.memory("job_4") is memories[4]
    assert library.memory("job_1") is memories[1]
    assert library.memory("job_0") is not memories[0]


@dataclass
class Row:
    id: str
    value: int


def test_only_rows_whose_stamp_changed_are_read() -> None:
    asked: list[Sequence[str]] = []
    table = {"a": Row("a", 1), "b": Row("b", 2)}

    def read(ids: Sequence[str]) -> list[Row]:
        asked.append(ids)
        return [table[each] for each in ids]

    rows: Rows[Row] = Rows()
    assert rows.refreshed({"a": (0,), "b": (0,)}, read) == [Row("a", 1), Row("b", 2)]
    table = {"b": Row("b", 3), "c": Row("c", 4)}
    assert rows.refreshed({"b": (1,), "c": (0,)}, read) == [Row("b", 3), Row("c", 4)]
    assert rows.refreshed({"c": (0,)}, read) == [Row("c", 4)]
    assert asked == [["a", "b"], ["b", "c"]]
