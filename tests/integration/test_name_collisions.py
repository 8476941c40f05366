"""A user's own `tasks.py`, `flows/` and the like, where Python looks first: zk0 finds its own packages all the same."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.service import ROOT, ServedCommandLine, state_of
from flows.settings import DEFAULTS

pytestmark = pytest.mark.slow

STRANGER = """
from pathlib import Path
Path(__file__ + ".imported").touch()
raise RuntimeError("a stranger's module was imported: " + __file__)
"""
OURS = ("flows", "tasks", "deployments")
DEPENDENCIES = ("docker", "torch", "lerobot", "prefect", "yaml")
"""Names that are imported where a working directory would come first; that of the service may have a file for each."""

ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a working directory, and one for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("strangers")
    work, packages = folder / "work", folder / "packages"
    work.mkdir()
    for name in ("tasks", "deployments", *DEPENDENCIES):
        (work / f"{name}.py").write_text(STRANGER)
    for package in (work / "flows", *(packages / name for name in OURS)):
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(STRANGER)
    return folder


@pytest.fixture(scope="module")
def among_strangers(strangers: Path) -> Iterator[ServedCommandLine]:
    service = ServedCommandLine(strangers / "work")
    service.environment["PYTHONPATH"] = os.pathsep.join([str(strangers / "packages"), str(ROOT)])
    service.serve(service.config(federation__num_rounds=1, training__steps=1))
    yield service
    service.close()


@pytest.fixture(autouse=True)
def nobody_imported_one(strangers: Path) -> Iterator[None]:
    yield
    assert list(strangers.rglob("*.imported")) == []


def test_a_deployed_run(among_strangers: ServedCommandLine) -> None:
    started = among_strangers.start_nightly()
    among_strangers.until(among_strangers.flow_process, 120)
    process = among_strangers.flow_process()
    assert process is not None
    environment = process.environ()  # in Prefect's spelling, such as False for false
    assert environment.keys() >= DEFAULTS.keys()
    assert (environment["PREFECT_CLIENT_MAX_RETRIES"], environment["PYTHONSAFEPATH"]) == ("8", "1")
    among_strangers.until(lambda: among_strangers.flow_run(started)["state"]["type"] in ENDED, 300)
    assert state_of(among_strangers.flow_run(started)) == "Completed", among_strangers.story()


@pytest.mark.parametrize(
    ("name", "door"),
    [
        ("script", [str(Path(sys.executable).with_name("zk0"))]),
        pytest.param("module", ["-m", "zk0.cli"], marks=pytest.mark.exhaustive),  # the service is started so, too
    ],
)
def test_a_run_of_a_persons_own(among_strangers: ServedCommandLine, name: str, door: list[str]) -> None:
    config = among_strangers.config(federation__num_rounds=1, training__steps=1)
    done = subprocess.run(
        [sys.executable, *door, "run", str(config), "--name", name],
        cwd=among_strangers.folder,
        env={**among_strangers.environment, "PREFECT_API_URL": among_strangers.api},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert among_strangers.digest(name, 1)
