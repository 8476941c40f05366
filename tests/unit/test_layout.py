"""The names of a run's files and folders stand in zk0.layout, and nowhere else."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from zk0 import layout
from zk0.layout import failure_file, result_file, tensors_file, tensors_stem, worker_lock_file
from zk0.work.records import TaskKind

ROOT = Path(__file__).parents[2]
MODULES = [path for top in ("zk0", "tasks", "flows") for path in sorted((ROOT / top).rglob("*.py"))]
NAMES = {value for name, value in vars(layout).items() if name.isupper() and isinstance(value, str)}
FOLDERS = {name for name in NAMES if "." not in name}
"""As words they mean other things too, such as a key of the config: a literal of one counts where it joins a path."""
STEMS = {"global", "stats", "optimizer", *map(tensors_stem, get_args(TaskKind))}
FILES = (NAMES - FOLDERS) | {tensors_file(stem) for stem in STEMS}
FILES |= {name(kind) for name in (result_file, failure_file, worker_lock_file) for kind in get_args(TaskKind)}
NUMBER = "04d"
"""How a round's number is written in the name of its folder."""
ALLOWED = {
    "zk0/layout.py": FILES | FOLDERS | {NUMBER},
}


def literals(tree: ast.AST) -> Iterator[str]:
    """Names of a run's files, and of folders as parts of a path, that a module spells out."""
    said = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in said:
            if node.value == NUMBER or node.value.split("/")[-1] in FILES:
                yield node.value.split("/")[-1]
            yield from re.findall(rf"\b({layout.ROUNDS_FOLDER}|{layout.CLIENTS_FOLDER})/", node.value)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.Constant):
            yield from {str(node.right.value)} & FOLDERS


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_name_of_a_runs_file_stands_outside_layout(path: Path) -> None:
    found = set(literals(ast.parse(path.read_text(encoding="utf-8"))))
    assert found <= ALLOWED.get(path.relative_to(ROOT).as_posix(), set()), "import it from zk0.layout"


@pytest.mark.parametrize(
    "code",
    [
        'path = run / "metrics.jsonl"',
        'NAMES = ("a", "train.json")',
        'path = folder / "clients" / name',
        'path = f"rounds/{number}"',
        'name = f"{number:04d}"',
        'last = run.joinpath("rounds/0000/global.safetensors")',
    ],
)
def test_what_counts_as_a_literal(code: str) -> None:
    assert list(literals(ast.parse(code)))


def test_words_are_no_literals() -> None:
    code = '"""Writes run.json."""\nconfig["clients"], config.get("final"), "see run.log", root / "meta"'
    assert list(literals(ast.parse(code))) == []


def test_layout_imports_nothing_of_ours() -> None:
    tree = ast.parse((ROOT / "zk0" / "layout.py").read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not [name for name in imported if name.split(".")[0] in ("zk0", "tasks", "flows")]
