"""Attention as one operator, and the rotation of its queries and keys (opset 23)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from search.errors import OnnxError
from search.onnx_in.values import NodeCall, Op, Value


def attention(call: NodeCall) -> Value:
    """softmax(scale · q kᵀ + mask) v; heads are a dimension, or side by side in the last."""
    if call.has(4) or call.has(5) or call.outputs > 1:
        raise OnnxError("keys and values of former calls are not supported")
    query, key, value = (call.tensor(place) for place in range(3))
    flat = query.ndim == 3
    if flat:
        own, shared = call.attributes["q_num_heads"], call.attributes["kv_num_heads"]
        query, key, value = _split(query, own), _split(key, shared), _split(value, shared)
    mask = call.tensor(3) if call.has(3) else None
    causal, scale = bool(call.attributes.get("is_causal", 0)), call.attributes.get("scale")
    gqa = query.shape[1] != key.shape[1]
    cap = call.attributes.get("softcap", 0.0)
    if cap:
        mixed = _capped(query, key, value, mask, causal, scale, cap)
    else:
        if causal and mask is not None:
            mask, causal = _with_causal(mask, query, key), False
        mixed = functional.scaled_dot_product_attention(
            query, key, value, mask, is_causal=causal, scale=scale, enable_gqa=gqa
        )
    return mixed.transpose(1, 2).flatten(2) if flat else mixed


def _split(x: Tensor, heads: int) -> Tensor:
    """(batch, steps, heads · size) -> (batch, heads, steps, size)."""
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def _with_causal(mask: Tensor, query: Tensor, key: Tensor) -> Tensor:
    ahead = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=mask.device)
    allowed = ahead.tril()
    return mask & allowed if mask.dtype == torch.bool else mask.masked_fill(~allowed, -math.inf)


def _capped(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float | None,
    cap: float,
) -> Tensor:
    """Scores are kept between −cap and cap by a tanh before they are masked."""
    times = query.shape[1] // key.shape[1]
    key, value = (each.repeat_interleave(times, 1) for each in (key, value))
    scores = query @ key.transpose(-2, -1) * (scale or query.shape[-1] ** -0.5)
    scores = torch.tanh(scores / cap) * cap
    if causal:
        mask = torch.zeros((), device=scores.device) if mask is None else mask
        mask = _with_causal(mask.expand(scores.shape[-2:]) if mask.ndim < 2 else mask, query, key)
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -math.inf)
    elif mask is not None:
        scores = scores + mask
    return scores.softmax(-1) @ value


def rotary_embedding(call: NodeCall) -> Value:
    """Pairs of entries turned by the angle of their position (RoPE)."""
    x, cos, sin = (call.tensor(place) for place in range(3))
    flat = x.ndim == 3
    if flat:
        x = _split(x, call.attributes["num_heads"])
    if call.has(3):
        cos, sin = cos[call.tensor(3)], sin[call.tensor(3)]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    turned, rest = x.split([2 * cos.shape[-1], x.shape[-1] - 2 * cos.shape[-1]], -1)
    if call.attributes.get("interleaved", 0):
        a, b = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack((cos * a - sin * b, sin * a + cos * b), -1).flatten(-2)
    else:
        a, b = turned.chunk(2, -1)
        turned = torch.cat((cos * a - sin * b, sin * a + cos * b), -1)
    x = torch.cat((turned, rest), -1) if rest.shape[-1] else turned
    return x.transpose(1, 2).flatten(2) if flat else x


ATTENTION: dict[str, Op] = {"Attention": attention, "RotaryEmbedding": rotary_embedding}
