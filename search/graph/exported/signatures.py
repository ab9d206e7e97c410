"""Finds the traced tensors among the arguments of a call, by the signature of the user's forward.

What was not traced must be what it was while the model was traced: its default. It knows no graph.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from search.errors import InputError

_PLAIN = (bool, int, float, complex, str, bytes, Enum, torch.dtype, torch.device, type(None))
_SEVERAL, _BY_NAME = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


@dataclass(frozen=True)
class _Opaque:
    """Stands for a default that is no plain value: nothing that is given can equal it."""

    shown: str

    def __repr__(self) -> str:
        return self.shown


@dataclass(frozen=True)
class _Place:
    """A parameter, and how many of the traced tensors it took."""

    name: str
    count: int
    gathers: bool


def signature_of(forward: Callable[..., Any]) -> inspect.Signature:
    """The signature of a forward, as can be kept and pickled: no annotations, plain defaults."""
    full = inspect.signature(forward)
    parameters = [
        each.replace(annotation=each.empty, default=_kept(each.default))
        for each in full.parameters.values()
    ]
    return full.replace(parameters=parameters, return_annotation=full.empty)


class TracedCall:
    """A call of forward with tensors by place and nothing else.

    Attributes:
        signature: of forward, see `signature_of`.
        names: of the tensors; those of `*rest` are rest[0], rest[1] and so on.
    """

    def __init__(self, signature: inspect.Signature, count: int) -> None:
        self.signature = signature
        self._places = tuple(_places(signature, count))
        self._plain = not any(place.gathers for place in self._places)
        self.names = tuple(name for place in self._places for name in _names(place))

    def tensors_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """What a call gives for the traced tensors, in their order.

        Raises:
            InputError: the call has other arguments than the traced one.
        """
        if self._plain and not kwargs and len(args) == len(self.names):
            return args
        try:
            arguments = self.signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise InputError(
                f"the call must fit forward{self.signature}, but got: {error}"
            ) from None
        given = [value for place in self._places for value in self._taken(place, arguments)]
        for name, value in arguments.items():
            self._check_untraced(name, value)
        return tuple(given)

    def _taken(self, place: _Place, arguments: dict[str, Any]) -> tuple[Any, ...]:
        """What the call gives for one of the places, taken out of the arguments."""
        if place.gathers:
            values = arguments.pop(place.name, ())
        else:
            values = (arguments.pop(place.name),) if place.name in arguments else ()
        if len(values) != place.count:
            raise InputError(f"{self._wanted}, but got {len(values)} for {place.name!r}")
        return tuple(values)

    @property
    def _wanted(self) -> str:
        return f"the model must get what it was traced with, tensors for {', '.join(self.names)}"

    def _check_untraced(self, name: str, value: Any) -> None:
        parameter = self.signature.parameters[name]
        if parameter.kind in (_SEVERAL, _BY_NAME):
            raise InputError(f"{self._wanted}, but got {len(value)} more in {name!r}")
        if _same(value, parameter.default):
            return
        traced = f"{name!r} must be {parameter.default!r}, its default when the model was traced"
        if isinstance(value, Tensor):
            raise InputError(
                f"{traced}, but got a tensor: trace the dense model with example inputs up to "
                f"{name!r}, and prune it by the same plan"
            )
        raise InputError(
            f"{traced}, but got {value!r:.80}: trace a dense model with that default, and prune "
            "it by the same plan"
        )


def _places(signature: inspect.Signature, count: int) -> list[_Place]:
    """The parameters that take the first `count` arguments by place."""
    places: list[_Place] = []
    for name, parameter in signature.parameters.items():
        if count == 0:
            break
        gathers = parameter.kind is _SEVERAL
        places.append(_Place(name, count if gathers else 1, gathers))
        count -= places[-1].count
    return places


def _names(place: _Place) -> list[str]:
    if place.gathers:
        return [f"{place.name}[{number}]" for number in range(place.count)]
    return [place.name]


def _kept(default: Any) -> Any:
    if default is inspect.Parameter.empty:
        return default
    plain = all(isinstance(leaf, _PLAIN) for leaf in pytree.tree_leaves(default))
    return default if plain else _Opaque(repr(default))


def _same(value: Any, default: Any) -> bool:
    """Whether a plain default was given, each number in its own type: 1 is neither True nor 1.0,
    which a forward may treat differently."""
    leaves, nesting = pytree.tree_flatten(value)
    wanted, its_nesting = pytree.tree_flatten(default)
    return nesting == its_nesting and all(
        type(given) is type(own) and isinstance(own, _PLAIN) and given == own
        for given, own in zip(leaves, wanted, strict=True)
    )
