"""Refuses a target that no registered device can serve, before a job exists, with what there is.

A device that is offline counts: it may come back. One that has announced nothing may offer
anything. What devices do later is the collector's: a job waits for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jobs.errors import FieldProblem, SpecError
from jobs.near import near
from jobs.runtimes import taking_part
from jobs.selectors import Selector
from jobs.spec import JobSpec, TargetSpec
from jobs.states import SHUT_OUT
from jobs.tables import Device
from latency_probes.messages import AUTO

MOST_NAMES = 8


def check_targets(spec: JobSpec, devices: Sequence[Device]) -> None:
    """The same for the target of a job, and for the devices that it names beside it.

    Raises:
        SpecError: with the names of what there is.
    """
    check_target(spec.target, devices)
    named: dict[str, str | None] = {
        f"{field}.{number}": each.device
        for field in ("further_budgets", "further_devices")
        for number, each in enumerate(getattr(spec, field))
    }
    for place, device in named.items():
        if device is None:
            continue
        try:
            check_target(spec.target.model_copy(update={"device": device}), devices)
        except SpecError as error:
            problems = [
                FieldProblem(f"{place}.device", each.message.replace("target.", f"{place}.", 1))
                for each in error.problems
            ]
            raise SpecError(problems) from None


def check_target(target: TargetSpec, devices: Sequence[Device]) -> None:
    """Refuses a selector that accepts no registered device, and a runtime, provider or number of
    threads that none of those it accepts has announced.

    Args:
        target: of a job.
        devices: all that are known.

    Raises:
        SpecError: with the names of what there is.
    """
    registered = [each for each in devices if each.state not in SHUT_OUT]
    selector = Selector.parse(target.device)
    if selector.kind == "any" and not registered:
        return  # the first one may come
    accepted = [each for each in registered if _may_accept(selector, each)]
    if not accepted:
        raise SpecError([_problem("device", _no_device(target.device, selector, registered))])
    if not all(_runtimes(each) for each in accepted):
        return
    able = _with_runtime(target, accepted)
    most = max(_cores(each) for each in able)
    if target.threads > most:
        raise SpecError(
            [
                _problem(
                    "threads",
                    f"must be <= {most}, the cores of {_listed(each.name for each in able)}, but "
                    f"got {target.threads}",
                )
            ]
        )


def _may_accept(selector: Selector, device: Device) -> bool:
    """Whether the selector accepts the device, or could once it has announced what it is."""
    labels = device.labels if isinstance(device.labels, dict) else {}
    if selector.kind == "where" and not _runtimes(device):
        return True
    return selector.accepts(device.id, labels, device.capabilities)


def _with_runtime(target: TargetSpec, accepted: Sequence[Device]) -> list[Device]:
    """Those that announced the runtime and the provider; with runtime `auto`, one that takes part.

    Raises:
        SpecError: there is none.
    """
    if target.runtime == AUTO:
        return _with_any_runtime(accepted)
    having = [each for each in accepted if target.runtime in _runtimes(each)]
    if not having:
        offered = sorted({name for each in accepted for name in _runtimes(each)})
        raise SpecError(
            [_problem("runtime", _not_offered(target.runtime, offered, accepted, "runtime"))]
        )
    able = [each for each in having if target.provider in _providers(each, target.runtime)]
    if not able:
        offered = sorted({p for each in having for p in _providers(each, target.runtime)})
        raise SpecError(
            [_problem("provider", _not_offered(target.provider, offered, having, "provider"))]
        )
    return able


def _with_any_runtime(accepted: Sequence[Device]) -> list[Device]:
    able = [each for each in accepted if taking_part(_runtimes(each))]
    if not able:
        offered = sorted({name for each in accepted for name in _runtimes(each)})
        names = _listed(each.name for each in accepted)
        raise SpecError(
            [
                _problem(
                    "runtime",
                    "must be named where auto has none to choose from (it takes runtimes with "
                    f"their usual provider, and no replay), but got 'auto', and {names} offers "
                    f"{_listed(offered)}",
                )
            ]
        )
    return able


def _not_offered(given: str, offered: Sequence[str], devices: Sequence[Device], what: str) -> str:
    names = _listed(each.name for each in devices)
    return (
        f"must be a {what} that {names} offers ({_listed(offered)}), but got {given!r}"
        f"{near(given, offered)}"
    )


def _no_device(given: str, selector: Selector, registered: Sequence[Device]) -> str:
    if not registered:
        return f"must be that of a registered device, but got {given!r} and none is registered"
    if selector.kind == "id":
        known = {each.id: each.name for each in registered}
        told = _listed(f"{name} is id:{key}" for key, name in known.items())
        return f"must be that of a registered device ({told}), but got {given!r}" + near(
            selector.name, known
        )
    labels = sorted(
        {
            f"{name}={value}"
            for each in registered
            if isinstance(each.labels, dict)
            for name, value in each.labels.items()
        }
    )
    told = f"labels are {_listed(labels)}" if labels else "none has a label"
    return (
        f"must accept one of {len(registered)} registered devices "
        f"({_listed(each.name for each in registered)}; {told}), but {given!r} accepts none"
        + near(f"{selector.name}={selector.value}", labels)
    )


def _runtimes(device: Device) -> Mapping[str, Any]:
    found = (device.capabilities or {}).get("runtimes")
    return found if isinstance(found, dict) else {}


def _providers(device: Device, runtime: str) -> Sequence[str]:
    told = _runtimes(device).get(runtime)
    providers = told.get("providers") if isinstance(told, dict) else None
    return [str(each) for each in providers] if isinstance(providers, list) else []


def _cores(device: Device) -> int:
    cores = (device.capabilities or {}).get("cores", 1)
    return cores if isinstance(cores, int) else 1


def _listed(names: Iterable[str]) -> str:
    known = list(dict.fromkeys(names))
    more = f" and {len(known) - MOST_NAMES} more" if len(known) > MOST_NAMES else ""
    return ", ".join(known[:MOST_NAMES]) + more


def _problem(field: str, message: str) -> FieldProblem:
    name = f"target.{field}"
    return FieldProblem(name, f"{name} {message}")
