"""The agent as a process, against a real Valkey server and a small HTTP server: enrolment, work,
kill -9."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from latency_probes.messages import (
    Heartbeat,
    Hello,
    MeasureRequest,
    MeasureResult,
    Settings,
    Target,
    parse_report,
)
from latency_probes.samples import Measurement
from tests.latency_probes_tests import onnx_models
from tests.latency_probes_tests.conftest import Account
from tests.latency_probes_tests.http_server import HttpServer
from tests.latency_probes_tests.measurements import request
from tests.latency_probes_tests.valkey import ValkeyProcess

_ROOT = Path(__file__).resolve().parents[2]
_QUICK = Settings(replicates=2, max_replicates=2, timing_s=0.02)


class AgentProcess:
    """`python -m latency_probes.agent` in its own process."""

    def __init__(self, server: HttpServer, directory: Path) -> None:
        self.server, self.directory = server, directory
        self.state = directory / "state"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "latency_probes.agent", "--server", self.server.url]
        command += ["--state-dir", str(self.state), "--name", "bench", *arguments]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=_ROOT, stderr=log)

    def signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def wait(self) -> int:
        assert self._process is not None
        code = self._process.wait(30)
        self._process = None
        return code

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def children(self) -> list[psutil.Process]:
        assert self._process is not None
        return psutil.Process(self._process.pid).children()

    @property
    def resident_mb(self) -> float:
        assert self._process is not None
        return psutil.Process(self._process.pid).memory_info().rss / 2**20

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()


@pytest.fixture
def account(own_valkey: ValkeyProcess) -> Account:
    found = Account(own_valkey, "dev_1", "s" * 32)
    found.allow()
    return found


@pytest.fixture
def server(account: Account) -> Iterator[HttpServer]:
    found = HttpServer(
        {
            "version": 1,
            "device_id": account.device_id,
            "secret": account.secret,
            "redis_url": account.valkey.url,
            "heartbeat_s": 0.2,
            "lease_s": 3,
        }
    )
    found.start()
    yield found
    found.close()


@pytest.fixture
def agent(server: HttpServer, tmp_path: Path) -> Iterator[AgentProcess]:
    found = AgentProcess(server, tmp_path)
    yield found
    found.end()


def _recording(directory: Path, delay_s: float) -> tuple[str, ...]:
    path = directory / "recording.json"
    path.write_text(json.dumps({"delay_s": delay_s}))
    return ("--runtimes", "replay", "--replay", str(path))


def _replay_request(number: int = 1) -> MeasureRequest:
    return request(
        onnx_models.convnet(8 * number),
        onnx_models.convnet(64),
        request_id=f"req_{number}",
        target=Target(runtime="replay"),
    )


def _until(condition: Callable[[], bool], what: str, limit_s: float = 20) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.02)


def _results(account: Account) -> list[MeasureResult]:
    reports = map(parse_report, account.reports())
    return [report for report in reports if isinstance(report, MeasureResult)]


def _states(account: Account) -> list[str]:
    reports = map(parse_report, account.reports())
    return [report.state for report in reports if isinstance(report, Heartbeat)]


def _hellos(account: Account) -> list[Hello]:
    reports = map(parse_report, account.reports())
    return [report for report in reports if isinstance(report, Hello)]


def test_an_agent_enrols_measures_and_drains(
    agent: AgentProcess, server: HttpServer, account: Account
) -> None:
    candidate = onnx_models.convnet(16, pixels=32)
    reference = onnx_models.convnet(64, pixels=32)
    server.add(reference)
    message = request(candidate, reference, settings=_QUICK)
    fetched = message.reference.model_copy(update={"data": None})
    account.send(message.model_copy(update={"reference": fetched}))
    agent.start("--token", "token-1", "--labels", "room=lab,arch=x86")
    _until(lambda: len(_results(account)) == 1, "a result")
    (result,) = _results(account)
    assert isinstance(result.outcome, Measurement)
    assert result.outcome.ratio < 1
    agent.signal(signal.SIGTERM)
    assert agent.wait() == 0
    assert account.pending() == 0
    (enrolment,) = server.enrolments
    assert enrolment["labels"] == {"room": "lab", "arch": "x86"}
    assert list(enrolment["capabilities"]["runtimes"]) == ["onnxruntime", "openvino"]
    assert server.fetched == [(fetched.digest, f"Bearer scd_dev_1_{account.secret}")]
    assert (agent.state / "credentials.json").stat().st_mode & 0o777 == 0o600


def test_a_second_start_needs_no_token(
    agent: AgentProcess, account: Account, tmp_path: Path
) -> None:
    agent.start("--token", "token-1", *_recording(tmp_path, 0))
    _until(lambda: "online" in _states(account), "a heartbeat")
    agent.signal(signal.SIGTERM)
    assert agent.wait() == 0
    assert _hellos(account) == []
    account.send(_replay_request())
    agent.start(*_recording(tmp_path, 0))
    _until(lambda: len(_results(account)) == 1, "a result")
    _until(lambda: len(_hellos(account)) == 1, "what the device is now")
    assert list(_hellos(account)[0].capabilities.runtimes) == ["replay"]
    assert agent.resident_mb < 80


def test_a_killed_agent_claims_its_request_again(
    agent: AgentProcess, account: Account, tmp_path: Path
) -> None:
    for number in (1, 2):
        account.send(_replay_request(number))
    agent.start("--token", "token-1", *_recording(tmp_path, 30))
    _until(lambda: "busy" in _states(account), "a busy heartbeat")
    agent.signal(signal.SIGKILL)
    agent.wait()
    assert account.pending() == 1
    agent.start(*_recording(tmp_path, 0))
    _until(lambda: len(_results(account)) == 2, "both results")
    assert [r.request_id for r in _results(account)] == ["req_1", "req_2"]
    _until(lambda: account.pending() == 0, "acknowledgement")


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_no_child_outlives_a_killed_agent(agent: AgentProcess, account: Account) -> None:
    model = onnx_models.convnet()
    long = Settings(replicates=2, max_replicates=2, timing_s=60)
    account.send(request(model, model, settings=long))
    agent.start("--token", "token-1")
    _until(lambda: "busy" in _states(account) and bool(agent.children()), "a measurement")
    (child,) = agent.children()
    agent.signal(signal.SIGKILL)
    agent.wait()
    _until(lambda: not _lives(child), "the end of the child")


def test_a_killed_server_that_forgets_its_users_does_not_kill_the_agent(
    agent: AgentProcess, account: Account, tmp_path: Path
) -> None:
    account.send(_replay_request())
    agent.start("--token", "token-1", *_recording(tmp_path, 1.0))
    _until(lambda: "busy" in _states(account), "a busy heartbeat")
    account.valkey.kill()
    _until(lambda: "the server is away" in agent.log, "the agent to notice")
    account.valkey.start()
    account.send(_replay_request(2))
    time.sleep(0.5)
    account.allow()
    _until(lambda: len(_results(account)) == 2, "both results")
    agent.signal(signal.SIGTERM)
    assert agent.wait() == 0


def test_a_request_taken_away_is_given_up_at_the_next_heartbeat(
    agent: AgentProcess, account: Account, tmp_path: Path
) -> None:
    entry = account.send(_replay_request())
    agent.start("--token", "token-1", *_recording(tmp_path, 20))
    _until(lambda: "busy" in _states(account), "a busy heartbeat")
    account.take_away(entry)
    _until(lambda: "is given up" in agent.log, "the request to be given up", limit_s=10)
    assert _results(account) == []


def test_an_interrupted_agent_ends_at_once_and_leaves_its_request_pending(
    agent: AgentProcess, account: Account, tmp_path: Path
) -> None:
    account.send(_replay_request())
    agent.start("--token", "token-1", *_recording(tmp_path, 30))
    _until(lambda: "busy" in _states(account), "a busy heartbeat")
    agent.signal(signal.SIGTERM)
    time.sleep(0.2)
    agent.signal(signal.SIGINT)
    assert agent.wait() == 0
    assert account.pending() == 1
    assert "draining" in _states(account)


def test_a_used_token_is_refused_in_words(agent: AgentProcess) -> None:
    agent.start("--token", "another")
    assert agent.wait() == 1
    assert "answered 403: the token is used or unknown" in agent.log
    assert not (agent.state / "credentials.json").exists()


def test_a_server_that_does_not_answer_is_waited_for_only_so_long(
    agent: AgentProcess, server: HttpServer, tmp_path: Path
) -> None:
    server.status = 503
    agent.start("--token", "token-1", "--wait-s", "0.5", *_recording(tmp_path, 0))
    assert agent.wait() == 1
    assert "no enrolment within" in agent.log


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 1, "--token must be given at the first start"),
        (("--token", "t", "--config", "/nowhere"), 2, "must name a TOML file, but /nowhere"),
    ],
)
def test_wrong_arguments_are_told(
    agent: AgentProcess, arguments: tuple[str, ...], code: int, message: str
) -> None:
    agent.start(*arguments)
    assert agent.wait() == code
    assert message in agent.log


def test_credentials_that_others_can_read_are_refused(agent: AgentProcess) -> None:
    agent.state.mkdir()
    path = agent.state / "credentials.json"
    path.write_text("{}")
    path.chmod(0o644)
    agent.start()
    assert agent.wait() == 1
    assert "must be readable by its owner only" in agent.log
    path.chmod(0o600)
    agent.start()
    assert agent.wait() == 1
    assert "holds no valid credentials" in agent.log


def test_two_agents_cannot_share_one_identity(
    agent: AgentProcess, server: HttpServer, account: Account, tmp_path: Path
) -> None:
    agent.start("--token", "token-1", *_recording(tmp_path, 0))
    _until(lambda: "online" in _states(account), "a heartbeat")
    twin = AgentProcess(server, tmp_path)
    twin.start()
    assert twin.wait() == 2
    assert "another agent already runs" in twin.log


def test_the_parent_process_imports_no_heavy_library() -> None:
    script = (
        "import sys, latency_probes.agent.__main__, latency_probes.local\n"
        "heavy = {'numpy', 'onnx', 'onnxruntime', 'torch', 'httpx', 'fastapi', 'celery'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_child_imports_neither_pydantic_nor_redis() -> None:
    script = (
        "import sys, latency_probes.child\n"
        "sys.exit(', '.join(sorted({'pydantic', 'redis', 'httpx', 'numpy'} & set(sys.modules))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )
    assert done.stderr.strip() == ""
