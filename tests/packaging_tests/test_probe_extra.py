"""An agent in a fresh environment that holds the wheel and what its extra `probe` asks for, and
nothing else: it enrols and answers a request."""

import hashlib
import os
import subprocess
import time
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from latency_probes.messages import MeasureResult, Settings, parse_report
from latency_probes.samples import Measurement
from tests.latency_probes_tests import onnx_models
from tests.latency_probes_tests.conftest import Account
from tests.latency_probes_tests.http_server import HttpServer
from tests.latency_probes_tests.measurements import request
from tests.latency_probes_tests.valkey import ValkeyProcess

ABSENT = ("torch", "fastapi", "sqlalchemy", "celery")
ANSWER_S = 60.0


@pytest.fixture
def python(wheel: Path, tmp_path: Path) -> Path:
    """The interpreter of the fresh environment."""
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False)
    packages = next(environment.glob("lib/python*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    ours = Distribution.at(next(packages.glob("secateur-*.dist-info")))
    for found in _needed(ours, {"probe"}).values():
        for name in {Path(file).parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            (packages / name).symlink_to(Path(str(found.locate_file(name))))
    return environment / "bin" / "python"


def _needed(start: Distribution, extras: set[str]) -> dict[str, Distribution]:
    """What a distribution with these extras requires, as it is installed here."""
    found: dict[str, Distribution] = {}
    waiting = [(start, extras)]
    while waiting:
        dependent, wanted = waiting.pop()
        for need in map(Requirement, dependent.requires or ()):
            name, marker = canonicalize_name(need.name), need.marker
            if name in found:
                continue
            if marker is None or any(marker.evaluate({"extra": e}) for e in ("", *wanted)):
                found[name] = distribution(name)
                waiting.append((found[name], need.extras))
    return found


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    valkey = ValkeyProcess(tmp_path)
    valkey.start()
    made = Account(valkey, "dev_fresh", "s" * 32)
    made.allow()
    yield made
    valkey.kill()


@pytest.fixture
def server(account: Account) -> Iterator[HttpServer]:
    made = HttpServer(
        {
            "version": 1,
            "device_id": account.device_id,
            "secret": account.secret,
            "redis_url": account.valkey.url,
            "heartbeat_s": 1,
            "lease_s": 6,
        }
    )
    made.start()
    yield made
    made.close()


def test_an_agent_with_the_extra_probe_alone_answers_a_request(
    python: Path, account: Account, server: HttpServer, tmp_path: Path
) -> None:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    look = f"import importlib.util as u; print([m for m in {ABSENT} if u.find_spec(m)])"
    done = subprocess.run([python, "-c", look], env=clean, cwd=tmp_path, capture_output=True)
    assert done.stdout == b"[]\n"
    candidate, reference = onnx_models.convnet(16), onnx_models.convnet(64)
    server.add(reference)
    quick = Settings(replicates=2, max_replicates=2, timing_s=0.02)
    asked = request(candidate, reference, settings=quick)
    digest = hashlib.sha256(reference).hexdigest()
    account.send(
        asked.model_copy(update={"reference": asked.reference.model_copy(update={"data": None})})
    )
    command = [str(python), "-m", "latency_probes.agent", "--server", server.url]
    command += ["--token", "token-1", "--name", "kitchen-pi", "--labels", "room=kitchen"]
    command += ["--state-dir", str(tmp_path / "state")]
    with subprocess.Popen(command, env=clean, cwd=tmp_path) as agent:
        try:
            result = _result(account)
        finally:
            agent.terminate()
            assert agent.wait(20) == 0
    assert isinstance(result.outcome, Measurement), result.outcome
    assert [fetched for fetched, _ in server.fetched] == [digest]


def _result(account: Account) -> MeasureResult:
    deadline = time.monotonic() + ANSWER_S
    while time.monotonic() < deadline:
        for report in map(parse_report, account.reports()):
            if isinstance(report, MeasureResult):
                return report
        time.sleep(0.05)
    raise TimeoutError(f"the agent must answer within {ANSWER_S:.0f} s")
