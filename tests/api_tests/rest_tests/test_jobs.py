"""Submitting, polling, stopping and cancelling jobs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from jobs.queues import ADVANCE
from jobs.repository import (
    candidates,
    datasets,
    events,
    jobs,
    measurements,
    models,
    requests,
    tasks,
)
from jobs.repository.measurements import Finding
from jobs.states import JobState, TaskState
from jobs.status import transition
from tests.api_tests.rest_tests.rows import new_job
from tests.api_tests.rest_tests.service import Service
from tests.api_tests.rest_tests.test_problems import problem
from tests.jobs_tests.builders import (
    at,
    make_dataset,
    make_device,
    make_job,
    make_model,
    make_request,
)

SPEC: dict[str, Any] = {"model": "net", "dataset": "photos", "budget": {"ratio": 0.6}}


@pytest.fixture(autouse=True)
def inputs(service: Service) -> None:
    """A model and a data set that are still being checked."""
    with service.rows() as session:
        make_model(session)
        make_dataset(session)


def submit(service: Service, key: str | None = None, **changes: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return service.client.post("/v1/jobs", json={**SPEC, **changes}, headers=headers)


def count(service: Service) -> int:
    return len(service.client.get("/v1/jobs").json()["items"])


def end(service: Service, job_id: str, state: JobState = JobState.CANCELLED) -> None:
    with service.rows() as session:
        transition(session, job_id, JobState.QUEUED, state, 1)


def test_a_job_is_accepted_with_its_location_and_sent_on(service: Service) -> None:
    response = submit(service, name="mine")

    job = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["name"], job["state"], job["spec"]["budget"]["ratio"]) == ("mine", "queued", 0.6)
    assert service.client.get(response.headers["location"]).json() == job
    assert service.dispatch.sent == [(ADVANCE, job["id"])]


def test_the_first_event_is_there_at_once(service: Service) -> None:
    job_id = submit(service).json()["id"]

    items = service.client.get(f"/v1/jobs/{job_id}/events").json()["items"]

    assert [(item["number"], item["data"]["to"]) for item in items] == [(1, "queued")]


@pytest.mark.parametrize("budget", [{"ratio": 0}, {"ratio": -0.5}, {"latency_ms": 0}])
def test_a_budget_that_is_not_positive_is_refused(
    service: Service, budget: dict[str, float]
) -> None:
    document = problem(submit(service, budget=budget), 422, "invalid-request")

    assert "must be > 0" in str(document["detail"])
    assert count(service) == 0


def test_a_budget_above_the_dense_latency_is_accepted(service: Service) -> None:
    assert submit(service, budget={"ratio": 2.0}).status_code == 202


@pytest.mark.parametrize("field", ["model", "dataset"])
def test_an_unknown_model_or_data_set_is_a_wrong_field(service: Service, field: str) -> None:
    document = problem(submit(service, **{field: "other"}), 422, "invalid-request")

    assert document["errors"][0]["field"] == field  # type: ignore[index]
    assert service.dispatch.sent == []


def test_a_job_on_a_rejected_model_is_refused_with_its_problem(service: Service) -> None:
    found = {"type": "urn:x", "title": "No fit", "status": 422, "detail": "fc.bias is missing"}
    with service.rows() as session:
        model = models.find(session, "net")
        assert model is not None
        models.reject(session, model.id, found)

    response = submit(service)

    document = response.json()
    assert (response.status_code, document["status"], document["type"]) == (409, 409, "urn:x")
    assert "'net' was rejected: fc.bias is missing" in document["detail"]
    assert document["cause"] == found
    assert count(service) == 0


def test_a_job_on_a_rejected_data_set_is_refused(service: Service) -> None:
    with service.rows() as session:
        dataset = datasets.find(session, "photos")
        assert dataset is not None
        datasets.reject(session, dataset.id, {"detail": "no images"})

    assert "no images" in problem(submit(service), 409, "dataset-rejected")["detail"]  # type: ignore[operator]


def test_constraints_that_exclude_each_other_are_refused_with_the_number(service: Service) -> None:
    sizes = {"modules": ["fc"], "parameters": {"fc": [12, False, []]}, "frozen": []}
    footprint = {**sizes, "values": [], "moments": []}
    with service.rows() as session:
        model = models.find(session, "net")
        assert model is not None
        models.accept(session, model.id, {"groups": [], "footprint": footprint})

    document = problem(submit(service, constraints={"max_parameters": 9}), 422, "invalid-request")

    assert "constraints.max_parameters must be >= 12" in str(document["detail"])
    assert (count(service), service.dispatch.sent) == (0, [])
    assert submit(service, constraints={"max_parameters": 12}).status_code == 202


def test_a_device_that_is_not_there_is_refused_with_those_that_are(service: Service) -> None:
    with service.rows() as session:
        make_device(session)

    document = problem(
        submit(service, target={"device": "label:room=attic"}), 422, "invalid-request"
    )

    assert "(board; labels are room=lab), but 'label:room=attic' accepts none" in str(
        document["detail"]
    )
    assert count(service) == 0


def test_the_device_of_a_further_budget_has_to_be_there(service: Service) -> None:
    with service.rows() as session:
        device = make_device(session)
        name = f"id:{device.id}"
    first = submit(service, further_budgets=["40%", f"30%@{name}"]).json()
    assert [each["device"] for each in first["spec"]["further_budgets"]] == [None, name]
    document = problem(
        submit(service, further_budgets=["40%@id:dev_none"]), 422, "invalid-request"
    )
    assert "further_budgets.0.device must" in str(document["detail"])
    document = problem(
        submit(service, further_devices=["40%@id:dev_none"]), 422, "invalid-request"
    )
    assert "further_devices.0.device must" in str(document["detail"])
    problem(submit(service, further_devices=["40%"]), 422, "invalid-request")

    path = f"/v1/jobs/{first['id']}/resolve"
    refused = service.client.post(path, json={"budget": "40%", "device": "id:dev_none"})
    problem(refused, 422, "invalid-request")
    (told,) = refused.json()["errors"]
    assert (told["field"], told["message"][:11]) == ("device", "device must")
    second = service.client.post(path, json={"budget": "40%", "device": name}).json()
    assert second["spec"]["target"] == first["spec"]["target"] | {"device": name}
    assert count(service) == 2


def test_the_same_key_and_body_give_the_first_answer_again(service: Service) -> None:
    first, again = submit(service, "k1"), submit(service, "k1")

    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotency-replayed"] == "true"
    assert count(service) == 1
    assert len(service.dispatch.sent) == 1


def test_the_same_key_with_another_body_is_refused(service: Service) -> None:
    submit(service, "k1")

    problem(submit(service, "k1", budget={"ratio": 0.7}), 422, "idempotency-key-reused")
    assert count(service) == 1


def test_a_refused_request_leaves_its_key_free(service: Service) -> None:
    submit(service, "k1", model="other")

    assert submit(service, "k1").status_code == 202


def test_simultaneous_repeats_make_one_job(service: Service) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: submit(service, "k1").json()["id"], range(8)))

    assert len(set(answers)) == 1
    assert count(service) == 1


def test_a_poller_that_knows_the_job_gets_304_until_it_changes(service: Service) -> None:
    job_id = new_job(service)
    path = f"/v1/jobs/{job_id}"
    known = {"If-None-Match": service.client.get(path).headers["etag"]}
    unchanged = service.client.get(path, headers=known)
    with service.rows() as session:
        jobs.save_progress(session, job_id, {"level": 1})
    changed = service.client.get(path, headers=known)

    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert (changed.status_code, changed.json()["progress"]) == (200, {"level": 1})


def test_lists_have_an_etag_too(service: Service) -> None:
    etag = service.client.get("/v1/jobs").headers["etag"]

    for value in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        response = service.client.get("/v1/jobs", headers={"If-None-Match": value})
        assert response.status_code == 304


def test_jobs_are_listed_by_page_and_by_state(service: Service) -> None:
    ids = [new_job(service) for _ in range(3)]
    end(service, ids[0])

    cancelled = service.client.get("/v1/jobs?state=cancelled").json()["items"]
    first = service.client.get("/v1/jobs?limit=2").json()
    rest = service.client.get(f"/v1/jobs?limit=2&after={first['next']}").json()

    assert [job["id"] for job in cancelled] == [ids[0]]
    assert {job["id"] for job in first["items"] + rest["items"]} == set(ids)
    assert rest["next"] is None


def test_an_unknown_job_is_404_everywhere(service: Service) -> None:
    for path in ("", "/tree", "/events", "/artifacts"):
        problem(service.client.get(f"/v1/jobs/job_none{path}"), 404, "not-found")
    for verb in ("stop", "cancel"):
        problem(service.client.post(f"/v1/jobs/job_none/{verb}"), 404, "not-found")


def test_a_stop_is_noted_once_and_sent_on(service: Service) -> None:
    job_id = new_job(service)

    first = service.client.post(f"/v1/jobs/{job_id}/stop")
    again = service.client.post(f"/v1/jobs/{job_id}/stop")

    assert (first.status_code, first.json()["stop_requested"]) == (202, True)
    assert again.json() == first.json()
    assert service.dispatch.sent == [(ADVANCE, job_id)]


def test_a_cancel_needs_no_worker_and_changes_nothing_when_repeated(service: Service) -> None:
    job_id = new_job(service)

    first = service.client.post(f"/v1/jobs/{job_id}/cancel")
    again = service.client.post(f"/v1/jobs/{job_id}/cancel")

    assert (first.status_code, first.json()["state"]) == (202, "cancelled")
    assert first.json()["finished_at"] is not None
    assert service.client.get(f"/v1/jobs/{job_id}").json() == first.json() == again.json()
    assert service.dispatch.sent == [("secateur.advance", job_id)]  # its files go, whenever


@pytest.mark.parametrize(
    ("verb", "state"),
    [("stop", JobState.CANCELLED), ("stop", JobState.FAILED), ("cancel", JobState.FAILED)],
)
def test_a_job_that_has_ended_takes_no_wish(service: Service, verb: str, state: JobState) -> None:
    job_id = new_job(service)
    end(service, job_id, state)

    document = problem(service.client.post(f"/v1/jobs/{job_id}/{verb}"), 409, "job-over")

    assert document["state"] == state


@pytest.mark.parametrize(
    "damage",
    [
        "spec = '{}'", "spec = '[1]'", "spec = 'null'", "spec = '{damaged'", "spec = ''",
        "state = 'paused'", "progress = '3'",
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_read_is_listed_and_can_be_cancelled(
    service: Service, damage: str
) -> None:
    other, job_id = new_job(service), new_job(service)
    with service.rows() as session:
        session.execute(text(f"UPDATE jobs SET {damage} WHERE id = :id"), {"id": job_id})

    listed = service.client.get("/v1/jobs")
    for path in ("", "/tree", "/events"):
        assert service.client.get(f"/v1/jobs/{job_id}{path}").status_code == 200
    cancelled = service.client.post(f"/v1/jobs/{job_id}/cancel")

    assert {job["id"] for job in listed.json()["items"]} == {other, job_id}
    assert service.client.get("/metrics").status_code == 200
    assert cancelled.json()["state"] == "cancelled"


def test_what_a_job_waits_for_is_told(service: Service) -> None:
    job_id = new_job(service)
    with service.rows() as session:
        jobs.set_waiting(session, job_id, "a device with label board=rpi4")

    job = service.client.get(f"/v1/jobs/{job_id}").json()

    assert job["waiting_for"] == "a device with label board=rpi4"


def test_a_rolled_back_request_sends_nothing(service: Service) -> None:
    with service.rows() as session:
        job_id = make_job(session).id
        events.append(session, job_id, "x", {})
        session.connection().exec_driver_sql(
            "CREATE TRIGGER refuse BEFORE INSERT ON jobs BEGIN SELECT RAISE(ABORT, 'no'); END"
        )

    answer = submit(service)

    problem(answer, 500, "internal-error")
    assert service.dispatch.sent == []
    assert count(service) == 1


def test_the_tree_holds_the_candidates_with_budget_and_dense_latency(service: Service) -> None:
    node = {"digest": "d1", "parent": None, "level": 1, "origin": "cut", "kept": True}
    with service.rows() as session:
        job = make_job(session)
        candidates.save(session, job.id, [{**node, "ratio": 0.8, "loss": 0.2}])
        measure_dense(session, job)

    tree = service.client.get(f"/v1/jobs/{job.id}/tree").json()

    assert (tree["budget_ratio"], tree["dense_latency_ms"], tree["next"]) == (0.5, 2.0, None)
    assert [(item["digest"], item["ratio"], item["kept"]) for item in tree["items"]] == [
        ("d1", 0.8, True)
    ]


def save_tree(session: Any, job_id: str, digests: str, *, anew: bool = False) -> None:
    """Saves a search with these nodes changed."""
    job = jobs.find(session, job_id)
    assert job is not None
    version = job.version
    assert jobs.save_search(session, job_id, version, {}, {})
    if anew:
        candidates.clear(session, job_id)
    plan = {"widths": {"stem": 8}, "int8": ["fc"]}
    node = {"parent": None, "level": 1, "origin": "cut", "kept": True, "plan": plan}
    candidates.save(session, job_id, [{**node, "digest": each} for each in digests], version + 1)


def test_a_tree_is_read_by_what_changed_after_a_version(service: Service) -> None:
    job_id = submit(service).json()["id"]
    path = f"/v1/jobs/{job_id}/tree"

    def read(after: int) -> tuple[int, bool, str]:
        tree = service.client.get(path, params={"after": after}).json()
        return tree["version"], tree["whole"], "".join(item["digest"] for item in tree["items"])

    assert read(0) == (0, False, "")
    with service.rows() as session:
        save_tree(session, job_id, "abc")
    assert read(0) == (1, True, "abc")
    with service.rows() as session:
        save_tree(session, job_id, "bd")
    assert (read(0), read(1), read(2)) == ((2, True, "abcd"), (2, False, "bd"), (2, False, ""))
    with service.rows() as session:
        save_tree(session, job_id, "ae", anew=True)
    assert (read(2), read(3)) == ((3, True, "ae"), (3, False, ""))
    whole = service.client.get(path).json()
    assert (whole["version"], whole["whole"], len(whole["items"])) == (3, True, 2)
    problem(service.client.get(path, params={"after": -1}), 422, "invalid-request")
    problem(service.client.get(path, params={"after": 2**63}), 422, "invalid-request")


def test_an_unchanged_tree_is_answered_without_its_nodes(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit(service).json()["id"]
    with service.rows() as session:
        save_tree(session, job_id, "abc")
    path = f"/v1/jobs/{job_id}/tree"
    headers = {"If-None-Match": service.client.get(path).headers["etag"]}
    read: list[int] = []
    changes = candidates.changes

    def noted(session: Any, job_id: str, after: int) -> Any:
        read.append(after)
        return changes(session, job_id, after)

    monkeypatch.setattr(candidates, "changes", noted)
    assert service.client.get(path, headers=headers).status_code == 304
    assert read == []
    with service.rows() as session:
        save_tree(session, job_id, "b")
    again = service.client.get(path, headers=headers)
    assert (again.status_code, read) == (200, [-1])
    assert service.client.get(path, params={"after": 1}, headers=headers).status_code == 200


def test_a_candidate_is_read_with_its_widths(service: Service) -> None:
    job_id = submit(service).json()["id"]
    with service.rows() as session:
        save_tree(session, job_id, "ab")
    found = service.client.get(f"/v1/jobs/{job_id}/tree/b").json()
    assert (found["digest"], found["widths"], found["int8"]) == ("b", {"stem": 8}, ["fc"])
    assert found["int8_layers"] == 1
    problem(service.client.get(f"/v1/jobs/{job_id}/tree/c"), 404, "not-found")


def test_a_budget_in_milliseconds_becomes_a_ratio_once_the_dense_model_is_measured(
    service: Service,
) -> None:
    job_id = submit(service, budget={"latency_ms": 1.0}).json()["id"]
    before = service.client.get(f"/v1/jobs/{job_id}/tree").json()
    with service.rows() as session:
        measure_dense(session, jobs.find(session, job_id))
    measured = service.client.get(f"/v1/jobs/{job_id}/tree").json()
    with service.rows() as session:
        told = {"budget_ratio": 0.4, "dense_latency_ms": 2.5}
        jobs.save_progress(session, job_id, told)
    after = service.client.get(f"/v1/jobs/{job_id}/tree").json()

    assert [view["budget_ratio"] for view in (before, measured, after)] == [None, 0.5, 0.4]
    assert after["dense_latency_ms"] == 2.5


def measure_dense(session: Any, job: Any) -> None:
    """One counted measurement whose reference took 2 ms."""
    device = make_device(session)
    request = make_request(session, job)
    given = requests.assign(session, request.id, device.id, at(0), 60)
    assert given is not None
    assert given.lease_token is not None
    requests.complete(
        session,
        given.id,
        attempt=given.attempt,
        lease_token=given.lease_token,
        device_id=device.id,
        finding=Finding(ratio=1.0, latency_ms=2.0, reference_ms=2.0, verdict="ok"),
    )
    assert measurements.count(session, job.id) == 1


def test_another_budget_is_a_new_job_like_the_first_with_its_losses(service: Service) -> None:
    first = submit(service, name="first", search={"seed": 7}).json()
    with service.rows() as session:
        for key, payload in (
            ("sensitivity:a:0.5", {"group": "a", "ratio": 0.5}),
            ("score:int8", {"plan": {}, "format": "u8s8"}),
            ("score:trained", {"plan": {}, "start": {}}),
            ("score:open", {"plan": {}}),
        ):
            task = tasks.add(session, first["id"], key.partition(":")[0], key, payload)
            if key != "score:open":
                claimed = tasks.claim(session, task.id, at(0), 60.0)
                assert claimed is not None
                tasks.finish(session, claimed.id, claimed.attempt, {"rise": 0.25})
    path = f"/v1/jobs/{first['id']}/resolve"
    headers = {"Idempotency-Key": "k"}

    answers = [
        service.client.post(path, json={"budget": "40%", "name": "second"}, headers=headers)
        for _ in range(2)
    ]

    assert [each.status_code for each in answers] == [202, 202]
    second = answers[0].json()
    assert answers[1].json()["id"] == second["id"] != first["id"]
    assert answers[0].headers["location"] == f"/v1/jobs/{second['id']}"
    assert (second["name"], second["spec"]["budget"]["ratio"]) == ("second", 0.4)
    assert second["spec"]["search"] == first["spec"]["search"]
    with service.rows() as session:
        (known,) = tasks.for_job(session, second["id"])
        assert (known.key, known.state, known.result) == (
            "sensitivity:a:0.5", TaskState.DONE, {"rise": 0.25}
        )  # fmt: skip
    assert service.dispatch.sent[-1] == (ADVANCE, second["id"])


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/jobs/job_none/resolve", {"budget": "40%"}, 404),
        ("/v1/jobs/{}/resolve", {"budget": "fast"}, 422),
        ("/v1/jobs/{}/resolve", {}, 422),
    ],
)
def test_another_budget_needs_a_job_and_a_budget(
    service: Service, path: str, body: dict[str, Any], status: int
) -> None:
    first = submit(service).json()
    answer = service.client.post(path.format(first["id"]), json=body)
    assert answer.status_code == status
    assert count(service) == 1
