"""The table of operators, keyed by op_type. A new operator is one small function and a line.

Nodes whose weights are constants become modules instead where `layers` knows how.
"""

from __future__ import annotations

from collections.abc import Mapping

from search.errors import OnnxError
from search.onnx_in.ops.attention import ATTENTION
from search.onnx_in.ops.elementwise import ELEMENTWISE
from search.onnx_in.ops.factories import FACTORIES
from search.onnx_in.ops.indexing import INDEXING
from search.onnx_in.ops.joins_and_cuts import JOINS_AND_CUTS
from search.onnx_in.ops.reductions import REDUCTIONS
from search.onnx_in.ops.resizing import RESIZING
from search.onnx_in.ops.shapes import SHAPES
from search.onnx_in.ops.space import SPACE
from search.onnx_in.reading import OnnxNode
from search.onnx_in.values import Op

OPS: Mapping[str, Op] = {
    **ATTENTION,
    **ELEMENTWISE,
    **FACTORIES,
    **INDEXING,
    **JOINS_AND_CUTS,
    **REDUCTIONS,
    **RESIZING,
    **SHAPES,
    **SPACE,
}


def known(node: OnnxNode) -> Op:
    """The function of a node.

    Raises:
        OnnxError: the table has none; the message names the operator.
    """
    if node.op in OPS:
        return OPS[node.op]
    raise OnnxError(f"operator {node.op!r} is not known ({node.title})")
