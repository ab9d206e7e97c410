"""The agent's settings: who wins, and what is said about what is wrong."""

from pathlib import Path

import pytest

from latency_probes.agent.settings import PREFIX, AgentSettings, SettingsError, read
from latency_probes.conditions import usable_cores

_CORE = usable_cores()[0]


def _read(*flags: str, **variables: str) -> AgentSettings:
    environment = {f"SECATEUR_PROBE_{name}": value for name, value in variables.items()}
    return read(flags, {"PATH": "/bin", "SECATEUR_HOME": "/x"} | environment, "about")


def _file(directory: Path, text: str) -> str:
    path = directory / "agent.toml"
    path.write_text(text)
    return str(path)


def test_only_the_server_must_be_given() -> None:
    found = _read("--server", "http://hub:8000")
    assert (found.name, found.labels, found.runtimes) == ("device", {}, ())
    assert found.cores == usable_cores()
    assert found.state_dir == Path.home() / ".secateur-probe"


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    text = 'server = "http://file"\nname = "file"\nwait_s = 1\n[labels]\nroom = "lab"\n'
    found = _read("--config", _file(tmp_path, text), "--name", "flag", NAME="env", WAIT_S="2")
    assert (found.server, found.name, found.wait_s) == ("http://file", "flag", 2)
    assert found.labels == {"room": "lab"}


def test_the_environment_may_name_the_file_and_a_flag_another(tmp_path: Path) -> None:
    path = _file(tmp_path, 'server = "http://file"')
    assert _read(CONFIG=path).server == "http://file"
    assert _read("--config", path, CONFIG="/nowhere").server == "http://file"


def test_lists_have_the_same_form_everywhere(tmp_path: Path) -> None:
    text = f'server = "http://x"\ncores = [{_CORE}]\nruntimes = ["replay", "onnxruntime"]\n'
    by_file = _read("--config", _file(tmp_path, text), LABELS="a=b,c=d")
    flags = ("--cores", str(_CORE), "--runtimes", "replay,onnxruntime", "--labels", "a=b")
    by_flag = _read("--server", "http://x", *flags, "--labels", "c=d")
    assert by_file == by_flag
    assert by_flag.labels == {"a": "b", "c": "d"}


def test_what_is_given_empty_is_not_given() -> None:
    assert _read("--server", "http://x", "--token", "", NAME="").token is None


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SERVER": ""}, r"^--server must be given \(or SECATEUR_PROBE_SERVER, or in a file\)$"),
        ({"SERVER": "hub"}, "^SECATEUR_PROBE_SERVER must match pattern .*, but got 'hub'$"),
        ({"NAME": "a name!"}, "^SECATEUR_PROBE_NAME must match pattern"),
        ({"LABELS": "lab"}, "^SECATEUR_PROBE_LABELS: labels must be key=value, but got 'lab'"),
        ({"CORES": "9999"}, "^SECATEUR_PROBE_CORES: cores must be among"),
        ({"RUNTIMES": "abacus"}, "^SECATEUR_PROBE_RUNTIMES: runtimes must be among .*'abacus'"),
        ({"WAIT_S": "soon"}, "^SECATEUR_PROBE_WAIT_S must be a valid number.* but got 'soon'"),
        ({"REDIS_URL": "http://x"}, "^SECATEUR_PROBE_REDIS_URL must match pattern"),
        ({"REDIS_URL": "http://:hunter2@x"}, "^((?!hunter2).)*$"),
        ({"REPLAY": "/nowhere"}, "^SECATEUR_PROBE_REPLAY: replay must be a recording.*/nowhere"),
        ({"CA_FILE": "/nowhere"}, "^SECATEUR_PROBE_CA_FILE: ca_file must hold PEM certificates"),
        ({"COLOUR": "red"}, "^SECATEUR_PROBE_COLOUR is no setting of the agent"),
        ({"CONFIG": "/nowhere"}, "^SECATEUR_PROBE_CONFIG must name a TOML file, but /nowhere"),
    ],
)
def test_what_is_wrong_is_told_with_where_it_was_given(
    variables: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        _read(**({"SERVER": "http://x"} | variables))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server", "--config must name a TOML file, but .*agent.toml"),
        ("colour = 1", r"settings must be among .*, but got \['colour'\]"),
        ("server = 1", "server in .*agent.toml must be a valid string, but got 1"),
        ("cores = 1.5", "cores in .*agent.toml: cores must be like"),
        ("labels = 3", "labels in .*agent.toml: labels must be key=value, but got '3'"),
        ("runtimes = 3", "runtimes in .*agent.toml must be a valid tuple, but got 3"),
    ],
)
def test_a_wrong_file_is_told(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        _read("--config", _file(tmp_path, text), *_unless("server" in text))


def _unless(given: bool) -> tuple[str, ...]:
    return () if given else ("--server", "http://x")


def test_the_guide_names_every_setting() -> None:
    guide = (Path(__file__).parents[2] / "docs/devices.md").read_text()
    for name in AgentSettings.model_fields:
        row = f"| `--{name.replace('_', '-')}` | `{PREFIX}{name.upper()}` | `{name} = "
        assert row in guide


def test_a_file_of_certificates_is_checked_before_anything_else(tmp_path: Path) -> None:
    path = _file(tmp_path, "no certificate")
    with pytest.raises(SettingsError, match="ca_file must hold PEM certificates, but"):
        _read("--server", "https://x", "--ca-file", path)
