"""Where values are rounded to int8, given which layers are: the one rule for torch and ONNX.

Both graphs are read as a list of `Op`, and `places` says which values are rounded. So a torch
model and the ONNX file of a plan round at the same places. Knows neither torch nor ONNX.

| term | meaning |
|---|---|
| value | an activation, by its name in one of the two graphs |
| key | the name of a rounded value in both graphs, from the layers before it |
| rounded | what an int8 operator makes: all that read it read the rounded value |
| entering | what a float operator makes and an int8 one reads: others read it as it is |

An int8 layer reads a rounded input, and a convolution makes a rounded output: runtimes fuse it
only so. Linear layers and products of matrices give float outputs, which costs a runtime nothing.
An addition or concatenation is int8 if all of its inputs are at hand in int8, that is made by an
int8 operator or read by an int8 layer. A rectifier belongs to the int8 operator before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

MOST_LAYERS = 8  # a bottleneck with its shortcut has four, an inception block up to nine
Role = Literal["layer", "join", "rectifier", "other"]


@dataclass(frozen=True)
class Op:
    """One operator of a graph.

    Attributes:
        output: the value that it makes.
        inputs: the values that it reads; weights and constants are none.
        role: `layer`; `join`, an addition or concatenation of values; `rectifier`, an activation
            that cuts off what is below zero; `other`.
        layer: the name of a layer.
        rounds: a layer that makes a rounded output.
    """

    output: str
    inputs: tuple[str, ...]
    role: Role
    layer: str = ""
    rounds: bool = False


@dataclass
class Places:
    """The values that are rounded.

    Attributes:
        rounded: value -> key, of what int8 operators make.
        entering: value -> key, of what only int8 operators read rounded.
        rectified: keys of values that a rectifier made.
        int8: outputs of the int8 operators, before a rectifier that belongs to one.
    """

    rounded: dict[str, str] = field(default_factory=dict)
    entering: dict[str, str] = field(default_factory=dict)
    rectified: set[str] = field(default_factory=set)
    int8: set[str] = field(default_factory=set)

    def key(self, value: str) -> str | None:
        """The key of a value that int8 operators read rounded."""
        return self.rounded.get(value) or self.entering.get(value)

    @property
    def keys(self) -> set[str]:
        return {*self.rounded.values(), *self.entering.values()}


def places(ops: Sequence[Op], outputs: Collection[str], int8_layers: Collection[str]) -> Places:
    """Where the values of a graph are rounded.

    Args:
        ops: in an order in which each reads what came before.
        outputs: the values that the graph returns.
        int8_layers: names of layers; those that the graph does not have change nothing.
    """
    readers: dict[str, list[Op]] = {}
    for op in ops:
        for value in op.inputs:
            readers.setdefault(value, []).append(op)
    makers = {op.output: op for op in ops}
    made, names, last = Places(), Counter[str](), _last_layers(ops)
    at_hand = {
        value
        for op in ops
        if op.layer in int8_layers and op.role == "layer"
        for value in op.inputs
    }

    def key(value: str, kind: str, layer: str) -> str:
        names[f"{kind}:{layer}"] += 1
        count = names[f"{kind}:{layer}"]
        chosen = f"{kind}:{layer}" if count == 1 else f"{kind}:{layer}#{count}"
        if value in makers and makers[value].role == "rectifier":
            made.rectified.add(chosen)
        return chosen

    for op in ops:
        is_layer = op.role == "layer" and op.layer in int8_layers
        is_join = op.role == "join" and all(
            value in made.rounded or value in at_hand for value in op.inputs
        )
        if is_layer:
            for value in op.inputs:
                if made.key(value) is None:
                    made.entering[value] = key(value, "in", op.layer)
        if is_layer or is_join:
            made.int8.add(op.output)
        if is_join or (is_layer and op.rounds):
            value = _behind_rectifier(op.output, readers, outputs)
            made.rounded[value] = key(value, "out" if is_layer else "join", last[op.output])
    return made


def _behind_rectifier(value: str, readers: dict[str, list[Op]], outputs: Collection[str]) -> str:
    """The output of the rectifier that alone reads a value; else the value."""
    only = readers.get(value, ())
    if value in outputs or len(only) != 1 or only[0].role != "rectifier":
        return value
    return only[0].output


def _last_layers(ops: Sequence[Op]) -> dict[str, str]:
    """Value -> the layer that comes last in the graph among those that it depends on."""
    ages = {op.layer: number for number, op in enumerate(ops) if op.role == "layer"}
    last: dict[str, str] = {}
    for op in ops:
        before = (last.get(value, "") for value in op.inputs)
        last[op.output] = op.layer or max(before, key=lambda name: ages.get(name, -1), default="")
    return last


def segments(ops: Sequence[Op], *, most: int = MOST_LAYERS) -> list[tuple[str, ...]]:
    """The layers in runs that share a precision: residual blocks, and layers between them.

    A run ends where a single value is all that the rest of the graph reads. One of more than
    `most` layers (a long skip connection goes over it) is cut into single layers.
    """
    reads = {value: number for number, op in enumerate(ops) for value in op.inputs}
    live: set[str] = {value for value in reads if all(op.output != value for op in ops)}
    runs: list[tuple[str, ...]] = []
    run: list[str] = []
    for number, op in enumerate(ops):
        if op.role == "layer" and op.layer not in run:
            run.append(op.layer)
        live.add(op.output)
        live = {value for value in live if reads.get(value, -1) > number}
        if len(live) <= 1 and run:
            runs += [tuple(run)] if len(run) <= most else [(name,) for name in run]
            run = []
    return _without_twins(runs + [(name,) for name in run])


def _without_twins(runs: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Each layer in the first of its runs: one that is called twice has one precision."""
    seen: set[str] = set()
    distinct = []
    for run in runs:
        left = tuple(name for name in run if name not in seen)
        seen.update(left)
        if left:
            distinct.append(left)
    return distinct
