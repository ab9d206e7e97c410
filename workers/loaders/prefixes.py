"""Takes the names of wrappers off tensors that were saved from a wrapped network: `module.` of
DataParallel, `_orig_mod.` of torch.compile, `model.` of a training loop, one in another.

Knows names alone, no tensor and no file.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

# What wraps a part of a network, so that its name stands in the middle of others.
INNER = frozenset(
    {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_flat_param"}
)
# Counters that wrappers keep beside the network: torch.optim.swa_utils.AveragedModel.
COUNTERS = frozenset({"n_averaged"})


@dataclass(frozen=True)
class Unwrapped:
    """Names without a wrapper.

    Attributes:
        names: given name -> the name without it; counters of the wrapper are left out.
        taken_off: what was taken off, as people write it: `module.`, or `_orig_mod.` within names.
    """

    names: Mapping[str, str]
    taken_off: str
    inside: bool = field(default=False)

    @property
    def sentence(self) -> str:
        """What was done, for people."""
        if self.inside:
            return f"{self.taken_off} was taken out of the names of the tensors"
        return f"the prefix {self.taken_off} was taken off the names of the tensors"


def unwrapped(given: Collection[str], expected: Collection[str]) -> Unwrapped | None:
    """The way to take a wrapper off `given` that makes most names fit `expected`; None where no
    way makes more of them fit than fit as they are."""
    known = frozenset(expected)
    best, fits = None, sum(name in known for name in given)
    for each in (*_without_prefix(given), *_without_inner(given)):
        values = set(each.names.values())
        if len(values) < len(each.names):
            continue  # two tensors would get one name
        count = len(values & known)
        if count > fits:
            best, fits = each, count
    return best


def _without_prefix(given: Collection[str]) -> Iterator[Unwrapped]:
    """Without the first, the first two, … parts that all names share."""
    names = [name for name in given if name not in COUNTERS]
    shared = os.path.commonprefix(names)
    parts = shared.split(".")[:-1]
    for length in range(1, len(parts) + 1):
        prefix = ".".join(parts[:length]) + "."
        yield Unwrapped({name: name.removeprefix(prefix) for name in names}, prefix)


def _without_inner(given: Collection[str]) -> Iterator[Unwrapped]:
    """Without the wrappers that stand anywhere in the names."""
    names = [name for name in given if name not in COUNTERS]
    split = {name: name.split(".") for name in names}
    for wrappers in (INNER - {"module"}, INNER):
        found = sorted({part for parts in split.values() for part in parts} & wrappers)
        if found:
            bare = {
                name: ".".join(part for part in parts if part not in wrappers)
                for name, parts in split.items()
            }
            yield Unwrapped(bare, ", ".join(f"{each}." for each in found), inside=True)
