"""An ONNX file with data files beside it becomes one file, byte by byte what onnx would read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from api.onnx_packing import PackingError, packed


def saved(folder: Path) -> Path:
    """Two weights that lie in one file beside the model."""
    weights = [
        numpy_helper.from_array(np.arange(300, dtype=np.float32).reshape(10, 30), "w"),
        numpy_helper.from_array(np.arange(30, dtype=np.float32) / 7, "b"),
    ]
    x, y = (helper.make_tensor_value_info(n, 1, ["N", s]) for n, s in (("x", 10), ("y", 30)))
    graph = helper.make_graph([helper.make_node("Gemm", ["x", "w", "b"], ["y"])], "g", [x], [y],
                              weights)  # fmt: skip
    path = folder / "m.onnx"
    onnx.save_model(
        helper.make_model(graph), path, save_as_external_data=True, location="m.onnx.data",
        size_threshold=0,
    )  # fmt: skip
    return path


def test_the_packed_file_holds_what_onnx_reads(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with packed(path) as whole:
        assert whole != path
        found, wanted = onnx.load(whole), onnx.load(path)
        kept = whole
    assert not kept.exists()
    for one, other in zip(found.graph.initializer, wanted.graph.initializer, strict=True):
        assert not one.external_data
        assert one.name == other.name
        np.testing.assert_array_equal(numpy_helper.to_array(one), numpy_helper.to_array(other))
    assert found.graph.node == wanted.graph.node
    assert found.graph.input == wanted.graph.input


def test_a_file_without_data_files_is_sent_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "whole.onnx"
    onnx.save_model(onnx.load(saved(tmp_path)), path)
    with packed(path) as whole:
        assert whole == path


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("location", "../secret", "must lie in the folder of the ONNX file"),
        ("location", "/etc/passwd", "must lie in the folder of the ONNX file"),
        ("location", "missing", "must be readable"),
        ("length", "4000000", "must lie within m.onnx.data"),
        ("offset", "x", "must be numbers"),
    ],
)
def test_data_elsewhere_is_refused(tmp_path: Path, key: str, value: str, reason: str) -> None:
    path = saved(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    entries = proto.graph.initializer[0].external_data
    (entry,) = [each for each in entries if each.key == key] or [entries.add(key=key)]
    entry.value = value
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(PackingError, match=reason), packed(path):
        pass


def test_what_is_no_onnx_file_is_left_to_the_service(tmp_path: Path) -> None:
    for place, data in enumerate((b"", b"no model", b"\x3a\xff\xff\xff\xff")):
        path = tmp_path / f"{place}.onnx"
        path.write_bytes(data)
        with packed(path) as whole:
            assert whole == path
