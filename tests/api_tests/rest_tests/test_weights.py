"""What the bytes of uploaded weights must be."""

from __future__ import annotations

import io
import pickle
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from api.problems import Problem
from api.weights import MAX_HEADER_BYTES, check_weights
from tests.api_tests.rest_tests.tensors import safetensors, tensor


def check(data: bytes) -> None:
    check_weights(io.BytesIO(data), len(data))


def problem_of(data: bytes) -> Problem:
    with pytest.raises(Problem) as caught:
        check(data)
    return caught.value


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", b"x")
    return buffer.getvalue()


def test_files_of_the_safetensors_library_are_accepted() -> None:
    check(save({"a": np.zeros((3, 5), np.float32), "b": np.ones(7, np.int64)}, {"by": "us"}))


def test_the_file_is_left_at_its_start() -> None:
    data = safetensors()
    file = io.BytesIO(data)

    check_weights(file, len(data))

    assert file.tell() == 0


def test_a_header_of_128_bytes_is_not_taken_for_a_pickle() -> None:
    padding = 128 - len(safetensors({"w": tensor(), "__metadata__": {"p": ""}}, b"")) + 8
    data = safetensors({"w": tensor(), "__metadata__": {"p": "x" * padding}})
    assert data[0] == 0x80

    check(data)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (pickle.dumps({"w": [1.0]}), "a pickle"),
        (zipped(), "a zip archive"),
        (b"\x1f\x8b" + b"\0" * 20, "a gzip file"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    ],
)
def test_formats_that_can_run_code_are_refused_with_the_way_to_convert(
    data: bytes, name: str
) -> None:
    document = problem_of(data).document

    assert document["type"].endswith("unsafe-weights")
    assert name in document["detail"]
    assert "safetensors.torch.save_file" in document["detail"]


def test_a_truncated_file_is_refused_with_both_sizes() -> None:
    data = safetensors()

    assert f"complete ({len(data)} bytes), but got {len(data) - 1}" in str(problem_of(data[:-1]))


def test_a_truncated_header_is_refused() -> None:
    assert "must be complete" in str(problem_of(safetensors()[:20]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no header length"),
        (b"abc", "no header length"),
        (b"\xff" * 8, "no header length"),
        ((4).to_bytes(8, "little") + b"{{{{", "not JSON"),
        ((2).to_bytes(8, "little") + b"[]", "no JSON object"),
        (safetensors({}, b""), "at least one tensor"),
        (safetensors() + b"x", "1 more bytes follow"),
        (safetensors({"w": 3}), "no description"),
        (safetensors({"w": tensor(dtype="F31")}), "'w' is 'F31'"),
        (safetensors({"w": tensor(dtype=["F32"])}), "known dtypes"),
        (safetensors({"w": tensor(shape=[2, -3])}), "has [2, -3]"),
        (safetensors({"w": tensor(shape=[1] * 65)}), "a shape"),
        (safetensors({"w": tensor(offsets=[0])}), "data_offsets"),
        (safetensors({"w": tensor(offsets=[0, 20])}), "24 bytes for 'w', but got 20"),
        (safetensors({"w": tensor(offsets=[4, 28])}), "at offset 0"),
        (
            safetensors({"v": tensor(), "w": tensor(offsets=[28, 52])}, b"\0" * 52),
            "without gaps",
        ),
    ],
)
def test_a_malformed_file_is_refused_with_what_is_wrong(data: bytes, message: str) -> None:
    problem = problem_of(data)

    assert problem.document["type"].endswith("invalid-weights")
    assert message in str(problem)
    assert problem.document["errors"][0]["field"] == "weights"


def headed(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


FULL = MAX_HEADER_BYTES - 100
BOMBS = {
    "many tensors": headed(
        b'{"":' + b'"t":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},' * 100_000 + b"}"
    ),
    "empty lists": headed(b'{"a":[' + b"[]," * (FULL // 3) + b"[]]}"),
    "objects": headed(b'{"a":[' + b'{"":0},' * 59_000 + b"0]}"),
    "wide characters": headed('{"😀":['.encode() + b'"ab",' * (FULL // 5) + b"0]}"),
    "one wide text": headed('{"😀":"'.encode() + b"a" * FULL + b'"}'),
    "large numbers": headed(
        b'{"a":{"dtype":"F32","shape":[' + b"9" * 4000 + b'],"data_offsets":[0,0]}}'
    ),
    "a large product": headed(
        b'{"a":{"dtype":"F32","shape":['
        + b",".join([b"9" * 18] * 64)
        + b'],"data_offsets":[0,0]}}'
    ),
    "deep nesting": headed(b"[" * FULL),
    "not UTF-8": headed("{}".encode("utf-16")),
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS.keys())
def test_a_header_that_grows_when_it_is_parsed_is_refused_within_50_mb(data: bytes) -> None:
    tracemalloc.start()
    try:
        problem_of(data)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_the_header_of_a_mixture_of_many_experts_is_accepted() -> None:
    name = "encoder.block.11.layer.1.mlp.experts.expert_{}.wo.weight"
    described = {
        name.format(n): tensor((1, 1, 1, 2), "F16", (4 * n, 4 * n + 4)) for n in range(7000)
    }
    check(safetensors(described, b"\0" * 28_000))


def test_the_demo_checkpoint_is_accepted() -> None:
    (path,) = (Path(__file__).parents[3] / "examples").rglob("*.safetensors")
    with path.open("rb") as file:
        check_weights(file, path.stat().st_size)
