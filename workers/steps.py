"""The Celery steps: each is short, safe to run twice, and a plain function elsewhere."""

from __future__ import annotations

from collections.abc import Callable

from celery import Celery

from jobs.queues import PREFIX
from workers.advance import advance
from workers.checks import check_dataset, check_model
from workers.context import Context
from workers.library import Library
from workers.running import run_task

Step = Callable[[Context, Library, str], None]
STEPS: dict[str, Step] = {
    "advance": advance,
    "check_dataset": check_dataset,
    "check_model": check_model,
    "run_task": run_task,
}


def register(app: Celery, context: Context) -> None:
    """Makes every step known to `app` as `secateur.<name>`; its one argument is an id."""
    library = Library(context)
    for name, function in STEPS.items():
        app.task(name=f"{PREFIX}{name}", shared=False)(_bound(name, function, context, library))


def _bound(name: str, function: Step, context: Context, library: Library) -> Callable[[str], None]:
    def step(identifier: str) -> None:
        context.begun(name, identifier)
        function(context, library, identifier)

    return step
