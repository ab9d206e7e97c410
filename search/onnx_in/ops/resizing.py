"""Resize: nearest, linear and cubic, in the coordinate modes that exporters use.

| symbol | meaning |
|---|---|
| i, j | index along a dimension of the output, of the input |
| s | scale, output size over input size |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from search.errors import OnnxError
from search.onnx_in.values import NodeCall, Op, Value, axis_of, numbers

Floats = NDArray[np.float64]
LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}


def resize(call: NodeCall) -> Value:
    """By scales or to sizes; dimensions that keep their size are left alone."""
    call = _as_today(call) if call.opset < 11 else call
    x, settings = call.tensor(0), call.attributes
    for name in ("antialias", "exclude_outside"):
        if settings.get(name, 0):
            raise OnnxError(f"{name} must be 0")
    if settings.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise OnnxError("keep_aspect_ratio_policy must be stretch")
    targets, scales = _targets(call, x)
    mode = settings.get("mode", "nearest")
    if not targets:
        return x
    if mode == "nearest":
        return _nearest(call, x, targets, scales)
    if mode == "linear":
        return _linear(call, x, targets, scales)
    return _cubic(call, x, targets, scales)


def _as_today(call: NodeCall) -> NodeCall:
    """Upsample (opset 7 to 9) and Resize (opset 10): scales, from the corner, rounded down."""
    given = call.attributes.get("scales")
    scales = call.value(1) if given is None else numbers(given)
    fixed = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    attributes = {**call.attributes, **fixed}
    return replace(call, inputs=(call.value(0), None, scales), attributes=attributes)


def _targets(call: NodeCall, x: Tensor) -> tuple[dict[int, int], dict[int, float]]:
    """Dimension -> its new size and its scale, for those that change."""
    by_sizes = call.has(3) and len(call.ints(3)) > 0
    given = call.ints(3 if by_sizes else 2)
    axes = call.attributes.get("axes") or range(x.ndim)
    if len(given) != len(axes):
        raise OnnxError(f"there must be {len(axes)} scales or sizes, but got {len(given)}")
    targets, scales = {}, {}
    for axis, entry in zip((axis_of(axis, x.ndim) for axis in axes), given, strict=True):
        old = x.shape[axis]
        kept = call.pattern is not None and call.pattern[axis][0] == "product"
        if (kept or entry == old) if by_sizes else entry == 1:
            continue
        new = entry if by_sizes else math.floor(old * entry)
        if not isinstance(new, int) or not isinstance(old, int):
            raise OnnxError("the batch must not be resized")
        targets[axis], scales[axis] = new, new / old if by_sizes else float(entry)
    return targets, scales


def _places(call: NodeCall, old: int, new: int, scale: float) -> Floats:
    """The coordinate in the input of every index of the output."""
    mode = call.attributes.get("coordinate_transformation_mode", "half_pixel")
    i = np.arange(new, dtype=np.float64)
    if mode == "asymmetric":
        return i / scale
    if mode == "align_corners":
        return i * (old - 1) / (new - 1) if new > 1 else i * 0
    if mode == "pytorch_half_pixel" and new == 1:
        return i * 0
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return (i + 0.5) / scale - 0.5
    if mode == "half_pixel_symmetric":
        adjustment = new / (old * scale)
        return old / 2 * (1 - adjustment) + (i + 0.5) / scale - 0.5
    raise OnnxError(f"coordinate_transformation_mode {mode!r} is not known")


ROUNDING: Mapping[str, Callable[[Floats], Floats]] = {
    "ceil": np.ceil,
    "floor": np.floor,
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
}


def _nearest(
    call: NodeCall, x: Tensor, targets: dict[int, int], scales: dict[int, float]
) -> Tensor:
    rounding = call.attributes.get("nearest_mode", "round_prefer_floor")
    if rounding not in ROUNDING:
        raise OnnxError(f"nearest_mode must be one of {sorted(ROUNDING)}, but got {rounding!r}")
    chosen = {}
    for dim, new in targets.items():
        places = _places(call, x.shape[dim], new, scales[dim])
        chosen[dim] = np.clip(ROUNDING[rounding](places), 0, x.shape[dim] - 1).astype(np.int64)
    if _is_space(x, targets):
        sizes = [targets.get(dim, x.shape[dim]) for dim in range(2, x.ndim)]
        for native, shift in (("nearest", 0.0), ("nearest-exact", 0.5)):
            if all(_is_native(chosen[dim], x.shape[dim], shift) for dim in targets):
                return functional.interpolate(x, size=sizes, mode=native)
    for dim, index in chosen.items():
        x = x.index_select(dim, torch.from_numpy(index).to(x.device))
    return x


def _is_native(index: NDArray[np.int64], old: int, shift: float) -> bool:
    """Whether torch would choose the same; its scale is in float32, ties are left to us."""
    i = np.arange(len(index))
    exact = (i + shift) * old / len(index)
    near = np.abs(exact - np.round(exact)) < 1e-4
    clear = not bool((near & (exact != np.round(exact))).any())
    return clear and bool((np.minimum(np.floor(exact), old - 1) == index).all())


def _is_space(x: Tensor, targets: dict[int, int]) -> bool:
    return x.ndim in LINEAR and min(targets) >= 2


def _linear(
    call: NodeCall, x: Tensor, targets: dict[int, int], scales: dict[int, float]
) -> Tensor:
    mode = call.attributes.get("coordinate_transformation_mode", "half_pixel")
    exact = all(new == x.shape[dim] * scales[dim] for dim, new in targets.items())
    half = mode == "half_pixel" or (
        mode == "pytorch_half_pixel" and all(new > 1 for new in targets.values())
    )
    if _is_space(x, targets) and exact and (half or mode == "align_corners"):
        sizes = [targets.get(dim, x.shape[dim]) for dim in range(2, x.ndim)]
        corners = mode == "align_corners"
        return functional.interpolate(x, size=sizes, mode=LINEAR[x.ndim], align_corners=corners)
    for dim, new in targets.items():
        x = _lerp(x, dim, _places(call, x.shape[dim], new, scales[dim]))
    return x


def _lerp(x: Tensor, dim: int, places: Floats) -> Tensor:
    """Along one dimension: (1 − w) · x[⌊j⌋] + w · x[⌊j⌋ + 1], held at the borders."""
    held = np.clip(places, 0, x.shape[dim] - 1)
    low = np.minimum(np.floor(held), max(x.shape[dim] - 2, 0)).astype(np.int64)
    weight = torch.tensor((held - low).tolist(), dtype=x.dtype, device=x.device)
    weight = weight.reshape([-1 if d == dim else 1 for d in range(x.ndim)])
    high = np.minimum(low + 1, x.shape[dim] - 1)
    first, second = (
        x.index_select(dim, torch.from_numpy(index).to(x.device)) for index in (low, high)
    )
    return first * (1 - weight) + second * weight


def _cubic(call: NodeCall, x: Tensor, targets: dict[int, int], scales: dict[int, float]) -> Tensor:
    mode = call.attributes.get("coordinate_transformation_mode", "half_pixel")
    exact = all(new == x.shape[dim] * scales[dim] for dim, new in targets.items())
    known = mode in ("half_pixel", "pytorch_half_pixel", "align_corners")
    if not (x.ndim == 4 and min(targets) >= 2 and exact and known) or (
        call.attributes.get("cubic_coeff_a", -0.75) != -0.75
    ):
        raise OnnxError("cubic resizing must be of images, as torch does it, but is not")
    sizes: Sequence[int] = [targets.get(dim, x.shape[dim]) for dim in (2, 3)]
    return functional.interpolate(
        x, size=sizes, mode="bicubic", align_corners=mode == "align_corners"
    )


RESIZING: dict[str, Op] = {"Resize": resize, "Upsample": resize}
