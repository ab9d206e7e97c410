import json
from pathlib import Path

import pytest

from api.cli import output
from api.cli.connection import DEFAULT_URL, default_home, default_server
from api.cli.main import main
from api.cli.results import show_result
from tests.api_tests.cli_tests.rows import RESULT

Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (output.percent(0.5), "50.0 %"),
        (output.percent(None), output.DASH),
        (output.milliseconds(1.23456), "1.235 ms"),
        (output.milliseconds(123.456), "123.5 ms"),
        (output.milliseconds(None), output.DASH),
        (output.size(1_500_000), "1.50 MB"),
        (output.size(1500), "1.5 kB"),
        (output.size(None), output.DASH),
        (output.duration(30), "30 s"),
        (output.duration(300), "5 min"),
        (output.duration(None), output.DASH),
        (output.text({"a": [1, 2], "b": None}), f"a=1, 2, b={output.DASH}"),
    ],
)
def test_values_are_written_as_people_read_them(shown: str, expected: str) -> None:
    assert shown == expected


def test_a_problem_is_told_with_all_its_fields(capsys: Captured) -> None:
    errors = [{"field": "budget.ratio", "message": "must be > 0"}]
    output.explain({"title": "Invalid", "errors": errors, "names": ["a"], "hint": "b"})
    told = capsys.readouterr().err
    for part in ("Invalid", "budget.ratio: must be > 0", 'names: ["a"]', "hint: b"):
        assert part in told


def test_markup_in_data_is_shown_as_it_is(capsys: Captured) -> None:
    output.say("[red]net[/red]")
    assert capsys.readouterr().out == "[red]net[/red]\n"


def test_an_unpruned_result_says_so(capsys: Captured) -> None:
    show_result(RESULT | {"unpruned": True, "measured": 0, "test_images": None})
    assert "unpruned" in capsys.readouterr().out


def test_a_result_tells_the_ratio_beside_other_work(capsys: Captured) -> None:
    show_result(RESULT | {"disturbed_ratio": 0.716})
    assert "71.6 % while the device was disturbed" in " ".join(capsys.readouterr().out.split())


def test_the_address_of_the_running_stack_is_found(tmp_path: Path) -> None:
    environment = {"SECATEUR_HOME": str(tmp_path)}
    assert default_server(environment) == DEFAULT_URL
    (tmp_path / "up.json").write_text(json.dumps({"url": "http://127.0.0.1:1"}))
    assert default_server(environment) == "http://127.0.0.1:1"
    assert default_home({}) == Path("~/.secateur").expanduser()


def test_help_names_every_command(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for name in ("up", "demo", "probe", "models", "datasets", "jobs", "devices", "keys"):
        assert name in shown


def test_the_demo_wants_a_checkout(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["demo"])
    assert ended.value.code == 1
    assert "checkout" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [["--host", "0.0.0.0"], ["--allow", "os.getcwd"], ["--port", "70000"]]
)
def test_up_refuses_what_is_unsafe_or_malformed(
    tmp_path: Path, capsys: Captured, options: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["up", "--home", str(tmp_path), *options])
    assert ended.value.code == 1
    assert "must be" in capsys.readouterr().err
