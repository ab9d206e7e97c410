"""The dense graph run with units absent: NaN marks what is not there.

An interpreter of the exported ATen graph. Parameters come with NaN wherever they belong to a
removed unit; pointwise operators and shape changes carry NaN along by themselves. Contractions
skip it (an output is absent where everything that it would sum is), and norms, means and softmax
run over what is present. A removed unit that leaks into an output turns it into NaN, so leaks
cannot pass. Weights that are standardised keep the mean and variance that they have in the dense
model. It shares nothing with the library: no labels, no rules, no groups.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from benchmarks.coverage.redraw import tensors_of

NAN = float("nan")

Weights: TypeAlias = Mapping[fx.Node, Tensor]
NO_WEIGHTS: Weights = MappingProxyType({})
_SPREADS = ("batch_norm", "std", "std_mean", "var", "var_mean")


class AbsentUnits(fx.Interpreter):
    """Runs one model's graph on marked parameters.

    Args:
        model: the dense model.
        inputs: what it is exported with, and later run with.
    """

    def __init__(self, model: nn.Module, inputs: Sequence[Tensor]) -> None:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            self._program = torch.export.export(model, tuple(inputs), strict=False)
        super().__init__(self._program.graph_module)
        self._weights, self._standardised = self._nodes_of_weights()

    @property
    def standardises(self) -> bool:
        """Whether the model takes the variance of a weight before it uses it."""
        return bool(self._standardised)

    def outputs(
        self, marked: nn.Module, inputs: Sequence[Tensor], weights: Weights = NO_WEIGHTS
    ) -> list[Tensor]:
        """The tensors that the model returns when what is NaN in `marked` is absent.

        Args:
            marked: the dense model with NaN for what is absent.
            inputs: the model's inputs.
            weights: those that are standardised; see `standardised`.
        """
        arguments = self._arguments(marked, inputs)
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            results = self.run(*arguments, initial_env=dict(weights))
        mutated = len(self._program.graph_signature.buffers_to_mutate)
        return [value for value in results[mutated:] if isinstance(value, Tensor)]

    def standardised(
        self, dense: nn.Module, inputs: Sequence[Tensor], marks: Iterable[tuple[nn.Module, float]]
    ) -> Weights:
        """The weights that are standardised, by the statistics that they have in `dense`.

        Args:
            dense: the dense model.
            inputs: the model's inputs.
            marks: the same with NaN for what is absent, and the value that stands for that.
        """
        values = self._computed(self._arguments(dense, inputs))
        for marked, value in marks:
            after = self._computed(self._arguments(marked, inputs))
            for node in self._standardised:
                values[node] = values[node].masked_fill(after[node].isnan(), value)
        return {node: values[node] for node in self._standardised}

    def _arguments(self, marked: nn.Module, inputs: Sequence[Tensor]) -> list[Any]:
        tensors = tensors_of(marked)
        given = iter(inputs)
        arguments: list[Any] = []
        for spec in self._program.graph_signature.input_specs:
            if spec.kind is InputKind.USER_INPUT:
                arguments.append(next(given).clone())
            elif spec.target in tensors:
                arguments.append(tensors[spec.target].detach().clone())
            else:
                arguments.append(self._program.constants[str(spec.target)].clone())
        return arguments

    def _computed(self, arguments: Sequence[Any]) -> dict[fx.Node, Any]:
        """Everything that is computed from weights alone."""
        values: dict[fx.Node, Any] = dict(zip(self._placeholders(), arguments, strict=True))
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            for node in self._weights:
                args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = self.call_function(node.target, args, kwargs)
        return values

    def _placeholders(self) -> list[fx.Node]:
        return list(self._program.graph_module.graph.find_nodes(op="placeholder"))

    def _nodes_of_weights(self) -> tuple[list[fx.Node], list[fx.Node]]:
        """The nodes that depend on weights alone, and those of them that come after a variance
        and that others read."""
        specs = self._program.graph_signature.input_specs
        pairs = zip(self._placeholders(), specs, strict=True)
        known = {node for node, spec in pairs if spec.kind is not InputKind.USER_INPUT}
        found, after = list[fx.Node](), set[fx.Node]()
        for node in self._program.graph_module.graph.nodes:
            sources = node.all_input_nodes
            if node.op == "call_function" and sources and known.issuperset(sources):
                known.add(node)
                found.append(node)
                if _name(node.target) in _SPREADS or not after.isdisjoint(sources):
                    after.add(node)
        return found, [n for n in found if n in after and not known.issuperset(n.users)]

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One operator; those that mix units skip what is absent."""
        name = _name(target)
        if name in _RULES and any(map(_has_absent, [*args, *kwargs.values()])):
            return _RULES[name](target, args, kwargs)
        return super().call_function(target, args, kwargs)


def _name(target: Any) -> str:
    packet = getattr(target, "overloadpacket", None)
    return str(getattr(packet or target, "__name__", target))


def _has_absent(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_has_absent, value))
    return isinstance(value, Tensor) and value.is_floating_point() and bool(value.isnan().any())


def _filled(value: Any) -> Any:
    """Absent entries as zeros, everywhere in nested arguments."""
    if isinstance(value, list | tuple):
        return list(map(_filled, value))
    if isinstance(value, dict):
        return {name: _filled(given) for name, given in value.items()}
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.nan_to_num(nan=0.0, posinf=math.inf, neginf=-math.inf)
    return value


def _present(value: Any) -> Any:
    """Ones where an entry is present."""
    if isinstance(value, list | tuple):
        return list(map(_present, value))
    return (~value.isnan()).double() if isinstance(value, Tensor) else value


def _blanked(value: Tensor, absent: Tensor) -> Tensor:
    return value.masked_fill(absent.expand(value.shape), NAN)


def _product(target: Any, args: Any, kwargs: Any) -> Tensor:
    """bmm, matmul, einsum: absent where no term of the sum is present."""
    value = target(*_filled(args), **kwargs)
    return _blanked(value, target(*_present(args), **kwargs) == 0)


def _added_product(target: Any, args: Any, kwargs: Any) -> Tensor:
    """addmm, baddbmm."""
    value = target(*_filled(args), **kwargs)
    terms = torch.matmul(_present(args[1]), _present(args[2]))
    return _blanked(value, (terms == 0) | args[0].isnan().expand(value.shape))


def _linear(target: Any, args: Any, kwargs: Any) -> Tensor:
    """Absent: rows of the weight that are, and rows of the input that are."""
    x, weight = args[:2]
    value = target(*_filled(args), **_filled(kwargs))
    read = (~x.isnan()).flatten(0, -2).any(0).double() if x.ndim > 1 else _present(x)
    rows = torch.mv(_present(weight), read) == 0
    return _blanked(_blanked(value, rows), x.isnan().all(-1, keepdim=True))


def _convolution(target: Any, args: Any, kwargs: Any) -> Tensor:
    """Absent: output channels without a present term at any place."""
    x, weight = args[:2]
    value: Tensor = target(*_filled(args), **_filled(kwargs))
    rest = (None, *args[3:]) if len(args) > 2 else ()
    named = {key: None if key == "bias" else given for key, given in kwargs.items()}
    counts = target(_present(x), _present(weight), *rest, **named)
    absent = counts == 0
    channel = 1 if value.ndim == weight.ndim else 0
    others = [dim for dim in range(value.ndim) if dim != channel]
    everywhere = absent.all(dim=tuple(others), keepdim=True)
    position = x.isnan().all(channel, keepdim=True)
    if bool(position.any()) and position.shape[2:] == value.shape[2:]:
        value = _blanked(value, position)
    return _blanked(value, everywhere)


def _recurrent(target: Any, args: Any, kwargs: Any) -> Any:
    """Hidden units are all there; what they read may be absent."""
    return target(*_filled(args), **kwargs)


def _moments(x: Tensor, dims: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance and count over the present entries of `dims`."""
    dims = list(dims)
    count = (~x.isnan()).sum(dims, keepdim=True)
    mean = x.nan_to_num(0.0).sum(dims, keepdim=True) / count
    variance = (x - mean).square().nan_to_num(0.0).sum(dims, keepdim=True) / count
    return mean, variance, count


def _layer_norm(target: Any, args: Any, kwargs: Any) -> Tensor:
    x, shape, weight, bias, eps = _bound(target, args, kwargs)[:5]
    mean, variance, _ = _moments(x, range(x.ndim - len(shape), x.ndim))
    return _affine((x - mean) / (variance + eps).sqrt(), weight, bias)


def _rms_norm(target: Any, args: Any, kwargs: Any) -> Tensor:
    x, shape, weight, eps = _bound(target, args, kwargs)[:4]
    dims = list(range(x.ndim - len(shape), x.ndim))
    square = x.square().nanmean(dims, keepdim=True)
    return _affine(x / (square + (eps or torch.finfo(x.dtype).eps)).sqrt(), weight, None)


def _group_norm(target: Any, args: Any, kwargs: Any) -> Tensor:
    x, groups, weight, bias, eps = _bound(target, args, kwargs)[:5]
    parts = x.reshape(x.shape[0], groups, -1)
    mean, variance, _ = _moments(parts, [2])
    normed = ((parts - mean) / (variance + eps).sqrt()).reshape(x.shape)
    column = (-1, *[1] * (x.ndim - 2))
    return _affine(
        normed,
        None if weight is None else weight.reshape(column),
        None if bias is None else bias.reshape(column),
    )


def _batch_norm(target: Any, args: Any, kwargs: Any) -> Tensor:
    """With running statistics it is pointwise; without, as in standardised weights, it is not."""
    x, weight, bias, _, _, training, _, eps = _bound(target, args, kwargs)[:8]
    if not training:
        return target(*args, **kwargs)  # type: ignore[no-any-return]
    mean, variance, _ = _moments(x, [0, *range(2, x.ndim)])
    column = (-1, *[1] * (x.ndim - 2))
    return _affine(
        (x - mean) / (variance + eps).sqrt(),
        None if weight is None else weight.reshape(column),
        None if bias is None else bias.reshape(column),
    )


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    scaled = x if weight is None else x * weight
    return scaled if bias is None else scaled + bias


def _mean(target: Any, args: Any, kwargs: Any) -> Tensor:
    x = args[0]
    dims = _dims(args[1] if len(args) > 1 else kwargs.get("dim"), x)
    keep = args[2] if len(args) > 2 else kwargs.get("keepdim", False)
    return x.nanmean(dims, keepdim=keep)  # type: ignore[no-any-return]


def _total(target: Any, args: Any, kwargs: Any) -> Tensor:
    """Sums and vector norms: absent where every term is."""
    value = target(*_filled(args), **kwargs)
    like = torch.ops.aten.sum.dim_IntList
    x, dims, keep = _reduced(target, args, kwargs)
    return _blanked(value, like(_present(x), dims, keep) == 0)


def _largest(target: Any, args: Any, kwargs: Any) -> Tensor:
    return _extreme(target, args, kwargs, -math.inf)


def _smallest(target: Any, args: Any, kwargs: Any) -> Tensor:
    return _extreme(target, args, kwargs, math.inf)


def _extreme(target: Any, args: Any, kwargs: Any, neutral: float) -> Tensor:
    value = target(args[0].nan_to_num(nan=neutral), *args[1:], **kwargs)
    first = value if isinstance(value, Tensor) else value[0]
    blank = torch.where(first == neutral, NAN, first)
    return blank if isinstance(value, Tensor) else (blank, *value[1:])  # type: ignore[return-value]


def _spread(target: Any, args: Any, kwargs: Any) -> Any:
    """var, std, var_mean, std_mean."""
    bound = dict(zip(_argument_names(target), _bound(target, args, kwargs), strict=False))
    x = args[0]
    dims, keep = _dims(bound.get("dim"), x), bool(bound.get("keepdim"))
    correction = bound.get("correction")
    if correction is None:
        correction = 1 if bound.get("unbiased", True) else 0
    mean, variance, count = _moments(x, dims)
    variance = variance * count / (count - correction)
    name = _name(target)
    spread = variance.sqrt() if name.startswith("std") else variance
    if not keep:
        shape = [size for dim, size in enumerate(x.shape) if dim not in dims]
        spread, mean = spread.reshape(shape), mean.reshape(shape)
    return (spread, mean) if name.endswith("_mean") else spread


def _weight_norm(target: Any, args: Any, kwargs: Any) -> Tensor:
    """g · v / |v|, the norm over what is present in all dimensions but one."""
    v, g, dim = _bound(target, args, kwargs)
    others = [place for place in range(v.ndim) if place != dim]
    norm = v.square().nan_to_num(0.0).sum(others, keepdim=True).sqrt()
    value: Tensor = v * (g / norm)
    return value


def _softmax(target: Any, args: Any, kwargs: Any) -> Tensor:
    x = args[0]
    rest = x.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    value = target(rest, *args[1:], **kwargs)
    return _blanked(value, x.isnan())


def _attention(target: Any, args: Any, kwargs: Any) -> Tensor:
    """scaled_dot_product_attention, written out; the scale is that of the dense head."""
    names = _argument_names(target)
    bound = dict(zip(names, _bound(target, args, kwargs), strict=False))
    query, key, value = bound["query"], bound["key"], bound["value"]
    if bound.get("enable_gqa"):
        times = query.shape[-3] // key.shape[-3]
        key, value = (part.repeat_interleave(times, -3) for part in (key, value))
    scale = bound.get("scale") or 1 / math.sqrt(query.shape[-1])
    matmul = torch.ops.aten.matmul.default
    scores = _product(matmul, (query, key.transpose(-2, -1)), {}) * scale
    mask = bound.get("attn_mask")
    if bound.get("is_causal"):
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        scores = (
            scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        )
    return _product(matmul, (_softmax(torch.ops.aten.softmax.int, (scores, -1), {}), value), {})


def _pad(target: Any, args: Any, kwargs: Any) -> Tensor:
    """Constants around an absent unit are absent with it."""
    value: Tensor = target(*args, **kwargs)
    absent = args[0].isnan()
    for dim, (size, padded) in enumerate(zip(absent.shape, value.shape, strict=True)):
        if size != padded:
            whole = absent.all(dim, keepdim=True)
            if not torch.equal(absent.any(dim, keepdim=True), whole):
                return value
            absent = whole.expand([padded if d == dim else s for d, s in enumerate(absent.shape)])
    return _blanked(value, absent)


def _reduced(target: Any, args: Any, kwargs: Any) -> tuple[Tensor, list[int], bool]:
    bound = dict(zip(_argument_names(target), _bound(target, args, kwargs), strict=False))
    return args[0], _dims(bound.get("dim"), args[0]), bool(bound.get("keepdim"))


def _dims(given: Any, x: Tensor) -> list[int]:
    if given is None or (isinstance(given, list | tuple) and not given):
        return list(range(x.ndim))
    return [dim % x.ndim for dim in (given if isinstance(given, list | tuple) else [given])]


def _argument_names(target: Any) -> list[str]:
    return [argument.name for argument in target._schema.arguments]


def _bound(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """All arguments in the order of the schema, defaults filled in."""
    arguments = target._schema.arguments
    return [
        args[place] if place < len(args) else kwargs.get(argument.name, argument.default_value)
        for place, argument in enumerate(arguments)
    ]


_RULES: Mapping[str, Callable[[Any, Any, Any], Any]] = {
    **dict.fromkeys(("bmm", "einsum", "matmul", "mm"), _product),
    **dict.fromkeys(("addmm", "baddbmm"), _added_product),
    **dict.fromkeys(
        (*(f"conv{d}d" for d in (1, 2, 3)), *(f"conv_transpose{d}d" for d in (1, 2, 3))),
        _convolution,
    ),
    **dict.fromkeys(("gru", "lstm", "rnn_relu", "rnn_tanh"), _recurrent),
    **dict.fromkeys(_SPREADS[1:], _spread),
    **dict.fromkeys(("linalg_vector_norm", "norm", "sum"), _total),
    **dict.fromkeys(("amax", "max"), _largest),
    **dict.fromkeys(("amin", "min"), _smallest),
    **dict.fromkeys(("_softmax", "softmax"), _softmax),
    **dict.fromkeys(("constant_pad_nd", "pad"), _pad),
    "_weight_norm": _weight_norm,
    "batch_norm": _batch_norm,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "mean": _mean,
    "rms_norm": _rms_norm,
    "scaled_dot_product_attention": _attention,
}
