"""Live progress of one job: level, candidates measured, best so far, time left.

In a terminal the picture is redrawn in place; elsewhere a line is written when something changed.
"""

from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from api.cli.output import duration, explain, percent, say

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
    if progress.get("measured"):
        reused = f", {progress['reused']} of earlier jobs" if progress.get("reused") else ""
        told["measured"] = f"{progress['measured']} candidates{reused}"
    if best.get("ratio") is not None:
        told["best so far"] = f"{percent(best['ratio'])} of the dense latency"
    if progress.get("seconds_left") is not None:
        told["time left"] = f"about {duration(progress['seconds_left'])}"
    return told


def picture(job: "JobView") -> Group:
    """The facts with a progress bar below."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in facts(job).items():
        table.add_row(f"[dim]{name}[/]", escape(value))
    fraction = (
        1.0 if job.state in EXIT_CODES else float((job.progress or {}).get("fraction") or 0.0)
    )
    return Group(table, ProgressBar(total=1.0, completed=fraction, width=60))


def line(job: "JobView") -> str:
    """The facts in one line."""
    told = facts(job)
    state = told.pop("state")
    return " · ".join([state, *(f"{name} {value}" for name, value in told.items())])


def follow(client: "Client", job_id: str) -> "JobView":
    """Shows the job until it has finished and returns its last document."""
    console = Console()
    if not console.is_terminal:
        return _follow_lines(client, job_id)
    with Live(console=console, refresh_per_second=4) as live:
        return client.jobs.wait(
            job_id, pause_s=0.7, seen=lambda job: live.update(picture(job), refresh=True)
        )


def _follow_lines(client: "Client", job_id: str) -> "JobView":
    last = ""

    def tell(job: "JobView") -> None:
        nonlocal last
        now = line(job)
        if now != last:
            say(now)
            last = now

    return client.jobs.wait(job_id, pause_s=LINE_PAUSE_S, seen=tell)


def finish(job: "JobView") -> None:
    """Explains a job that brought no result and ends the command with its exit code."""
    if job.state == "succeeded":
        return
    explain(job.problem or {"detail": f"{job.id} is {job.state}"})
    raise typer.Exit(EXIT_CODES.get(job.state, 1))
