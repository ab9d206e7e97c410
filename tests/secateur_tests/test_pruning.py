"""`secateur.prune` in this process, on the replay runtime: from a network to files and back."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, ClassVar

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

import secateur
from latency_probes.local import LocalProbe
from latency_probes.messages import Settings, Target
from search.errors import ConfigError
from secateur.errors import DataError
from tests.e2e_tests.nets import TinyResNet, images
from tests.workers_tests.test_job_onnx_file import classifier


class WithLogits(TinyResNet):
    """Returns an output object, as networks of transformers do."""

    def forward(self, x: Tensor) -> Any:
        return {"logits": super().forward(x)}


def stripes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    pixels, labels = images(count, seed)
    return torch.from_numpy(pixels)[:, None].float() / 255, torch.from_numpy(labels)


SEARCH = {"levels": 2, "beam_width": 1, "children": 2}
FINETUNE = {"steps": 30, "batch_size": 64, "learning_rate": 0.02}
REPLAY = Target(runtime="replay")


def test_a_network_is_pruned_trained_measured_saved_and_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = WithLogits()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = secateur.prune(
        model, stripes(600, 1), stripes(100, 2), ratio="60%",
        target=REPLAY, search={**SEARCH, "entwined": 10}, finetune=FINETUNE, calibration=64,
    )  # fmt: skip
    assert max(row["steps"] for row in result.tree) == 10
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert result.within_budget
    assert 0 < result.ratio_interval[0] <= result.ratio <= 0.6
    assert len(repr(result)) < 160
    assert "60.0 %" in str(result.report())
    shown = capsys.readouterr().err
    for stage in ("tracing", "finding sensitivities", "searching", "fine-tuning: step"):
        assert stage in shown
    assert re.search(r"step \d+ of 20,", shown)
    files = result.save(tmp_path)
    assert {file.name for file in files} == {
        "plan.json", "model.safetensors", "model.onnx", "dense.onnx", "report.json", "report.svg",
        "model.md", "report.html",
    }  # fmt: skip
    assert ElementTree.parse(tmp_path / "report.svg").getroot().tag.endswith("svg")
    page, card = ((tmp_path / name).read_text() for name in ("report.html", "model.md"))
    for text in (page, card):
        assert "Accuracy on 100 validation images" in text
        assert "parameters" in text
    assert "Job " not in page + card
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["delivery"]["batches"] == [1, 2, 7]
    assert document["result"]["plan_digest"] == result.plan.digest
    session = onnxruntime.InferenceSession(result.onnx)
    assert [each.name for each in session.get_inputs()] == ["x"]
    inputs = stripes(3, 3)[0]
    (scores,) = session.run(None, {"x": inputs.numpy()})
    torch.testing.assert_close(
        torch.from_numpy(scores), result.model(inputs)["logits"], rtol=1e-3, atol=1e-3
    )
    loaded = secateur.load(tmp_path, WithLogits())
    assert isinstance(result.model, WithLogits)
    torch.testing.assert_close(loaded(inputs)["logits"], result.model(inputs)["logits"])


def test_an_onnx_file_comes_back_as_it_was_and_is_what_was_measured(tmp_path: Path) -> None:
    """Its data lies beside it, and it leaves the batch and the size of images free."""
    source = classifier()
    for place, name in enumerate(("N", None, "height", "width")):
        if name is not None:
            source.graph.input[0].type.tensor_type.shape.dim[place].dim_param = name
    source.doc_string = "stripes"
    path = tmp_path / "m.onnx"
    onnx.save_model(source, path, save_as_external_data=True, location="m.data", size_threshold=0)
    result = secateur.prune(
        path, stripes(300, 1), stripes(60, 2), ratio="80%", target=REPLAY,
        search={"levels": 1, "beam_width": 1, "children": 1}, finetune={"steps": 2},
        calibration=32, progress=False,
    )  # fmt: skip
    assert (result.delivery.way, result.delivery.notes) == ("edited", ())
    assert result.report()["delivery"]["way"] == "edited"
    found = onnx.load_from_string(result.onnx)
    assert list(found.graph.input) == list(source.graph.input)
    assert (found.opset_import, found.doc_string) == (source.opset_import, "stripes")
    result.save(tmp_path / "out")
    inputs = stripes(3, 3)[0]
    loaded = secateur.load(tmp_path / "out", path)
    torch.testing.assert_close(loaded(inputs), result.model(inputs))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({}, "one of latency_ms and ratio must be given, but got neither"),
        ({"ratio": 0.5, "latency_ms": 1}, "but got both"),
        ({"ratio": 60}, "write 0.6 or '60%'"),
        ({"ratio": "fast"}, "such as 60%"),
        ({"latency_ms": -1}, "latency_ms must be > 0"),
        ({"ratio": 0.5, "search": {"leveles": 3}}, "search must hold fields of"),
        ({"ratio": 0.5, "finetune": {"epochs": 3}}, "finetune must hold fields of"),
        ({"ratio": 0.5, "multiple": 0}, "multiple must be >= 1, but got 0"),
        ({"ratio": 0.5, "min_accuracy": "fast"}, "min_accuracy must be a share, such as 90%"),
        (
            {"ratio": 0.5, "max_size_mb": 1, "max_parameters": 9},
            "must give one of max_parameters and max_size_mb, but got both",
        ),
        ({"ratio": 0.5, "batch_size": 0}, "batch_size must be >= 1, but got 0"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_done(
    wrong: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        secateur.prune(TinyResNet(), stripes(10, 1), progress=False, **wrong)


def test_constraints_are_kept_and_a_result_below_the_floor_is_an_error_that_holds_it() -> None:
    torch.manual_seed(0)
    model, train, pixels = TinyResNet().eval(), stripes(300, 1), stripes(100, 2)[0]
    with torch.no_grad():  # validation data that the dense network is right about throughout
        val = pixels, model(pixels).argmax(1)
    with pytest.raises(secateur.AccuracyOutOfReach, match="accuracy must be at least") as failed:
        secateur.prune(
            model, train, val, ratio="80%", target=REPLAY, batch_size=2, exclude="stem",
            multiple=2, max_parameters=8000, max_memory_mb=0.1, max_accuracy_drop=0.0,
            search=SEARCH, finetune={"steps": 20, "learning_rate": 1.0}, calibration=64,
            progress=False,
        )  # fmt: skip
    result = failed.value.result
    assert result.accuracy < failed.value.least == 1.0
    report = result.report()
    assert report["parameters"] <= 8000 < report["dense_parameters"]
    assert report["memory_mb"] <= 0.1 < report["dense_memory_mb"]
    assert result.target.endswith("/b2/t1")
    dense = {group.name: group.width for group in result.graph.groups}
    cut = {name: width for name, width in result.plan.widths.items() if width < dense[name]}
    assert cut
    assert all(width % 2 == 0 for width in cut.values())
    frozen = {group.name: group.reason for group in result.graph.groups}
    assert "'stem' is excluded by 'stem'" in frozen["stem"]


def test_constraints_that_exclude_each_other_are_refused_before_anything_is_measured() -> None:
    common: dict[str, Any] = {"target": REPLAY, "progress": False, "calibration": 64}
    for wrong, words in (
        ({"exclude": ["stemm"]}, "exclude must name modules of the model, but got 'stemm'"),
        ({"max_parameters": 10}, "max_parameters must be ≥"),
        ({"max_memory_mb": 0.0001}, "max_memory_mb must be ≥"),
        ({"min_accuracy": 1.0}, "min_accuracy must be at most the accuracy of the dense network"),
    ):
        with pytest.raises(ConfigError, match=words):
            secateur.prune(TinyResNet(), stripes(300, 1), ratio=0.5, **wrong, **common)


def test_an_inspection_is_a_table_and_short() -> None:
    found = secateur.inspect(TinyResNet(), torch.rand(1, 1, 12, 12))
    assert "groups can be pruned" in repr(found)
    assert len(repr(found)) < 160
    for part in ("inner", "channels", "prunable", "multiply-accumulates"):
        assert part in str(found)


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(secateur.SecateurError, match=r"must hold one plan\.json"):
        secateur.load(tmp_path, TinyResNet())
    with pytest.raises(secateur.SecateurError, match="must be the folder"):
        secateur.load(tmp_path / "nothing", TinyResNet())


class Noted(LocalProbe):
    """Notes what each probe is asked for."""

    asked: ClassVar[list[tuple[str, float | None]]] = []

    def __init__(self, reference: bytes, target: Target, settings: Settings) -> None:
        self.asked.append((settings.kind, settings.threshold))
        super().__init__(reference, target, settings)


def test_images_without_labels_are_judged_by_the_dense_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its confirmation ends as soon as it is clear; the figures of the report do not."""
    monkeypatch.setattr("secateur.run.LocalProbe", Noted)
    torch.manual_seed(0)
    inputs, _ = stripes(300, 1)
    result = secateur.prune(
        WithLogits(), inputs, list(stripes(80, 2)[0].split(40)), ratio=0.7,
        target=REPLAY, search=SEARCH, finetune={**FINETUNE, "steps": 10}, calibration=64,
        progress=False,
    )  # fmt: skip
    assert result.dense_accuracy == 1.0
    assert 0 < result.accuracy <= 1.0
    assert "agreement with the dense network on 80" in str(result.report())
    first, *_, last = Noted.asked
    assert first == last == ("strict", None)
    assert ("strict", 0.7) in Noted.asked


def test_labels_on_one_side_alone_are_refused() -> None:
    with pytest.raises(DataError, match="both"):
        secateur.prune(WithLogits(), stripes(80, 1)[0], stripes(80, 2), ratio=0.5)
