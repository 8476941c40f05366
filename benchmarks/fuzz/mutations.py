"""What can become of a file: by a disk, by a person, by a client that seals its lies."""

import json
import os
import random
import struct
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from zk0.files.atomic import CHECKSUM, read_sealed, write_sealed

HOSTILE: list[Callable[[], Any]] = [
    lambda: None, lambda: True, lambda: -1, lambda: 0, lambda: 2**63, lambda: 10**400, lambda: 1e308, lambda: -1e308,
    lambda: float("nan"), lambda: float("inf"), lambda: "", lambda: "x" * 100_000, lambda: "\0", lambda: "../../../etc",
    lambda: "/dev/zero", lambda: "\ud800", lambda: "$\\frac{", lambda: "\x1b[31m", list, dict, lambda: [None] * 5,
    lambda: {"a": {"b": []}}, lambda: nested(3000), lambda: "NaN", lambda: "1", lambda: 0.5, lambda: [1] * 20_000,
]  # fmt: skip
"""Values in a record's place."""
SPARSE_BYTES = 2**42
LONGEST_RUN = 64


def nested(depth: int) -> list[Any]:
    """A list in a list in a list."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def mutate(path: Path, rng: random.Random) -> str:
    """Change a file in one way; gives which, `lie` where what is changed is sealed again."""
    if path.name.endswith((".json", ".jsonl")) and rng.random() < 0.5 and (told := lie(path, rng)):
        return told
    if path.suffix == ".safetensors" and rng.random() < 0.5:
        how = header(path, rng)
        return f"lie: {how}, and its record says so" if rng.random() < 0.6 and admitted(path) else how
    if rng.random() < 0.15:
        return replaced(path, rng)
    return scrambled(path, rng)


def admitted(path: Path) -> bool:
    """Have a client's record say that its tensors are just these; gives whether there is such a record."""
    record = path.with_name("train.json")
    if path.name not in ("update.safetensors", "optimizer.safetensors") or not record.exists():
        return False
    said = read_sealed(record)
    data = path.read_bytes()
    key = "tensors" if path.name == "update.safetensors" else "optimizer"
    said[key] = {**(said[key] or {}), "sha256": sha256(data).hexdigest(), "size": len(data)}
    write_sealed(record, said)
    return True


def scrambled(path: Path, rng: random.Random) -> str:
    """Bytes changed, lost, or added."""
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data) + 1)
    run = rng.randint(1, LONGEST_RUN)
    how = rng.choice(["flip", "set", "cut", "drop", "insert", "double", "zero", "empty", "append"])
    if how == "flip" and data:
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == "set" and data:
        data[rng.randrange(len(data))] = rng.randrange(256)
    elif how == "cut":
        del data[at:]
    elif how == "drop":
        del data[at : at + run]
    elif how == "insert":
        data[at:at] = rng.randbytes(run)
    elif how == "double":
        data[at:at] = data[at : at + run]
    elif how == "zero":
        data[at : at + run] = bytes(len(data[at : at + run]))
    elif how == "empty":
        data.clear()
    else:
        data += rng.randbytes(run)
    path.write_bytes(data)
    return how


def replaced(path: Path, rng: random.Random) -> str:
    """Something else in the file's place, or nothing."""
    how = rng.choice(["gone", "fifo", "link", "dangling", "hard link", "folder", "sparse"])
    path.unlink()
    other = next((found for found in sorted(path.parent.iterdir()) if found.is_file()), None)
    if how == "fifo":
        os.mkfifo(path)
    elif how == "link":
        path.symlink_to(other or "/dev/zero")
    elif how == "dangling":
        path.symlink_to(path.with_name("nowhere"))
    elif how == "hard link" and other is not None:
        os.link(other, path)
    elif how == "folder":
        path.mkdir()
    elif how == "sparse":
        path.touch()
        os.truncate(path, SPARSE_BYTES)
    return how


def lie(path: Path, rng: random.Random) -> str:
    """A record whose content is another; sealed anew, mostly. Empty where the file is no record."""
    lines = path.read_text(errors="replace").splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    if not lines:
        return ""
    number = rng.randrange(len(lines))
    try:
        record = json.loads(lines[number])
    except ValueError:
        return ""
    sealed = isinstance(record, dict) and record.pop(CHECKSUM, None) is not None
    how = changed(record, rng)
    try:
        if sealed and rng.random() < 0.8 and path.suffix == ".json":
            write_sealed(path, record)
            return f"lie: {how}"
        lines[number] = json.dumps(record)
    except (ValueError, RecursionError):
        return ""
    path.write_text("\n".join(lines) + "\n", errors="surrogatepass")
    return f"lie: {how}"


def changed(record: Any, rng: random.Random) -> str:
    """Change a node of a record, drawn among all, in place."""
    nodes: list[tuple[Any, Any]] = []
    waiting = [record]
    while waiting:
        item = waiting.pop()
        inner = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
        for key, value in inner:
            nodes.append((item, key))
            waiting.append(value)
    if not nodes:
        return "nothing"
    parent, key = rng.choice(nodes)
    how = rng.choice(["value", "value", "value", "gone", "renamed", "added"])
    if how == "value":
        number = rng.randrange(len(HOSTILE))
        parent[key] = HOSTILE[number]()
        return f"{key} becomes hostile value {number}"
    if how == "gone":
        del parent[key]
    elif isinstance(parent, dict):
        parent[f"{key}\u202e" if how == "renamed" else rng.choice(["", "__class__", "x" * 300, "a\nb"])] = (
            parent.pop(key) if how == "renamed" else rng.choice(HOSTILE)()
        )
    else:
        parent.append(rng.choice(HOSTILE)())
    return f"{key} {how}"


def header(path: Path, rng: random.Random) -> str:
    """The header of a safetensors file changed, or a value in it that is no number."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    if rng.random() < 0.3 and len(data) >= 12 + length:
        places = range(8 + length, len(data) - 3, 4)
        at = rng.choice(places)
        odd = struct.pack("<f", rng.choice([float("nan"), float("inf"), 3e38, -3e38]))
        path.write_bytes(data[:at] + odd + data[at + 4 :])
        return "value"
    try:
        record = json.loads(data[8 : 8 + length])
        how = changed(record, rng)
        text = json.dumps(record).encode(errors="surrogatepass")
    except (ValueError, RecursionError):
        return scrambled(path, rng)
    said = rng.choice([len(text), len(text), len(text), 2**63, length, 0])
    path.write_bytes(said.to_bytes(8, "little") + text + data[8 + length :])
    return f"header: {how}"
