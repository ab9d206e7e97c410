"""Numbers of an ONNX file that follow the units that are left: parts of a split, ends of a slice,
indices, and what the file computes from sizes. Replaced where the pruned network holds others.

| symbol | meaning |
|---|---|
| before, after | the shapes of all values in the dense and in the pruned network |
| computed | what the file computes from shapes alone, by names of values |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from search.errors import SkeletonError
from search.onnx_in.module import Held, OnnxModule, Source, Step, called
from search.onnx_in.values import Numbers, Value
from search.onnx_out.document import Array, Document, drop_attribute, set_attribute
from search.onnx_out.kept_values import KeptValues, Mask

Shapes = Mapping[str, tuple[int, ...]]
Computed = Mapping[str, Numbers]
META = torch.device("meta")
SIZED = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1, "Resize": 3}  # by a vector of sizes


@dataclass(frozen=True)
class Site:
    """The file that is edited, and what is known of both networks."""

    document: Document
    module: OnnxModule
    kept: KeptValues
    before: Shapes
    after: Shapes
    dense: Computed
    pruned: Computed


def computed(module: OnnxModule, shapes: Shapes, known: Computed, inputs: Shapes) -> Computed:
    """What a file computes from shapes alone, where its values have these shapes.

    Args:
        module: read from the file.
        shapes: of all values that nodes make.
        known: the same of the dense network, which names those that are numbers.
        inputs: the shapes of the inputs.
    """
    found: dict[str, Numbers] = {}
    sizes = {**shapes, **inputs}

    def fetched(source: Source) -> Value | None:
        if isinstance(source, str):
            here = found.get(source)
            return torch.empty(sizes[source], device=META) if here is None else here
        return getattr(module.held, source.attribute) if isinstance(source, Held) else source

    for step in module.steps:
        if step.layer is None and step.output in known:
            sources = tuple(fetched(source) for source in step.sources)
            made = called(step, module.opset, sources, torch.float32, META)
            for name, value in zip(step.node.outputs, made, strict=False):
                if not isinstance(value, Tensor):
                    found[name] = value
    return found


def edit_numbers(site: Site, step: Step) -> None:
    """The numbers of one node that no layer stands for."""
    if step.output in site.dense:
        return  # it makes numbers itself; who reads them gets others where they are wrong
    edit = _EDITS.get(step.node.op)
    if edit is not None:
        edit(site, step)
        return
    for place, source in enumerate(step.sources):
        if not isinstance(source, str) or source not in site.dense:
            continue
        old, new = site.dense[source], site.pruned.get(source)
        if SIZED.get(step.node.op) != place and (new is None or old.tolist() != new.tolist()):
            value = np.array(old.tolist())
            site.document.want(step.output, place, value)


def _split(site: Site, step: Step) -> None:
    """The parts are as long as what is left of them."""
    axis = step.node.attributes.get("axis", 0)
    old, new = (
        [shapes[name][axis] for name in step.node.outputs] for shapes in (site.before, site.after)
    )
    if old == new:
        return
    node = site.document.node(step.output)
    if site.module.opset < 13:
        set_attribute(node, "split", new)
    else:
        site.document.want(step.output, 1, np.array(new, np.int64))
        drop_attribute(node, "num_outputs")


def _slice(site: Site, step: Step) -> None:
    """Start and end move by what is gone before them; an end that is open stays so."""
    starts, ends, axes = (_ints(site, step, place) for place in (1, 2, 3))
    steps = _ints(site, step, 4)
    old = (list(starts), list(ends))
    for place, (start, end) in enumerate(zip(*old, strict=True)):
        mask = site.kept.mask(step.sources[0], axes[place] if axes else place)
        if mask is None:
            continue
        if steps and steps[place] != 1:
            raise SkeletonError(f"{step.node.title} must not cut units in steps, but does")
        first, last, _ = slice(start, end).indices(len(mask))
        starts[place] = int(mask[:first].sum())
        ends[place] = end if end >= len(mask) else int(mask[:last].sum())
    for place, name, value, known in ((1, "starts", starts, old[0]), (2, "ends", ends, old[1])):
        if value == known:
            continue
        if site.module.opset < 10:
            set_attribute(site.document.node(step.output), name, value)
        else:
            site.document.want(step.output, place, np.array(value, np.int64))


def _gather(site: Site, step: Step) -> None:
    """An index of constants picks the units that stay, where they stand now."""
    mask = site.kept.mask(step.sources[0], step.node.attributes.get("axis", 0))
    if mask is None:
        return
    index = _constant(site, step.sources[1])
    if index is None or index.ndim != 1:
        raise SkeletonError(f"{step.node.title} must pick units by a vector, but does otherwise")
    site.document.want(step.output, 1, _moved(mask, index))


def _moved(mask: Mask, index: Array) -> Array:
    chosen = index.astype(np.int64) % len(mask)
    places: Array = np.cumsum(mask) - 1
    return places[chosen[mask[chosen]]]


def _constant(site: Site, source: Source) -> Array | None:
    if isinstance(source, Held):
        held: Tensor = getattr(site.module.held, source.attribute)
        return held.detach().cpu().numpy()
    if isinstance(source, str):
        source = site.dense.get(source)
    return None if source is None else np.array(source.tolist())


def _ints(site: Site, step: Step, place: int) -> list[int]:
    """Numbers of a Slice: attributes before opset 10."""
    if site.module.opset < 10:
        name = ("", "starts", "ends", "axes", "steps")[place]
        return list(step.node.attributes.get(name, ()))
    if place >= len(step.sources):
        return []
    found = _constant(site, step.sources[place])
    return [] if found is None else [int(each) for each in found.reshape(-1)]


_EDITS: Mapping[str, Callable[[Site, Step], None]] = {
    "Gather": _gather,
    "Slice": _slice,
    "Split": _split,
}
