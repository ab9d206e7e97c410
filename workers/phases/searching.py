"""Searching: the explorer asks; devices measure and workers score; nobody waits for anybody."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from jobs.repository import candidates
from jobs.states import JobState
from search.driver import soft_floors
from search.explorer import Candidate, Explorer, Measured, Node
from search.sensitivity import RATIOS, Sensitivity, group_rises, small_rise
from workers.context import Context
from workers.decision import Decision, SearchSave, problem
from workers.library import Library
from workers.memory import Memory, Search
from workers.phases import precision, spare
from workers.phases.facts import dense_ms, finalists, group_rise, prepared_result
from workers.phases.finetuning import finetune_task
from workers.phases.preparing import are_known
from workers.phases.questions import SCREENING, STRICT, Questions, search_config, task_key
from workers.progress import progress
from workers.results import Chosen
from workers.snapshot import Snapshot
from workers.starts import scores_name
from workers.time_limit import began, is_left_to_training, keep_to_time

SHORTLIST_FACTOR = 3
FOUND = ("level", "levels", "floors_doubled", "hurried", "measured", "scored", "best")
COUNTS = (*FOUND, "reused", "planned")


def decide(context: Context, library: Library, snapshot: Snapshot) -> Decision:
    """Tells what is known, asks for what is new, and moves on once finalists are confirmed."""
    memory = library.memory(snapshot.job.id)
    search = taken(memory, snapshot) or opened(context, library, snapshot)
    questions = Questions(context, library, snapshot, search.skeletons)
    if withdrawn := questions.withdrawn(search.explorer.unordered, search.heard):
        search = opened(context, library, snapshot, search, withdrawn)
    explorer, is_news = search.explorer, bool(withdrawn) or not search.state
    while not explorer.done and questions.tell_and_ask(explorer):
        is_news = True
    is_news |= keep_to_time(explorer, snapshot, context.clock())
    if explorer.done:
        is_urgent = is_left_to_training(snapshot, context.clock())
        decision = conclude(snapshot, explorer, questions, is_urgent=is_urgent)
    else:
        decision = Decision(
            tasks=tuple(questions.task(each) for each in new_tasks(snapshot, explorer)),
            requests=tuple(
                request
                for each in explorer.outstanding()
                if each.needs == "latency"
                for request in questions.requests(each.plan, SCREENING)
            ),
        )
    if not is_news and decision.search is None:
        return without_news(decision, snapshot, memory, search)
    return with_search(decision, snapshot, memory, search, questions, anew=bool(withdrawn))


def new_tasks(snapshot: Snapshot, explorer: Explorer) -> list[Candidate]:
    """What is to be scored or trained and is no task yet."""
    waiting = (each for each in explorer.outstanding() if each.needs != "latency")
    return [each for each in waiting if task_key(each) not in snapshot.tasks]


def taken(memory: Memory, snapshot: Snapshot) -> Search | None:
    """The search as this process left it, if nobody has gone on with it since."""
    search = memory.take(snapshot.job.version)
    return search if search is not None and search.form == form_name(snapshot) else None


def opened(
    context: Context,
    library: Library,
    snapshot: Snapshot,
    before: Search | None = None,
    forget: Collection[str] = (),
) -> Search:
    """The search from its saved state, or a new one on the first call.

    Args:
        before: The search as it was, for the skeletons that are known.
        forget: Plans whose latencies are asked again.
    """
    state, form = snapshot.search_state or {}, form_name(snapshot)
    search = Search(open_explorer(library, snapshot, forget), state, form)
    if before is not None:
        search.skeletons = before.skeletons
    elif state.get("form") == form:
        with context.read() as session:
            search.skeletons = candidates.skeletons(session, snapshot.job.id)
    if state and not forget:
        search.note_written(search.explorer.unordered)
        search.steps = search.explorer.steps
    return search


def form_name(snapshot: Snapshot) -> str | None:
    """The name of the job's format in int8, if it has one."""
    form = precision.format_of(snapshot)
    return None if form is None else form.name


def open_explorer(library: Library, snapshot: Snapshot, forget: Collection[str] = ()) -> Explorer:
    """The explorer where it stood, or a new one on the first call. The latencies of the plans in
    `forget` are asked again. A search that was over before all sensitivities were known has none,
    and no floors."""
    graph, scores = library.job_graph(snapshot), library.scores(prepared_result(snapshot).scores)
    segments = precision.segments(snapshot)
    state = (snapshot.search_state or {}).get("explorer")
    sensitivity, relax, floors = None, None, dict[str, int]()
    if are_known(snapshot) if state is None else state["given"]["sensitivity"] is not None:
        spec, sensitivity = snapshot.spec.search, measured_sensitivity(snapshot)
        relax = soft_floors(graph, spec.blocks, segments, sensitivity, spec.tolerance)
        floors = relax(0)

    def scores_at(checkpoint: str) -> Mapping[str, Tensor]:
        return library.scores(scores_name(checkpoint))

    if state is not None:
        return Explorer.restore(
            state, graph, scores, floors,
            relax=relax, forget=forget, segments=segments, scores_at=scores_at,
        )  # fmt: skip
    return Explorer(
        search_config(snapshot), graph, scores, floors,
        relax=relax, sensitivity=sensitivity, segments=segments, scores_at=scores_at,
    )  # fmt: skip


def measured_sensitivity(snapshot: Snapshot) -> Sensitivity:
    """The loss rises that the sensitivity tasks found."""
    groups = prepared_result(snapshot).groups
    small = small_rise(snapshot.spec.search.tolerance, len(groups))

    def rise_of(group: str, ratio: float) -> float:
        rise = group_rise(snapshot, group, ratio)
        if rise is None:
            raise LookupError(f"the rise of {group} at {ratio} must be known, but is not")
        return rise

    rises = {group: group_rises(RATIOS, partial(rise_of, group), small) for group in groups}
    return Sensitivity(ratios=RATIOS, rises=rises | precision.rises(snapshot))


def conclude(
    snapshot: Snapshot, explorer: Explorer, questions: Questions, *, is_urgent: bool = False
) -> Decision:
    """Confirms the finalists by strict measurements, the best first, and moves on with them.

    Where all earlier ones missed the budget with their true weights, one more is wanted, faster
    by as much as they were slower than their skeletons.

    Args:
        is_urgent: the first finalists go on as they were screened.
    """
    if explorer.infeasible is not None:
        return infeasible(snapshot, explorer, explorer.infeasible)
    tried = finalists(snapshot)
    wanted = 1 if tried else snapshot.spec.search.finalists
    budget = explorer.config.budget / spare.excess(snapshot, tried, questions)
    if not tried and is_too_late(snapshot, explorer):
        return nothing_found(snapshot, explorer)
    ranked = spare.untried(explorer, tried, budget)[: wanted * SHORTLIST_FACTOR]
    if not ranked:
        return spare.none_left(tried) if tried else nothing_found(snapshot, explorer)
    confirmed, unmeasured = shortlist(ranked, questions, budget, wanted)
    if unmeasured and (tried or not is_urgent):
        requests = tuple(
            request
            for node in unmeasured
            for request in questions.requests(node.plan, STRICT, budget=budget)
        )
        return Decision(requests=requests, progress=progress(snapshot, "searching", 0.95))
    if tried and not confirmed:
        return spare.none_left(tried)
    new = [
        Chosen.of(node, is_answer=node is explorer.answer)
        for node in confirmed or unmeasured or [fastest(ranked, questions)]
    ]
    return Decision(
        search=SearchSave({"chosen": [each.model_dump() for each in (*tried, *new)]}, ()),
        tasks=tuple(finetune_task(each) for each in new),
        progress=progress(snapshot, "finetuning", 0.0),
        events=(("finalists", {"digests": [each.digest for each in new]}),),
        to_state=JobState.FINETUNING,
    )


def shortlist(
    ranked: Sequence[Node], questions: Questions, budget: float, wanted: int
) -> tuple[list[Node], list[Node]]:
    """Splits off the best nodes: those whose strict interval is within the budget, and those of
    which it has to be known first."""
    confirmed: list[Node] = []
    unmeasured: list[Node] = []
    for node in ranked:
        if len(confirmed) + len(unmeasured) == wanted:
            break
        strict = questions.strict(node.plan)
        if strict is None:
            unmeasured.append(node)
        elif isinstance(strict, Measured) and strict.ratio_high <= budget:
            confirmed.append(node)
    return confirmed, unmeasured


def fastest(ranked: Sequence[Node], questions: Questions) -> Node:
    """The node with the lowest strict ratio, for when no interval is within the budget."""

    def strict_ratio(node: Node) -> float:
        strict = questions.strict(node.plan)
        return strict.ratio if isinstance(strict, Measured) else float("inf")

    return min(ranked, key=lambda node: (strict_ratio(node), node.digest))


def is_too_late(snapshot: Snapshot, explorer: Explorer) -> bool:
    """Whether the time was over before a plan within the budget was scored: one that is only
    fast is no result, unless the user asked to stop with it."""
    is_stopped = explorer.progress()["stopped"] and not snapshot.job.stop_requested
    return is_stopped and not explorer.has_result()


def nothing_found(snapshot: Snapshot, explorer: Explorer) -> Decision:
    """No measured candidate is within the budget."""
    if snapshot.job.stop_requested:
        return Decision.fail(
            "The search was stopped too early",
            "no candidate had met the budget yet; submit the job again and let it run longer",
        )
    limit_s, shown = snapshot.spec.constraints.time_limit_s, explorer.progress()
    if limit_s is not None and shown["stopped"]:
        return Decision.fail(
            "The time was over too early",
            f"of {shown['measured']} candidates that were measured within {limit_s:g} s none met "
            "the budget and was scored; raise constraints.time_limit_s or the budget",
        )
    return Decision.fail(
        "No candidate met the budget",
        "the budget can be met, but no candidate on the way did; raise search.levels, "
        "search.children or the budget",
    )


def infeasible(snapshot: Snapshot, explorer: Explorer, found: Mapping[str, Any]) -> Decision:
    """Ends a job whose budget is below what this network can reach, with both numbers."""
    reached = found["fastest_ratio"]
    if found["minimum_ratio"] is None:
        return Decision.fail(
            "The most pruned model could not be measured",
            f"the device answered: {'; '.join(found['errors'].values())}",
        )
    budget, dense = explorer.config.budget, dense_ms(snapshot)
    detail = (
        f"the pruned model that comes closest takes {reached / budget:.4g} of the budget on the "
        "device that is furthest from it; raise the budgets"
        if snapshot.further
        else f"the budget is {budget:.4g} of the dense latency ({budget * dense:.4g} ms), but the "
        f"fastest pruned model still takes {reached:.4g} ({reached * dense:.4g} ms); "
        "raise the budget"
    )
    return Decision(
        to_state=JobState.INFEASIBLE,
        problem=problem("The budget cannot be met", detail, search=dict(found)),
    )


def without_news(
    decision: Decision, snapshot: Snapshot, memory: Memory, search: Search
) -> Decision:
    """The decision where nothing was told and nothing asked: the saved search stays as it is."""
    shown = decision.progress or progress_of(search.explorer, snapshot, snapshot.reused)
    return replace(decision, progress=shown, written=partial(memory.keep, search=search))


def with_search(
    decision: Decision,
    snapshot: Snapshot,
    memory: Memory,
    search: Search,
    questions: Questions,
    *,
    anew: bool = False,
) -> Decision:
    """The decision, with the search's state, what changed in its tree, and its progress.

    Args:
        anew: All nodes are written, and those that are no more are taken from the stored tree.
    """
    explorer, reused = search.explorer, snapshot.reused | questions.reused
    if anew or decision.search is not None or has_to_be_saved(search, reused):
        search.state = (snapshot.search_state or {}) | {
            "explorer": explorer.state(), "reused": reused, "form": search.form,
            "began": began(snapshot),
        }  # fmt: skip
        search.state |= decision.search.state or {} if decision.search else {}
        search.steps, state = explorer.steps, search.state
    else:
        state = None
    changed = search.changed()
    shown = progress_of(explorer, snapshot, reused)
    is_news = shown["level"] > (snapshot.job.progress or {}).get("level", 0)
    counts = {key: shown[key] for key in COUNTS}

    def keep(version: int) -> None:
        search.note_written(changed)
        memory.keep(version, search)

    return replace(
        decision,
        search=SearchSave(state, [row(node, questions) for node in changed], anew),
        progress=shown if decision.progress is None else decision.progress | counts,
        events=(*decision.events, *((("level", counts),) if is_news else ())),
        written=keep,
    )


def has_to_be_saved(search: Search, reused: Mapping[str, str]) -> bool:
    """Whether the state holds what rows do not. What was told since is told again from them."""
    is_behind = search.explorer.steps != search.steps or search.explorer.done
    return is_behind or not search.state or search.state.get("reused", {}) != reused


def progress_of(
    explorer: Explorer, snapshot: Snapshot, reused: Mapping[str, str]
) -> dict[str, Any]:
    """The progress document of a job that is searching."""
    shown = explorer.progress()
    planned = shown["measured"] + shown["remaining"]
    counts = {key: shown[key] for key in FOUND}
    counts |= {"reused": len(reused), "planned": planned}
    return progress(snapshot, "searching", 0.9 * shown["measured"] / max(planned, 1), **counts)


def row(node: Node, questions: Questions) -> dict[str, Any]:
    """A node of the tree as a row of the table of candidates."""
    shown = node.row()
    plan = {"widths": shown.pop("widths")}
    if int8 := shown.pop("int8"):
        plan["int8"] = int8
    if steps := shown.pop("steps"):
        plan["steps"] = steps
    return shown | {
        "plan": plan,
        "skeleton_digest": questions.skeleton(node.plan),
    }
