"""The page: complete, from here alone, and never building markup from data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from api.routes.page import FOLDER
from tests.api_tests.rest_tests.service import Service

SCRIPTS = sorted(FOLDER.glob("*.js"))


def test_the_page_and_every_file_it_names_are_served(service: Service) -> None:
    page = service.client.get("/")

    assert page.headers["content-type"].startswith("text/html")
    named = re.findall(r'(?:src|href)="(assets/[^"]+)"', page.text)
    assert {"assets/main.js", "assets/style.css", "assets/icon.svg"} <= set(named)
    for path in named:
        assert service.client.get(f"/{path}").status_code == 200


def test_the_page_may_load_nothing_from_elsewhere(service: Service) -> None:
    policy = service.client.get("/").headers["content-security-policy"]

    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for path in FOLDER.iterdir():
        addresses = re.findall(r"https?://[^\"'\s)]+", path.read_text())
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_imports_only_what_its_neighbours_export(script: Path) -> None:
    pattern = r'^import \{ ([^}]+) \} from "\./([\w.]+)";'
    for names, neighbour in re.findall(pattern, script.read_text(), re.MULTILINE):
        exported = (FOLDER / neighbour).read_text()
        for name in names.split(", "):
            assert re.search(
                rf"^export (async )?(function|class) {name}\b", exported, re.MULTILINE
            )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_never_builds_markup_from_text(script: Path) -> None:
    text = script.read_text()

    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert forbidden not in text


def test_the_address_of_the_documentation_page_is_off_and_the_schema_is_on(
    service: Service,
) -> None:
    schema = service.client.get("/openapi.json").json()

    assert service.client.get("/docs").status_code == 404
    assert service.client.get("/redoc").status_code == 404
    for path in ("/v1/jobs", "/v1/jobs/{job_id}/events", "/v1/models", "/v1/devices/enrol"):
        assert path in schema["paths"]


def test_every_route_has_a_description(service: Service) -> None:
    paths = service.client.get("/openapi.json").json()["paths"]

    for path, methods in paths.items():
        for method, route in methods.items():
            assert route.get("description"), f"{method} {path}"
