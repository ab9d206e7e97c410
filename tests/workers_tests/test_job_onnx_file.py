"""An uploaded ONNX file is judged in the child process and traced like any other model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from jobs.artifacts import job_file_name, weights_name
from jobs.repository import models
from jobs.spec import ModelSpec
from search.loading import load_pruned
from search.onnx_in import from_onnx
from tests.e2e_tests.nets import SHAPE
from tests.search_tests.onnx_in_tests.graphs import (
    assert_equal,
    by_runtime,
    by_torch,
    model,
    noise,
)
from tests.workers_tests.bench import Bench
from tests.workers_tests.rows import ready_model
from tests.workers_tests.workshop import Workshop
from workers.inspection import Inspection, inspect
from workers.library import Library
from workers.loaders.errors import OnnxFileError
from workers.loaders.models import load_model

SEARCH = {
    "levels": 1, "beam_width": 1, "children": 1, "calibration_images": 16, "finalists": 1,
}  # fmt: skip
SPEC = ModelSpec(name="net", architecture="onnx")


def classifier() -> ModelProto:
    """(B, 1, 12, 12) -> (B, 4): two convolutions and a head, without batch norm."""
    nodes = [
        helper.make_node("Conv", ["x", "stem.weight"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "last.weight"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "head.weight"], ["y"], transB=1),
    ]
    weights = {
        "stem.weight": noise(48, 1, 3, 3),
        "last.weight": noise(64, 48, 3, 3, seed=1) / 20,
        "head.weight": noise(4, 64, seed=2) / 80,  # untrained, so it claims nothing
    }
    return model(nodes, {"x": noise(2, *SHAPE)}, weights)


def stored(folder: Path, proto: ModelProto) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_the_report_says_input_shape_and_recalibration(tmp_path: Path) -> None:
    path = stored(tmp_path, classifier())
    answer = inspect(
        Inspection(spec=SPEC, weights=path, allow=[], time_limit_s=60, wall_limit_s=600)
    )
    report = answer["report"]
    assert report["input_shape"] == [1, 12, 12]
    assert report["recalibration"] == "mean and scale"
    assert report["prunable_groups"] == 2


def test_a_file_with_several_outputs_is_refused(tmp_path: Path) -> None:
    proto = classifier()
    proto.graph.output.add(name="e")
    with pytest.raises(OnnxFileError, match="must give one output, .* but gives 'y', 'e'"):
        load_model(SPEC, stored(tmp_path, proto), allow=[])


def test_a_file_that_cannot_be_used_is_a_problem(tmp_path: Path) -> None:
    proto = classifier()
    proto.graph.node[1].op_type = "Sorcery"
    path = stored(tmp_path, proto)
    answer = inspect(
        Inspection(spec=SPEC, weights=path, allow=[], time_limit_s=60, wall_limit_s=600)
    )
    assert answer["problem"]["title"] == "The ONNX file cannot be used"
    assert "operator 'Sorcery' is not known" in answer["problem"]["detail"]


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    proto = classifier()
    proto.graph.initializer[0].raw_data = np.full(48 * 9, np.nan, np.float32).tobytes()
    with pytest.raises(OnnxFileError, match="stem.weight holds values that are not"):
        load_model(SPEC, stored(tmp_path, proto), allow=[])


def test_a_file_with_several_inputs_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    proto = model(nodes, {"a": noise(2, 3), "b": noise(2, 3)})
    with pytest.raises(OnnxFileError, match="one input, the images, but takes 'a' and 'b'"):
        load_model(SPEC, stored(tmp_path, proto), allow=[])


def test_sizes_that_the_file_leaves_open_come_from_the_spec(tmp_path: Path) -> None:
    proto = classifier()
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    path = stored(tmp_path, proto)
    with pytest.raises(OnnxFileError, match="give input_shape"):
        load_model(SPEC, path, allow=[])
    given = ModelSpec(name="net", architecture="onnx", input_shape=SHAPE)
    assert load_model(given, path, allow=[])


def test_the_library_traces_it_like_any_other(bench: Bench) -> None:
    data = classifier().SerializeToString()
    with bench.write() as session:
        row = ready_model(session, SPEC, hashlib.sha256(data).hexdigest())
    bench.context.store.put(weights_name(row.id), data)
    with bench.context.read() as session:
        found = models.find(session, row.id)
    assert found is not None
    graph = Library(bench.context).graph(found)
    assert [group.width for group in graph.prunable] == [48, 64]


def test_a_job_on_it_ends_with_files_that_load(workshop: Workshop, tmp_path: Path) -> None:
    data = classifier().SerializeToString()
    spec = ModelSpec(name="folded", architecture="onnx")
    with workshop.bench.write() as session:
        row = ready_model(session, spec, hashlib.sha256(data).hexdigest())
    workshop.bench.context.store.put(weights_name(row.id), data)
    report = workshop.library.graph(row).report()
    with workshop.bench.write() as session:
        found = {"input_shape": list(SHAPE), "recalibration": "mean and scale"}
        models.accept(session, row.id, report | found)

    job_id = workshop.submit(
        model="folded", budget={"ratio": 0.8}, finetune={"steps": 0}, search=SEARCH
    )
    job = workshop.play(job_id)

    assert job.state == "succeeded", job.problem
    store = workshop.bench.context.store
    for name in ("plan.json", "model.safetensors"):
        (tmp_path / name).write_bytes(store.get(job_file_name(job_id, name)))
    dense = from_onnx(data)
    pruned = load_pruned(dense, tmp_path / "plan.json", tmp_path / "model.safetensors").eval()
    x = noise(1, *SHAPE)
    wanted = by_runtime(store.get(job_file_name(job_id, "model.onnx")), [x])
    assert_equal(by_torch(pruned, [x]), wanted)
    assert json.loads(store.get(job_file_name(job_id, "report.json")))["recalibration"] == (
        "mean and scale"
    )


def keras_like() -> ModelProto:
    """(B, 12, 12, 1) bytes -> (B, 4), which the network scales and turns itself."""
    proto = classifier()
    nodes = [
        helper.make_node("Cast", ["x"], ["cast"], to=1),
        helper.make_node("Div", ["cast", "most"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["turned"], perm=[0, 3, 1, 2]),
    ]
    for place, each in enumerate(nodes):
        proto.graph.node.insert(place, each)
    proto.graph.node[3].input[0] = "turned"
    proto.graph.initializer.append(numpy_helper.from_array(np.array([255], np.float32), "most"))
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", 2, [-1, 12, 12, 1]))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, [-1, 4]))
    helper.set_model_props(proto, {"classes": "four"})
    return proto


def test_a_job_on_bytes_with_channels_last_gives_a_file_that_drops_in(workshop: Workshop) -> None:
    source = keras_like()
    data = source.SerializeToString()
    spec = ModelSpec(name="keras", architecture="onnx")
    with workshop.bench.write() as session:
        row = ready_model(session, spec, hashlib.sha256(data).hexdigest())
    workshop.bench.context.store.put(weights_name(row.id), data)
    report = workshop.library.graph(row).report()
    told = {"dtype": "uint8", "layout": "channels last", "name": "x", "stored": "uint8"}
    found = {"input_shape": [12, 12, 1], "recalibration": "mean and scale", "input": told}
    with workshop.bench.write() as session:
        models.accept(session, row.id, report | found)

    job_id = workshop.submit(
        model="keras", budget={"ratio": 0.8}, finetune={"steps": 2, "batch_size": 16},
        search=SEARCH, exports=["pt2", "openvino"],
    )  # fmt: skip
    job = workshop.play(job_id)

    assert job.state == "succeeded", job.problem
    store = workshop.bench.context.store
    made = onnx.load_from_string(store.get(job_file_name(job_id, "model.onnx")))
    assert list(made.graph.input) == list(source.graph.input)
    assert list(made.graph.output) == list(source.graph.output)
    assert (made.opset_import, made.metadata_props) == (source.opset_import, source.metadata_props)
    assert store.get(job_file_name(job_id, "dense.onnx")) == data
    report = json.loads(store.get(job_file_name(job_id, "report.json")))
    assert report["delivery"]["way"] == "edited"
    assert report["delivery"]["batches"] == [1, 2, 7]
    (final,) = workshop.requests(job_id, "final:")
    delivered = store.get(job_file_name(job_id, "model.onnx"))
    assert final.skeleton_digest == hashlib.sha256(delivered).hexdigest()
    assert final.settings["sizes"] == {"x": [12, 12, 1]}
    card = store.get(job_file_name(job_id, "model.md")).decode()
    assert "the file that came in, pruned where it stands" in card
    assert '{"x": images}' in card.replace("'", '"')
    assert "(batch, 12, 12, 1), uint8" in card
    assert "`pt2`: model.pt2, within" in card
    assert "`openvino`: model.xml, model.bin, within" in card
    for name in ("model.pt2", "model.xml", "model.bin"):
        assert store.get(job_file_name(job_id, name))
