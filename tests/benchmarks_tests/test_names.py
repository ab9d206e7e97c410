"""Names of models on the command line and in files."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.coverage.__main__ import LIST
from benchmarks.coverage.names import ModelNameError, read_names


def test_names_and_files_mix_and_each_model_comes_once(tmp_path: Path) -> None:
    listed = tmp_path / "models.txt"
    listed.write_text("# small ones\ntimm:resnet10t\n\npython:nets:chain  # ours\n")
    assert read_names(["timm:vgg11", str(listed), "timm:resnet10t"]) == [
        "timm:vgg11",
        "timm:resnet10t",
        "python:nets:chain",
    ]


def test_line_without_a_known_scheme_is_named_with_its_place(tmp_path: Path) -> None:
    listed = tmp_path / "models.txt"
    listed.write_text("timm:resnet10t\nkeras:resnet50\n")
    with pytest.raises(ModelNameError, match=r"must be one of timm:NAME.*'keras:resnet50'.*:2"):
        read_names([str(listed)])


@pytest.mark.parametrize("argument", ["keras:resnet50", "timm:", "python:nets", "no/such/file"])
def test_argument_that_is_neither_name_nor_file_is_quoted(argument: str) -> None:
    with pytest.raises(ModelNameError, match=f"--models must be names.*{argument!r}"):
        read_names([argument])


def test_list_of_the_repository_is_long_and_well_formed() -> None:
    names = read_names([str(LIST)])
    assert len(names) >= 120
    assert {name.partition(":")[0] for name in names} == {
        "timm",
        "torchvision",
        "transformers",
        "python",
    }
