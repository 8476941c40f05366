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
from zk0.link.settings import LinkSettings

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


def test_the_second_worker_is_the_first_one_under_another_name_and_home() -> None:
    second = yaml.safe_load((DEPLOYMENTS / "compose.second.yaml").read_text())["services"]["second"]
    differing = {key for key in second | service("worker") if second.get(key) != service("worker").get(key)}
    assert differing == {"hostname", "environment", "command"}
    environments = second["environment"].items() ^ service("worker")["environment"].items()
    assert {key for key, _ in environments} == {"PREFECT_HOME", "PREFECT_API_URL"}


def test_of_a_link_in_a_container_the_gate_alone_can_be_reached() -> None:
    link = yaml.safe_load((DEPLOYMENTS / "compose.link.yaml").read_text())["services"]["link"]
    inside = LinkSettings()
    assert [port.rsplit(":", 1)[1] for port in link["ports"]] == [str(inside.port)]
    assert "network_mode" not in link
    assert inside.inner_address.startswith("127.0.0.1:")
    assert link["stop_grace_period"] == service("worker")["stop_grace_period"]


@pytest.mark.parametrize("name", ["tasks", "flows", "flows.settings"])
def test_an_import_changes_no_environment_and_brings_no_prefect(name: str) -> None:
    code = f"import os, sys; before = dict(os.environ); import {name}; "
    code += "sys.exit(os.environ != before or 'prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=DEPLOYMENTS.parent, check=False).returncode == 0
