"""The agent's settings: flags win over the environment, which wins over a TOML file. Every value
is checked in one place, and an error names where the value came from."""

import argparse
import ssl
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic import StringConstraints as Text
from pydantic import ValidationError as Invalid

from latency_probes.conditions import parse_cores, usable_cores
from latency_probes.messages import Line, Name
from latency_probes.runtimes import registry
from latency_probes.runtimes.replay import Recording

PREFIX = "SECATEUR_PROBE_"
Given = dict[str, tuple[Any, str]]  # setting -> value, and where it was given

SECRETS = ("token", "redis_url")


class SettingsError(ValueError):
    """A setting is missing, unknown or wrong."""


def _cores(given: Any) -> tuple[int, ...]:
    words = given if isinstance(given, list) else [given]
    return parse_cores(",".join(map(str, words)))


def _labels(given: Any) -> Any:
    if isinstance(given, dict):
        return given
    labels = {}
    for pair in ",".join(given if isinstance(given, list) else [str(given)]).split(","):
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise ValueError(f"labels must be key=value, but got {pair!r:.80}")
        labels[key] = value
    return labels


def _names(given: Any) -> Any:
    return tuple(filter(None, given.split(","))) if isinstance(given, str) else given


def _runtimes(names: tuple[str, ...]) -> tuple[str, ...]:
    registry.offered(names)
    return names


def _recording(path: Path) -> Path:
    try:
        Recording.parse(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"replay must be a recording, but: {error}") from error
    return path


def _certificates(path: Path) -> Path:
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:
        raise ValueError(f"ca_file must hold PEM certificates, but {path}: {error}") from error
    return path


File = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]


class AgentSettings(BaseModel):
    """What an agent is told; the descriptions are those of its `--help`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    server: Annotated[str, Text(pattern=r"^https?://\S+$", max_length=500)] = Field(
        description="the API's address, as http://host:port"
    )
    token: Line | None = Field(default=None, description="one-off, for the first start only")
    name: Name = Field(default="device", description="how the device is called (device)")
    state_dir: File = Field(
        default=Path("~/.secateur-probe"),
        validate_default=True,
        description="credentials, cache of models, unsent results (~/.secateur-probe)",
    )
    cores: Annotated[tuple[int, ...], BeforeValidator(_cores)] = Field(
        default_factory=usable_cores,
        description="CPU numbers to measure on: 1 or 0,2 or 2-5 (all)",
    )
    labels: Annotated[dict[Name, Line], BeforeValidator(_labels)] = Field(
        default={}, max_length=32, description="key=value[,key=value] to select the device by"
    )
    runtimes: Annotated[tuple[Name, ...], BeforeValidator(_names), AfterValidator(_runtimes)] = (
        Field(default=(), description="comma list (all that are installed, but replay and torch)")
    )
    replay: Annotated[File, AfterValidator(_recording)] | None = Field(
        default=None, description="recording for the runtime replay"
    )
    redis_url: Annotated[str, Text(pattern=r"^rediss?://\S+$", max_length=500)] | None = Field(
        default=None, description="use this address instead of the one enrolled with"
    )
    ca_file: Annotated[File, AfterValidator(_certificates)] | None = Field(
        default=None, description="PEM certificates to trust, for https:// and rediss://"
    )
    wait_s: Annotated[float, Field(ge=0, le=86_400)] = Field(
        default=60.0, description="how long to try to enrol (60)"
    )


def read(arguments: Sequence[str], environment: Mapping[str, str], about: str) -> AgentSettings:
    """The settings of these command-line arguments, environment and the file that either names.

    Raises:
        SettingsError: one is missing, unknown or wrong.
        SystemExit: the arguments are no arguments of ours, or ask for help.
    """
    flags = _of_flags(_parser(about).parse_args(arguments))
    variables = _of_environment(environment)
    files = [found.pop("config") for found in (flags, variables) if "config" in found]
    given = (_of_file(*files[0]) if files else {}) | variables | flags
    try:
        return AgentSettings.model_validate({name: value for name, (value, _) in given.items()})
    except Invalid as error:
        raise SettingsError("; ".join(_in_words(each, given) for each in error.errors())) from None


def _parser(about: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m latency_probes.agent",
        description=about,
        epilog=f"Each may also be given as ${PREFIX}NAME or in the file: flags win, then the "
        "environment.",
    )
    parser.add_argument("--config", help="TOML file with any of these settings")
    for name, field in AgentSettings.model_fields.items():
        action = "append" if name == "labels" else "store"
        parser.add_argument(_flag(name), action=action, help=field.description)
    return parser


def _of_flags(arguments: argparse.Namespace) -> Given:
    """An empty flag counts as not given: a container passes what its environment lacks."""
    return {name: (value, _flag(name)) for name, value in vars(arguments).items() if value}


def _of_environment(environment: Mapping[str, str]) -> Given:
    found: Given = {}
    for variable, value in environment.items():
        name = variable.removeprefix(PREFIX).lower()
        if not variable.startswith(PREFIX) or not value:
            continue
        if name != "config" and name not in AgentSettings.model_fields:
            raise SettingsError(f"{variable} is no setting of the agent; see --help")
        found[name] = (value, variable)
    return found


def _of_file(name: str, where: str) -> Given:
    path = Path(name).expanduser()
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{where} must name a TOML file, but {path}: {error}") from error
    unknown = sorted(set(document) - set(AgentSettings.model_fields))
    if unknown:
        known = sorted(AgentSettings.model_fields)
        raise SettingsError(f"{path}: settings must be among {known}, but got {unknown}")
    return {name: (value, f"{name} in {path}") for name, value in document.items()}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _in_words(problem: Mapping[str, Any], given: Given) -> str:
    name = str(problem["loc"][0])
    if problem["type"] == "missing":
        return f"{_flag(name)} must be given (or {PREFIX}{name.upper()}, or in a file)"
    if problem["type"] == "value_error":
        return f"{given[name][1]}: {problem['ctx']['error']}"
    message = str(problem["msg"]).replace("String should", "must").replace("Input should", "must")
    got = "another text, which is not shown" if name in SECRETS else f"{problem['input']!r:.80}"
    return f"{given[name][1]} {message}, but got {got}"
