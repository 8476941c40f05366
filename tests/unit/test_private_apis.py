"""What zk0 uses of libraries that they do not promise: each in one file, for a reason, held by a contract test."""

import ast
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks.service import ROOT

OURS = ("zk0", "tasks", "flows", "benchmarks", "scripts")
FILES = [path for folder in ("zk0", "tasks", "flows", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
DOCUMENTED = ("_exit", "_asdict")
"""Public by the library's documentation, in spite of their name: os._exit, and those of named tuples."""
PRIVATE_PACKAGES = ("flwr.supercore",)
"""Private by their library's word, not by their name."""


class Use(NamedTuple):
    """What one file may use."""

    names: set[str]
    """As `private_names` spells them."""
    contract: str
    """The test that fails when the library changes it."""
    why: str
    """Why nothing public does."""


ALLOWED = {
    "zk0/aggregation/flower.py": Use(
        {"flwr.supercore.task_identity.TaskIdentity"},
        "tests/unit/aggregation/test_flower.py",
        "a Message can be made outside Flower's runtime in no other way, and strategies speak in Messages",
    ),
    "zk0/aggregation/privacy.py": Use(
        {"flwr.supercore.differential_privacy.KEY_NORM_BIT", "super()._add_noise_to_aggregated_arrays"},
        "tests/unit/aggregation/test_privacy.py",
        "the noise is in proportion to those whose updates are there, which is known after the wrapper was made",
    ),
    "zk0/learning/frames.py": Use(
        {"super()._query_videos", "super()._query_hf_dataset", "reader._query_videos"}
        | {"self._meta", "self._absolute_to_relative_idx"},
        "tests/unit/learning/test_frames.py",
        "a LeRobotDataset has no public way to be given frames that were decoded before",
    ),
    "zk0/logs/files.py": Use(
        {
            "loguru._file_sink.FileSink",
            "loguru._string_parsers.parse_size",
            "FileSink._make_rotation_function",
            "self._sink._file",
        },
        "tests/unit/logs/test_files_contract.py",
        "logger.add(path) answers a full disk with a traceback for every line",
    ),
    "zk0/sim/simulation.py": Use(
        {
            "super()._task_reset",
            *("self._slots", "self._get_current_qpos", "self._get_target_pose", "self._target_low"),
            *("self._target_high", "self._actuator_ids", "self._action_to_ctrl", "self._advance_physics"),
            *("self._finish_step", "self._arm_qpos_addrs", "self._tcp_site_id"),
        },
        "tests/unit/sim/test_so101_contract.py",
        "so101-nexus has no public way to place the cube, to read a pose, or to hold joints without rendering",
    ),
}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED


def imported(tree: ast.AST) -> dict[str, str]:
    """Local name -> full dotted name of everything that comes from a library, the standard one included."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return {local: name for local, name in found.items() if name.split(".")[0] not in OURS}


def inherited(kind: ast.ClassDef, libraries: dict[str, str]) -> set[str]:
    """Private names that a class has from a library's class, as far as it takes them from `self`."""
    if not any(ast.unparse(base).split(".")[0].split("[")[0] in libraries for base in kind.bases):
        return set()
    used: set[str] = set()
    own: set[str] = set()
    for node in ast.walk(kind):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            own.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "cls"):
            (own if isinstance(node.ctx, ast.Store) else used).add(node.attr)
    return {f"self.{name}" for name in used - own if is_private(name)}


def private_names(source: str) -> set[str]:
    """What a module uses of a library's insides, as far as it can be seen."""
    tree = ast.parse(source)
    libraries = imported(tree)
    found = {
        name
        for name in libraries.values()
        if any(map(is_private, name.split("."))) or name.startswith(tuple(f"{item}." for item in PRIVATE_PACKAGES))
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            found |= inherited(node, libraries)
        elif (
            isinstance(node, ast.Attribute) and is_private(node.attr) and ast.unparse(node.value) not in ("self", "cls")
        ):
            found.add(ast.unparse(node))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "delattr", "hasattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and isinstance(name.value, str) and is_private(name.value):
                found.add(ast.unparse(node))
    return found


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_a_file_uses_what_it_may_and_no_more(path: Path) -> None:
    allowed = ALLOWED[relative(path)].names if relative(path) in ALLOWED else set()
    assert private_names(path.read_text()) == allowed, "use the public way; or ALLOWED, with a contract test and why"


@pytest.mark.parametrize("file", ALLOWED)
def test_each_use_has_its_contract_and_its_reason_where_it_stands(file: str) -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / file).read_text())) or ""
    assert "private" in docstring
    assert ALLOWED[file].contract in docstring
    assert (ROOT / ALLOWED[file].contract).is_file()


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("from prefect._internal import threads", "prefect._internal.threads"),
        ("import loguru._file_sink as sink", "loguru._file_sink"),
        ("from flwr.supercore import x", "flwr.supercore.x"),
        ("from torch import _C", "torch._C"),
        ("import threading\nthreading._register_atexit", "threading._register_atexit"),
        ("from x import y\ny().z._drain()", "y().z._drain"),
        ("from x import y\ngetattr(y, '_z')", "getattr(y, '_z')"),
        ("from x import Base\nclass A(Base):\n    def f(self): return self._theirs", "self._theirs"),
        ("import x\nclass A(x.Base[int]):\n    def f(self): super()._theirs()", "super()._theirs"),
    ],
)
def test_it_is_seen(source: str, seen: str) -> None:
    assert private_names(source) == {seen}


@pytest.mark.parametrize(
    "source",
    [
        "from __future__ import annotations",
        "from zk0.work.metrics_schema import _Episodes",  # our own: ruff's SLF001
        "from x import Base\nclass A(Base):\n    def f(self):\n        self._mine = 1\n        return self._mine",
        "class A:\n    def f(self): return self._mine",
    ],
)
def test_what_is_ours_is_not(source: str) -> None:
    assert private_names(source) == set()
