"""The inspection runs in a child process: whatever the model does there ends in an answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import save_file

from jobs.spec import ModelSpec
from search.graph.trial_log import Verdicts
from tests.workers_tests import nets
from workers.inspection import Inspection, inspect, inspect_in_child


def inspection(
    tmp_path: Path, function: str, time_limit_s: float = 60.0, wall_limit_s: float = 600.0
) -> Inspection:
    """A request for a network of these tests with fitting weights, if it can be built here."""
    weights = tmp_path / "weights.safetensors"
    builders = {"tiny": nets.tiny, "small": nets.small, "undecided": nets.undecided}
    save_file(nets.weights(builders[function]()) if function in builders else {}, weights)
    architecture = f"{nets.HERE}:{function}"
    spec = ModelSpec(name="net", architecture=architecture, input_shape=nets.SHAPE)
    return Inspection(
        spec=spec,
        weights=weights,
        allow=[architecture],
        time_limit_s=time_limit_s,
        wall_limit_s=wall_limit_s,
    )


def test_child_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    problem = inspect_in_child(inspection(tmp_path, "sleeper", wall_limit_s=1.0))["problem"]
    assert problem["detail"] == "it took longer than 1 s and was stopped"


def test_child_that_waits_for_something_is_killed_long_before(tmp_path: Path) -> None:
    answer = inspect_in_child(inspection(tmp_path, "sleeper"), idle_s=2.0)
    assert answer["problem"]["detail"] == "it computed nothing for 2 s and was stopped"


@pytest.mark.parametrize(
    ("function", "detail"),
    [
        ("crasher", "the inspection ended with status 7: no more memory"),
        ("quitter", "the inspection ended with status 0: it said nothing"),
    ],
)
def test_child_that_ends_without_an_answer_is_reported_with_its_last_words(
    tmp_path: Path, function: str, detail: str
) -> None:
    problem = inspect_in_child(inspection(tmp_path, function))["problem"]
    assert problem["detail"] == detail


def test_network_sees_no_secrets_of_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:secret@host/name")
    monkeypatch.setenv("SHOP_HOME", "/shop")
    problem = inspect_in_child(inspection(tmp_path, "curious"))["problem"]
    assert problem["detail"].endswith("could not be built: sees ['SHOP_HOME']")


def test_network_that_cannot_be_traced_is_a_problem(tmp_path: Path) -> None:
    answer = inspect(inspection(tmp_path, "undecided"))
    assert answer["problem"]["title"] == "The model cannot be traced"


def test_network_that_cannot_be_built_is_a_problem(tmp_path: Path) -> None:
    answer = inspect(inspection(tmp_path, "broken"))
    assert answer["problem"]["title"] == "The architecture cannot be built"


def test_network_is_traced_and_reported(tmp_path: Path) -> None:
    answer = inspect(inspection(tmp_path, "small"))
    assert {"groups", "complete"} <= answer["report"].keys()
    assert Verdicts.from_json(answer["verdicts"]).entries


def test_network_that_is_not_even_exported_in_time_may_have_more(tmp_path: Path) -> None:
    answer = inspect(inspection(tmp_path, "small", time_limit_s=0.0))
    assert answer["late"]
    assert "must be exported within the time limit" in answer["problem"]["detail"]
