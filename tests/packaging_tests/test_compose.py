"""docker-compose.yml against the schema of Compose, and against what the repository holds."""

import importlib
import importlib.util
import json
import re
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SERVICES = {"api", "worker", "collector", "redis", "postgres", "migrate", "probe"}


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return document


def project() -> dict[str, Any]:
    document: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return document


def commands(service: dict[str, Any]) -> list[list[str]]:
    """Its command and its health check, as argument vectors."""
    check = service.get("healthcheck", {}).get("test", [])
    return [
        c for c in (service.get("command", []), check[1:] if check[:1] == ["CMD"] else []) if c
    ]


def test_it_fits_the_schema_of_compose() -> None:
    vendored = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    schema = json.loads(vendored.read_text())
    errors = jsonschema.Draft202012Validator(schema).iter_errors(compose())
    assert [error.message for error in errors] == []


def test_every_part_of_the_service_is_there() -> None:
    assert set(compose()["services"]) == SERVICES
    assert compose()["services"]["probe"]["profiles"] == ["probe"]


@pytest.mark.parametrize("name", sorted(SERVICES - {"migrate"}))
def test_every_service_that_stays_has_a_health_check(name: str) -> None:
    assert compose()["services"][name]["healthcheck"]["test"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_the_modules_and_programs_that_it_names_exist(name: str) -> None:
    for command in commands(compose()["services"][name]):
        if command[:2] == ["python", "-m"]:
            assert importlib.util.find_spec(command[2])
        elif command[0] == "uvicorn":
            module, function = command[1].split(":")
            assert hasattr(importlib.import_module(module), function)
        elif command[0] == "secateur":
            assert "secateur" in project()["scripts"]
        else:
            assert command[:2] == ["python", "-c"] or command[0] == "valkey-server"


def test_images_are_built_from_files_and_extras_that_exist() -> None:
    for service in compose()["services"].values():
        if build := service.get("build"):
            assert (ROOT / build["context"] / build["dockerfile"]).is_file()
            assert build["args"]["EXTRA"] in project()["optional-dependencies"]


def test_what_waits_for_a_service_waits_for_one_that_can_be_waited_for() -> None:
    services = compose()["services"]
    for service in services.values():
        for name, wait in service.get("depends_on", {}).items():
            healthy = wait["condition"] == "service_healthy"
            assert not healthy or "healthcheck" in services[name]


def test_volumes_and_configs_are_declared() -> None:
    document = compose()
    for service in document["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in document["volumes"] or source.startswith("${")
        for config in service.get("configs", []):
            assert config["source"] in document["configs"]


def test_the_workers_read_data_only_where_the_api_lets_it_lie() -> None:
    services = compose()["services"]
    api, worker = (services[name]["environment"] for name in ("api", "worker"))
    assert api["SECATEUR_AUTH"] == worker["SECATEUR_AUTH"] == "on"
    assert api["SECATEUR_DATA_ROOTS"] == worker["SECATEUR_DATA_ROOTS"]
    mounted = [
        volume.split(":")[-2] for volume in services["worker"]["volumes"] if ":ro" in volume
    ]
    assert worker["SECATEUR_DATA_ROOTS"] in mounted


def test_passwords_have_no_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    secrets = re.findall(r"\$\{(\w*(?:PASSWORD|ADMIN_KEY))(.{2})", text)
    assert {name for name, _ in secrets} == {
        "POSTGRES_PASSWORD", "REDIS_PASSWORD", "SECATEUR_ADMIN_KEY"
    }  # fmt: skip
    assert {rule for _, rule in secrets} == {":?"}


def test_the_dockerfile_copies_what_exists() -> None:
    sources = re.findall(
        r"^COPY (.+) \S+$", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE
    )
    names = {name for line in sources for name in line.split()}
    assert names
    assert [name for name in names if not (ROOT / name).exists()] == []
    let_in = (ROOT / "docker/Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{name}" for name in names} <= set(let_in)
