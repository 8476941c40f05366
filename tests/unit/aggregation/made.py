"""Rounds made by hand: global tensors, and what clients send."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zk0.aggregation.server_round import Aggregate, ServerRound
from zk0.config import RunConfig
from zk0.files import atomic
from zk0.work.records import ArtifactRef, ClientResult

Tensors = dict[str, NDArray[Any]]
NAMES = ("kitchen", "workshop", "greenhouse", "study", "attic", "cellar", "barn")


def make_config(clients: int = 5, **federation: Any) -> RunConfig:
    """So many clients."""
    named = [{"name": name, "repo_id": f"lab/{name}"} for name in NAMES[:clients]]
    return RunConfig.model_validate({"clients": named, "policy": {"path": "lab/base"}, "federation": federation})


def start() -> Tensors:
    """The global tensors: two matrices and a counter, with values much larger than any change."""
    rng = np.random.default_rng(7)
    return {
        "a": rng.standard_normal((6, 5)).astype(np.float32),
        "b": (100 * rng.standard_normal(40)).astype(np.float32),
        "n": np.array([3, 4], np.int64),
    }


def honest(index: int, size: float = 1.0, server_round: int = 1) -> Tensors:
    """What client number `index` makes of them: a common step and one of its own, of about the norm `size`."""
    common, own = np.random.default_rng(server_round), np.random.default_rng([server_round, index])
    base = start()
    share = size / np.sqrt(70)
    for name in ("a", "b"):
        step = 0.8 * common.standard_normal(base[name].shape) + 0.6 * own.standard_normal(base[name].shape)
        base[name] = (base[name] + share * step).astype(np.float32)
    return base


def result(folder: Path, client: str, update: Tensors, server_round: int = 1, **changes: Any) -> ClientResult:
    """A finished fit, its update on disk."""
    path = folder / f"{client}-{server_round}.safetensors"
    digest = atomic.write_tensors(path, update)
    values = {
        "key": client,
        "kind": "train",
        "server_round": server_round,
        "client": client,
        "tensors": ArtifactRef(path=path.name, sha256=digest.sha256, size=digest.size),
        "num_examples": 100,
        "metrics": {"loss": 0.5},
        "duration_s": 1.0,
        "peak_rss_bytes": 1,
        "pid": 1,
    }
    return ClientResult.model_validate(values | changes)


def one_round(
    config: RunConfig,
    folder: Path,
    updates: Mapping[str, Tensors],
    before: Aggregate | None = None,
    server_round: int = 1,
    **more: Any,
) -> Aggregate:
    """A round with these updates, after another one; the global tensors are `start()` in every one."""
    atomic.write_tensors(folder / "global.safetensors", start())
    results = [result(folder, client, update, server_round, **more) for client, update in updates.items()]
    state = () if before is None else (before.strategy_tensors, before.strategy_scalars, before.history.record())
    return ServerRound(config, server_round, folder / "global.safetensors", *state).aggregate(results, folder)


def all_honest(clients: int = 5, server_round: int = 1) -> dict[str, Tensors]:
    """Everybody's update."""
    return {name: honest(index, 1.0, server_round) for index, name in enumerate(NAMES[:clients])}


def moved(update: Tensors, factor: float) -> Tensors:
    """The same change, so many times as far from the global tensors."""
    base = start()
    return {
        name: value if value.dtype.kind != "f" else np.asarray(base[name] + factor * (value - base[name]), value.dtype)
        for name, value in update.items()
    }


def norm(update: Tensors) -> float:
    """Of the change, reckoned in another way than zk0 does."""
    base = start()
    parts = [np.ravel(update[name].astype(np.float64) - base[name]) for name in ("a", "b")]
    return float(np.linalg.norm(np.concatenate(parts)))
