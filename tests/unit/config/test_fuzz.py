"""Whatever a config file, a dict or `--set` holds: it becomes a RunConfig, or one ConfigError, and nothing else."""

import copy
import random
import tomllib
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from zk0.config import RunConfig, load_config, shipped_configs
from zk0.errors import ConfigError

TEXTS = {name: path.read_bytes() for name, path in shipped_configs().items()}
SNIPPETS = (
    *(b"=", b"[", b"]]", b'"', b"'", b"\\", b"\0", b"\xff", b"\r", b"[[", b"{", b".", b",", b"#", b"inf", b"nan", b"-"),
    *(b"9" * 5000, b"1e999", b"[" * 2000, b"\xef\xbb\xbf", "²".encode(), b"true", b"1979-05-27", b"~nosuchuser/"),
)
ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 2**63, 10**5000, 0.5, float("inf"), float("nan"), 1e308, "", " ", "\0", "~", "~nosuchuser"),
    *("a" * 300, "a/" * 3000, "asset:", "asset:../..", "\ud800", "[x]", "ü", [], [[]], {}, {"": {}}, {"a.b": 1}),
    *([None], {"x": float("nan")}, {1: 2}, b"bytes", object(), date(1979, 5, 27), {"root": 3}, [{"name": "x"}]),
)
"""Values of every kind that TOML, JSON or Python know."""


def mutated_text(rng: random.Random, text: bytes) -> bytes:
    """A few bytes changed, cut out, put in or said twice."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text) + 1)
        to = min(len(text), at + rng.randint(0, 30))
        put = rng.choice([b"", rng.choice(SNIPPETS), rng.randbytes(3), text[at:to] * 2])
        text = text[:at] + put + text[to:]
    return text


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every (table or list, key or index) of a document."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from places(node[key])


def mutated_data(rng: random.Random, data: dict[str, Any]) -> dict[str, Any]:
    """A few values replaced, keys taken out, put in, or moved to where they do not belong."""
    data = copy.deepcopy(data)
    for _ in range(rng.randint(1, 3)):
        node, key = rng.choice(list(places(data)))
        match rng.randrange(4):
            case 0:
                del node[key]
            case 1 if isinstance(node, dict):
                node[rng.choice(["", "x.y", "steps", "root", "name", "²", "a" * 300])] = rng.choice(ODD)
            case 2:
                node[key] = copy.deepcopy(rng.choice(list(places(data)))[0])
            case _:
                node[key] = rng.choice(ODD)
        if not data:
            break
    return data


def holds(source: Any, overrides: tuple[str, ...] = ()) -> bool:
    """Whether it is a config; what is none says so in words."""
    try:
        config = load_config(source, overrides)
    except ConfigError as error:
        return not 0 < len(str(error).strip()) < 20_000
    assert RunConfig.model_validate_json(config.model_dump_json()).digest == config.digest
    return True


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_texts(tmp_path: Path, name: str) -> None:
    rng, path = random.Random(f"text {name}"), tmp_path / "config.toml"
    found = []
    for _ in range(150):
        path.write_bytes(mutated_text(rng, TEXTS[name]))
        found.append(holds(path))
    assert {True, False} == set(found)


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_data(name: str) -> None:
    rng, data = random.Random(f"data {name}"), tomllib.loads(TEXTS[name].decode())
    assert {True, False} == {holds(mutated_data(rng, data)) for _ in range(400)}


def test_items_of_set() -> None:
    rng, data = random.Random("set"), tomllib.loads(TEXTS["sim"].decode())
    keys = [*data, *(f"{part}.{key}" for part in data if isinstance(data[part], dict) for key in data[part])]
    keys += ["clients.0.root", "clients.9.name", "clients.²", "policy.overrides.x", "", ".", "a.b.c"]
    values = [
        "",
        "1",
        "-1",
        "x",
        "true",
        "[]",
        "{}",
        "inf",
        "1e999",
        "9" * 5000,
        "'",
        "[" * 2000,
        "a=b",
        "\n",
        "\0",
        "~x",
    ]
    made = [f"{rng.choice(keys)}{rng.choice(['=', '', ' = ', '=='])}{rng.choice(values)}" for _ in range(400)]
    assert {True, False} == {holds("sim", (item,)) for item in made}
