"""What the stack writes is for its user alone; each process knows the secrets it needs."""

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pydantic import ValidationError

from api.auth import AccessSettings
from api.stack.background import background
from api.stack.children import Child, ChildSpec
from api.stack.config import StackConfig
from api.stack.environment import secrets_for
from api.stack.errors import StackError
from api.stack.home import Home
from api.stack.stack import up
from jobs.database import parse_url
from jobs.settings import Settings
from latency_probes.environment import without_secrets
from tests.api_tests.cli_tests.test_up import OPTIONS, all_of, children

ADMIN_KEY = "sct_operator_0123456789abcdef0123456789abcdef"
SECRETS = {
    "DATABASE_URL": "sqlite:///{home}/secateur.db",
    "SECATEUR_ADMIN_KEY": ADMIN_KEY,
    "SECATEUR_KEY": "sct_someone_0123456789abcdef0123456789abcdef",
    "SECATEUR_TOKEN": "enrol-me",
    "AWS_SECRET_ACCESS_KEY": "aws-secret",
    "SHOP_PASSWORD": "shop-secret",
}
# What each process is given of them; the store is a folder, so nobody needs a key to it.
GIVEN = {
    "api": set(SECRETS),
    "collector": {"DATABASE_URL"},
    "worker-0": {"DATABASE_URL"},
    "valkey": set(),
    "probe": set(),
}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of a stack that was started with secrets, by a user with an open umask."""
    root = tmp_path_factory.mktemp("secrets") / "home"
    told = {name: value.format(home=root) for name, value in SECRETS.items()}
    before, umask = dict(os.environ), os.umask(0o022)
    os.environ.update(told)
    try:
        with background(root, OPTIONS):
            yield root
    finally:
        os.umask(umask)
        os.environ.clear()
        os.environ.update(before)


def test_home_and_all_in_it_are_closed_to_others(home: Path) -> None:
    assert mode(home) == 0o700
    found = [path for path in home.rglob("*") if path.is_file()]
    assert {"secateur.db", "secateur.db-wal", "up.json", "api.log"} <= {p.name for p in found}
    assert {str(path): oct(mode(path)) for path in found if mode(path) & 0o077} == {}


def test_no_process_has_secrets_that_it_does_not_need(home: Path) -> None:
    running = children(home)
    for name, expected in GIVEN.items():
        found = psutil.Process(running[name]).environ()
        assert {each for each in SECRETS if each in found} == expected, name


def test_no_secret_is_logged_or_on_a_command_line(home: Path) -> None:
    words = [part for process in all_of(home) for part in process.cmdline()]
    words += [path.read_text(errors="replace") for path in (home / "logs").iterdir()]
    for name, value in SECRETS.items():
        assert name == "DATABASE_URL" or not any(value in each for each in words)


def test_an_open_home_of_before_is_closed(tmp_path: Path) -> None:
    for folder in ("logs", "valkey/appendonlydir", "artifacts"):
        (tmp_path / folder).mkdir(parents=True)
    names = ("secateur.db", "secateur.db-wal", "up.lock", "logs/api.log", "valkey/valkey.pid")
    for name in (*names, "notes.txt"):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(0o644)
    tmp_path.chmod(0o755)
    Home(tmp_path)

    assert mode(tmp_path) == mode(tmp_path / "artifacts") == 0o700
    assert {mode(tmp_path / name) for name in names} == {0o600}


def test_a_folder_of_other_things_is_not_closed_itself(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    (tmp_path / "thesis.tex").chmod(0o644)
    tmp_path.chmod(0o755)
    home = Home(tmp_path)

    assert mode(tmp_path) == 0o755
    assert mode(tmp_path / "thesis.tex") == 0o644
    assert mode(home.logs) == 0o700


@pytest.mark.parametrize(
    ("name", "value", "is_kept"),
    [
        ("PATH", "/bin", True), ("LD_LIBRARY_PATH", "/opt/vendor", True), ("PWD", "/", True),
        ("OMP_NUM_THREADS", "1", True), ("SECATEUR_REPLAY", "/r.json", True),
        ("TOKENIZERS_PARALLELISM", "false", True), ("CUDA_VISIBLE_DEVICES", "0", True),
        ("REDIS_URL", "redis://x", False), ("HF_TOKEN", "x", False), ("PGPASSWORD", "x", False),
        ("AWS_PROFILE", "x", False), ("wandb_api_key", "x", False), ("REDISCLI_AUTH", "x", False),
        ("https_proxy", "http://user:password@proxy", False), ("no_proxy", "localhost", True),
        ("SOME_DSN", "x", False), ("GOOGLE_APPLICATION_CREDENTIALS", "/x", False),
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_left_out(name: str, value: str, is_kept: bool) -> None:
    assert (name in without_secrets({name: value})) == is_kept


@pytest.mark.parametrize(("url", "is_given"), [("/folder", False), ("s3://bucket", True)])
def test_workers_know_the_keys_of_a_store_that_needs_some(url: str, is_given: bool) -> None:
    environment = {"ARTIFACT_URL": url, "AWS_SECRET_ACCESS_KEY": "x", "PGPASSWORD": "y"}
    found = secrets_for("worker-3", environment)

    assert ("AWS_SECRET_ACCESS_KEY" in found) == is_given
    assert found["PGPASSWORD"] == "y"
    assert secrets_for("probe", environment) == secrets_for("valkey", environment) == {}


def test_a_child_gets_what_its_specification_names(tmp_path: Path) -> None:
    program = "import os; print(os.environ['SECATEUR_PROBE_TOKEN'])"
    log = tmp_path / "log"
    child = Child(
        ChildSpec("c", (sys.executable, "-c", program), log, {"SECATEUR_PROBE_TOKEN": "t"})
    )
    child.wait()

    assert log.read_text().strip() == "t"


def test_a_bad_key_is_not_shown() -> None:
    with pytest.raises(ValidationError) as refused:
        AccessSettings(admin_key="sct_me_hunter2")

    assert "SECATEUR_ADMIN_KEY must be" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("name", ["REDIS_URL", "DATABASE_URL"])
def test_no_part_of_a_password_in_an_address_is_shown(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "postgresql://user:hun/ter2@host/name")
    with pytest.raises(ValidationError) as refused:
        Settings()

    assert f"{name} must be an address" in str(refused.value)
    assert "hun" not in str(refused.value)


def test_the_database_s_own_words_on_a_bad_address_are_not_shown() -> None:
    with pytest.raises(ValueError, match="percent-encoded") as refused:
        parse_url("postgresql://user@host:hunter2/name")

    assert refused.value.__cause__ is None
    assert "hunter2" not in str(refused.value)


def test_workers_know_whether_keys_are_on() -> None:
    assert without_secrets({"SECATEUR_AUTH": "on"}) == {"SECATEUR_AUTH": "on"}


def test_a_folder_that_holds_other_things_stays_open_at_every_start(tmp_path: Path) -> None:
    (tmp_path / "others").mkdir()
    tmp_path.chmod(0o755)
    for _ in range(2):
        with Home(tmp_path).lock():
            pass
    assert mode(tmp_path) == 0o755


def test_an_empty_folder_is_closed_though_a_log_lies_in_it(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    tmp_path.chmod(0o755)
    Home(tmp_path)
    assert mode(tmp_path) == 0o700


def test_a_stack_that_does_not_come_up_leaves_the_umask_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = os.umask(0o022)
    try:
        with pytest.raises(StackError):
            up(StackConfig(home=tmp_path / "file" / "home"), lambda _: None)
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
