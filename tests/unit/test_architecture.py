"""The rules of the house: who may import whom, and how long a function may be."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [path for folder in ("zk0", "tasks", "flows", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
LONGEST_FUNCTION = 60

# What each room may import of ours; a room that is not named may be imported by every other.
ALLOWED = {
    "errors": set(),
    "seeding": set(),
    "hub": set(),
    "foreign": set(),
    "cgroup": {"foreign"},
    "gpu": set(),
    "memory": {"cgroup"},
    "lora": set(),
    "figures": set(),
    "scores": {"figures"},
    "intervals": {"figures"},
    "adaptive": {"config", "figures", "scores"},
    "config": {"errors"},
    "memory_sampler": {"atomic", "cgroup", "errors", "figures", "foreign", "gpu", "memory"},
    "soft_limit": {"config", "memory", "memory_sampler"},
    "leaks": {"figures", "memory"},
    "findings": {"atomic", "errors", "records"},
    "guard": {"attempts", "config", "errors", "findings", "memory_sampler", "records"},
    "records": {"config", "errors"},
    "atomic": {"errors", "foreign"},
    "data": {"atomic", "config", "errors", "hub", "records"},
    "policy": {"config", "data", "errors", "hub", "lora", "records"},
    "video_checks": set(),
    "data_checks": {"config", "data", "errors", "policy", "records", "video_checks"},
    "data_fix": {"config", "data_checks", "errors", "video_checks"},
    "fetch": {"config", "errors", "hub", "policy"},
    "run_store": {"atomic", "config", "errors", "records"},
    "client_metrics": {"records"},
    "results": {"atomic", "client_metrics", "errors", "foreign", "records"},
    "start": {"config", "errors", "findings", "memory", "records", "run_store"},
    "fit_checkpoint": {"atomic", "errors", "foreign", "optimizer_state", "records"},
    "optimizer_state": {"atomic", "errors"},
    "micro_batches": {"policy"},
    "schedules": {"config"},
    "training": {
        *("config", "data", "errors", "fit_checkpoint", "micro_batches", "optimizer_state", "policy", "records"),
        "schedules",
    },
    "probe": {"cgroup", "config", "data", "errors", "memory", "policy", "records", "training"},
    "pooled": {"config", "errors"},
    "closed_loop": {"policy"},
    "environments": {"closed_loop", "config", "errors", "policy"},
    "preflight": {"config", "data", "data_checks", "data_fix", "environments", "errors", "fetch", "policy", "records"},
    "evaluation": {"config", "data", "errors", "intervals", "micro_batches", "policy", "records", "training"},
    "aggregation": {"atomic", "config", "errors", "foreign", "lora", "records", "run_store", "seeding"},
}
ONLY_IN = {
    "flwr": {"zk0/client_app.py", "zk0/server_app.py", "zk0/aggregation.py"},
    "docker": {f"zk0/executors/docker/{name}.py" for name in ("check", "engine", "executor", "mem_limit", "settings")},
}


def imports(path: Path) -> set[str]:
    """Full dotted names of everything that a module imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


CORE = [path for path in FILES if relative(path).startswith("zk0/")]


@pytest.mark.parametrize("path", CORE, ids=relative)
def test_the_core_knows_nothing_of_prefect(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports(path)}
    forbidden = {"prefect", "tasks", "flows", "deployments"} & roots
    if relative(path) == "zk0/cli.py":  # the one door, inside its commands
        tree = ast.parse(path.read_text())
        top = {node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)}
        assert not any("flows" in ast.dump(node) or "prefect" in ast.dump(node) for node in top)
    else:
        assert not forbidden


def room(path: Path) -> str:
    """A module of zk0, or a package with all its modules."""
    return relative(path).split("/")[1].removesuffix(".py")


@pytest.mark.parametrize("path", [path for path in CORE if room(path) in ALLOWED], ids=relative)
def test_imports_go_one_way(path: Path) -> None:
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("zk0.")}
    assert ours - {room(path)} <= ALLOWED[room(path)]


def test_nothing_imports_the_command_line() -> None:
    product = [path for path in FILES if not relative(path).startswith("benchmarks/")]
    assert not [relative(path) for path in product if "zk0.cli" in imports(path)]


def test_benchmarks_do_not_import_tests() -> None:
    for path in (ROOT / "benchmarks").rglob("*.py"):
        assert not [name for name in imports(path) if name.split(".")[0] == "tests"], relative(path)


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_stays_in_its_rooms(library: str) -> None:
    users = {relative(path) for path in FILES if library in {name.split(".")[0] for name in imports(path)}}
    assert users <= ONLY_IN[library]


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_functions_are_short(path: Path) -> None:
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    long = {node.name: node.end_lineno - node.lineno + 1 for node in functions if node.end_lineno is not None}
    assert {name: length for name, length in long.items() if length > LONGEST_FUNCTION} == {}


def test_the_orchestrator_never_imports_torch() -> None:
    """Its memory must not grow with a model: torch and LeRobot stay in the workers."""
    import subprocess
    import sys

    code = "import flows.federated_training, zk0.cli, sys; sys.exit('torch' in sys.modules or 'lerobot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
