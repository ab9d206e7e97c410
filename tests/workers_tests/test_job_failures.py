"""Jobs on devices that answer with errors, and jobs whose own work fails."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save
from sqlalchemy import update

from jobs.repository import requests
from jobs.tables import Task
from latency_probes.messages import MeasureError
from latency_probes.samples import Measurement
from tests.workers_tests import nets
from tests.workers_tests.workshop import Answer, Finished, Question, Workshop, staircase
from workers.outcome import not_trained
from workers.results import Finetuned


def failing(kind: str, *purposes: str) -> Answer:
    """A device that answers requests of these purposes with an error."""

    def answer(question: Question) -> Measurement | MeasureError:
        if question.purpose.startswith(purposes):
            return MeasureError.model_validate({"kind": kind, "message": "as if"})
        return staircase(question)

    return answer


@pytest.mark.parametrize("kind", ["unsupported_op", "out_of_memory"])
def test_dense_model_that_the_device_cannot_run_fails_the_job(
    workshop: Workshop, kind: str
) -> None:
    job_id = workshop.submit()
    job = workshop.play(job_id, failing(kind, "dense"))
    assert job.state == "failed"
    assert f"{kind}: as if" in (job.problem or {})["detail"]


def test_operators_that_the_runtime_lacks_are_named_before_the_search(workshop: Workshop) -> None:
    def lacking(question: Question) -> MeasureError:
        return MeasureError(kind="unsupported_op", message="the runtime lacks Foo, my.Bar (no)")

    job_id = workshop.submit()
    job = workshop.play(job_id, lacking)
    assert job.state == "failed"
    assert (job.problem or {})["title"] == "The runtime lacks operators of the model"
    assert "the runtime lacks Foo, my.Bar" in (job.problem or {})["detail"]
    assert [row.purpose for row in workshop.snapshot(job_id).requests.values()] == ["dense"]


def test_abandoned_dense_measurement_fails_the_job(workshop: Workshop) -> None:
    job_id = workshop.submit()
    workshop.play(job_id, until=lambda: bool(workshop.requests(job_id, "dense")))
    with workshop.bench.write() as session:
        requests.abandon(session, job_id)
    job = workshop.play(job_id)
    assert job.state == "failed"
    assert "no device answered" in (job.problem or {})["detail"]


def test_every_candidate_failing_ends_the_job_with_the_device_s_words(workshop: Workshop) -> None:
    job_id = workshop.submit()
    job = workshop.play(job_id, failing("crashed", "screening"))
    assert job.state == "failed"
    assert (job.problem or {})["title"] == "The most pruned model could not be measured"
    assert "as if" in (job.problem or {})["detail"]


def test_some_candidates_failing_only_costs_those(workshop: Workshop) -> None:
    asked = []

    def sometimes(question: Question) -> Measurement | MeasureError:
        asked.append(question)
        if question.purpose.startswith("screening") and len(asked) % 3 == 0:
            return MeasureError(kind="unsupported_op", message="no such operator")
        return staircase(question)

    job_id = workshop.submit()
    job = workshop.play(job_id, sometimes, until=lambda: bool(workshop.tasks(job_id, "finetune")))
    assert job.state == "finetuning", job.problem
    errors = [row for row in workshop.snapshot(job_id).found.values() if row.error_kind]
    assert errors


def test_finalist_that_fails_with_its_true_weights_fails_the_job(
    workshop: Workshop, finished: Finished
) -> None:
    job_id = workshop.submit()
    workshop.play(job_id, until=lambda: bool(workshop.tasks(job_id, "package")))
    workshop.hand_in(job_id, finished.job_id)
    job = workshop.play(job_id, failing("device_lost", "final"))
    assert job.state == "failed"
    assert (job.problem or {})["title"] == "No finalist could be measured"


def test_finetuning_without_its_checkpoint_fails_the_job_and_says_what_was_missing(
    workshop: Workshop,
) -> None:
    job_id = workshop.submit(finetune={"steps": 3, "batch_size": 16})
    workshop.play(job_id, until=lambda: bool(workshop.tasks(job_id, "finetune")))
    (task,) = workshop.tasks(job_id, "finetune")
    payload = {**task.payload, "checkpoint": "jobs/gone.safetensors"}
    with workshop.bench.write() as session:
        session.execute(update(Task).where(Task.id == task.id).values(payload=payload))
    job = workshop.play(job_id)
    assert job.state == "failed"
    assert (job.problem or {})["title"] == "The job failed in finetune"
    assert "gone.safetensors" in (job.problem or {})["detail"]


def test_a_training_that_ended_early_is_not_blamed_on_its_learning_rate() -> None:
    assert not_trained(1, 200).startswith("1 step of fine-tuning, of 200, made it worse")
    assert not_trained(1, 200).endswith("give it more time")
    assert not_trained(200, 200).endswith("lower finetune.learning_rate")


def test_a_training_that_makes_it_worse_is_undone_and_told(workshop: Workshop) -> None:
    job_id = workshop.submit(finetune={"steps": 3, "batch_size": 16, "learning_rate": 1e4})
    job = workshop.play(job_id)
    assert job.state == "succeeded", job.problem
    told = "3 steps of fine-tuning made it worse on the validation images"
    assert told in (job.result or {})["warning"]
    (task,) = workshop.tasks(job_id, "finetune")
    found = Finetuned.model_validate(task.result)
    plain = workshop.submit(finetune={"steps": 0})
    workshop.play(plain)
    (task,) = workshop.tasks(plain, "finetune")
    untrained = Finetuned.model_validate(task.result)
    assert found.untrained
    assert not untrained.untrained
    assert (found.validation_loss, found.validation_accuracy) == (
        untrained.validation_loss, untrained.validation_accuracy
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kwargs", "detail"),
    [
        ({"shape": [40, 3, 12, 12]}, "images must have shape [1, 12, 12]"),
        ({"shape": [40, 1, 12, 12], "label": 9}, "labels must be in 0..3 for this model"),
    ],
)
def test_images_that_do_not_fit_the_network_fail_the_preparation(
    workshop: Workshop, kwargs: dict[str, object], detail: str
) -> None:
    name = f"numbers-{next(workshop.names)}"
    with workshop.bench.write() as session:
        workshop.add_dataset(session, name, function="numbers", **kwargs)
    job = workshop.play(workshop.submit(name))
    assert job.state == "failed"
    assert (job.problem or {})["title"] == "The job failed in prepare"
    assert detail in (job.problem or {})["detail"]


@pytest.mark.parametrize("function", ["moved", "faint"])
def test_trained_model_at_chance_ends_the_job_before_anything_is_measured(
    workshop: Workshop, function: str
) -> None:
    with workshop.bench.write() as session:
        workshop.add_dataset(session, function, function=function)
    job_id = workshop.submit(function)
    job = workshop.play(job_id)
    assert job.state == "failed"
    problem = job.problem or {}
    assert problem["title"] == "The dense model is no better than guessing"
    assert "it is sure and wrong" in problem["detail"]
    assert [each["field"] for each in problem["errors"]] == [
        "labels", "pixels", "mean, std", "weights"
    ]  # fmt: skip
    assert workshop.requests(job_id, "") == []


def test_untrained_model_is_told_of_and_goes_on(workshop: Workshop) -> None:
    torch.manual_seed(0)
    workshop.add_model("untrained", "tiny", save(nets.weights(nets.tiny())))
    job_id = workshop.submit(model="untrained")
    job = workshop.play(job_id, until=lambda: bool(workshop.requests(job_id, "dense")))
    assert job.state == "preparing"
    assert "the dense model seems untrained: on 80" in (job.progress or {})["advice"]


def test_store_that_is_away_for_a_while_costs_its_job_only_time(workshop: Workshop) -> None:
    job_id = workshop.submit(budget={"ratio": 0.53})

    def is_to_ask() -> bool:
        """Whether the next decision asks for skeletons that are not stored yet."""
        asked = workshop.requests(job_id, "screening")
        is_answered = bool(asked) and all(each.measurement_id for each in asked)
        return workshop.job(job_id).state == "searching" and is_answered

    workshop.play(job_id, until=is_to_ask)
    folder = workshop.bench.settings.home / "artifacts" / "skeletons"
    away = folder.rename(folder.with_name("away"))
    folder.touch()
    job = workshop.play(job_id, until=lambda: workshop.job(job_id).tries > 0)
    assert job.state == "searching"
    assert (job.waiting_for or "").startswith("another try in 5 s: ")
    folder.unlink()
    away.rename(folder)
    job = workshop.play(job_id, until=lambda: workshop.job(job_id).tries == 0)
    workshop.bench.now = None
    assert (job.state, job.waiting_for) == ("searching", None)


def test_skeleton_that_is_lost_is_named_and_tried_again(workshop: Workshop) -> None:
    job_id = workshop.submit(target={"runtime": "replay", "batch_size": 3})
    workshop.play(job_id, until=lambda: workshop.snapshot(job_id).result("prepare") is not None)
    (task,) = workshop.tasks(job_id, "prepare")
    location = (task.result or {})["dense_skeleton"]["location"]
    workshop.bench.context.store.remove(location)
    job = workshop.play(job_id, until=lambda: workshop.job(job_id).tries > 0)
    assert job.state == "preparing"
    assert location in (job.waiting_for or "")
