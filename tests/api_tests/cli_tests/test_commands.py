import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file
from sqlalchemy.orm import Session

from api.cli import watch
from api.cli.main import main
from api.cli.watch import line
from api.routes.views import JobView
from jobs.repository import artifacts, datasets, devices, models
from jobs.repository import jobs as jobs_rows
from jobs.states import JobState
from jobs.status import transition
from jobs.tables import Device
from tests.api_tests.cli_tests.conftest import Secateur, Served
from tests.api_tests.cli_tests.rows import PROGRESS, RESULT, add_inputs, add_job

Captured = pytest.CaptureFixture[str]
ARCHITECTURE = "python:examples.resnet20:resnet20"


def weights_at(folder: Path) -> Path:
    import numpy

    save_file({"stem.weight": numpy.zeros((2, 2), numpy.float32)}, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def judge(api: Served, *, accepted: bool) -> threading.Thread:
    """A stand-in for the worker that checks what is submitted, as soon as it is there."""

    def check(session: Session) -> bool:
        for model in models.unchecked(session):
            problem = {"title": "Rejected", "detail": "stem.weight must have shape [16, 1, 3, 3]"}
            if accepted:
                return models.accept(session, model.id, {"parameters": 4, "groups": []})
            return models.reject(session, model.id, problem)
        for dataset in datasets.unchecked(session):
            return datasets.accept(session, dataset.id, {"images": 3})
        return False

    def run() -> None:
        for _ in range(200):
            with api.sessions.begin() as session:
                if check(session):
                    return
            threading.Event().wait(0.05)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def add_model(secateur: Secateur, folder: Path, *more: str) -> int:
    weights = ["--weights", str(weights_at(folder)), "--input-shape", "1,28,28"]
    return secateur("models", "add", "net", "--architecture", ARCHITECTURE, *weights, *more)


def test_lists_say_that_there_is_nothing_yet(secateur: Secateur, capsys: Captured) -> None:
    for kind in ("models", "datasets", "jobs", "devices", "keys"):
        assert secateur(kind, "list") == 0
    assert capsys.readouterr().out.count("yet.") == 5


def test_every_reading_command_writes_json(
    secateur: Secateur, api: Served, capsys: Captured
) -> None:
    job = add_job(api.sessions, JobState.SUCCEEDED, result=RESULT)
    readers = [["models", "list"], ["models", "inspect", "net"], ["datasets", "list"]]
    readers += [["jobs", "list"], ["jobs", "show", job], ["jobs", "artifacts", job]]
    readers += [["devices", "list"], ["keys", "list"], ["jobs", "watch", job]]
    for command in readers:
        assert secateur(*command, "--json") == 0
        json.loads(capsys.readouterr().out)


def test_models_add_waits_for_the_check(
    secateur: Secateur, api: Served, tmp_path: Path, capsys: Captured
) -> None:
    checking = judge(api, accepted=True)
    assert add_model(secateur, tmp_path, "--kwargs", '{"width": 16}') == 0
    checking.join()
    assert "net is ready" in capsys.readouterr().out


def test_models_add_explains_a_rejection(
    secateur: Secateur, api: Served, tmp_path: Path, capsys: Captured
) -> None:
    checking = judge(api, accepted=False)
    assert add_model(secateur, tmp_path) == 1
    checking.join()
    assert "stem.weight must have shape" in capsys.readouterr().err


def test_models_add_need_not_wait(secateur: Secateur, tmp_path: Path, capsys: Captured) -> None:
    assert add_model(secateur, tmp_path, "--no-wait", "--json") == 0
    assert json.loads(capsys.readouterr().out)["state"] == "checking"


def test_models_add_takes_an_onnx_file_alone(
    secateur: Secateur, api: Served, tmp_path: Path, capsys: Captured
) -> None:
    file = tmp_path / "net.onnx"
    file.write_bytes(b"\x08\x08\x12\x04rest")  # version 8, made by "rest"
    assert secateur("models", "add", "net", "--onnx", str(file), "--no-wait", "--json") == 0
    assert json.loads(capsys.readouterr().out)["spec"]["architecture"] == "onnx"


def test_models_add_wants_an_architecture_or_an_onnx_file(
    secateur: Secateur, tmp_path: Path
) -> None:
    weights = ["--weights", str(weights_at(tmp_path))]
    assert secateur("models", "add", "net", *weights) == 2
    assert secateur("models", "add", "net", "--architecture", ARCHITECTURE, *weights) == 2
    assert add_model(secateur, tmp_path, "--onnx", weights[1]) == 2


def test_a_pickle_is_refused_with_the_servers_words(
    secateur: Secateur, tmp_path: Path, capsys: Captured
) -> None:
    pickle = tmp_path / "weights.pt"
    pickle.write_bytes(b"\x80\x04K\x01.")
    shape = ["--weights", str(pickle), "--input-shape", "1,28,28"]
    assert secateur("models", "add", "net", "--architecture", ARCHITECTURE, *shape) == 1
    assert "safetensors" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [["--input-shape", "a,b"], ["--kwargs", "[1]"], ["--kwargs", "{"]]
)
def test_models_add_refuses_what_it_cannot_read(
    secateur: Secateur, tmp_path: Path, option: list[str]
) -> None:
    assert add_model(secateur, tmp_path, *option) == 2


def test_models_inspect_shows_why_a_group_is_frozen(
    secateur: Secateur, api: Served, capsys: Captured
) -> None:
    add_inputs(api.sessions)
    assert secateur("models", "inspect", "net") == 0
    assert "no rule for sort" in capsys.readouterr().out


def test_datasets_add_takes_a_path(
    secateur: Secateur, api: Served, tmp_path: Path, capsys: Captured
) -> None:
    checking = judge(api, accepted=True)
    numbers = ["--mean", "0.5", "--std", "0.2", "--num-classes", "10"]
    path = ["--format", "idx", "--path", str(tmp_path)]
    assert secateur("datasets", "add", "data", *path, *numbers) == 0
    checking.join()
    assert "data is ready" in capsys.readouterr().out


def test_datasets_add_uploads_an_archive(
    secateur: Secateur, tmp_path: Path, capsys: Captured
) -> None:
    import numpy

    archive = tmp_path / "data.npz"
    numpy.savez(archive, images=numpy.zeros((1, 2, 2)), labels=numpy.zeros(1))
    upload = ["--format", "npz", "--archive", str(archive), "--no-wait"]
    assert secateur("datasets", "add", "data", *upload) == 0
    assert "data is checking" in capsys.readouterr().out


def test_datasets_add_wants_exactly_one_source(secateur: Secateur) -> None:
    assert secateur("datasets", "add", "data", "--format", "idx") == 2
    two = ["--path", "/data", "--function", "python:data:load"]
    assert secateur("datasets", "add", "data", "--format", "python", *two) == 2


def test_datasets_add_refuses_a_function_that_is_not_allowed(
    secateur: Secateur, capsys: Captured
) -> None:
    function = ["--format", "python", "--function", "python:os:getcwd"]
    assert secateur("datasets", "add", "data", *function) == 1
    assert "SECATEUR_ALLOW" in capsys.readouterr().err


def test_datasets_add_refuses_numbers_it_cannot_read(secateur: Secateur) -> None:
    path = ["--format", "idx", "--path", "/data"]
    assert secateur("datasets", "add", "data", *path, "--mean", "dark") == 2


def test_jobs_submit_merges_file_and_options(
    secateur: Secateur, api: Served, tmp_path: Path, capsys: Captured
) -> None:
    add_inputs(api.sessions)
    spec = tmp_path / "job.json"
    spec.write_text('{"model": "net", "dataset": "other", "budget": {"latency_ms": 3}}')
    options = ["--dataset", "data", "--ratio", "0.5", "--seed", "7", "--steps", "0", "--no-blocks"]
    assert secateur("jobs", "submit", str(spec), *options, "--json") == 0
    job = json.loads(capsys.readouterr().out)
    assert job["spec"]["budget"]["ratio"] == 0.5
    assert job["spec"]["search"]["seed"] == 7
    assert job["spec"]["search"]["blocks"] is False


def test_jobs_submit_twice_with_a_key_is_one_job(
    secateur: Secateur, api: Served, capsys: Captured
) -> None:
    add_inputs(api.sessions)
    command = ["jobs", "submit", "--model", "net", "--dataset", "data", "--ratio", "0.5"]
    assert secateur(*command, "--idempotency-key", "k") == 0
    first = capsys.readouterr().out
    assert secateur(*command, "--idempotency-key", "k") == 0
    assert capsys.readouterr().out == first


def test_a_bad_budget_is_explained_field_by_field(
    secateur: Secateur, api: Served, capsys: Captured
) -> None:
    add_inputs(api.sessions)
    command = ["jobs", "submit", "--model", "net", "--dataset", "data", "--ratio", "-1"]
    assert secateur(*command) == 1
    assert "budget.ratio" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_spec_file_must_hold_an_object(secateur: Secateur, tmp_path: Path, content: str) -> None:
    (tmp_path / "job.json").write_text(content)
    assert secateur("jobs", "submit", str(tmp_path / "job.json")) == 2


def test_jobs_submit_can_wait_for_the_end(
    secateur: Secateur, api: Served, capsys: Captured
) -> None:
    add_inputs(api.sessions)

    def fail() -> None:
        while not (jobs := [step for step in api.sent.steps if step[0] == "secateur.advance"]):
            threading.Event().wait(0.05)
        with api.sessions.begin() as session:
            problem = {"detail": "the worker gave up"}
            transition(session, jobs[0][1], JobState.QUEUED, JobState.FAILED, 1, problem=problem)

    failing = threading.Thread(target=fail)
    failing.start()
    command = ["jobs", "submit", "--model", "net", "--dataset", "data", "--ratio", "0.5"]
    assert secateur(*command, "--wait", "--json") == 1
    failing.join()
    assert "the worker gave up" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (JobState.SUCCEEDED, 0),
        (JobState.FAILED, 1),
        (JobState.INFEASIBLE, 3),
        (JobState.CANCELLED, 4),
    ],
)
def test_jobs_watch_ends_with_the_code_of_the_job(
    secateur: Secateur, api: Served, state: JobState, code: int
) -> None:
    assert secateur("jobs", "watch", add_job(api.sessions, state)) == code


def test_jobs_watch_ends_with_the_table(secateur: Secateur, api: Served, capsys: Captured) -> None:
    assert secateur("jobs", "watch", add_job(api.sessions, JobState.SUCCEEDED, result=RESULT)) == 0
    shown = capsys.readouterr().out
    latency = "59.2 % [58.8 %, 59.6 %]"
    for part in (latency, "≤ 60.0 %", "93.02 %", "-0.29 points", "10000 test images"):
        assert part in shown


def test_a_chosen_runtime_is_shown_among_those_that_were_measured(
    secateur: Secateur, api: Served, capsys: Captured
) -> None:
    answers = [
        {"runtime": "onnxruntime", "format": "float32", "latency_ms": 1.25, "ratio": 1.0,
         "error": None},
        {"runtime": "onnxruntime", "format": "u8s8", "latency_ms": 0.5, "ratio": 0.4,
         "error": None},
        {"runtime": "openvino", "format": "float32", "latency_ms": None, "ratio": None,
         "error": "crashed: as if [1]"},
    ]  # fmt: skip
    job = add_job(api.sessions, JobState.SUCCEEDED, result=RESULT | {"runtimes": answers})
    assert secateur("jobs", "show", job) == 0
    shown = capsys.readouterr().out
    for part in ("u8s8", "40.0 %", "0.500 ms", "crashed: as if [1]"):
        assert part in shown
    assert "deploy in onnxruntime, the fastest runtime of the device" in " ".join(shown.split())


def cancel_once_told(monkeypatch: pytest.MonkeyPatch, api: Served, teller: str) -> None:
    """Somebody else cancels the job as soon as `watch` has told of it for the first time."""
    tell = getattr(watch, teller)

    def told(job: JobView) -> Any:
        if job.state == "queued":
            with api.sessions.begin() as session:
                transition(session, job.id, JobState.QUEUED, JobState.CANCELLED, 1)
        return tell(job)

    monkeypatch.setattr(watch, teller, told)


def test_a_terminal_sees_the_progress_drawn_in_place(
    secateur: Secateur, api: Served, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    job = add_job(api.sessions, JobState.QUEUED, progress=PROGRESS)
    cancel_once_told(monkeypatch, api, "picture")
    assert secateur("jobs", "watch", job) == 4
    shown = capsys.readouterr().out
    assert "31 candidates, 7 of earlier jobs" in shown
    assert "cancelled" in shown


def test_elsewhere_a_line_is_written_when_something_changed(
    secateur: Secateur, api: Served, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = {"phase": "warming", "levels": 0}
    job = add_job(api.sessions, JobState.QUEUED, progress=progress)
    with api.sessions.begin() as session:
        jobs_rows.set_waiting(session, job, "a device with the runtime openvino")
    cancel_once_told(monkeypatch, api, "facts")
    assert secateur("jobs", "watch", job) == 4
    lines = capsys.readouterr().out.splitlines()
    waiting = "queued · waiting for a device with the runtime openvino · phase warming"
    assert lines == [waiting, "cancelled"]


def test_jobs_show_tells_level_best_and_time_left(
    secateur: Secateur, api: Served, capsys: Captured
) -> None:
    job = add_job(api.sessions, JobState.QUEUED, progress=PROGRESS)
    assert secateur("jobs", "show", job) == 0
    shown = capsys.readouterr().out
    for part in ("2 of 5", "31 candidates", "71.0 %", "about 3 min"):
        assert part in shown


def test_a_job_in_preparation_tells_how_many_sensitivities_are_known(
    secateur: Secateur, api: Served, capsys: Captured
) -> None:
    progress = PROGRESS | {"phase": "preparing", "sensitivities": {"done": 4, "of": 13}}
    job = add_job(api.sessions, JobState.QUEUED, progress=progress)
    assert secateur("jobs", "show", job) == 0
    assert re.search(r"sensitivities\s+4 of 13", capsys.readouterr().out)


@pytest.mark.parametrize("wish", ["stop", "cancel"])
def test_jobs_can_be_stopped_and_cancelled(secateur: Secateur, api: Served, wish: str) -> None:
    assert secateur("jobs", wish, add_job(api.sessions, JobState.QUEUED)) == 0


def test_an_unknown_job_is_explained(secateur: Secateur, capsys: Captured) -> None:
    assert secateur("jobs", "show", "job_none") == 1
    assert "job_none" in capsys.readouterr().err


def test_jobs_show_notes_levels_that_are_too_fine(
    secateur: Secateur, api: Served, capsys: Captured
) -> None:
    progress = PROGRESS | {"advice": "use at most 2 levels"}
    job = add_job(api.sessions, JobState.QUEUED, progress=progress)
    assert secateur("jobs", "show", job) == 0
    assert "use at most 2 levels" in capsys.readouterr().out


def test_a_note_is_told_once_in_lines() -> None:
    first = {"state": "searching", "note": "in a hurry", "level": "0 of 3"}
    assert line(first, {}) == "searching · note in a hurry · level 0 of 3"
    assert line(first | {"level": "1 of 3"}, first) == "searching · level 1 of 3"
    other = first | {"note": "levels are too fine"}
    assert line(other, first) == "searching · note levels are too fine · level 0 of 3"


def test_jobs_artifacts_are_downloaded_whole(
    secateur: Secateur, api: Served, tmp_path: Path
) -> None:
    job = add_job(api.sessions, JobState.SUCCEEDED, result=RESULT)
    with api.sessions.begin() as session:
        stored = api.store.put(f"jobs/{job}/plan.json", b"{}")
        artifacts.record(session, job, "plan.json", stored)
    assert secateur("jobs", "artifacts", job, "--out", str(tmp_path / "out")) == 0
    assert (tmp_path / "out" / "plan.json").read_bytes() == b"{}"


def test_devices_are_listed_shown_drained_and_revoked(
    secateur: Secateur, api: Served, capsys: Captured
) -> None:
    import datetime

    now = datetime.datetime.now(datetime.UTC)
    with api.sessions.begin() as session:
        token = devices.create_token(session, now + datetime.timedelta(minutes=1))
        enrolled = devices.enrol(
            session, token, name="pi", labels={"site": "lab"}, capabilities={}, now=now
        )
    if enrolled is None:
        raise ValueError("the token must be good")
    device = enrolled[0].id
    for command in (["list"], ["show", device], ["drain", device], ["resume", device]):
        assert secateur("devices", *command) == 0
        assert "pi" in capsys.readouterr().out
    for command in (["drain", device], ["revoke", device]):
        assert secateur("devices", *command) == 0
        assert "pi" in capsys.readouterr().out
    assert secateur("devices", "show", device, "--json") == 0
    assert json.loads(capsys.readouterr().out)["state"] == "revoked"


def test_devices_token_writes_the_token_alone(secateur: Secateur, capsys: Captured) -> None:
    assert secateur("devices", "token") == 0
    assert len(capsys.readouterr().out.split()) == 1
    assert secateur("devices", "token", "--json") == 0
    assert json.loads(capsys.readouterr().out)["token"]


def test_keys_are_created_listed_and_revoked(secateur: Secateur, capsys: Captured) -> None:
    assert secateur("keys", "create", "ci", "--scope", "read") == 0
    assert capsys.readouterr().out.startswith("sct_")
    assert secateur("keys", "create", "robot", "--json") == 0
    key = json.loads(capsys.readouterr().out)["id"]
    assert secateur("keys", "revoke", key) == 0
    assert secateur("keys", "list") == 0
    assert "robot" in capsys.readouterr().out


def test_a_server_that_is_away_is_explained(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECATEUR_URL", "http://127.0.0.1:9")
    with pytest.raises(SystemExit) as ended:
        main(["jobs", "list"])
    assert ended.value.code == 1
    assert "secateur up" in capsys.readouterr().err


def test_what_is_removed_is_gone_and_its_name_is_free(
    secateur: Secateur, api: Served, capsys: Captured, tmp_path: Path
) -> None:
    job = add_job(api.sessions, JobState.SUCCEEDED, result=RESULT)
    with api.sessions.begin() as session:
        session.add(Device(id="dev_1", name="d", labels={}, capabilities={}, secret_sha256="0"))
    for kind, name in (
        ("models", "net"),
        ("datasets", "data"),
        ("jobs", job),
        ("devices", "dev_1"),
    ):
        assert secateur(kind, "remove", name) == 0
        assert f"{name} is removed" in capsys.readouterr().out
        assert secateur(kind, "rm", name) == 1
        assert f"'{name}'" in capsys.readouterr().err
    assert add_model(secateur, tmp_path, "--no-wait") == 0


def test_one_refused_removal_does_not_keep_the_others(
    secateur: Secateur, api: Served, capsys: Captured
) -> None:
    ended = add_job(api.sessions, JobState.CANCELLED)
    assert secateur("jobs", "remove", "job_gone", ended, "--json") == 1
    told = capsys.readouterr()
    assert json.loads(told.out) == {"removed": [ended]}
    assert "There is no job 'job_gone'" in told.err


def test_a_refused_removal_names_who_is_in_the_way(
    secateur: Secateur, api: Served, capsys: Captured
) -> None:
    live = add_job(api.sessions, JobState.QUEUED)
    assert secateur("models", "remove", "net") == 1
    assert live in capsys.readouterr().err


def test_jobs_and_devices_and_keys_are_called_by_name(
    secateur: Secateur, api: Served, capsys: Captured
) -> None:
    job = add_job(api.sessions, JobState.SUCCEEDED, result=RESULT)
    with api.sessions.begin() as session:
        for number, name in enumerate(("shelf", "twin", "twin")):
            row = Device(id=f"dev_{number}", name=name, labels={}, capabilities={})
            row.secret_sha256 = "0"
            session.add(row)
    for command in (["show"], ["artifacts"], ["watch"]):
        assert secateur("jobs", *command, "first") == 0
    assert job in capsys.readouterr().out
    assert secateur("devices", "show", "shelf") == 0
    assert secateur("devices", "drain", "shelf") == 0
    assert secateur("devices", "show", "twin") == 1
    assert "dev_1, dev_2" in capsys.readouterr().err
    assert secateur("keys", "create", "ci") == 0
    assert secateur("keys", "revoke", "ci") == 0


def test_budgets_of_other_devices_are_asked_for_by_the_names_of_those(
    secateur: Secateur, api: Served, capsys: Captured
) -> None:
    add_job(api.sessions, JobState.SUCCEEDED, result=RESULT)
    with api.sessions.begin() as session:
        row = Device(id="dev_0", name="shelf", labels={}, capabilities={})
        row.secret_sha256 = "0"
        session.add(row)
    submit = ["jobs", "submit", "--model", "net", "--dataset", "data", "--ratio", "60%", "--json"]
    assert secateur(*submit, "--further", "50%", "--further", "5ms@shelf") == 0
    made = json.loads(capsys.readouterr().out)
    further = made["spec"]["further_budgets"]
    assert [each["device"] for each in further] == [None, "id:dev_0"]
    assert (further[0]["ratio"], further[1]["latency_ms"]) == (0.5, 5.0)
    assert secateur("jobs", "resolve", made["id"], "40%", "--device", "shelf", "--json") == 0
    assert json.loads(capsys.readouterr().out)["spec"]["target"]["device"] == "id:dev_0"
    assert secateur(*submit, "--also", "5ms@shelf") == 0
    (there,) = json.loads(capsys.readouterr().out)["spec"]["further_devices"]
    assert (there["device"], there["latency_ms"]) == ("id:dev_0", 5.0)
    assert secateur(*submit, "--further", "50%@attic") == 2
    assert "--further must be" in capsys.readouterr().err


def test_a_misspelt_name_is_answered_with_the_near_one(
    secateur: Secateur, api: Served, capsys: Captured
) -> None:
    add_job(api.sessions, JobState.SUCCEEDED, result=RESULT)
    for command in (["models", "inspect", "nett"], ["jobs", "show", "frist"]):
        assert secateur(*command) == 1
        assert "did you mean" in capsys.readouterr().err
    command = ["jobs", "submit", "--model", "nte", "--dataset", "dta", "--ratio", "60%"]
    assert secateur(*command) == 1
    assert "did you mean 'net'?" in capsys.readouterr().err


def test_jobs_are_listed_with_what_they_reached(
    secateur: Secateur, api: Served, capsys: Captured
) -> None:
    add_job(api.sessions, JobState.SUCCEEDED, result=RESULT)
    assert secateur("jobs", "list") == 0
    shown = capsys.readouterr().out
    for part in ("60 %", "0.740 ms", "59.2 %", "93.02 %", " s"):
        assert part in shown
