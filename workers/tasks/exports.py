"""Further formats of a result, on request: torch.export and OpenVINO, each compared with torch.

A format that cannot be made here is told in the report, and ends no job.
"""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from search.onnx_out.checking import TOLERANCE

Files = dict[str, bytes]


def exported(
    names: tuple[str, ...], model: nn.Module, onnx_bytes: bytes, images: Tensor
) -> tuple[Files, dict[str, str]]:
    """The files of these formats, and what the report says of each.

    Args:
        names: `pt2`, `openvino`.
        model: the result, in evaluation mode.
        onnx_bytes: its file.
        images: inputs to compare with, a batch of two or more.
    """
    files: Files = {}
    said: dict[str, str] = {}
    with torch.no_grad():
        wanted = model(images)
    for name in names:
        try:
            made, found = FORMATS[name](model, onnx_bytes, images)
        except ImportError:
            said[name] = f"not made: {name} is not installed on the worker"
            continue
        except Exception as error:  # of a library, about a model that it cannot take
            said[name] = f"not made: {' '.join(str(error).split())[:300]}"
            continue
        worst = float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-3))
        if not worst <= TOLERANCE:
            said[name] = f"not made: it differs from the model by {worst:.3g}"
            continue
        files |= made
        said[name] = f"{', '.join(made)}, within {worst:.1e} of the model"
    return files, said


def _pt2(model: nn.Module, _: bytes, images: Tensor) -> tuple[Files, Tensor]:
    """torch.export.save, with a free batch where the model allows it."""
    batch = torch.export.Dim("batch", min=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(
                model, (images,), dynamic_shapes=({0: batch},), strict=False
            )
        except Exception:  # the batch is fixed by what the model does
            program = torch.export.export(model, (images,), strict=False)
        file = io.BytesIO()
        torch.export.save(program, file)
        with torch.no_grad():
            found = program.module()(images)
    return {"model.pt2": file.getvalue()}, found


def _openvino(_: nn.Module, onnx_bytes: bytes, images: Tensor) -> tuple[Files, Tensor]:
    """OpenVINO's IR of the ONNX file, in its own precision."""
    import openvino

    core = openvino.Core()
    network = core.read_model(onnx_bytes)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    found = core.compile_model(network, "CPU", settings)([images.numpy()])[0]
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(network, Path(folder) / "model.xml", compress_to_fp16=False)
        files = {f"model.{end}": (Path(folder) / f"model.{end}").read_bytes()
                 for end in ("xml", "bin")}  # fmt: skip
    return files, torch.from_numpy(found.copy())


FORMATS: Mapping[str, Callable[[nn.Module, bytes, Tensor], tuple[Files, Tensor]]] = {
    "openvino": _openvino,
    "pt2": _pt2,
}
