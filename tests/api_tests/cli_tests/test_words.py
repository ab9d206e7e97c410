import json
from datetime import UTC, datetime, timedelta
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


def test_what_is_said_of_a_field_is_told_once(capsys: Captured) -> None:
    message = "budget.ratio must be > 0, but got -1"
    error = {"field": "budget.ratio", "message": message}
    output.explain({"detail": f"{message}.", "errors": [error]})
    assert capsys.readouterr().err.count("must be > 0") == 1
    both = [error, {"field": "name", "message": "name must be given"}]
    detail = f"{message}; name must be given. Ask the operator."
    output.explain({"detail": detail, "errors": both})
    told = capsys.readouterr().err
    assert told.count("must be > 0") == told.count("name must be given") == 1
    assert "2 fields must be changed. Ask the operator." in told
    assert "name: name" not in told


def test_of_a_long_list_of_errors_five_are_told(capsys: Captured) -> None:
    errors = [{"field": f"conv{n}.weight", "message": "missing"} for n in range(40)]
    output.explain({"detail": "40 tensors do not fit", "errors": errors, "cause": {"a": 1}})
    told = capsys.readouterr().err
    assert told.count("missing") == 5
    assert "and 35 more" in told
    assert "cause" not in told


def test_nothing_is_cut_where_there_is_no_terminal(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    output.show_table(("A", "B"), [("a" * 60, "b" * 60)], "")
    assert f"{'a' * 60} {'b' * 60}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("seconds", "told"), [(5, "5 s"), (200, "3 min"), (7300, "2 h"), (90_000_0, "10 d")]
)
def test_ages_are_written_as_people_say_them(seconds: int, told: str) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert output.age(now - timedelta(seconds=seconds), now) == told


def test_the_version_is_told(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("secateur 0.")


def test_a_misspelt_command_is_answered_with_the_near_one(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["job", "list"])
    assert ended.value.code == 2
    assert "Did you mean 'jobs'" in capsys.readouterr().err


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
