"""Every operator that has a record. A new operator is one `Operator` in its family, and a test.

Operators that PyTorch tags as pointwise need none.
"""

from __future__ import annotations

from collections.abc import Mapping

from search.graph.dependency.operators import (
    attention,
    convolution,
    elementwise,
    factories,
    indexing,
    joining,
    moving,
    norms,
    pooling,
    products,
    recurrent,
    reductions,
    shapes,
    windows,
)
from search.graph.dependency.operators.operator import Operator, registry

OPERATORS: Mapping[str, Operator] = registry(
    attention.OPERATORS,
    convolution.OPERATORS,
    elementwise.OPERATORS,
    factories.OPERATORS,
    indexing.OPERATORS,
    joining.OPERATORS,
    moving.OPERATORS,
    norms.OPERATORS,
    pooling.OPERATORS,
    products.OPERATORS,
    recurrent.OPERATORS,
    reductions.OPERATORS,
    shapes.OPERATORS,
    windows.OPERATORS,
)
