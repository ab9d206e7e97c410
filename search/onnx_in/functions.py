"""Functions of a model, put in place of the nodes that call them. Counted before it is done."""

from __future__ import annotations

from onnx import FunctionProto, ModelProto, NodeProto, inliner
from onnx.checker import ValidationError

from search.errors import OnnxError

Key = tuple[str, str, str]  # domain, name, overload


def inlined(model: ModelProto, most: int) -> ModelProto:
    """The model without functions of its own; the same object where it has none.

    Args:
        most: nodes that the result may have.

    Raises:
        OnnxError: functions call each other in a circle, or the result would be larger.
    """
    if not model.functions:
        return model
    functions = {_key(each): each for each in model.functions}
    counts: dict[Key, int] = {}
    for key in functions:
        _count(key, functions, counts, most)
    total = sum(counts.get(_called(node), 1) for node in model.graph.node)
    if total > most:
        raise OnnxError(f"nodes must be ≤ {most}, but with its functions the model has {total}")
    try:
        return inliner.inline_local_functions(model)
    except (RuntimeError, ValueError, ValidationError) as error:
        name = model.functions[0].name
        raise OnnxError(
            f"functions must fit the nodes that call them, but one of the model ({name!r} is its "
            f"first) does not: {error}"
        ) from None


def _count(
    key: Key, functions: dict[Key, FunctionProto], counts: dict[Key, int], most: int
) -> None:
    """The nodes that a call of each function becomes, by depth first and without recursion."""
    open_keys: list[Key] = []
    stack = [(key, False)]
    while stack:
        each, left = stack.pop()
        if left:
            open_keys.pop()
            parts = (counts.get(_called(node), 1) for node in functions[each].node)
            counts[each] = min(sum(parts), most + 1)
        elif each in open_keys:
            raise OnnxError(f"functions must not call themselves, but {each[1]!r} does")
        elif each not in counts:
            open_keys.append(each)
            stack.append((each, True))
            inner = {_called(node) for node in functions[each].node}
            stack.extend((name, False) for name in inner if name in functions)


def _key(function: FunctionProto) -> Key:
    return function.domain, function.name, function.overload


def _called(node: NodeProto) -> Key:
    return node.domain, node.op_type, node.overload
