"""`secateur doctor` says what is missing, and its exit code is that of a check."""

import json
import socket
from pathlib import Path

import pytest

from api.cli import doctor
from api.cli.main import main

Captured = pytest.CaptureFixture[str]


def code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *arguments])
    return int(ended.value.code or 0)


def test_a_machine_that_has_everything_passes(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECATEUR_HOME", str(tmp_path / "home"))
    assert code("--json") == 0
    found = {each["what"]: each for each in json.loads(capsys.readouterr().out)}
    for what in ("python", "packages: standalone", "broker", "home", "free disk"):
        assert found[what]["state"] == "good", found[what]
    assert {"port", "cores", "memory", "bfloat16", "int8"} <= found.keys()
    assert not (tmp_path / "home").exists()


def test_what_is_missing_is_said_with_what_to_do(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SECATEUR_HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setitem(doctor.PACKAGES, "standalone", ("no-such-package",))
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:9/0")
    assert code() == 1
    shown = capsys.readouterr().out
    for part in ("set SECATEUR_HOME", "pip install 'secateur[standalone]'", "does not answer"):
        assert part in shown


def test_a_port_in_use_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setattr(doctor, "DEFAULT_URL", f"http://127.0.0.1:{port}")
        found = doctor._port()
    assert found.state == "note"
    assert "--port 0" in found.told
