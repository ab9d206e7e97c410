"""How the stack starts its local probe: the agent's command line and its first enrolment.

The agent keeps its credentials below the home, so a token is only needed the first time.
"""

from datetime import UTC, datetime, timedelta

from api.stack.config import StackConfig
from api.stack.home import Home

NAME = "local"
TOKEN_LIFE = timedelta(minutes=10)


def probe_command(
    config: StackConfig, home: Home, url: str, cores: tuple[int, ...]
) -> tuple[str, ...]:
    """Arguments of Python that run the agent."""
    token = enrolment_token()
    command = ["-m", "latency_probes.agent", "--server", url, "--token", token, "--name", NAME]
    command += ["--state-dir", str(home.probe_state)]
    command += ["--runtimes", ",".join(config.probe_runtimes)]
    if cores:
        command += ["--cores", ",".join(map(str, cores))]
    if config.replay is not None:
        command += ["--replay", str(config.replay)]
    return tuple(command)


def enrolment_token() -> str:
    """A fresh token from the database; worthless after its first use or a few minutes."""
    from jobs.database import make_engine, writing
    from jobs.repository import devices
    from jobs.settings import Settings

    engine = make_engine(Settings().database_url)
    try:
        with writing(engine).begin() as session:
            return devices.create_token(session, datetime.now(UTC) + TOKEN_LIFE)
    finally:
        engine.dispose()
