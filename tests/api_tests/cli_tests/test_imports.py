"""What the command line may load before it knows which command is meant, and how quick it is."""

import json
import subprocess
import sys

LOADED = (
    "import json, sys; import api.cli.main, api.client; print(json.dumps(sorted(sys.modules)))"
)


def test_the_command_line_needs_only_the_base_install() -> None:
    command = [sys.executable, "-c", LOADED]
    loaded = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    heavy = {"fastapi", "starlette", "sqlalchemy", "torch", "celery", "redis", "numpy", "onnx"}
    assert heavy.isdisjoint(loaded)


def test_help_does_without_the_http_client() -> None:
    source = "import sys; import api.cli.main; sys.exit('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0


def test_the_probe_command_is_the_agent() -> None:
    command = [sys.executable, "-m", "api.cli.main", "probe", "--help"]
    shown = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert "--state-dir" in shown


def test_the_launcher_needs_only_the_standard_library() -> None:
    source = "import sys; import api.stack.launcher; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0
