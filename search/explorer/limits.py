"""The limits of a search beside latency, of parameters and memory, as one question of a plan."""

from collections.abc import Callable
from typing import Any

from search.errors import ConfigError
from search.explorer.config import SearchConfig
from search.plan import Plan


def limits_of(graph: object, config: SearchConfig) -> Callable[[Plan], bool] | None:
    """Whether a plan keeps to the limits; None where the settings have none.

    Raises:
        ConfigError: There are limits, and the graph cannot count what they limit.
    """
    most, megabytes = config.max_parameters, config.max_memory_mb
    if most is None and megabytes is None:
        return None
    parameters = None if most is None else _counter(graph, "parameters", "max_parameters")
    memory = None if megabytes is None else _counter(graph, "memory_bytes", "max_memory_mb")

    def keeps_to_them(plan: Plan) -> bool:
        if parameters is not None and parameters(plan) > (most or 0):
            return False
        return memory is None or memory(plan, config.batch_size) <= 1e6 * (megabytes or 0.0)

    return keeps_to_them


def _counter(graph: object, method: str, limit: str) -> Callable[..., int]:
    counter: Any = getattr(graph, method, None)
    if counter is None:
        raise ConfigError(f"{limit} needs a PruningGraph, but got groups alone")
    found: Callable[..., int] = counter
    return found
