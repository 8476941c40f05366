"""The rules of the house: the table of rooms, who may import whom, where a library lives, how long things may be."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("zk0", "tasks", "flows", "deployments", "benchmarks", "scripts")
FILES = [path for folder in OURS for path in sorted((ROOT / folder).rglob("*.py"))]
CORE = [path for path in FILES if path.is_relative_to(ROOT / "zk0")]
LONGEST_FUNCTION = 60
LONGEST_MODULE = 350

ROOMS: dict[str, set[str]] = {
    # floor 1: import nothing of ours
    "errors": set(),
    "seeding": set(),
    "layout": set(),
    "metrics": set(),
    "sim": set(),
    # 2
    "config": {"errors"},
    "files": {"errors"},
    # 3
    "work": {"config", "errors", "files", "layout", "metrics"},
    "services": {"config", "errors", "files"},
    # 4
    "link": {"config", "errors", "files", "layout", "services", "work"},
    "memory": {"config", "errors", "files", "layout", "metrics", "work"},
    "aggregation": {"config", "errors", "files", "layout", "metrics", "seeding", "work"},
    "data": {"config", "errors", "files", "layout", "metrics", "work"},
    # 5
    "learning": {
        *("aggregation", "config", "data", "errors", "files", "layout", "memory", "metrics", "seeding", "work"),
    },
    "runs": {"config", "errors", "files", "layout", "memory", "metrics", "work"},
    "logs": {"config", "errors", "files", "layout", "memory"},
    # 6
    "client": {
        *("aggregation", "config", "data", "errors", "files", "layout", "learning", "memory", "metrics", "runs"),
        *("seeding", "work"),
    },
    "preflight": {
        *(
            "aggregation",
            "config",
            "data",
            "errors",
            "files",
            "layout",
            "learning",
            "memory",
            "metrics",
            "runs",
            "seeding",
            "work",
        ),
    },
    "report": {"config", "data", "errors", "files", "layout", "memory", "metrics", "runs", "work"},
    # 7
    "executors": {
        *("client", "config", "data", "errors", "files", "layout", "link", "logs", "memory", "metrics", "preflight"),
        *("runs", "work"),
    },
    # 8
    "node": {
        *("config", "data", "errors", "executors", "files", "layout", "link", "logs", "memory", "metrics"),
        *("preflight", "report", "runs", "services", "work"),
    },
    "federation": {
        *("aggregation", "config", "data", "errors", "executors", "files", "layout", "logs", "memory", "metrics"),
        *("preflight", "report", "runs", "seeding", "tracking", "work"),
    },
    "tracking": {"config", "errors", "files", "layout", "metrics", "runs"},
    "housekeeping": {"config", "errors", "files", "layout", "runs"},
    "starter": {"config", "data", "errors", "files", "metrics"},
    "page": {"config", "errors", "files", "layout", "memory", "metrics", "report", "runs", "work"},
    # 9
    "flower": {
        *("config", "errors", "executors", "federation", "files", "link", "logs", "node", "preflight", "runs", "work"),
    },
    "api": {"config", "errors", "federation", "layout", "learning", "metrics", "runs"},
    "__init__": {"api", "config", "errors"},
    "doctor": {"config", "errors", "executors", "memory", "runs"},
    "publish": {"config", "data", "errors", "federation", "files", "layout", "metrics", "report", "runs"},
    # 10: behind the door, without Prefect
    "commands": {
        *("config", "doctor", "errors", "federation", "files", "housekeeping", "layout", "page", "publish", "runs"),
        *("sim", "starter"),
    },
    # 11: the one door, the only one that may go out of the house, inside a command
    "cli": {
        "commands",
        "config",
        "errors",
        "executors",
        "federation",
        "layout",
        "link",
        "logs",
        "node",
        "report",
        "runs",
        "services",
        "sim",
        "flows",
        "tasks",
    },
}
"""Room of zk0 -> what it may import of ours."""

OUTSIDE: dict[str, set[str]] = {
    "tasks": {"config", "errors", "federation", "layout", "logs", "metrics", "report", "runs", "work"},
    "flows": {"errors", "executors", "files", "federation", "layout", "logs", "report", "runs", "tasks", "work"},
    "deployments": set(),
}
"""The same for what stands around the core, which may import nothing of one another but this either."""

ONLY_IN: dict[str, tuple[str, ...]] = {
    "flwr": ("zk0/aggregation/", "zk0/link/", "zk0/node/", "zk0/flower/", "benchmarks/"),
    "docker": ("zk0/executors/docker/", "benchmarks/"),
    "prefect": ("tasks/", "flows/", "zk0/cli.py", "benchmarks/", "scripts/"),
    "loguru._file_sink": ("zk0/logs/files.py",),
    "matplotlib": ("zk0/report/", "zk0/page/", "benchmarks/"),
    "mujoco": ("zk0/sim/", "scripts/"),
    "tensorboard": ("zk0/tracking/",),
    "wandb": ("zk0/tracking/",),
    "trackio": ("zk0/tracking/",),
    "mlflow": ("zk0/tracking/",),
}
"""Library -> the places that know of it."""

LIGHT = (
    "config",
    "errors",
    "files",
    "layout",
    "logs",
    "memory",
    "metrics",
    "runs",
    "seeding",
    "work",
    "report",
    "page",
    "tracking",
    "federation",
)
"""Rooms that the orchestrator imports: none of them imports torch or LeRobot."""


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(source: str) -> set[str]:
    """Full dotted names of everything that a module imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where a name is from"
            assert node.module is not None
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def room_of(name: str) -> str:
    """The room of a module, by its dotted name or its file."""
    parts = name.removesuffix(".py").replace("/", ".").split(".")
    if parts[0] != "zk0":
        return parts[0]
    return parts[1] if len(parts) > 1 else "__init__"


def faults(place: str, source: str) -> set[str]:
    """What a file of ours imports against the table, and libraries that do not belong to it."""
    allowed = (ROOMS | OUTSIDE).get(room_of(place))
    names = imported(source)
    found = set()
    if allowed is not None:
        # `from zk0 import x` names a module, or what the front door hands on, which is for users.
        ours = {
            room_of(name) for name in names if name.split(".")[0] in ("zk0", *OUTSIDE, "benchmarks", "tests", "scripts")
        }
        ours -= {"__init__"} if any(name.startswith("zk0.") for name in names) else set()
        found = ours - allowed - {room_of(place)}
    strangers = {library for library, places in ONLY_IN.items() if not place.startswith(places)}
    return found | {name for name in names for library in strangers if f"{name}.".startswith(f"{library}.")}


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_are_those_of_the_table(path: Path) -> None:
    assert faults(relative(path), path.read_text()) == set()


def test_every_module_is_in_a_room() -> None:
    assert {room_of(relative(path)) for path in CORE} == ROOMS.keys()


def test_nothing_stands_outside_the_rooms() -> None:
    loose = {path.stem for path in (ROOT / "zk0").glob("*.py")}
    assert loose == {"__init__", "errors", "seeding", "layout", "api", "cli"}


def test_the_rooms_form_no_circle() -> None:
    list(TopologicalSorter(ROOMS | OUTSIDE).static_order())


def test_modules_form_no_circle() -> None:
    """Inside the rooms too; an import inside a function is no arrow here, for it runs later."""
    modules = {relative(path).removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in CORE}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        wanted = imported("\n".join(map(ast.unparse, top)))
        graph[name] = {other for other in wanted & modules.keys() if other != name and not name.startswith(f"{other}.")}
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("zk0/metrics/scores.py", "from zk0.runs.store import RunStore"),
        ("zk0/work/lock.py", "def f():\n    from zk0.executors import process"),
        ("zk0/federation/round.py", "import prefect.tasks"),
        ("zk0/executors/process.py", "from docker import errors"),
        ("zk0/runs/store.py", "import flwr.app as app"),
        ("zk0/learning/policy.py", "import zk0.preflight.checks"),
        ("tasks/client.py", "from flows.server import answers"),
        ("zk0/report/live.py", "from tasks import client"),
        ("zk0/data/new.py", "from zk0 import cli"),
        ("zk0/new.py", "from zk0.cli import main"),
    ],
)
def test_a_forbidden_import_is_found(place: str, source: str) -> None:
    assert faults(place, source) or room_of(place) not in ROOMS


def test_the_door_opens_outwards_only_inside_a_command() -> None:
    tree = ast.parse((ROOT / "zk0/cli.py").read_text())
    top = "\n".join(ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom))
    assert not {name.split(".")[0] for name in imported(top)} & {"flows", "tasks", "deployments", "prefect"}


def test_nothing_imports_the_command_line() -> None:
    product = [path for path in FILES if not relative(path).startswith(("benchmarks/", "scripts/"))]
    assert not [relative(path) for path in product if "zk0.cli" in imported(path.read_text())]


@pytest.mark.parametrize("path", [path for path in CORE if room_of(relative(path)) in LIGHT], ids=relative)
def test_the_orchestrators_rooms_import_no_torch(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path.read_text())} & {
        "torch",
        "lerobot",
        "transformers",
        "peft",
    }


def test_the_orchestrator_never_imports_torch() -> None:
    """Its memory must not grow with a model: torch and LeRobot stay in the workers."""
    code = "import flows.federated_training, zk0.api, zk0.federation.alone, zk0.cli, sys; "
    code += "sys.exit('torch' in sys.modules or 'lerobot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_functions_and_modules_are_short(path: Path) -> None:
    text = path.read_text()
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {node.name: node.end_lineno - node.lineno + 1 for node in functions if node.end_lineno is not None}
    assert {name: length for name, length in long.items() if length > LONGEST_FUNCTION} == {}
    assert len(text.splitlines()) <= LONGEST_MODULE or path not in CORE


def test_unit_tests_mirror_the_rooms() -> None:
    folders = {path.name for path in (ROOT / "tests/unit").iterdir() if path.is_dir() and any(path.glob("test_*.py"))}
    assert folders <= ROOMS.keys() | OUTSIDE.keys() | {"benchmarks", "scripts"}


def test_the_picture_is_up_to_date() -> None:
    from scripts import architecture

    assert architecture.PICTURE.read_text(encoding="utf-8") == architecture.picture(), (
        "run `uv run python scripts/architecture.py`"
    )
