"""Every operator of the table of rules, in a small network around it: what becomes of the units.

The analysis alone, without its verification, so that two hundred operators take seconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search.graph import Group
from search.graph.dependency.operators.registry import OPERATORS
from search.graph.exported.nodes import operator_name
from search.graph.native_program import program_of
from tests.search_tests.graph_tests.around import EACH, EXACT, Around, Body, Indices, columns, conv

Unary = Callable[[Any], Any]
Reducer = Callable[[Any, int], Any]

aten = torch.ops.aten


class SideBySide(nn.Module):
    """Networks that read one image and know nothing of each other: one export for all."""

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()
        for place, network in enumerate(networks):
            self.add_module(str(place), network)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(network(x) for network in self.children())


def analysed(networks: Sequence[tuple[str, Around]]) -> list[dict[str, Group]]:
    """The groups by name, not verified, of networks that really have the operator named before."""
    torch.manual_seed(0)
    model = SideBySide(network for _, network in networks).double()
    program, grouping = program_of(model, (torch.randn(2, 3, 4, 4, dtype=torch.float64),))
    emitted = defaultdict(set)
    for node in program.exported.graph_module.graph.nodes:
        for path, _ in node.meta.get("nn_module_stack", {}).values():
            emitted[path].add(operator_name(node))
    for place, (op, _) in enumerate(networks):
        if op not in emitted[str(place)]:
            raise ValueError(f"it must have the operator {op}, but has {emitted[str(place)]}")
    found: list[dict[str, Group]] = [{} for _ in networks]
    for group in grouping.groups:
        branch, _, name = group.name.partition(".")
        members = [replace(m, tensor=m.tensor.partition(".")[2]) for m in group.members]
        found[int(branch)][name] = replace(group, members=tuple(members))
    return found


def together(op: str, table: Collection[str]) -> tuple[str, ...]:
    """The operators of a table that share an export with one of it."""
    names = list(table)
    first = names.index(op) // 8 * 8
    return tuple(names[first : first + 8])


def line(f: Unary) -> Unary:
    """On signals (N, C, L), given as images and given back as images."""
    return lambda x: f(x.flatten(2)).unsqueeze(3)


def volume(f: Unary) -> Unary:
    """On volumes (N, C, D, H, W)."""
    return lambda x: f(x.unsqueeze(2)).flatten(2, 3)


def rows(f: Unary) -> Unary:
    """On a matrix (N · H · W, C)."""
    return lambda x: f(x.permute(0, 2, 3, 1).reshape(-1, 4)).view(2, 4, 4, 4).permute(0, 3, 1, 2)


ZEROS = torch.zeros(2, 3, 3, 2, dtype=torch.float64)
FIRST = torch.tensor([0, 1])

KEEPING: dict[str, Unary] = {
    "__and__": lambda x: x * ((x > 0) & (x < 1)),
    "__or__": lambda x: x * ((x > 0) | (x < 1)),
    "__xor__": lambda x: x * ((x > 0) ^ (x < 1)),
    "_to_copy": lambda x: aten._to_copy(x, dtype=torch.float64),
    "_unsafe_index": lambda x: aten._unsafe_index(x, [None, None, torch.tensor([0, 1])]),
    "_unsafe_view": lambda x: aten._unsafe_view(x, [x.shape[0], 4, 16]).unsqueeze(3),
    "_upsample_bicubic2d_aa": lambda x: F.interpolate(
        x, size=(8, 8), mode="bicubic", antialias=True
    ),
    "_upsample_bilinear2d_aa": lambda x: F.interpolate(
        x, size=(8, 8), mode="bilinear", antialias=True
    ),
    "_upsample_nearest_exact1d": line(lambda x: F.interpolate(x, size=8, mode="nearest-exact")),
    "_upsample_nearest_exact2d": lambda x: F.interpolate(x, size=(8, 8), mode="nearest-exact"),
    "_upsample_nearest_exact3d": volume(
        lambda x: F.interpolate(x, size=(2, 8, 8), mode="nearest-exact")
    ),
    "absolute": torch.absolute,
    "adaptive_avg_pool1d": line(lambda x: F.adaptive_avg_pool1d(x, 4)),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 2),
    "adaptive_avg_pool3d": volume(lambda x: F.adaptive_avg_pool3d(x, (1, 2, 2))),
    "adaptive_max_pool1d": line(lambda x: F.adaptive_max_pool1d(x, 4)),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 2),
    "adaptive_max_pool3d": volume(lambda x: F.adaptive_max_pool3d(x, (1, 2, 2))),
    "adjoint": lambda x: x.adjoint().relu().adjoint(),
    "alias": aten.alias,
    "alpha_dropout": lambda x: F.alpha_dropout(x, 0.5, training=False),
    "arccos": lambda x: torch.arccos(x.tanh()),
    "arcsin": lambda x: torch.arcsin(x.tanh()),
    "arctan": torch.arctan,
    "arctan2": lambda x: torch.arctan2(x, x.exp()),
    "atleast_1d": torch.atleast_1d,
    "atleast_2d": torch.atleast_2d,
    "atleast_3d": torch.atleast_3d,
    "avg_pool1d": line(lambda x: F.avg_pool1d(x, 2)),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "avg_pool3d": volume(lambda x: F.avg_pool3d(x, (1, 2, 2))),
    "bernoulli": lambda x: x * torch.bernoulli(x.sigmoid()),
    "broadcast_tensors": lambda x: torch.mul(*torch.broadcast_tensors(x, x.sum(2, keepdim=True))),
    "broadcast_to": lambda x: x.mean((2, 3), keepdim=True).broadcast_to(x.shape),
    "chunk": lambda x: x.chunk(2, 2)[0],
    "clip": lambda x: torch.clip(x, -1, 1),
    "clone": torch.clone,
    "complex": lambda x: torch.complex(x, x).real,
    "concat": lambda x: torch.concat([x, x], 2),
    "concatenate": lambda x: torch.concatenate([x, x], 2),
    "cat": lambda x: torch.cat([x, x], 2),
    "_conj": lambda x: torch.conj(torch.complex(x, x)).real,
    "constant_pad_nd": lambda x: aten.constant_pad_nd(x, [1, 1]),
    "contiguous": lambda x: aten.contiguous(x),
    "copy": lambda x: torch.zeros_like(x).copy_(x),
    "cumsum": lambda x: x.cumsum(2),
    "detach": lambda x: x.detach(),
    "dsplit": lambda x: x.dsplit(2)[0],
    "dstack": lambda x: torch.dstack([x, x]),
    "divide": lambda x: torch.divide(x, x.exp()),
    "dot": lambda x: x * torch.dot(x.sum((0, 1)).flatten(), torch.ones(16, dtype=x.dtype)),
    "vdot": lambda x: x * torch.vdot(x.sum((0, 1)).flatten(), torch.ones(16, dtype=x.dtype)),
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
    "empty": lambda x: x + 0 * torch.empty(x.shape, dtype=x.dtype),
    "empty_like": lambda x: x + 0 * torch.empty_like(x),
    "expand": lambda x: x.mean((2, 3), keepdim=True).expand(x.shape),
    "expand_as": lambda x: x.mean((2, 3), keepdim=True).expand_as(x),
    "feature_alpha_dropout": lambda x: F.feature_alpha_dropout(x, 0.5, training=False),
    "feature_dropout": lambda x: F.dropout2d(x, 0.5, training=False),
    "fill": lambda x: x * torch.ones_like(x).fill_(2.0),
    "fix": lambda x: x + torch.fix(x),
    "flatten": lambda x: x.flatten(2).unflatten(2, (4, 4)),
    "flip": lambda x: x.flip(2),
    "fliplr": lambda x: x.transpose(1, 2).fliplr().transpose(1, 2),
    "flipud": lambda x: x.flipud(),
    "floor_divide": lambda x: torch.floor_divide(x, x.exp()),
    "full": lambda x: x * torch.full(x.shape, 2.0, dtype=x.dtype),
    "full_like": lambda x: x * torch.full_like(x, 2.0),
    "gather": lambda x: x.gather(2, x.argsort(2)),
    "greater": lambda x: x * torch.greater(x, 0),
    "greater_equal": lambda x: x * torch.greater_equal(x, 0),
    "grid_sampler": lambda x: F.grid_sample(x, ZEROS, align_corners=False),
    "grid_sampler_2d": lambda x: aten.grid_sampler_2d(x, ZEROS, 0, 0, False),
    "grid_sampler_3d": volume(
        lambda x: aten.grid_sampler_3d(x, F.pad(ZEROS, (0, 1)).unsqueeze(1), 0, 0, False)
    ),
    "hardswish": F.hardswish,
    "hsplit": lambda x: x.transpose(1, 2).hsplit(2)[0].transpose(1, 2),
    "hstack": lambda x: torch.hstack([x.transpose(1, 2)] * 2).transpose(1, 2),
    "column_stack": lambda x: torch.column_stack([x.transpose(1, 2)] * 2).transpose(1, 2),
    "imag": lambda x: torch.imag(torch.complex(x, x)),
    "index": lambda x: x[:, :, torch.tensor([0, 2])],
    "index_add": lambda x: x.index_add(2, FIRST, x[:, :, 1:3]),
    "index_copy": lambda x: x.index_copy(2, FIRST, x[:, :, 1:3]),
    "index_fill": lambda x: x.index_fill(2, FIRST, 0.5),
    "index_put": lambda x: x.index_put((x.sum((1, 2, 3)) > 0,), x.sum()),
    "index_reduce": lambda x: x.index_reduce(2, FIRST, x[:, :, 1:3], "amax"),
    "index_select": lambda x: x.index_select(2, torch.tensor([0, 2])),
    "isclose": lambda x: x * torch.isclose(x, x.exp()),
    "less": lambda x: x * torch.less(x, 0),
    "less_equal": lambda x: x * torch.less_equal(x, 0),
    "lift_fresh_copy": lambda x: x * torch.tensor(2.0),
    "log_sigmoid": F.logsigmoid,
    "mH": lambda x: x.mH.relu().mH,
    "mT": lambda x: x.mT.relu().mT,
    "matrix_H": rows(lambda r: r.H.relu().H),
    "max_pool1d": line(lambda x: F.max_pool1d(x, 2)),
    "max_pool1d_with_indices": line(lambda x: F.max_pool1d(x, 2, return_indices=True)[0]),
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "max_pool2d_with_indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "max_pool3d": volume(lambda x: F.max_pool3d(x, (1, 2, 2))),
    "max_pool3d_with_indices": volume(
        lambda x: F.max_pool3d(x, (1, 2, 2), return_indices=True)[0]
    ),
    "max_unpool2d": lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), (2, 2)),
    "max_unpool3d": volume(
        lambda x: F.max_unpool3d(*F.max_pool3d(x, (1, 2, 2), return_indices=True), (1, 2, 2))
    ),
    "moveaxis": lambda x: torch.moveaxis(torch.moveaxis(x, 1, 3).relu(), 3, 1),
    "movedim": lambda x: x.movedim(1, 3).relu().movedim(3, 1),
    "multiply": lambda x: torch.multiply(x, x),
    "mv": lambda x: x * rows(lambda r: torch.mv(r, r.mean(0).detach()).unsqueeze(1) * r)(x),
    "narrow": lambda x: x.narrow(2, 1, 2),
    "native_channel_shuffle": lambda x: torch.native_channel_shuffle(x, 1),
    "negative": torch.negative,
    "new_empty": lambda x: x + 0 * x.new_empty(x.shape),
    "new_full": lambda x: x * x.new_full(x.shape, 2.0),
    "new_ones": lambda x: x * x.new_ones(x.shape),
    "new_zeros": lambda x: x + x.new_zeros(x.shape),
    "not_equal": lambda x: x * torch.not_equal(x, 0),
    "numpy_T": rows(lambda r: r.T.relu().T),
    "ones": lambda x: x * torch.ones(x.shape, dtype=x.dtype),
    "ones_like": lambda x: x * torch.ones_like(x),
    "pad": lambda x: F.pad(x, (1, 1, 0, 2)),
    "permute": lambda x: x.permute(0, 2, 3, 1).relu().permute(0, 3, 1, 2),
    "polar": lambda x: torch.polar(x.abs(), x).real,
    "rand_like": lambda x: x * torch.rand_like(x),
    "randn_like": lambda x: x * torch.randn_like(x),
    "ravel": lambda x: x.ravel().reshape(x.shape),
    "real": lambda x: torch.real(torch.complex(x, x)),
    "repeat": lambda x: x.repeat(1, 1, 2, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 2),
    "reshape": lambda x: x.reshape(2, 4, 16).reshape(2, 4, 4, 4),
    "reshape_as": lambda x: x.flatten(2).reshape_as(x),
    "roll": lambda x: x.roll(1, 2),
    "rot90": lambda x: x.rot90(1, (1, 2)).relu().rot90(-1, (1, 2)),
    "resolve_conj": lambda x: x.resolve_conj(),
    "resolve_neg": lambda x: x.resolve_neg(),
    "row_stack": lambda x: torch.row_stack([x, x]),
    "rrelu": lambda x: F.rrelu(x, training=False),
    "rsub": lambda x: 1.5 - x,
    "scatter": lambda x: x.scatter(2, x.argsort(2), x * 2),
    "scatter_add": lambda x: x.scatter_add(2, x.argsort(2), x * 2),
    "scatter_reduce": lambda x: x.scatter_reduce(2, x.argsort(2), x * 2, "amax"),
    "select": lambda x: x[:, :, 1].unsqueeze(2),
    "slice": lambda x: x[:, :, 1:],
    "split": lambda x: x.split(2, 2)[1],
    "split_with_sizes": lambda x: x.split([1, 3], 2)[1],
    "squeeze": lambda x: x.mean((2, 3), keepdim=True).squeeze(3).unsqueeze(3),
    "stack": lambda x: torch.stack([x, x], 2).flatten(2, 3),
    "subtract": lambda x: torch.subtract(x, 2 * x),
    "swapaxes": lambda x: x.swapaxes(1, 3).relu().swapaxes(1, 3),
    "swapdims": lambda x: x.swapdims(1, 3).relu().swapdims(1, 3),
    "t": rows(lambda r: r.t().relu().t()),
    "take_along_dim": lambda x: torch.take_along_dim(x, x.argsort(2), 2),
    "tensor_split": lambda x: x.tensor_split(2, 2)[0],
    "tile": lambda x: x.tile(1, 1, 2, 1),
    "to": lambda x: x.to(torch.float32).to(torch.float64),
    "transpose": lambda x: x.transpose(1, 3).relu().transpose(1, 3),
    "tril": torch.tril,
    "triu": torch.triu,
    "true_divide": lambda x: torch.true_divide(x, x.exp()),
    "type_as": lambda x: x.type_as(x),
    "unbind": lambda x: x.unbind(2)[1].unsqueeze(2),
    "unflatten": lambda x: x.flatten(2).unflatten(2, (2, 8)),
    "unfold": lambda x: x.unfold(2, 2, 2).flatten(3),
    "unsafe_chunk": lambda x: x.unsafe_chunk(2, 2)[0],
    "unsafe_split": lambda x: x.unsafe_split(2, 2)[0],
    "unsafe_split_with_sizes": lambda x: x.unsafe_split_with_sizes([1, 3], 2)[1],
    "unsqueeze": lambda x: x.unsqueeze(0).squeeze(0),
    "upsample_bicubic2d": lambda x: F.interpolate(x, size=(8, 8), mode="bicubic"),
    "upsample_bilinear2d": lambda x: F.interpolate(x, size=(8, 8), mode="bilinear"),
    "upsample_linear1d": line(lambda x: F.interpolate(x, size=8, mode="linear")),
    "upsample_nearest1d": line(lambda x: F.interpolate(x, size=8)),
    "upsample_nearest2d": lambda x: F.interpolate(x, size=(8, 8)),
    "upsample_nearest3d": volume(lambda x: F.interpolate(x, size=(2, 8, 8))),
    "upsample_trilinear3d": volume(lambda x: F.interpolate(x, size=(2, 8, 8), mode="trilinear")),
    "view": lambda x: x.view(2, 4, 16).view(2, 4, 4, 4),
    "view_as": lambda x: x.flatten(2).view_as(x),
    "view_as_complex": lambda x: torch.view_as_complex(x.unflatten(3, (2, 2))).real,
    "view_as_real": lambda x: torch.view_as_real(torch.complex(x, x)).flatten(3),
    "vsplit": lambda x: torch.vstack([x, x]).vsplit(2)[0],
    "vstack": lambda x: torch.vstack([x, x]),
    "where": lambda x: torch.where(x > 0, x, x * 0.1),
    "zero": lambda x: x + torch.ones_like(x).zero_(),
    "zeros": lambda x: x + torch.zeros(x.shape, dtype=x.dtype),
    "zeros_like": lambda x: x + torch.zeros_like(x),
    "special_gammainc": lambda x: torch.special.gammainc(x.exp(), x.exp()),
    "special_gammaincc": lambda x: torch.special.gammaincc(x.exp(), x.exp()),
    "special_multigammaln": lambda x: torch.special.multigammaln(x.exp() + 2, 2),
    "special_polygamma": lambda x: torch.special.polygamma(1, x.exp()),
    "special_xlogy": lambda x: torch.special.xlogy(x, x.exp()),
}
for name in (
    "digamma", "erf", "erfc", "erfinv", "exp2", "expit", "expm1", "gammaln", "i0", "log1p",
    "logit", "ndtr", "psi", "round", "sinc",
):  # fmt: skip
    KEEPING[f"special_{name}"] = getattr(torch.special, name)


@cache
def keeping(ops: tuple[str, ...]) -> dict[str, dict[str, Group]]:
    def network(op: str) -> Around:
        return Around(lambda m, x: m.b(KEEPING[op](x)), 4, b=conv(4))

    return dict(zip(ops, analysed([(op, network(op)) for op in ops]), strict=True))


@pytest.mark.parametrize("op", KEEPING)
def test_units_go_through_one_by_one(op: str) -> None:
    groups = keeping(together(op, KEEPING))[op]
    assert (groups["a"].status, groups["a"].reason) == ("prunable", "")
    assert columns(groups["a"], "a.weight", 0) == columns(groups["a"], "b.weight") == EACH


# Operators over one dimension: what becomes of the units when it is theirs.
OVER: dict[str, tuple[Reducer, str]] = {
    "_log_softmax": (lambda x, d: aten._log_softmax(x, d, False), "frozen"),
    "_softmax": (lambda x, d: aten._softmax(x, d, False), "frozen"),
    "aminmax": (lambda x, d: x * torch.aminmax(x, dim=d, keepdim=True)[0], "frozen"),
    "all": (lambda x, d: x * (x > 0).all(d, keepdim=True), "frozen"),
    "amax": (lambda x, d: x * x.amax(d, keepdim=True), "frozen"),
    "amin": (lambda x, d: x * x.amin(d, keepdim=True), "frozen"),
    "any": (lambda x, d: x * (x > 0).any(d, keepdim=True), "frozen"),
    "argmax": (lambda x, d: x * x.argmax(d, keepdim=True), "frozen"),
    "argmin": (lambda x, d: x * x.argmin(d, keepdim=True), "frozen"),
    "argsort": (lambda x, d: x * x.argsort(d), "frozen"),
    "cosine_similarity": (
        lambda x, d: x * F.cosine_similarity(x, x.sigmoid(), d).unsqueeze(d),
        "prunable",
    ),
    "cross": (
        lambda x, d: x * torch.cross(x.narrow(d, 0, 3), x.narrow(d, 1, 3), dim=d).sum(d, True),
        "frozen",
    ),
    "cummax": (lambda x, d: x.cummax(d)[0], "frozen"),
    "cummin": (lambda x, d: x.cummin(d)[0], "frozen"),
    "cumprod": (lambda x, d: x.cumprod(d), "frozen"),
    "diff": (lambda x, d: torch.diff(x, dim=d, prepend=x.sum(d, keepdim=True)), "frozen"),
    "fft_fft": (lambda x, d: torch.fft.fft(x, dim=d).real, "frozen"),
    "fft_fft2": (lambda x, d: torch.fft.fft2(x, dim=(d, 2)).real, "frozen"),
    "fft_fftshift": (lambda x, d: torch.fft.fftshift(x, dim=d), "frozen"),
    "fft_ifftshift": (lambda x, d: torch.fft.ifftshift(x, dim=d), "frozen"),
    "fft_irfftn": (
        lambda x, d: torch.fft.irfftn(torch.complex(x, x), s=(4,), dim=(d,)),
        "frozen",
    ),
    "fft_rfftn": (lambda x, d: torch.fft.rfftn(x, s=(6,), dim=(d,)).real, "frozen"),
    "frobenius_norm": (lambda x, d: x * aten.frobenius_norm(x, [d], True), "prunable"),
    "fft_fftn": (lambda x, d: torch.fft.fftn(x, dim=(d,)).real, "frozen"),
    "fft_ifft": (lambda x, d: torch.fft.ifft(x, dim=d).real, "frozen"),
    "fft_ifft2": (lambda x, d: torch.fft.ifft2(x, dim=(d, 2)).real, "frozen"),
    "fft_ifftn": (lambda x, d: torch.fft.ifftn(x, dim=(d,)).real, "frozen"),
    "fft_irfft": (lambda x, d: torch.fft.irfft(torch.complex(x, x), n=4, dim=d), "frozen"),
    "fft_irfft2": (
        lambda x, d: torch.fft.irfft2(torch.complex(x, x), s=(4, 4), dim=(2, d)),
        "frozen",
    ),
    "fft_rfft": (lambda x, d: torch.fft.rfft(x, n=6, dim=d).real, "frozen"),
    "fft_rfft2": (lambda x, d: torch.fft.rfft2(x, s=(4, 6), dim=(2, d)).real, "frozen"),
    "kthvalue": (lambda x, d: x * x.kthvalue(2, d, keepdim=True)[0], "frozen"),
    "linalg_cross": (
        lambda x, d: (
            x * torch.linalg.cross(x.narrow(d, 0, 3), x.narrow(d, 1, 3), dim=d).sum(d, True)
        ),
        "frozen",
    ),
    "linalg_vector_norm": (
        lambda x, d: x * torch.linalg.vector_norm(x, dim=d, keepdim=True),
        "prunable",
    ),
    "linalg_norm": (lambda x, d: x * torch.linalg.norm(x, dim=d, keepdim=True), "prunable"),
    "log_softmax": (lambda x, d: x.log_softmax(d), "frozen"),
    "logcumsumexp": (lambda x, d: x.logcumsumexp(d), "frozen"),
    "logsumexp": (lambda x, d: x * x.logsumexp(d, keepdim=True), "frozen"),
    "max": (lambda x, d: x * x.max(d, keepdim=True)[0], "frozen"),
    "mean": (lambda x, d: x * x.mean(d, keepdim=True), "approximate"),
    "median": (lambda x, d: x * x.median(d, keepdim=True)[0], "frozen"),
    "min": (lambda x, d: x * x.min(d, keepdim=True)[0], "frozen"),
    "mode": (lambda x, d: x * x.mode(d, keepdim=True)[0], "frozen"),
    "nanmean": (lambda x, d: x * x.nanmean(d, keepdim=True), "approximate"),
    "nanmedian": (lambda x, d: x * x.nanmedian(d, keepdim=True)[0], "frozen"),
    "nansum": (lambda x, d: x * x.nansum(d, keepdim=True), "prunable"),
    "norm": (lambda x, d: x * aten.norm(x, 2, [d], True), "prunable"),
    "pairwise_distance": (
        lambda x, d: x * F.pairwise_distance(x.movedim(d, -1), x.movedim(d, -1) + 1).unsqueeze(d),
        "approximate",
    ),
    "prod": (lambda x, d: x * x.prod(d, keepdim=True), "frozen"),
    "softmax": (lambda x, d: x.softmax(d), "frozen"),
    "sort": (lambda x, d: x.sort(d)[0], "frozen"),
    "special_log_softmax": (lambda x, d: torch.special.log_softmax(x, d), "frozen"),
    "special_logsumexp": (
        lambda x, d: x * torch.special.logsumexp(x, d, keepdim=True),
        "frozen",
    ),
    "special_softmax": (lambda x, d: torch.special.softmax(x, d), "frozen"),
    "std": (lambda x, d: x * x.std(d, keepdim=True), "approximate"),
    "std_mean": (lambda x, d: x * torch.std_mean(x, d, keepdim=True)[0], "approximate"),
    "sum": (lambda x, d: x * x.sum(d, keepdim=True), "prunable"),
    "topk": (lambda x, d: x.topk(4, d)[0], "frozen"),
    "var": (lambda x, d: x * x.var(d, keepdim=True), "approximate"),
    "var_mean": (lambda x, d: x * torch.var_mean(x, d, keepdim=True)[0], "approximate"),
}


@cache
def beside_and_along(ops: tuple[str, ...]) -> dict[str, list[dict[str, Group]]]:
    def beside(over: Reducer) -> Around:
        return Around(lambda m, x: m.b(over(x, 3)), 4, b=conv(4))

    def along(over: Reducer) -> Around:
        layers = {"b": conv(4, EXACT), "c": conv(EXACT)}
        return Around(lambda m, x: m.c(m.b(over(x, 1))), 4, **layers)

    found = analysed([(op, make(OVER[op][0])) for op in ops for make in (beside, along)])
    return {op: found[2 * place : 2 * place + 2] for place, op in enumerate(ops)}


@pytest.mark.parametrize("op", OVER)
def test_operators_over_one_dimension(op: str) -> None:
    beside, along = beside_and_along(together(op, OVER))[op]
    assert (beside["a"].status, beside["a"].reason) == ("prunable", "")
    assert columns(beside["a"], "b.weight") == EACH
    assert along["a"].status == OVER[op][1]


# What reads units by weights: body, layers, and the indices that read or hold them.
READING: dict[str, tuple[Body, dict[str, nn.Module], tuple[str, int, Indices]]] = {
    "_weight_norm": (
        lambda m, x: m.b(F.conv2d(x, torch._weight_norm(m.v.weight, m.v.bias, 0))),
        {"v": nn.Conv2d(4, 4, 1), "b": conv(4)},
        ("v.weight", 1, EACH),
    ),
    "_weight_norm_interface": (
        lambda m, x: m.b(F.conv2d(x, aten._weight_norm_interface(m.v.weight, m.v.bias)[0])),
        {"v": nn.Conv2d(4, 4, 1), "b": conv(4)},
        ("v.weight", 1, EACH),
    ),
    "addmm": (
        lambda m, x: torch.addmm(m.q.bias, x.mean((2, 3)), m.q.weight.t()),
        {"q": nn.Linear(4, 6)},
        ("q.weight", 1, EACH),
    ),
    "addmv": (
        lambda m, x: torch.addmv(m.q.bias, m.q.weight, x.mean((0, 2, 3))),
        {"q": nn.Linear(4, 6)},
        ("q.weight", 1, EACH),
    ),
    "baddbmm": (
        lambda m, x: torch.baddbmm(
            m.q.bias, x.flatten(2).mT, m.q.weight.t().expand(x.shape[0], 4, 6)
        ),
        {"q": nn.Linear(4, 6)},
        ("q.weight", 1, EACH),
    ),
    "batch_norm": (
        lambda m, x: m.b(m.n(x)),
        {"n": nn.BatchNorm2d(4), "b": conv(4)},
        ("n.running_var", 0, EACH),
    ),
    "bilinear": (
        lambda m, x: m.q(x.mean((2, 3)), x.amax((2, 3))),
        {"q": nn.Bilinear(4, 4, 6)},
        ("q.weight", 2, EACH),
    ),
    "bmm": (
        lambda m, x: torch.bmm(x.flatten(2).mT, m.q.weight.t().expand(x.shape[0], 4, 6)),
        {"q": nn.Linear(4, 6)},
        ("q.weight", 1, EACH),
    ),
    "cdist": (
        lambda m, x: torch.cdist(x.flatten(2).mT, m.q.weight),
        {"q": nn.Linear(4, 6)},
        ("q.weight", 1, EACH),
    ),
    "channel_shuffle": (
        lambda m, x: m.b(F.channel_shuffle(x, 2)),
        {"b": conv(4)},
        ("b.weight", 1, [[0, 1], [2, 3]]),
    ),
    "col2im": (
        lambda m, x: m.b(F.fold(F.unfold(x, 2), (4, 4), 2)),
        {"b": conv(4)},
        ("b.weight", 1, EACH),
    ),
    "conv1d": (lambda m, x: m.d(x.flatten(2)), {"d": nn.Conv1d(4, 2, 3)}, ("d.weight", 1, EACH)),
    "conv2d": (lambda m, x: m.d(x), {"d": nn.Conv2d(4, 2, 3)}, ("d.weight", 1, EACH)),
    "conv3d": (
        lambda m, x: m.d(x.unsqueeze(2)),
        {"d": nn.Conv3d(4, 2, 1)},
        ("d.weight", 1, EACH),
    ),
    "conv_transpose1d": (
        lambda m, x: m.d(x.flatten(2)),
        {"d": nn.ConvTranspose1d(4, 2, 3)},
        ("d.weight", 0, EACH),
    ),
    "conv_transpose2d": (
        lambda m, x: m.d(x),
        {"d": nn.ConvTranspose2d(4, 2, 3)},
        ("d.weight", 0, EACH),
    ),
    "conv_transpose3d": (
        lambda m, x: m.d(x.unsqueeze(2)),
        {"d": nn.ConvTranspose3d(4, 2, 1)},
        ("d.weight", 0, EACH),
    ),
    "convolution": (
        lambda m, x: torch.convolution(
            x, m.d.weight, m.d.bias, [1, 1], [0, 0], [1, 1], False, [0, 0], 1
        ),
        {"d": conv(4)},
        ("d.weight", 1, EACH),
    ),
    "einsum": (
        lambda m, x: torch.einsum("nchw,oc->nohw", x, m.q.weight),
        {"q": nn.Linear(4, 6)},
        ("q.weight", 1, EACH),
    ),
    "embedding": (
        lambda m, x: m.b(x + m.e(torch.zeros(1, 1, dtype=torch.long)).movedim(2, 1)[..., None]),
        {"e": nn.Embedding(5, 4), "b": conv(4)},
        ("e.weight", 1, EACH),
    ),
    "embedding_bag": (
        lambda m, x: m.b(x + m.e(torch.zeros(2, 3, dtype=torch.long))[..., None, None]),
        {"e": nn.EmbeddingBag(5, 4), "b": conv(4)},
        ("e.weight", 1, EACH),
    ),
    "glu": (
        lambda m, x: m.b(F.glu(x, 1)),
        {"b": conv(2)},
        ("a.weight", 0, [[0, 2], [1, 3]]),
    ),
    "group_norm": (
        lambda m, x: m.b(m.n(x)),
        {"n": nn.GroupNorm(2, 4), "b": conv(4)},
        ("n.weight", 0, [[0, 2], [1, 3]]),
    ),
    "gru": (
        lambda m, x: m.r(x.flatten(2).mT)[0],
        {"r": nn.GRU(4, 3, batch_first=True)},
        ("r.weight_ih_l0", 1, EACH),
    ),
    "gru_cell": (
        lambda m, x: m.r(x.mean((2, 3))),
        {"r": nn.GRUCell(4, 3)},
        ("r.weight_ih", 1, EACH),
    ),
    "im2col": (
        lambda m, x: m.q(F.unfold(x, 2).mT),
        {"q": nn.Linear(16, 3)},
        ("q.weight", 1, [[*range(4 * unit, 4 * unit + 4)] for unit in range(4)]),
    ),
    "inner": (
        lambda m, x: torch.inner(x.movedim(1, 3), m.q.weight),
        {"q": nn.Linear(4, 6)},
        ("q.weight", 1, EACH),
    ),
    "instance_norm": (
        lambda m, x: m.b(m.n(x)),
        {"n": nn.InstanceNorm2d(4, affine=True), "b": conv(4)},
        ("n.weight", 0, EACH),
    ),
    "layer_norm": (
        lambda m, x: m.q(m.n(x.movedim(1, 3))),
        {"n": nn.LayerNorm(4), "q": nn.Linear(4, 3)},
        ("n.weight", 0, EACH),
    ),
    "linear": (
        lambda m, x: m.q(x.movedim(1, 3)),
        {"q": nn.Linear(4, 3)},
        ("q.weight", 1, EACH),
    ),
    "lstm": (
        lambda m, x: m.r(x.flatten(2).mT)[0],
        {"r": nn.LSTM(4, 3, batch_first=True)},
        ("r.weight_ih_l0", 1, EACH),
    ),
    "lstm_cell": (
        lambda m, x: m.r(x.mean((2, 3)))[0],
        {"r": nn.LSTMCell(4, 3)},
        ("r.weight_ih", 1, EACH),
    ),
    "matmul": (
        lambda m, x: x.movedim(1, 3) @ m.q.weight.t(),
        {"q": nn.Linear(4, 6)},
        ("q.weight", 1, EACH),
    ),
    "mm": (
        lambda m, x: torch.mm(x.mean((2, 3)), m.q.weight.t()),
        {"q": nn.Linear(4, 6)},
        ("q.weight", 1, EACH),
    ),
    "outer": (
        lambda m, x: torch.outer(m.q.bias, x.mean((0, 2, 3))) @ m.q.weight.t(),
        {"q": nn.Linear(4, 6)},
        ("q.weight", 1, EACH),
    ),
    "pixel_shuffle": (
        lambda m, x: m.b(F.pixel_shuffle(x.repeat_interleave(4, 1), 2)),
        {"b": conv(4)},
        ("b.weight", 1, EACH),
    ),
    "pixel_unshuffle": (
        lambda m, x: m.b(F.pixel_unshuffle(x, 2)),
        {"b": conv(16)},
        ("b.weight", 1, [[*range(4 * unit, 4 * unit + 4)] for unit in range(4)]),
    ),
    "prelu": (lambda m, x: m.b(m.p(x)), {"p": nn.PReLU(4), "b": conv(4)}, ("p.weight", 0, EACH)),
    "rms_norm": (
        lambda m, x: m.q(m.n(x.movedim(1, 3))),
        {"n": nn.RMSNorm(4), "q": nn.Linear(4, 3)},
        ("n.weight", 0, EACH),
    ),
    "rnn_relu": (
        lambda m, x: m.r(x.flatten(2).mT)[0],
        {"r": nn.RNN(4, 3, nonlinearity="relu", batch_first=True)},
        ("r.weight_ih_l0", 1, EACH),
    ),
    "rnn_relu_cell": (
        lambda m, x: m.r(x.mean((2, 3))),
        {"r": nn.RNNCell(4, 3, nonlinearity="relu")},
        ("r.weight_ih", 1, EACH),
    ),
    "rnn_tanh": (
        lambda m, x: m.r(x.flatten(2).mT)[0],
        {"r": nn.RNN(4, 3, batch_first=True)},
        ("r.weight_ih_l0", 1, EACH),
    ),
    "rnn_tanh_cell": (
        lambda m, x: m.r(x.mean((2, 3))),
        {"r": nn.RNNCell(4, 3)},
        ("r.weight_ih", 1, EACH),
    ),
    "scaled_dot_product_attention": (
        lambda m, x: m.q(F.scaled_dot_product_attention(*[x.flatten(2).mT] * 3)),
        {"q": nn.Linear(4, 3)},
        ("q.weight", 1, EACH),
    ),
    "tensordot": (
        lambda m, x: torch.tensordot(x, m.q.weight, dims=([1], [1])),
        {"q": nn.Linear(4, 6)},
        ("q.weight", 1, EACH),
    ),
}


@cache
def reading(ops: tuple[str, ...]) -> dict[str, dict[str, Group]]:
    networks = [(op, Around(READING[op][0], 4, **READING[op][1])) for op in ops]
    return dict(zip(ops, analysed(networks), strict=True))


@pytest.mark.parametrize("op", READING)
def test_operators_that_read_units_by_their_weights(op: str) -> None:
    groups = reading(together(op, READING))[op]
    tensor, dim, expected = READING[op][2]
    assert groups["a"].status != "frozen"
    assert columns(groups["a"], tensor, dim) == expected


def test_every_rule_is_tested() -> None:
    """The table holds no operator that no network can have."""
    with_rule = [name for name, record in OPERATORS.items() if record.propagate]
    assert sorted({*KEEPING, *OVER, *READING}) == sorted(with_rule)
