"""Small configurations of transformers' classes, and what their models read.

A class's default configuration can be of any size; here it is cut to what a CPU traces in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

TOKENS = 32
FRAMES = 200
LAYERS = 3
LARGEST = 60_000_000

_DEPTHS = (
    "decoder_layers",
    "encoder_layers",
    "n_layer",
    "n_layers",
    "num_decoder_layers",
    "num_hidden_layers",
    "num_layers",
)
_WIDTHS = (
    "d_ff",
    "d_model",
    "decoder_attention_heads",
    "decoder_ffn_dim",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "ffn_dim",
    "hidden_size",
    "intermediate_size",
    "n_embd",
    "n_head",
    "num_attention_heads",
    "num_heads",
    "num_key_value_heads",
)
_VOCABULARY = 4096
_EXPERTS = {
    "n_group": 1,
    "n_routed_experts": 8,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
    "topk_group": 1,
}


def small_config(model_class: Any) -> dict[str, Any]:
    """Arguments of the class's configuration: no cache, and no larger than LARGEST parameters."""
    config = model_class.config_class()
    known: dict[str, Any] = {"use_cache": False} if hasattr(config, "use_cache") else {}
    if hasattr(config, "max_source_positions"):
        known["max_source_positions"] = min(FRAMES, config.max_source_positions)
    if model_class.__name__.endswith("ForSequenceClassification"):
        known |= _padded(config)
    for shrink in (_few_experts, _shallow, _few_words, _narrow, _narrow, _narrow):
        smaller = {**known, **shrink(config, known)}
        try:
            size = _size(model_class, smaller)
        except Exception:  # configurations check themselves; what they refuse stays as it was
            continue
        known = smaller
        if size <= LARGEST:
            break
    return known


def example_tokens_or_pixels(model: nn.Module, arguments: Sequence[str]) -> tuple[Tensor, ...]:
    """Examples for the leading arguments of the model's forward, up to the last that it needs.

    Raises:
        ValueError: it needs an argument that nobody knows an example for.
    """
    config: Any = model.config
    main = str(getattr(model, "main_input_name", arguments[0]))
    needed = {main if main in arguments else arguments[0]}
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in arguments:
        needed.add("decoder_input_ids")
    if hasattr(config, "vision_config") and hasattr(config, "text_config"):
        needed |= {"input_ids", "pixel_values"} & set(arguments)
    last = max(list(arguments).index(name) for name in needed)
    return tuple(_example(name, config) for name in list(arguments)[: last + 1])


def _padded(config: Any) -> dict[str, Any]:
    """Without a token for padding, those of decoders take one example at a time."""
    return {"pad_token_id": 0} if getattr(config, "pad_token_id", 0) is None else {}


def _few_experts(config: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: min(most, value)
        for key, most in _EXPERTS.items()
        if isinstance(value := getattr(config, key, None), int)
    }


def _shallow(config: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """Few layers, unless some are read by their number."""
    if getattr(config, "backbone_out_indices", None):
        return {}
    parts = {
        key: _shallow(part, known)
        for key in ("text_config", "vision_config")
        if (part := getattr(config, key, None)) is not None
    }
    return parts | {
        key: min(LAYERS, value)
        for key in _DEPTHS
        if not parts and isinstance(value := getattr(config, key, None), int)
    }


def _few_words(config: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """Special tokens of a large vocabulary move into the small one."""
    size = getattr(config, "vocab_size", None)
    if not isinstance(size, int) or size <= _VOCABULARY:
        return {}
    tokens = ("bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id")
    moved = {
        key: place
        for place, key in enumerate(tokens)
        if isinstance(value := getattr(config, key, None), int) and value >= _VOCABULARY
    }
    return {"vocab_size": _VOCABULARY, **moved}


def _narrow(config: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """Half of every width, and half of the heads with it."""
    return {
        key: max(1, value // 2)
        for key in _WIDTHS
        if isinstance(value := known.get(key, getattr(config, key, None)), int)
    }


def _size(model_class: Any, known: Mapping[str, Any]) -> int:
    with torch.device("meta"):
        model = model_class(model_class.config_class(**known))
    return sum(parameter.numel() for parameter in model.parameters())


def _example(name: str, config: Any) -> Tensor:
    text = getattr(config, "text_config", config)
    vision = getattr(config, "vision_config", config)
    if name in ("input_ids", "decoder_input_ids"):
        words = getattr(text, "vocab_size", 100)
        return torch.arange(5, 5 + TOKENS)[None] % words
    if name in ("attention_mask", "decoder_attention_mask"):
        return torch.ones(1, TOKENS, dtype=torch.long)
    if name == "token_type_ids":
        return torch.zeros(1, TOKENS, dtype=torch.long)
    if name == "pixel_values":
        return torch.randn(1, *_frames(vision), *_image(vision))
    if name == "input_values" and hasattr(config, "audio_channels"):
        return torch.randn(1, config.audio_channels, 4000)
    if name == "input_values":
        spectrum = hasattr(config, "num_mel_bins") and hasattr(config, "max_length")
        return torch.randn(1, *((config.max_length, config.num_mel_bins) if spectrum else (4000,)))
    if name == "input_features":
        bins = getattr(config, "num_mel_bins", 80)
        return torch.randn(1, bins, 2 * getattr(config, "max_source_positions", 100))
    raise ValueError(f"an example must be known for every needed argument, but {name!r} has none")


def _frames(config: Any) -> tuple[int, ...]:
    frames = getattr(config, "num_frames", None)
    return (frames,) if isinstance(frames, int) else ()


def _image(config: Any) -> tuple[int, int, int]:
    size = getattr(config, "image_size", None) or 224
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return getattr(config, "num_channels", 3), height, width
