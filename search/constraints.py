"""What a user rules out beside latency: layers that stay as they are, widths, sizes.

It turns them into an analysis with more frozen groups, and into numbers that a search keeps to. It
measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from math import inf

from search.errors import ConfigError
from search.graph.pruning_graph import PruningGraph, frozen_by
from search.plan import Plan, best_of
from search.widths import narrowest

FROZEN = "left alone: {name!r} is frozen (requires_grad is false); prune_frozen takes it in"
EXCLUDED = "left alone: {name!r} is excluded by {pattern!r}"
_SHOWN = 5  # near names in an error


@dataclass(frozen=True)
class Constraints:
    """What a plan must keep to beside the budget.

    Attributes:
        exclude: layers that keep all of their channels and stay float, while what feeds them may
            lose some: names of modules as `named_modules` gives them, or patterns
            (`blocks.*.attn`); a module that holds others names all of them.
        prune_frozen: prune layers whose parameters do not require gradients too. Where none does,
            as in a model that is only used, the flags mean nothing.
        multiple: channels that stay are a multiple of this, unless all do.
        max_parameters: the most that the pruned model may have; None is no limit.
        max_memory_mb: the most that one call of it may hold at once, in 10⁶ bytes, see
            `PruningGraph.memory_bytes`; None is no limit.
        batch_size: for which that counts.
        blocks: whole residual blocks may go.

    Raises:
        ConfigError: a number is out of its range.
    """

    exclude: tuple[str, ...] = ()
    prune_frozen: bool = False
    multiple: int = 1
    max_parameters: int | None = None
    max_memory_mb: float | None = None
    batch_size: int = 1
    blocks: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "exclude", tuple(self.exclude))
        for name in ("multiple", "max_parameters", "batch_size"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ConfigError(f"{name} must be an integer ≥ 1, but got {value!r}")
        if self.max_memory_mb is not None and not 0 < self.max_memory_mb < inf:
            raise ConfigError(
                f"max_memory_mb must be finite and > 0, but got {self.max_memory_mb}"
            )


def constrained(graph: PruningGraph, constraints: Constraints) -> PruningGraph:
    """The analysis in which what is left alone is frozen, with the reason; the same one, with
    what was derived for it, where nothing is.

    Args:
        graph: of the model whose layers and `requires_grad` flags count.
        constraints: what the user rules out.

    Raises:
        ConfigError: a pattern names no module, nothing prunable is left, or not even the smallest
            plan keeps to the limits; with names and numbers.
    """
    _check_names(graph, constraints.exclude)
    frozen = set() if constraints.prune_frozen else _frozen_parameters(graph)
    reasons: dict[str, str] = {}
    for number, group in enumerate(graph.groups if frozen or constraints.exclude else ()):
        if group.status != "frozen":
            tensors = _tensors_of(graph, number)
            reason = next(_reasons(tensors, constraints.exclude, frozen), None)
            if reason is not None:
                reasons[group.name] = reason
    made = frozen_by(graph, reasons) if reasons else graph  # what is kept for it serves again
    if reasons and not made.searched(blocks=constraints.blocks):
        raise ConfigError(
            f"exclude must leave something to prune, but {list(constraints.exclude)} and frozen "
            f"parameters leave none of {len(graph.searched(blocks=constraints.blocks))} groups"
        )
    _check_limits(made, constraints)
    return made


def left_alone(layers: Iterable[str], constraints: Constraints) -> set[str]:
    """The layers that are excluded, by their names; they stay float too."""
    return {
        name for name in layers if any(_matches(name, pattern) for pattern in constraints.exclude)
    }


def smallest(graph: PruningGraph, multiple: int = 1, *, blocks: bool = False) -> Plan:
    """The plan that keeps as little of every group as it may; with `blocks` all blocks go."""
    kept = dict(graph.dense_plan().kept)
    for group in graph.searched(blocks=blocks):
        count = narrowest(group, multiple)
        kept[group.name] = best_of(range(group.width), count, group.required_any_of)
    return Plan(kept)


def _check_limits(graph: PruningGraph, constraints: Constraints) -> None:
    most, megabytes = constraints.max_parameters, constraints.max_memory_mb
    if most is None and megabytes is None:
        return
    plan = smallest(graph, constraints.multiple, blocks=constraints.blocks)
    if most is not None and (fewest := graph.parameters(plan)) > most:
        raise ConfigError(
            f"max_parameters must be ≥ {fewest}, as many as the smallest pruned model has, "
            f"but got {most}"
        )
    if megabytes is None:
        return
    if graph.parts:
        raise ConfigError(
            "max_memory_mb must not be given for a model that is traced in parts, because what "
            "lies between them is not known"
        )
    if (least := graph.memory_bytes(plan, constraints.batch_size)) > 1e6 * megabytes:
        raise ConfigError(
            f"max_memory_mb must be ≥ {least / 1e6:.6f}, as much as one call of the smallest "
            f"pruned model holds at batch size {constraints.batch_size}, but got {megabytes:g}"
        )


def _check_names(graph: PruningGraph, patterns: tuple[str, ...]) -> None:
    names = [name for name, _ in graph.model.named_modules() if name]
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in names):
            near = get_close_matches(pattern, names, _SHOWN) or names[:_SHOWN]
            raise ConfigError(
                f"exclude must name modules of the model, but got {pattern!r}, which names none; "
                f"near names are {', '.join(near)}"
            )


def _frozen_parameters(graph: PruningGraph) -> set[str]:
    """Names of the parameters that do not require gradients; none where no parameter does."""
    parameters = dict(graph.model.named_parameters())
    frozen = {name for name, value in parameters.items() if not value.requires_grad}
    return frozen if len(frozen) < len(parameters) else set()


def _reasons(tensors: list[str], patterns: tuple[str, ...], frozen: set[str]) -> Iterator[str]:
    for tensor in tensors:
        layer = tensor.rpartition(".")[0]
        for pattern in patterns:
            if _matches(layer, pattern):
                yield EXCLUDED.format(name=layer, pattern=pattern)
        if tensor in frozen:
            yield FROZEN.format(name=layer)


def _matches(name: str, pattern: str) -> bool:
    """Whether the module or one that holds it has the name, or fits the pattern."""
    path = name.split(".")
    return any(fnmatchcase(".".join(path[:length]), pattern) for length in range(1, len(path) + 1))


def _tensors_of(graph: PruningGraph, number: int) -> list[str]:
    """The tensors whose channels a group removes; of a block, those that go with it."""
    group = graph.groups[number]
    if group.kind != "block":
        return [member.tensor for member in group.members if member.role != "consumer"]
    named = (name for name, _ in graph.model.named_parameters())
    counted = [name for name in named if name in graph.shapes]
    return [
        name
        for name, product in zip(counted, graph.parameter_counts, strict=True)
        if any(len(axis) == 1 and graph.group_of[axis[0]] == number for axis in product.axes)
    ]
