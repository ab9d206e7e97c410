"""Which runtimes take part where a job chooses one, and which is chosen."""

from __future__ import annotations

import pytest

from jobs.runtimes import Answer, fastest, taking_part

CPU = {"providers": ["CPUExecutionProvider"]}


@pytest.mark.parametrize(
    ("runtimes", "part"),
    [
        ({}, ()),
        ({"replay": CPU}, ()),
        ({"auto": {"providers": ["auto"]}}, ()),
        ({"onnxruntime": CPU, "replay": CPU}, ("onnxruntime",)),
        ({"onnxruntime": CPU, "openvino": {"providers": ["CPU"]}}, ("onnxruntime", "openvino")),
        ({"onnxruntime": {"providers": ["CUDAExecutionProvider"]}}, ()),
        ({"openvino": {"providers": ["GPU"]}, "mine": CPU}, ("mine",)),
        ({"torch": {"providers": ["eager"]}, "onnxruntime": CPU}, ("onnxruntime",)),
        ({"torch": {"providers": ["eager"]}, "replay": CPU}, ("torch",)),
        ({"onnxruntime": None}, ()),
    ],
)
def test_runtimes_take_part_with_their_usual_provider(
    runtimes: dict[str, object], part: tuple[str, ...]
) -> None:
    assert taking_part(runtimes) == part


@pytest.mark.parametrize(("precision", "best"), [("auto", "b"), ("float32", "b"), ("int8", "a")])
def test_the_runtime_of_the_fastest_answer_is_chosen(precision: str, best: str) -> None:
    answers = [
        Answer("a", "float32", 4.0, 1.0),
        Answer("a", "u8s8", 3.0, 0.75),
        Answer("b", "float32", 2.0, 1.0),
        Answer("b", "u8s8", error="crashed: as if"),
        Answer("c", "float32", error="unsupported_op: Foo"),
    ]
    assert fastest(answers, precision) == best
    assert fastest(reversed(answers), precision) == best


def test_of_equals_the_first_by_name_and_of_failures_none() -> None:
    assert fastest([Answer("b", "float32", 1.0), Answer("a", "float32", 1.0)], "auto") == "a"
    assert fastest([Answer("a", "float32", 1.0), Answer("b", "u8s8", error="no")], "int8") == "a"
    assert fastest([Answer("a", "float32", error="no")], "auto") is None
