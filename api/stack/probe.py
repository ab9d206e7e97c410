"""How the stack starts its local probe: the agent's command line, and its enrolment.

The agent keeps its credentials below the home, one set for each choice of runtimes (a device
announces them when it enrols), so a token is needed at the first start only.
"""

import logging
from datetime import timedelta
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from api.stack.config import StackConfig
from api.stack.errors import NotYet
from api.stack.home import Home
from jobs.columns import database_time
from jobs.database import make_engine, reading, reason, writing
from jobs.repository import devices
from jobs.settings import Settings
from jobs.states import SHUT_OUT
from latency_probes.agent import credentials

TOKEN_VARIABLE = "SECATEUR_PROBE_TOKEN"  # read by latency_probes.agent
TOKEN_LIFE = timedelta(minutes=10)
# It is tried again, so it need not wait for long before it says what it waits for.
PATIENCE_S = 2.0
DEFAULT_RUNTIMES = ("onnxruntime",)

log = logging.getLogger(__name__)


def probe_command(
    config: StackConfig, home: Home, url: str, *, cores: tuple[int, ...], broker: str | None
) -> tuple[str, ...]:
    """Arguments of Python that run the agent.

    Args:
        config: Which runtimes it offers.
        home: Where it keeps its state.
        url: The address of the API.
        cores: The cores it measures on; empty means all.
        broker: Address of the embedded broker without any secret, as its port may change
            between runs; None leaves what the agent was told when it enrolled.
    """
    command = ["-m", "latency_probes.agent", "--server", url, "--name", probe_name(config)]
    state = str(state_folder(config, home))
    command += ["--state-dir", state, "--runtimes", ",".join(config.probe_runtimes)]
    if broker is not None:
        command += ["--redis-url", broker]
    if cores:
        command += ["--cores", ",".join(map(str, cores))]
    if config.replay is not None:
        command += ["--replay", str(config.replay)]
    return tuple(command)


def probe_environment(
    config: StackConfig, home: Home, *, patience_s: float = PATIENCE_S
) -> dict[str, str]:
    """The variables of the agent: an enrolment token, made anew for every start that needs one.

    Raises:
        NotYet: The database is busy or away.
    """
    try:
        token = token_if_needed(state_folder(config, home), patience_s)
    except SQLAlchemyError as error:
        raise NotYet(f"the database: {reason(error)}") from error
    return {} if token is None else {TOKEN_VARIABLE: token}


def state_folder(config: StackConfig, home: Home) -> Path:
    """Where the agent keeps its credentials, cache and spool."""
    return home.root / "probe" / probe_name(config)


def probe_name(config: StackConfig) -> str:
    """The name under which the agent enrols."""
    return "-".join(("local", *(r for r in config.probe_runtimes if r not in DEFAULT_RUNTIMES)))


def token_if_needed(state: Path, patience_s: float) -> str | None:
    """A fresh enrolment token, unless the kept credentials are those of a device we know.

    Credentials of a device that the database does not know, or that was revoked, are removed.
    """
    path = state / "credentials.json"
    writers = writing(make_engine(Settings().database_url, patience_s=patience_s))
    readers = reading(writers)
    try:
        with readers() as session:
            if is_enrolled(session, path):
                return None
        with writers.begin() as session:
            token = devices.create_token(session, database_time(session) + TOKEN_LIFE)
        path.unlink(missing_ok=True)
        return token
    finally:
        for sessions in (writers, readers):
            sessions.kw["bind"].dispose()


def is_enrolled(session: Session, path: Path) -> bool:
    """Whether the credentials in a file still open the door."""
    try:
        kept = credentials.load(path)
    except credentials.CredentialsError as error:
        log.warning("the local probe enrols again: %s", error)
        return False
    device = None if kept is None else devices.find(session, kept.reply.device_id)
    return device is not None and device.state not in SHUT_OUT
