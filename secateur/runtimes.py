"""Which runtime of this machine runs the dense network fastest: what `Target(runtime="auto")`
means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jobs.runtimes import FLOAT32, Answer, fastest, taking_part
from latency_probes.local import Measured
from latency_probes.messages import Capabilities, Target
from latency_probes.runtimes import registry
from latency_probes.spawn import describe_device
from search.errors import ConfigError
from secateur.errors import MeasuringError
from secateur.precision import Int8

Ask = Callable[[Target], tuple[Measured, Int8]]


@dataclass(frozen=True)
class Fastest:
    """The runtime that was chosen.

    Attributes:
        target: in it.
        dense: the dense network against itself in it.
        int8: what int8 brings to the dense network in it.
        answers: of all runtimes.
    """

    target: Target
    dense: Measured
    int8: Int8
    answers: tuple[Answer, ...]


def fastest_here(target: Target, precision: str, ask: Ask) -> Fastest:
    """Asks every runtime of this machine.

    Args:
        target: its runtime is `auto`.
        precision: that is asked for.
        ask: measures the dense network with a target, and in int8.

    Raises:
        ConfigError: `int8` is asked for, and no runtime runs the network so.
        MeasuringError: no runtime runs the network.
    """
    known, answers = {}, []
    for runtime in _runtimes():
        own = target.in_runtime(runtime)
        try:
            known[runtime] = dense, int8 = ask(own)
        except MeasuringError as error:
            answers.append(Answer(runtime, FLOAT32, error=str(error)))
        else:
            answers += _answers(runtime, dense, int8)
    chosen = fastest(answers, precision)
    if chosen is None:
        told = "; ".join(str(each.error) for each in answers) or "there is none"
        raise MeasuringError(f"a runtime must run the network, but: {told}")
    if precision == "int8" and not known[chosen][1].ratios:
        raise ConfigError(
            "precision int8 needs a runtime and layers for it, but none of "
            f"{', '.join(known)} runs the network so"
        )
    return Fastest(target.in_runtime(chosen), *known[chosen], tuple(answers))


def _runtimes() -> tuple[str, ...]:
    """Those that work here, by name; torch where there is no other."""
    for names in ((), ("torch",)):
        found = describe_device(registry.offered(names), ())
        if isinstance(found, Capabilities):
            able = taking_part({name: x.model_dump() for name, x in found.runtimes.items()})
            if able:
                return able
    return ()


def _answers(runtime: str, dense: Measured, int8: Int8) -> list[Answer]:
    whole = Answer(runtime, FLOAT32, dense.latency_ms, 1.0)
    rounded = [
        Answer(runtime, form, ratio * dense.latency_ms, ratio)
        for form, ratio in int8.ratios.items()
    ]
    failed = [Answer(runtime, form, error=words) for form, words in int8.errors.items()]
    return [whole, *rounded, *failed]
