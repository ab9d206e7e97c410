"""`models inspect`: a summary, the causes that freeze groups, the groups in a readable order."""

from typing import Any

import pytest

from jobs.repository import models
from jobs.spec import ModelSpec
from tests.api_tests.cli_tests.conftest import Secateur, Served

Captured = pytest.CaptureFixture[str]


def group(name: str, width: int, macs: int, **more: Any) -> dict[str, Any]:
    known = {"kind": "channels", "status": "prunable", "reason": "", "form": "module"}
    return {"name": name, "width": width, "macs": macs, **known, **more}


def report(*groups: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "groups": list(groups),
        "prunable_groups": 2,
        "parameters": 1_234_567,
        "macs": 1000,
        "prunable_parameter_share": 0.8,
        "prunable_mac_share": 0.9,
        "prunable_mac_share_exact": 0.6,
        "prunable_mac_share_approximate": 0.3,
        "half_width": {
            "mac_share_exact": 0.41,
            "mac_share_approximate": 0.2,
            "parameter_share_exact": 0.35,
            "parameter_share_approximate": 0.1,
        },
        "graph_form_groups": [],
        "frozen": [],
        "unused": [],
        **more,
    }


def add(api: Served, found: dict[str, Any]) -> None:
    with api.sessions.begin() as session:
        spec = ModelSpec(name="net", architecture="timm:resnet18", input_shape=(3, 224, 224))
        model = models.create(session, spec, weights_digest="0" * 64)
        if model is None:
            raise ValueError("the name must be free")
        models.accept(session, model.id, found)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_the_summary_tells_exact_and_approximate_apart(
    secateur: Secateur, api: Served, capsys: Captured
) -> None:
    add(api, report(group("conv1", 64, 500), group("conv2", 8, 200, status="approximate")))
    assert secateur("models", "inspect", "net") == 0
    shown = capsys.readouterr().out
    assert "1,234,567" in shown
    assert "1 exact, 1 approximate" in shown
    assert "90.0 % (60.0 % exact, 30.0 % approximate)" in shown
    assert "41.0 % of MACs and 35.0 % of parameters by exact groups" in shown
    assert "pruned models are of your class" in shown


def test_groups_that_need_another_form_are_named(
    secateur: Secateur, api: Served, capsys: Captured
) -> None:
    add(api, report(group("heads", 12, 500, form="graph"), graph_form_groups=["heads"]))
    assert secateur("models", "inspect", "net") == 0
    shown = capsys.readouterr().out
    assert "a PrunedGraph where one of 1 groups is cut (heads), else your class" in shown


def test_parts_are_named_with_what_was_in_the_way_of_the_whole(
    secateur: Secateur, api: Served, capsys: Captured
) -> None:
    obstacle = "it must not depend on values (net.py:12 in forward)"
    add(api, report(group("body.0", 12, 500), parts=["body", "head"], obstacle=obstacle))
    assert secateur("models", "inspect", "net") == 0
    assert f"in parts (body, head): {obstacle}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ({}, "verified –"),
        ({"complete": True, "unfinished": []}, "verified all"),
        (
            {"complete": False, "unfinished": ["b"], "unfinished_because": "all is spent: add"},
            "verified unfinished: 1 of 2 groups and blocks (b) were not verified in time, and "
            "stay whole; all is spent: add",
        ),
        (
            {"complete": False, "unfinished": []},
            "verified unfinished: it was not tried in time whether your class can lose some "
            "groups; give it more time",
        ),
    ],
)
def test_it_says_whether_everything_was_verified(
    secateur: Secateur, api: Served, capsys: Captured, found: dict[str, Any], line: str
) -> None:
    add(api, report(group("a", 8, 500), group("b", 8, 500, status="frozen"), **found))
    assert secateur("models", "inspect", "net") == 0
    lines = [" ".join(each.split()) for each in capsys.readouterr().out.splitlines()]
    assert line in lines


def test_frozen_groups_are_summed_up_by_cause(
    secateur: Secateur, api: Served, capsys: Captured
) -> None:
    names = [f"stage.{number}" for number in range(5)]
    cause = {"cause": "there is no pruning rule", "groups": names, "units": 40, "mac_share": 0.25}
    add(api, report(*(group(name, 8, 50, status="frozen") for name in names), frozen=[cause]))
    assert secateur("models", "inspect", "net") == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("there is no"))
    expected = "there is no pruning rule 5 40 25.0 % stage.0, stage.1, stage.2 and 2 more"
    assert line.split() == expected.split()


@pytest.mark.parametrize(
    ("sort", "names"),
    [("macs", ["b", "c", "a"]), ("width", ["a", "b", "c"]), ("model", ["c", "a", "b"])],
)
def test_groups_come_in_the_wanted_order(
    secateur: Secateur, api: Served, capsys: Captured, sort: str, names: list[str]
) -> None:
    add(api, report(group("c", 8, 300), group("a", 64, 200), group("b", 16, 500)))
    assert secateur("models", "inspect", "net", "--sort", sort) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[0] for line in lines if line[:2] in ("a ", "b ", "c ")] == names


def test_a_long_list_is_cut_unless_all_is_wanted(
    secateur: Secateur, api: Served, capsys: Captured
) -> None:
    add(api, report(*(group(f"layer{number}", 8, number) for number in range(50))))
    assert secateur("models", "inspect", "net") == 0
    short = capsys.readouterr().out
    assert secateur("models", "inspect", "net", "--all") == 0
    long = capsys.readouterr().out
    assert (short.count("layer"), long.count("layer")) == (30, 50)
    assert "(30 of 50; --all shows the rest)" in short
