"""What is left of each value of an ONNX file in the pruned network, read off its exported graph.

While an OnnxModule is exported, its operators are marked with the value of the file that they
make (`onnx_in.module.MADE`); the labels of the graph then tell which indices of it are left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from torch import fx

from search.errors import SkeletonError
from search.graph.dependency.labels import FIXED, Axis, KeepMask, Labels
from search.graph.exported.nodes import is_check
from search.graph.pruned.pruned_graph import Program
from search.onnx_in.module import MADE, Held, OnnxModule, Source, Step

Mask = NDArray[np.bool_]


class KeptValues:
    """The values of a file under one plan.

    Args:
        program: the exported graph of `dense`.
        kept: atom -> whether it stays, shape (atoms,).
        dense: the module that was read from the file.

    Attributes:
        sums: output of an Add whose branch is gone -> the value that takes its place.

    Raises:
        SkeletonError: a block is gone that ends inside a node of the file.
    """

    def __init__(self, program: Program, kept: KeepMask, dense: OnnxModule) -> None:
        self._kept, self._tensors = kept, program.propagation.tensors
        made = _made(program)
        self._labels: dict[str, Labels] = {}
        for step in dense.steps:
            self._labels.update(self._of_step(step, program, made.get(step.output, [])))
        ends = {nodes[-1]: name for name, nodes in made.items()}
        given = (each.name for each in dense.inputs)
        ends |= dict(zip(program.exported.input_nodes, given, strict=True))
        self.sums = dict(_sums(program, kept, ends))
        self._read = self._alive(dense)

    def is_read(self, step: Step) -> bool:
        """Whether the pruned network still needs what a node makes."""
        return any(name in self._read for name in step.node.outputs)

    def mask(self, source: Source, dim: int) -> Mask | None:
        """Which indices of a dimension are left; None where all are, or nothing is known."""
        labels = self._labels_of(source)
        return None if labels is None or not labels.axes else self._stays(labels.axes[dim])

    def shape(self, name: str, before: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a value, whose shape in the dense network is `before`; a dimension that
        holds the batch as well is cut by the same share.

        Raises:
            SkeletonError: the graph knows it with another rank.
        """
        labels = self._labels.get(name)
        if labels is None:
            return before
        if len(labels.shape) != len(before):
            raise SkeletonError(f"{name!r} must have shape {labels.shape}, but has {before}")
        masks = [self._stays(axis) for axis in labels.axes]
        return tuple(
            size if mask is None else size * int(mask.sum()) // len(mask)
            for size, mask in zip(before, masks, strict=True)
        )

    def _labels_of(self, source: Source) -> Labels | None:
        if isinstance(source, Held):
            return self._tensors.get(f"held.{source.attribute}")
        return self._labels.get(source) if isinstance(source, str) else None

    def _stays(self, axis: Axis) -> Mask | None:
        if axis is None:
            return None
        stays: Mask = (axis == FIXED) | self._kept[axis]
        return None if bool(stays.all()) else stays

    def _of_step(
        self, step: Step, program: Program, nodes: list[fx.Node]
    ) -> Iterator[tuple[str, Labels]]:
        """The labels of what a step makes: of its last operator, or of the last one with several
        outputs where it has several itself. A step without an operator hands its input on."""
        values, outputs = program.propagation.values, step.node.outputs
        if not nodes:
            source = self._labels_of(step.sources[0]) if step.sources else None
            yield from () if source is None else [(step.output, source)]
            return
        several = [node for node in nodes if len(values[node]) > 1]
        if len(outputs) > 1 and several:
            yield from zip(outputs, values[several[-1]], strict=False)
        elif len(outputs) == 1:
            yield step.output, values[nodes[-1]][0]

    def _alive(self, dense: OnnxModule) -> set[str]:
        """What the outputs are made of, blocks that are gone left out."""
        alive = {self.sums.get(name, name) for name in dense.outputs} | set(dense.outputs)
        for step in reversed(dense.steps):
            if alive.isdisjoint(step.node.outputs) or step.output in self.sums:
                continue
            read = {source for source in step.sources if isinstance(source, str)}
            alive |= read | {self.sums[name] for name in read if name in self.sums}
        return alive


def _made(program: Program) -> Mapping[str, list[fx.Node]]:
    """Value of the file -> the operators that make it, in order."""
    found: dict[str, list[fx.Node]] = {}
    for node in program.exported.graph_module.graph.nodes:
        mark = (node.meta.get("custom") or {}).get(MADE)
        if mark and not is_check(node) and program.propagation.values.get(node):
            found.setdefault(mark, []).append(node)
    return found


def _sums(
    program: Program, kept: KeepMask, ends: Mapping[fx.Node, str]
) -> Iterator[tuple[str, str]]:
    gone = {b.add: b for b in program.propagation.blocks if not kept[b.atom]}
    for block in gone.values():
        shortcut = block.shortcut
        while shortcut in gone:
            shortcut = gone[shortcut].shortcut
        if block.add not in ends or shortcut not in ends:
            raise SkeletonError(f"the block {block.name!r} must end with a node, but ends in one")
        yield ends[block.add], ends[shortcut]
