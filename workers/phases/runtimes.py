"""Runtimes: where the job asks for `auto`, each that the device has gives its simple answers, and
the fastest one measures everything that follows.

One runtime is asked before the device is known: whichever device answers is the job's, and the
other runtimes are asked there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from jobs.repository import devices
from jobs.runtimes import DENSE, FLOAT32, taking_part
from jobs.selectors import Selector
from jobs.states import SHUT_OUT
from jobs.tables import Device
from latency_probes.messages import Target
from search.quantization import FORMATS
from workers.answers import RUNTIMES
from workers.context import Context
from workers.decision import Decision, NewRequest, NewTask
from workers.library import Library
from workers.phases.facts import dense_request, prepared_result
from workers.phases.precision import early_task, int8_request
from workers.snapshot import Snapshot

TITLE = "The dense model could not be measured"


def decide(context: Context, library: Library, snapshot: Snapshot) -> Decision:
    """What is to be asked until the runtime is chosen; the end of a job where none works."""
    if DENSE not in snapshot.requests:
        target = snapshot.spec.target.in_runtime(_first(context, snapshot))
        first = _dense_request(snapshot, DENSE, target)
        return Decision(tasks=early_task(snapshot), requests=(first,))
    if snapshot.device is None:
        if snapshot.ended(DENSE):
            return _fail(snapshot, "no device answered")
        return Decision()
    answers = snapshot.answers
    if answers.are_in:
        told = (f"{each.runtime}: {each.error}" for each in answers.all())
        return _fail(snapshot, "; ".join(told))
    requests = (
        _request(library, snapshot, runtime, form)
        for runtime, form in answers.asked()
        if answers.purpose(runtime, form) not in snapshot.requests
    )
    return Decision(tasks=(NewTask(RUNTIMES, RUNTIMES),), requests=tuple(requests))


def news(snapshot: Snapshot) -> tuple[tuple[str, dict[str, Any]], ...]:
    """The event that tells which runtime was chosen, and among what."""
    if not snapshot.chooses_runtime:
        return ()
    answers = [asdict(each) for each in snapshot.answers.all()]
    return (("runtime", {"runtime": snapshot.target.runtime, "answers": answers}),)


def _request(library: Library, snapshot: Snapshot, runtime: str, form: str) -> NewRequest:
    purpose = snapshot.answers.purpose(runtime, form)
    target = snapshot.spec.target.in_runtime(runtime)
    if form == FLOAT32:
        return _dense_request(snapshot, purpose, target)
    return int8_request(library, snapshot, purpose, FORMATS[form], target)


def _dense_request(snapshot: Snapshot, purpose: str, target: Target) -> NewRequest:
    return dense_request(prepared_result(snapshot), snapshot.spec.search.seed, purpose, target)


def _fail(snapshot: Snapshot, reason: str) -> Decision:
    return Decision.fail(
        TITLE,
        f"no runtime could run the dense model ({reason}); choose another device, or replace "
        "what they lack",
    )


def _first(context: Context, snapshot: Snapshot) -> str:
    """A runtime that a device of the job has, of those that are there now if possible: the usual
    one, or else the first by name."""
    selector, usual = Selector.parse(snapshot.spec.target.device), Target().runtime
    with context.read() as session:
        known = [
            each
            for each in devices.all_devices(session)
            if each.state not in SHUT_OUT
            and selector.accepts(each.id, each.labels, each.capabilities)
        ]
        present = {each.id for each in devices.present(session)}
    offered = _offered(each for each in known if each.id in present) or _offered(known)
    return usual if usual in offered or not offered else min(offered)


def _offered(known: Iterable[Device]) -> set[str]:
    runtimes = ((each.capabilities or {}).get("runtimes") or {} for each in known)
    return {name for each in runtimes for name in taking_part(each)}
