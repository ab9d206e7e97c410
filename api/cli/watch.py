"""Live progress of one job: level, candidates measured, best so far, time left.

In a terminal the picture is redrawn in place; elsewhere a line is written when something changed.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from api.cli.output import duration, explain, percent

if TYPE_CHECKING:
    from api.client import Client
    from api.routes.views import JobView

EXIT_CODES = {"succeeded": 0, "failed": 1, "infeasible": 3, "cancelled": 4}
LINE_PAUSE_S = 2.0


def facts(job: "JobView") -> dict[str, str]:
    """What there is to tell about a running job, as words."""
    progress: dict[str, Any] = job.progress or {}
    best = progress.get("best") or {}
    told = {"state": job.state}
    if progress.get("advice"):
        told["note"] = str(progress["advice"])
    if job.state in EXIT_CODES:
        return told
    if job.waiting_for:
        told["waiting for"] = job.waiting_for
    if (phase := progress.get("phase")) not in (None, job.state):
        told["phase"] = str(phase)
    if progress.get("levels"):
        told["level"] = f"{progress.get('level', 0)} of {progress['levels']}"
    known = progress.get("sensitivities") or {}
    if known.get("of") and progress.get("phase") == "preparing":
        told["sensitivities"] = f"{known['done']} of {known['of']}"
    if progress.get("measured"):
        told["measured"] = _measured(progress)
    if best.get("ratio") is not None:
        budget = progress.get("budget_ratio")
        against = f", budget {percent(budget)}" if budget is not None else ""
        told["best so far"] = f"{percent(best['ratio'])} of the dense latency{against}"
    if progress.get("finetuning") and progress.get("phase") == "finetuning":
        told["training"] = training(progress["finetuning"])
    if (left := time_left(progress)) is not None:
        told["time left"] = left
    return told


def _measured(progress: Mapping[str, Any]) -> str:
    """Candidates measured, of how many, and how many earlier jobs had measured."""
    planned, count = progress.get("planned"), progress["measured"]
    of = f" of about {planned}" if planned and planned > count else ""
    reused = f", {progress['reused']} of earlier jobs" if progress.get("reused") else ""
    return f"{count}{of} candidates{reused}"


def training(now: Mapping[str, Any]) -> str:
    """Fine-tuning in words: step, loss, accuracy."""
    told = [f"step {now.get('step', 0)} of {now.get('steps', 0)}"]
    if (now.get("finalists") or 0) > 1:
        told.append(f"{now.get('finalists_done', 0)} of {now['finalists']} finalists done")
    if now.get("loss") is not None:
        told.append(f"loss {now['loss']:.3f}")
    if now.get("accuracy") is not None:
        told.append(f"training accuracy {percent(now['accuracy'])}")
    return ", ".join(told)


def time_left(progress: Mapping[str, Any]) -> str | None:
    """The time left as a range."""
    span = progress.get("seconds_left_range")
    if not span:
        about = progress.get("seconds_left")
        return None if about is None else f"about {duration(about)}"
    low, high = (duration(each) for each in span)
    return f"about {high}" if low == high else f"{low} to {high}"


def picture(job: "JobView") -> Group:
    """The facts with a progress bar below."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in facts(job).items():
        table.add_row(f"[dim]{name}[/]", escape(value))
    fraction = (
        1.0 if job.state in EXIT_CODES else float((job.progress or {}).get("fraction") or 0.0)
    )
    return Group(table, ProgressBar(total=1.0, completed=fraction, width=60))


def line(told: Mapping[str, str], before: Mapping[str, str]) -> str:
    """Facts in one line; a note that was told before is not repeated."""
    shown = [
        value if name == "state" else f"{name} {value}"
        for name, value in told.items()
        if name != "note" or value != before.get("note")
    ]
    return " · ".join(shown)


def follow(
    client: "Client",
    job_id: str,
    *,
    console: Console | None = None,
    look: Callable[[], None] = lambda: None,
) -> "JobView":
    """Shows the job until it has finished and returns its last document.

    Args:
        console: Where it is shown; standard output by default.
        look: Called at every look at the job.
    """
    console = console or Console()
    if not console.is_terminal:
        return _follow_lines(client, job_id, console, look)

    def draw(job: "JobView") -> None:
        live.update(picture(job), refresh=True)
        look()

    with Live(console=console, refresh_per_second=4) as live:
        return client.jobs.wait(job_id, pause_s=0.7, seen=draw)


def _follow_lines(
    client: "Client", job_id: str, console: Console, look: Callable[[], None]
) -> "JobView":
    last: dict[str, str] = {}

    def tell(job: "JobView") -> None:
        nonlocal last
        told = facts(job)
        now = {name: value for name, value in told.items() if name != "time left"}
        if now != last:  # the time left alone is no news
            console.print(escape(line(told, last)), soft_wrap=True, highlight=False)
            last = now
        look()

    return client.jobs.wait(job_id, pause_s=LINE_PAUSE_S, seen=tell)


def finish(job: "JobView") -> None:
    """Explains a job that brought no result and ends the command with its exit code."""
    if job.state == "succeeded":
        return
    explain(job.problem or {"detail": f"{job.id} is {job.state}"})
    raise typer.Exit(EXIT_CODES.get(job.state, 1))
