"""Tensors of an ONNX file as torch tensors: which types are taken, and how many bytes they hold.

Half precision becomes float32, and narrow integers become int64 where they are small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor

from search.errors import OnnxError

MAX_ELEMENTS = 2**30
MAX_RANK = 8
SMALL = 64  # elements: a wider double or byte constant is a weight, and weights are floats

DTYPES: Mapping[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float32,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
}
_NARROW: Mapping[int, torch.dtype] = {
    TensorProto.DOUBLE: torch.float32,
    TensorProto.UINT8: torch.int64,
    TensorProto.INT8: torch.int64,
    TensorProto.INT16: torch.int64,
    TensorProto.UINT16: torch.int64,
    TensorProto.UINT32: torch.int64,
}
_WIDTHS: Mapping[int, int] = {
    TensorProto.BOOL: 1,
    TensorProto.UINT8: 1,
    TensorProto.INT8: 1,
    TensorProto.INT16: 2,
    TensorProto.UINT16: 2,
    TensorProto.FLOAT16: 2,
    TensorProto.INT64: 8,
    TensorProto.DOUBLE: 8,
}


def type_name(number: int) -> str:
    """The name of an ONNX type of elements, in lower case."""
    names: dict[int, str] = {v: k.lower() for k, v in TensorProto.DataType.items()}
    return names.get(number, f"type {number}")


def tensor_of(proto: TensorProto) -> Tensor:
    """A constant: float32, int32, int64 or bool, of the shape that it says.

    Raises:
        OnnxError: it is of another type, absurd, truncated, or lies in another file.
    """
    name, shape = proto.name, tuple(proto.dims)
    if proto.data_location == TensorProto.EXTERNAL or proto.external_data:
        raise OnnxError(
            f"{name!r} lies in another file; give the path of the ONNX file, with its data files "
            "beside it, or save the model with its weights inside"
        )
    if any(size < 0 for size in shape) or len(shape) > MAX_RANK:
        raise OnnxError(f"{name!r} must have sizes ≥ 0, but got {list(shape)}")
    count = math.prod(shape)
    narrow = proto.data_type in _NARROW and count <= SMALL
    if proto.data_type not in DTYPES and not narrow:
        raise OnnxError(
            f"weights must be float32 or float16, but {name!r} is {type_name(proto.data_type)} "
            f"of shape {list(shape)}; export the model in float32"
        )
    _check_length(proto, count)
    try:
        array = numpy_helper.to_array(proto)
    except (ValueError, TypeError) as error:
        raise OnnxError(f"{name!r} must be a whole tensor, but got: {error}") from None
    dtype = (_NARROW if narrow else DTYPES)[proto.data_type]
    return torch.from_numpy(np.array(array)).to(dtype)


def _check_length(proto: TensorProto, count: int) -> None:
    """The product of the sizes against the bytes that are there, before anything is allocated."""
    if count > MAX_ELEMENTS:
        raise OnnxError(f"{proto.name!r} must be smaller, but has shape {list(proto.dims)}")
    fields = (proto.float_data, proto.int32_data, proto.int64_data, proto.double_data)
    stored = (
        len(proto.raw_data) / _WIDTHS.get(proto.data_type, 4)
        if proto.HasField("raw_data")
        else sum(map(len, fields)) + len(proto.uint64_data)
    )
    if stored != count:
        raise OnnxError(
            f"{proto.name!r} of shape {list(proto.dims)} must hold {count} values, "
            f"but got {stored:g}"
        )
