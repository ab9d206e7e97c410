"""One agent, given one bad thing after the other: each is answered with a typed error or dropped,
and the good request at the end is measured as if nothing had happened."""

import json
import random
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from onnx import helper

from latency_probes.agent.heartbeat import Pulse
from latency_probes.agent.loop import Agent
from latency_probes.agent.models import ModelCache
from latency_probes.agent.server import Refused
from latency_probes.agent.spool import Spool
from latency_probes.measure import Measurer
from latency_probes.messages import (
    MAX_MESSAGE_BYTES,
    MeasureError,
    MeasureResult,
    Settings,
    Target,
    Workload,
    encode,
    parse_report,
)
from latency_probes.runtimes import registry
from tests.latency_probes_tests import onnx_models
from tests.latency_probes_tests.fake_transport import FakeTransport
from tests.latency_probes_tests.measurements import request

_HERE = "tests.latency_probes_tests.misbehaving"
_QUICK = Settings(
    replicates=2, max_replicates=2, timing_s=0.02, time_limit_s=20, memory_limit_mb=1024
)


def _huge(rows: int, columns: int) -> bytes:
    """A skeleton of a few bytes whose one weight has this many numbers."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return onnx_models.model(
        [node], [onnx_models.to_fill("w", [rows, columns])], [1, rows], [1, columns]
    )


def _ask(name: str, candidate: bytes = b"c", reference: bytes = b"r", **more: Any) -> str:
    settings = _QUICK.model_copy(update=more)
    target = Target(runtime=name)
    return encode(request(candidate, reference, request_id="r", target=target, settings=settings))


def _changed(**changes: Any) -> str:
    return json.dumps(json.loads(encode(request(request_id="r"))) | changes)


_SMALL = onnx_models.convnet()
_CASES = {
    "another version": (_changed(version=2), "invalid"),
    "a field too many": (_changed(colour="red"), "invalid"),
    "a forged model": (
        encode(
            request(request_id="r").model_copy(
                update={"candidate": Workload.of(b"x").model_copy(update={"digest": "0" * 64})}
            )
        ),
        "invalid",
    ),
    "a model that cannot be had": (encode(request(request_id="r", inline=False)), "invalid"),
    "a runtime that is not offered": (_ask("absent"), "invalid"),
    "more threads than cores": (
        encode(request(request_id="r", target=Target(threads=256))),
        "invalid",
    ),
    "no model": (_ask("onnxruntime", b"rubbish", _SMALL), "invalid"),
    "100 GB of weights": (_ask("onnxruntime", _huge(160_000, 160_000), _SMALL), "out_of_memory"),
    "more weights than there are numbers": (
        _ask("onnxruntime", _huge(2**40, 2**40), _SMALL),
        "out_of_memory",
    ),
    "a segmentation fault": (_ask("segfaults"), "crashed"),
    "a hang": (_ask("hangs", time_limit_s=0.7), "timeout"),
    "a leak": (_ask("leaks", memory_limit_mb=256), "out_of_memory"),
}
_DROPPED = (
    "",
    "rubbish",
    "\x00",
    "{}",
    "x" * (MAX_MESSAGE_BYTES + 1),
    _changed(lease_token="../x"),
)


def _fetch(workload: Workload, path: Path) -> None:
    raise Refused("answered 404")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, MeasureResult]:
    """What an agent answered to all cases and to a good request, by name."""
    directory, transport = tmp_path_factory.mktemp("agent"), FakeTransport()
    for text in _DROPPED:
        transport.send(text)
    for number, (text, _) in enumerate(_CASES.values()):
        transport.send(re.sub(r'"request_id": ?"r"', f'"request_id":"r{number}"', text))
    good = request(_SMALL, onnx_models.convnet(32), request_id="good", settings=_QUICK)
    transport.send(encode(good))
    runtimes = {"onnxruntime": registry.offered()["onnxruntime"]}
    runtimes |= {name.lower(): f"{_HERE}:{name}" for name in ("Segfaults", "Hangs", "Leaks")}
    agent = Agent(
        transport,
        Measurer(runtimes, directory / "noise"),
        ModelCache(directory / "models", _fetch),
        Spool(directory / "spool"),
        Pulse(transport, (0,), 60.0),
        source=random.Random(0),
    )
    found = _run(agent, transport)
    assert transport.reclaim() == []
    assert list((directory / "spool").iterdir()) == []
    names = {f"r{number}": name for number, name in enumerate(_CASES)}
    return {names.get(each.request_id, each.request_id): each for each in found}


def _run(agent: Agent, transport: FakeTransport) -> list[MeasureResult]:
    """Until the good request is answered."""
    thread = threading.Thread(target=agent.run)
    thread.start()
    deadline = time.monotonic() + 60
    while not any('"good"' in text for text in transport.reports()):
        if not thread.is_alive() or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    agent.stop()
    thread.join(10)
    reports = map(parse_report, transport.reports())
    return [report for report in reports if isinstance(report, MeasureResult)]


@pytest.mark.parametrize("name", _CASES)
def test_what_is_bad_is_answered_with_a_typed_error(
    answers: dict[str, MeasureResult], name: str
) -> None:
    answer = answers[name]
    assert isinstance(answer.outcome, MeasureError)
    assert answer.outcome.kind == _CASES[name][1], answer.outcome.message
    assert (answer.attempt, answer.lease_token) == (1, "lease-1")


def test_the_agent_lives_on(answers: dict[str, MeasureResult]) -> None:
    assert set(answers) == {*_CASES, "good"}
    assert not isinstance(answers["good"].outcome, MeasureError)
