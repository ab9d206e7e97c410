"""The report page: every text is escaped, and nothing is shown that is not there."""

from __future__ import annotations

from copy import deepcopy
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from torch import nn

from jobs.tables import Measurement
from search.evaluation import cross_entropy_loss
from search.perturbations import Perturbation, layer_rises
from workers.outcome import disturbed_ratio
from workers.report.details import details
from workers.report.page import report_page
from workers.report.plots import Scale, front, scatter
from workers.report.robustness import robustness

EVIL = "<script>alert('x')</script>"
REPORT: dict[str, Any] = {
    "job": {"id": "job_1"},
    "model": {"name": "net"},
    "result": {
        "unpruned": False,
        "within_budget": True,
        "budget_ratio": 0.5,
        "further_devices": [],
        "budget_ms": 0.5,
        "ratio": 0.49,
        "ratio_low": 0.48,
        "ratio_high": 0.495,
        "disturbed_ratio": None,
        "dense_latency_ms": 1.0,
        "latency_ms": 0.49,
        "test_images": 100,
        "accuracy": 0.91,
        "dense_accuracy": 0.92,
        "dense_bytes": 2000,
        "bytes": 1000,
        "plan_digest": "p" * 64,
        "measurements": {"measured": 12, "reused": 3, "from_jobs": ["job_0"]},
        "devices": [
            {"id": "dev_1", "name": "board", "measured": 10, "duty": 0.93, "note": None},
            {
                "id": "dev_2",
                "name": "other",
                "measured": 2,
                "duty": None,
                "note": "set aside: it drifted",
            },
        ],
    },
    "measurement": {
        "device": "dev_1",
        "target": "replay/CPU/b1/t1",
        "runtime_version": "1",
        "kind": "strict",
        "verdict": "ok",
        "protocol": 1,
        "conditions": {"governor": None, "load": 0.5},
    },
    "search_budget": 0.5,
    "tree": [
        {"digest": "p" * 64, "level": 2, "origin": "cut", "ratio": 0.49, "loss": 0.3},
        {"digest": "q" * 64, "level": 9, "origin": "dense", "ratio": 1.0, "loss": 0.1},
        {"digest": "r" * 64, "level": 1, "origin": "cut", "ratio": None, "loss": None},
    ],
    "details": {
        "dense": {
            "load_ms": 20.5,
            "cold_ms": None,
            "layers": [{"name": "conv1", "op": "Conv", "ms": 0.25, "share": 0.625}],
        },
        "result": {"load_ms": 10.25, "cold_ms": None, "layers": []},
    },
    "groups": {"groups": [{"name": "conv", "width": 16}]},
    "widths": {"conv": 8, "other": 4},
    "loading": "a < b",
}


class Tags(HTMLParser):
    """Collects the names of tags."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)


def changed(**parts: dict[str, Any]) -> dict[str, Any]:
    report = deepcopy(REPORT)
    for name, part in parts.items():
        report[name] |= part
    return report


THERE = {
    "device": EVIL, "budget_ratio": 0.7, "dense_latency_ms": 2.0, "latency_ms": 1.2,
    "ratio": 0.6, "ratio_low": 0.59, "ratio_high": 0.61,
}  # fmt: skip


@pytest.mark.parametrize(
    "parts",
    [
        {"job": {"id": EVIL}},
        {"model": {"name": EVIL}},
        {"result": {"plan_digest": EVIL}},
        {"result": {"further_devices": [THERE]}},
        {"measurement": {"device": EVIL}},
        {"measurement": {"conditions": {EVIL: EVIL}}},
        {"widths": {EVIL: 3}},
        {"details": {"dense": {"layers": [{"name": EVIL, "op": EVIL, "ms": 1.0, "share": 0.5}]}}},
    ],
)
def test_every_text_is_escaped(parts: dict[str, Any]) -> None:
    page = report_page(changed(**parts))
    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.names
    assert "&lt;script&gt;" in page


def test_texts_in_the_tree_are_escaped() -> None:
    report = deepcopy(REPORT)
    report["tree"][0] |= {"origin": EVIL}
    page = report_page(report)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_page_says_latency_interval_budget_and_accuracy() -> None:
    page = report_page(REPORT)
    for words in ("0.490", "0.480 to 0.495", "within the budget of 0.500", "91.00%", "92.00%"):
        assert words in page
    assert "a &lt; b" in page


def test_levels_finer_than_the_device_resolves_are_noted() -> None:
    assert "Note: use &lt; 3 levels." in report_page(REPORT | {"advice": "use < 3 levels"})
    assert "Note:" not in report_page(REPORT | {"advice": None})


def test_result_over_the_budget_is_said_to_be() -> None:
    assert "not wholly within the budget" in report_page(changed(result={"within_budget": False}))


def test_what_other_work_does_to_the_ratio_is_told() -> None:
    assert "disturbed" not in report_page(REPORT)
    page = report_page(changed(result={"disturbed_ratio": 0.61}))
    assert "While the device was disturbed, it was 0.610." in page


def test_devices_and_reused_measurements_are_told() -> None:
    page = report_page(REPORT)
    assert "<td>other</td><td>2</td><td></td><td>set aside: it drifted</td>" in page
    assert "<td>board</td><td>10</td><td>93% of the time that candidates waited</td>" in page
    assert "12 candidates were measured, 3 of them for job_0" in page
    everything = changed(result={"measurements": {"measured": 12, "reused": 0, "from_jobs": []}})
    assert "12 candidates were measured, all of them for this job." in report_page(everything)


def test_unknown_conditions_are_shown_as_unknown() -> None:
    assert "<td>governor</td><td>unknown</td>" in report_page(REPORT)


def test_layers_and_load_times_are_shown_where_they_are_known() -> None:
    page = report_page(REPORT)
    assert "<td>conv1</td><td>Conv</td><td>0.2500 ms</td><td>62.5%</td>" in page
    assert "<td>loading</td><td>20.500 ms</td><td>10.250 ms</td>" in page
    assert "first call" not in page
    assert "The dearest layers: result" not in page


def test_the_layers_most_sensitive_to_flipped_bits_are_shown() -> None:
    layers = [{"layer": f"block{n}", "rise": n / 10} for n in range(12)]
    known = {
        "rate": 0.001, "seeds": 3, "images": 128, "loss": 0.5,
        "layers": [*layers, {"layer": EVIL, "rise": None}],
    }  # fmt: skip
    page = report_page(REPORT | {"robustness": known})
    assert page.index("<td>block11</td><td>+1.1000</td>") < page.index("<td>block10</td>")
    assert "<td>block1</td>" not in page
    assert "The 10 most sensitive of 13 layers. 1 of them were not reached in time" in page
    assert EVIL not in page
    assert "Flipped bits" not in report_page(REPORT)


def test_robustness_is_the_rise_of_the_loss_when_bits_of_one_layer_flip() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3))
    images, labels = torch.randn(200, 4), torch.arange(200) % 3
    found = robustness(model, [(images, labels)])
    assert (found["rate"], found["seeds"], found["images"]) == (1e-3, 3, 128)
    some = [(images[:128], labels[:128])]
    loss = cross_entropy_loss(model, some)
    rises = layer_rises(
        model, lambda given: cross_entropy_loss(given, some), Perturbation("flips", 1e-3),
        seeds=(0, 1, 2),
    )  # fmt: skip
    assert found["loss"] == loss
    assert found["layers"] == [{"layer": name, "rise": rises[name]} for name in ("0", "2")]
    assert rises["0"] != 0.0  # some bits of 256 weights did flip


def test_details_name_the_ten_dearest_layers() -> None:
    profile = [[f"layer{n}", "Conv", 1000 * n] for n in range(12)]
    found = details({"profile": profile, "load_ms": 3.5, "candidate": {"p99_ns": 2e6}})
    assert [layer["name"] for layer in found["layers"]] == [f"layer{n}" for n in range(11, 1, -1)]
    assert found["layers"][0]["share"] == pytest.approx(11 / 66)
    assert (found["load_ms"], found["p99_ms"], found["cold_ms"]) == (3.5, 2.0, None)
    assert details(None)["layers"] == []


@pytest.mark.parametrize(("outliers", "is_told"), [(9, False), (10, False), (11, True)])
def test_a_tail_made_by_the_device_is_told_as_such(outliers: int, is_told: bool) -> None:
    spread = {"count": 1000, "p99_ns": 5_764_000, "outliers": outliers}
    report = deepcopy(REPORT)
    report["details"]["result"] = details({"candidate": spread})
    page = report_page(report)
    assert "<td>99th percentile</td><td>unknown</td><td>5.764 ms" in page
    assert (f"{outliers} of 1000 calls took far longer than the rest" in page) == is_told


@pytest.mark.parametrize(
    ("disturbed", "told"), [(None, None), (0.585, None), (0.59, 0.59), (0.57, 0.57)]
)
def test_a_disturbed_ratio_is_told_only_where_the_interval_does_not_hold_it(
    disturbed: float | None, told: float | None
) -> None:
    row = Measurement(ratio_low=0.58, ratio_high=0.587, conditions={"disturbed_ratio": disturbed})
    assert disturbed_ratio(row) == told


def test_unpruned_result_has_no_search() -> None:
    report = changed(result={"unpruned": True}, measurement={"conditions": None}) | {"tree": []}
    page = report_page(report)
    assert "Nothing was pruned" in page
    assert "The search" not in page


def test_chosen_plan_stands_out_and_levels_have_colours() -> None:
    plot = scatter(REPORT["tree"], 0.5, "p" * 64)
    assert plot.count('class="chosen"') == 1
    assert 'class="level6"' in plot
    assert plot.count("<circle") == 2


def test_tree_without_scores_says_so() -> None:
    assert "No candidate was scored" in scatter(REPORT["tree"][2:], 0.5, None)


def test_front_keeps_what_no_faster_point_beats() -> None:
    points = [
        {"ratio": ratio, "loss": loss}
        for ratio, loss in ((0.5, 0.4), (0.6, 0.5), (0.7, 0.2), (0.7, 0.3))
    ]
    assert front(points) == [points[0], points[2]]


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.25, 1.0], [0.4, 0.6, 0.8, 1.0]),
        ([2.303, 2.322], [2.305, 2.31, 2.315, 2.32]),
        ([0.1, 480.0], [0, 200, 400]),
    ],
)
def test_ticks_are_round_numbers(values: list[float], ticks: list[float]) -> None:
    assert Scale(values, 0, 100).ticks() == pytest.approx(ticks)


def test_scale_of_equal_values_is_still_a_scale() -> None:
    scale = Scale([2.0, 2.0], 0, 100)
    assert scale(2.0) == pytest.approx(50)
    assert len(scale.ticks()) == 5
