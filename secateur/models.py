"""The network that a caller gives, as a copy to work on: a module, or an ONNX file."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from onnx import ModelProto
from torch import Tensor, nn

from search.errors import OnnxError
from search.onnx_in import from_onnx
from search.onnx_in.files import load_file
from search.scores import scores_only


@dataclass(frozen=True)
class Given:
    """A network to prune.

    Attributes:
        dense: on the CPU, in eval mode, returns class scores alone.
        source: the file that it was read from; None for a module.
        is_adapted: it returned more than class scores before.
    """

    dense: nn.Module
    source: ModelProto | None
    is_adapted: bool


def opened(model: nn.Module | str | Path, example: Tensor) -> Given:
    """The network, which is not touched.

    Args:
        model: a module, or the path of an ONNX file, whose data files lie beside it.
        example: inputs (B, …); they settle the sizes that a file leaves free.

    Raises:
        search.errors.OnnxError: the file cannot be read, or gives several outputs.
    """
    source: ModelProto | None = None
    dense: nn.Module
    if isinstance(model, nn.Module):
        dense = copy.deepcopy(model).cpu().eval()
    else:
        source = load_file(model)
        dense = read = from_onnx(source, input_shapes=[tuple(example.shape[1:])])
        if len(read.outputs) != 1:
            raise OnnxError(
                "the ONNX file must give one output, the class scores, but gives "
                f"{', '.join(map(repr, read.outputs))}: cut the others off, as by "
                "onnx.utils.extract_model"
            )
    with torch.no_grad():
        output = dense(example)
    if isinstance(output, Tensor):
        return Given(dense, source, False)
    return Given(scores_only(dense), source, True)
