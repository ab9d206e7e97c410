"""Names of models drawn by chance from all that the zoos have. Builds nothing."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from benchmarks.coverage.names import ModelNameError
from workers.loaders.architectures import zoo

Catalogue = Callable[[], Iterable[str]]


def drawn(
    count: int,
    seed: int,
    zoos: Sequence[str],
    known: Collection[str],
    catalogues: Mapping[str, Catalogue] | None = None,
) -> list[str]:
    """Names of `zoos` that are not among the `known` ones; every name is as likely as any other.

    Args:
        count: how many.
        seed: the same one draws the same names, as long as the zoos are of the same version.
        zoos: keys of `catalogues`.
        known: names that are not drawn.
        catalogues: zoo -> what lists its names; CATALOGUES by default.

    Raises:
        ArchitectureError: a zoo is not installed.
        ModelNameError: there are fewer names than that.
    """
    listed = CATALOGUES if catalogues is None else catalogues
    names = {f"{source}:{name}" for source in zoos for name in listed[source]()}
    left = sorted(names.difference(known))
    if count > len(left):
        raise ModelNameError(
            f"--draw must be at most {len(left)}, as many as there are besides --models, "
            f"but got {count}"
        )
    return random.Random(seed).sample(left, count)


def _of_timm() -> Iterable[str]:
    names: list[str] = zoo("timm").list_models()
    return names


def _of_torchvision() -> Iterable[str]:
    names: list[str] = zoo("torchvision").models.list_models()
    return names


def _of_transformers() -> Iterable[str]:
    """The base model of every configuration."""
    mapping: Mapping[str, str | Sequence[str]] = zoo(
        "transformers.models.auto.modeling_auto"
    ).MODEL_MAPPING_NAMES
    return [name if isinstance(name, str) else name[0] for name in mapping.values()]


CATALOGUES: Mapping[str, Catalogue] = {
    "timm": _of_timm,
    "torchvision": _of_torchvision,
    "transformers": _of_transformers,
}
