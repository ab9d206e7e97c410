"""`secateur devices check`: followed to its end, told as a table, drawn as a plot."""

import json
import math
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from api.cli.check_plot import check_svg, reference_points, sentinel_points
from jobs import resolution
from jobs.repository import checks, devices
from jobs.resolution import Trial
from jobs.states import CheckState
from tests.api_tests.cli_tests.conftest import Secateur, Served

Captured = pytest.CaptureFixture[str]
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
PATIENCE_S = 20.0


def trial(log: float, kind: str = "screening", high: float = 1.02) -> Trial:
    logs = (log - 0.01, log + 0.01)
    return Trial(
        at=NOW.isoformat(), kind=kind, verdict="ok", ratio=math.exp(log), low=0.98, high=high,
        reference_ms=2.0, logs=logs, rounds=((log, log),) * 2, setup_s=(0.1,) * 2,
        timing_s=(0.2,) * 2, process_s=(0.5,) * 2,
    )  # fmt: skip


def history(*points: tuple[str, float | None, float]) -> list[dict[str, Any]]:
    return [
        {"at": NOW.isoformat(), "reference": name, "sentinel_us": us, "reference_ms": ms}
        for name, us, ms in points
    ]


RESULT: dict[str, Any] = resolution.document(
    [trial(0.0), trial(0.01), trial(-0.02, kind="strict", high=0.99)]
) | {"errors": [], "history": history(("a", 50.0, 2.0), ("a", None, 2.2), ("b", 55.0, 7.0))}


@pytest.fixture
def device(api: Served) -> str:
    with api.sessions.begin() as session:
        token = devices.create_token(session, NOW + timedelta(minutes=1))
        enrolled = devices.enrol(session, token, name="pi", labels={}, capabilities={}, now=NOW)
    if enrolled is None:
        raise ValueError("the token must be good")
    return enrolled[0].id


def soon(api: Served, end: Callable[[Session, str], object]) -> threading.Thread:
    """A stand-in for the collector that ends the check as soon as it is there."""

    def run() -> None:
        for _ in range(round(PATIENCE_S / 0.05)):
            with api.sessions.begin() as session:
                for check in checks.live(session):
                    checks.report(session, check.id, CheckState.RUNNING, {"ended": 3}, "pi")
                    end(session, check.id)
                    return
            threading.Event().wait(0.05)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_what_was_found_is_a_table_and_a_plot(
    secateur: Secateur, api: Served, device: str, tmp_path: Path, capsys: Captured
) -> None:
    ending = soon(api, lambda session, check: checks.finish(session, check, RESULT, NOW))
    plot = tmp_path / "check.svg"
    assert secateur("devices", "check", device, "--quick", "--plot", str(plot)) == 0
    ending.join()
    shown = capsys.readouterr().out
    for words in ("resnet20", "3 measurements", "screening resolves", "30 s", "67 %"):
        assert words in shown
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")
    assert secateur("devices", "checks", device) == 0
    assert "done" in capsys.readouterr().out


def test_a_check_that_failed_is_explained_and_the_exit_code_says_so(
    secateur: Secateur, api: Served, device: str, capsys: Captured
) -> None:
    ending = soon(api, lambda session, check: checks.fail(session, check, "crashed: 11", NOW))
    assert secateur("devices", "check", device) == 1
    ending.join()
    assert "crashed: 11" in capsys.readouterr().err


def test_json_is_the_whole_check(
    secateur: Secateur, api: Served, device: str, capsys: Captured
) -> None:
    ending = soon(api, lambda session, check: checks.finish(session, check, RESULT, NOW))
    assert secateur("devices", "check", device, "--json", "--threads", "2") == 0
    ending.join()
    check = json.loads(capsys.readouterr().out)
    assert (check["state"], check["target"]["threads"]) == ("done", 2)
    assert secateur("devices", "checks", device, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) == 1


def test_a_plot_is_an_svg_file(secateur: Secateur, device: str, capsys: Captured) -> None:
    assert secateur("devices", "check", device, "--plot", "check.png") == 2
    assert "must name an .svg file" in capsys.readouterr().err


def test_history_is_told_against_the_medians_of_like() -> None:
    points = history(("a", 50.0, 2.0), ("b", None, 8.0), ("a", 55.0, 3.0), ("b", 60.0, 8.0))
    sentinel = [(index, round(value, 3)) for index, value in sentinel_points(points)]
    assert sentinel == [(0, -9.091), (2, 0.0), (3, 9.091)]
    references = [(index, round(value, 3)) for index, value in reference_points(points)]
    assert references == [(0, -20.0), (1, 0.0), (2, 20.0), (3, 0.0)]


def test_every_text_in_the_plot_is_escaped() -> None:
    result = RESULT | {"trials": [RESULT["trials"][0] | {"at": "<b>"}], "history": []}
    drawn = check_svg(result, "<script>")
    assert "<script>" not in drawn
    assert "<b>" not in drawn
    ElementTree.fromstring(drawn)
