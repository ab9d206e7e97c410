"""Filled weights: reproducible, well scaled, refused where they make no sense."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from latency_probes import filling, onnx_reader
from latency_probes.onnx_reader import OnnxFormatError
from tests.latency_probes_tests import onnx_models


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> filling.Array:
    return filling.open_noise(tmp_path_factory.mktemp("noise"))


def test_the_noise_file_is_written_once(tmp_path: Path) -> None:
    path = filling.noise_file(tmp_path / "new")
    written = path.stat().st_mtime_ns
    assert filling.noise_file(tmp_path / "new") == path
    assert path.stat().st_mtime_ns == written
    assert path.stat().st_size == 4 * filling.NOISE_FLOATS
    assert list(path.parent.iterdir()) == [path]


def test_filling_is_a_pure_function(noise: filling.Array) -> None:
    structure = onnx_reader.read(onnx_models.convnet(16))
    once, again = filling.fill(structure, noise), filling.fill(structure, noise)
    assert all(np.array_equal(once[name], again[name]) for name in once)


def test_weights_are_scaled_by_fan_in_and_variances_are_positive(noise: filling.Array) -> None:
    values = filling.fill(onnx_reader.read(onnx_models.convnet(512)), noise)
    assert values["conv"].std() == pytest.approx(np.sqrt(2 / 27), rel=0.05)
    assert values["linear"].std() == pytest.approx(np.sqrt(2 / 512), rel=0.1)
    assert values["var"].min() > 0.5
    assert values["gain"].min() > 0.5
    assert {name: array.shape for name, array in values.items()}["conv"] == (512, 3, 3, 3)


def test_true_weights_are_left_alone(noise: filling.Array) -> None:
    assert filling.fill(onnx_reader.read(onnx_models.convnet(filled=False)), noise) == {}


def test_a_tensor_larger_than_the_noise_repeats_it(noise: filling.Array) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    weight = onnx_models.to_fill("w", [1, filling.NOISE_FLOATS + 5])
    data = onnx_models.model([node], [weight], [1, 1], [1, filling.NOISE_FLOATS + 5])
    values = filling.fill(onnx_reader.read(data), noise)["w"].ravel()
    assert np.array_equal(values[:5], values[-5:])


def test_half_precision_is_filled_and_integers_are_refused(noise: filling.Array) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    half = onnx_models.to_fill("w", [4, 4], TensorProto.FLOAT16)
    data = onnx_models.model([node], [half], [1, 4], [1, 4])
    assert filling.fill(onnx_reader.read(data), noise)["w"].dtype == np.float16
    whole = onnx_models.to_fill("w", [4, 4], TensorProto.INT64)
    data = onnx_models.model([node], [whole], [1, 4], [1, 4])
    with pytest.raises(OnnxFormatError, match="must be floating-point"):
        filling.fill(onnx_reader.read(data), noise)


def test_inputs_have_the_asked_batch(noise: filling.Array) -> None:
    structure = onnx_reader.read(onnx_models.convnet(batch=2))
    assert filling.example_inputs(structure, 2, noise)["x"].shape == (2, 3, 16, 16)
    with pytest.raises(OnnxFormatError, match="must have batch size 3, but got 2"):
        filling.example_inputs(structure, 3, noise)


def test_a_free_batch_dim_takes_the_asked_batch_and_other_free_dims_are_refused(
    noise: filling.Array,
) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    free = onnx_reader.read(onnx_models.model([node], [], ["n", 4], [1, 4]))
    assert filling.example_inputs(free, 5, noise)["x"].shape == (5, 4)
    worse = onnx_reader.read(onnx_models.model([node], [], [1, "c"], [1, 4]))
    with pytest.raises(OnnxFormatError, match="must have a fixed shape"):
        filling.example_inputs(worse, 1, noise)


def test_indices_are_zeros_and_strings_are_refused(noise: filling.Array) -> None:
    def with_input(data_type: int) -> onnx_reader.Structure:
        value = onnx_reader.Value("ids", (1, 4), data_type)
        return onnx_reader.Structure((), {}, (value,))

    ids = filling.example_inputs(with_input(TensorProto.INT64), 1, noise)["ids"]
    assert ids.dtype == np.int64
    assert not ids.any()
    with pytest.raises(OnnxFormatError, match="unknown type"):
        filling.example_inputs(with_input(TensorProto.STRING), 1, noise)
