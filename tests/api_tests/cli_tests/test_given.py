"""MODEL and DATA of `secateur prune`: what they may be, and how their names come about."""

import zipfile
from pathlib import Path

import pytest

from api.cli.given import Given, Unclear, data_of, fingerprint, model_of
from api.cli.main import main
from api.cli.zoo import asked, is_of_a_zoo
from jobs.near import near

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    (tmp_path / "w.safetensors").write_bytes(b"weights")
    return tmp_path / "w.safetensors"


def network(text: str, weights: Path | None = None, shape: list[int] | None = None) -> Given:
    found = model_of(text, weights=weights, input_shape=shape)
    assert found is not None
    return found


def test_an_onnx_file_is_named_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "my net.onnx"
    path.write_bytes(b"one")
    first = network(str(path))
    path.write_bytes(b"two")
    second = network(str(path))
    assert first.spec["architecture"] == "onnx"
    assert first.name.startswith("my-net-")
    assert first.name != second.name
    path.write_bytes(b"one")
    assert network(str(path)).name == first.name


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:vgg11", "transformers:ViT"])
def test_a_zoo_is_named_with_its_weights(weights: Path, name: str) -> None:
    found = network(name, weights, [3, 8, 8])
    assert (found.spec["architecture"], found.file, found.allow) == (name, weights, None)
    assert network("python:shop.nets:small", weights, [3]).allow == "python:shop.nets:small"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("timn:resnet18", "did you mean 'timm'"),
        ("timm:", "must begin with one of"),
        ("timm:resnet18", "--weights must name the safetensors file"),
        ("nothing.onnx", "is not there"),
        ("model.pth", "must not be a pickle"),
        ("model.safetensors", "goes to --weights"),
        ("folder/", "is a folder"),
    ],
)
def test_what_is_no_model_is_refused_with_what_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("model.pth", "model.safetensors"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(Unclear, match=words):
        model_of(text)


def test_another_word_is_a_name_on_the_server() -> None:
    assert model_of("resnet20") is None
    assert data_of("fashion", {}) is None


def test_data_is_known_by_what_lies_there(tmp_path: Path) -> None:
    (tmp_path / "photos" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "train-images-idx3-ubyte.gz").write_bytes(b"")
    (tmp_path / "d.npz").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("photos/train/cat/1.png", b"x")
    formats = {
        name: data_of(str(tmp_path / name), {}) for name in ("photos", "digits", "d.npz", "p.zip")
    }
    assert {name: found and found.spec["format"] for name, found in formats.items()} == {
        "photos": "image_folder", "digits": "idx", "d.npz": "npz", "p.zip": "image_folder",
    }  # fmt: skip
    assert formats["p.zip"] is not None
    assert formats["p.zip"].file == tmp_path / "p.zip"
    assert formats["photos"] is not None
    assert formats["photos"].spec["path"] == str(tmp_path / "photos")
    function = data_of("python:shop.data:load", {})
    assert function is not None
    assert function.allow == "python:shop.data:load"


def test_other_folders_and_files_are_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(Unclear, match=r"must hold train/<class>.* holds x\.txt"):
        data_of(str(tmp_path), {})
    with pytest.raises(Unclear, match="zip or tar archive"):
        data_of(str(tmp_path / "x.txt"), {})
    with pytest.raises(Unclear, match="is not there"):
        data_of(str(tmp_path / "none.npz"), {})
    (tmp_path / "train").mkdir()
    with pytest.raises(Unclear, match="pack it as a zip"):
        data_of(str(tmp_path), {}, upload=True)


def test_a_library_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_of_a_zoo("timm:resnet18")
    assert not is_of_a_zoo("python:shop:net")
    assert not is_of_a_zoo("timm:")
    with pytest.raises(Unclear, match=r"but: pytorchcv.* (is not installed|has no model)"):
        asked("pytorchcv:no_such_network", {})


def test_a_folder_that_changes_is_another_data_set(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    before = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == before
    (tmp_path / "b").write_text("2")
    assert fingerprint(tmp_path) != before


def test_near_names_are_told_and_far_ones_are_not() -> None:
    assert near("Resnt20", ["resnet20", "vgg"]) == "; did you mean 'resnet20'?"
    assert near("zzz", ["resnet20"]) == ""


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ([], "one of --latency 20ms and --ratio 60% must be given, but got neither"),
        (["--ratio", "60%", "--latency", "2ms"], "but got both"),
        (["--ratio", "60"], "or write 60%"),
        (["--latency", "fast"], "such as 20ms"),
    ],
)
def test_a_wrong_budget_is_refused_before_anything_is_started(
    capsys: Captured, budget: list[str], words: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["prune", "net", "--data", "data", *budget])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert words in told  # on one line, and in no box: this is no terminal
    assert "│" not in told
