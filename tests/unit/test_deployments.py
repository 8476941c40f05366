"""What is deployed beside the code is set as the code sets it, and by nothing but a call."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # no stubs

from flows import serve
from flows.settings import DEFAULTS

DEPLOYMENTS = Path(__file__).parents[2] / "deployments"


def service(name: str) -> dict[str, Any]:
    """One of compose.yaml."""
    found: dict[str, Any] = yaml.safe_load((DEPLOYMENTS / "compose.yaml").read_text())["services"][name]
    return found


def test_composes_server_is_set_as_our_own() -> None:
    environment = service("server")["environment"]
    wanted = {key: value for key, value in DEFAULTS.items() if key.startswith("PREFECT_SERVER_")}
    assert len(wanted) == 4
    assert {key: environment.get(key) for key in wanted} == wanted


def test_composes_server_keeps_its_leases() -> None:
    """A new container of the server has to find them, or Prefect cancels the run that is under way."""
    home = service("server")["environment"]["PREFECT_HOME"]
    assert f"server:{home}" in service("server")["volumes"]
    assert "server" in yaml.safe_load((DEPLOYMENTS / "compose.yaml").read_text())["volumes"]
    made = re.search(r"install -d -o zk0 -g zk0 (\S+)", (DEPLOYMENTS.parent / "Dockerfile").read_text())
    assert made is not None
    assert made[1] == home, "a volume takes its owner from the image's folder"


def test_zk0_serve_has_the_time_that_it_allows_itself() -> None:
    needed = serve.WORKER_STOP_S + 2 * serve.STOP_S  # the worker, what is left, the server
    unit = re.search(r"^TimeoutStopSec=(\d+)$", (DEPLOYMENTS / "zk0.service").read_text(), re.MULTILINE)
    assert unit is not None
    assert service("worker")["stop_grace_period"] == f"{unit[1]}s"
    assert int(unit[1]) > needed


@pytest.mark.parametrize("name", ["tasks", "flows", "flows.settings"])
def test_an_import_changes_no_environment_and_brings_no_prefect(name: str) -> None:
    code = f"import os, sys; before = dict(os.environ); import {name}; "
    code += "sys.exit(os.environ != before or 'prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=DEPLOYMENTS.parent, check=False).returncode == 0
