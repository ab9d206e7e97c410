"""Rows: their file, what counts as enough, and what is printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.coverage.rows import Row, RowFile, counted, is_enough, summary, table

GOOD = Row("timm:a", "ok", 0.5, 0.1, 2.0, "", {"traced": True})
WRONG = Row("timm:b", "failed", reason="equality: off", detail={"wrong_output": True})


def test_row_on_disk_has_the_documented_keys(tmp_path: Path) -> None:
    RowFile(tmp_path / "rows.json", resume=False).add(GOOD)
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    documented = ["name", "status", "macs_removed", "macs_removed_approximate", "seconds"]
    assert list(row) == [*documented, "reason", "detail"]
    assert list(tmp_path.iterdir()) == [tmp_path / "rows.json"]


def test_resumed_file_keeps_rows_and_forgets_those_to_run_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    first = RowFile(path, resume=False)
    first.add(GOOD)
    first.add(WRONG)
    again = RowFile(path, resume=True)
    assert again.rows == [GOOD, WRONG]
    again.drop(["failed"])
    assert again.names == {"timm:a"}
    assert RowFile(path, resume=False).rows == []


@pytest.mark.parametrize("text", ["{", "[1]", '[{"status": "ok"}]'])
def test_file_that_holds_no_rows_is_not_resumed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="must hold rows"):
        RowFile(path, resume=True)


@pytest.mark.parametrize(
    ("exact", "approximate", "enough"),
    [
        (0.2, 0.0, True),
        (0.19, 0.0, False),
        (0.1, 0.6, True),
        (0.09, 0.9, False),
        (0.3, -0.1, True),
    ],
)
def test_approximate_groups_count_for_at_most_half(
    exact: float, approximate: float, enough: bool
) -> None:
    assert is_enough(exact, approximate) is enough


def test_counted_share_is_capped() -> None:
    assert counted(0.1, 0.6) == pytest.approx(0.2)


def test_table_and_summary_name_every_figure() -> None:
    late = Row("timm:c", "timeout", reason="trace: more than 60 s")
    printed = table([GOOD, WRONG, late])
    assert "timm:a  ok       50.0%   10.0%      2.0\n" in printed
    assert printed.endswith("trace: more than 60 s\n")
    assert summary([GOOD, WRONG, late]) == (
        "3 models: 33.3% traced, 33.3% with 20% of MACs removed (1 ok, 0 frozen, 1 failed), "
        "1 timeouts, 1 wrong outputs\n"
    )
    assert summary([]) == "no models\n"
