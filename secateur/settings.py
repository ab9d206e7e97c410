"""What `secateur.prune` is asked for, read and refused before anything is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jobs.amounts import milliseconds_of, ratio_of
from jobs.errors import SpecError
from jobs.spec import ConstraintsSpec
from jobs.validation import validate
from latency_probes.messages import Target
from search.constraints import Constraints
from search.errors import ConfigError
from search.explorer import SearchConfig
from search.finetuning import FinetuneConfig, amp_here
from search.time_limit import refinements


@dataclass(frozen=True)
class Budget:
    """The latency that the result must not exceed, one of both."""

    ratio: float | None
    latency_ms: float | None

    def at(self, dense_ms: float) -> float:
        """As a ratio to the dense latency."""
        return self.ratio if self.ratio is not None else (self.latency_ms or 0.0) / dense_ms


@dataclass(frozen=True)
class Wishes:
    """What a result must keep to, and how it is found.

    Attributes:
        limits: beside latency, with the names of a job's `constraints`.
        target: what is measured.
        finetune: the training.
        search: fields of `SearchConfig` but the budget.
        seed: of the search.
    """

    budget: Budget
    limits: ConstraintsSpec
    target: Target
    finetune: FinetuneConfig
    search: Mapping[str, Any]
    seed: int

    @property
    def constraints(self) -> Constraints:
        """The limits as the library takes them."""
        config = self.search_config(1.0)
        return Constraints(
            exclude=self.limits.exclude,
            prune_frozen=self.limits.prune_frozen,
            multiple=config.multiple,
            max_parameters=config.max_parameters,
            max_memory_mb=config.max_memory_mb,
            batch_size=config.batch_size,
            blocks=config.blocks,
        )

    def search_config(self, budget: float) -> SearchConfig:
        """The settings of the search for a budget as a ratio."""
        fields = {
            "seed": self.seed,
            "multiple": self.limits.multiple,
            "refinements": refinements(None, self.limits.time_limit_s),
            "max_parameters": self.limits.most_parameters,
            "max_memory_mb": self.limits.max_memory_mb,
            "batch_size": self.target.batch_size,
        }
        try:
            config = SearchConfig(budget=budget, **{**fields, **self.search})
        except TypeError as error:
            known = ", ".join(n for n in SearchConfig.__dataclass_fields__ if n != "budget")
            raise ConfigError(f"search must hold fields of ({known}), but: {error}") from None
        config.check_steps(self.finetune.steps)
        return config


def budget_of(latency_ms: float | str | None, ratio: float | str | None) -> Budget:
    """The budget, read as people write it.

    Raises:
        ConfigError: both or none, or no amount.
    """
    if (latency_ms is None) == (ratio is None):
        got = "neither" if ratio is None else "both"
        raise ConfigError(f"one of latency_ms and ratio must be given, but got {got}")
    try:
        part = ratio_of(ratio) if isinstance(ratio, str) else ratio
        ms = milliseconds_of(latency_ms) if isinstance(latency_ms, str) else latency_ms
    except ValueError as error:
        raise ConfigError(f"{'ratio' if latency_ms is None else 'latency_ms'} {error}") from None
    name, value = ("ratio", part) if part is not None else ("latency_ms", ms)
    if value is None or not 0 < value < float("inf"):
        raise ConfigError(f"{name} must be > 0, but got {value!r}")
    if part is not None and part > 2:
        raise ConfigError(
            f"ratio must be a part of the dense latency, 0.6 for 60 %, but got {part:g}: write "
            f"{part / 100:g} or '{part:g}%'"
        )
    return Budget(part, ms)


def limits_of(given: Mapping[str, Any]) -> ConstraintsSpec:
    """The limits beside latency; a single name may stand for a list of names.

    Raises:
        ConfigError: a value is out of its range, or two limit one thing.
    """
    fields = {name: value for name, value in given.items() if value is not None}
    if isinstance(fields.get("exclude"), str):
        fields["exclude"] = [fields["exclude"]]
    try:
        return validate(ConstraintsSpec, fields)
    except SpecError as error:
        text = "; ".join(each.message.removeprefix("document ") for each in error.problems)
        raise ConfigError(text) from None


def target_of(target: Target, runtime: str | None, batch_size: int | None) -> Target:
    """The target, with another runtime and its usual provider, and another batch size, where they
    are given.

    Raises:
        ConfigError: they are no name and no size.
    """
    fields = target.model_dump()
    if runtime is not None:
        fields = {**fields, "runtime": runtime}
        fields.pop("provider")
    if batch_size is not None:
        fields = {**fields, "batch_size": batch_size}
    try:
        return validate(Target, fields)
    except SpecError as error:
        raise ConfigError(str(error)) from None


def finetune_config(given: Mapping[str, Any], seed: int) -> FinetuneConfig:
    """The settings of the training.

    Raises:
        ConfigError: there is no such field.
    """
    usual = {
        "steps": 600,
        "shift": 0,
        "flip": False,
        "seed": seed,
        "amp": "auto",
    }
    fields: dict[str, Any] = {**usual, **given}
    try:
        return FinetuneConfig(**{**fields, "amp": amp_here(fields["amp"])})
    except TypeError as error:
        known = ", ".join(FinetuneConfig.__dataclass_fields__)
        raise ConfigError(f"finetune must hold fields of ({known}), but: {error}") from None
