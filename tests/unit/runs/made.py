"""Runs made by hand: a config, and rounds with everything in them."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zk0.config import RunConfig
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.work.records import ClientResult
from zk0.work.results import write_result


def make_config(outputs: Path, **changes: Any) -> RunConfig:
    """A valid config with two clients."""
    clients = [{"name": name, "repo_id": f"lab/{name}", "root": "/data"} for name in ("left", "right")]
    return RunConfig.model_validate(
        {"outputs_dir": str(outputs), "clients": clients, "policy": {"path": "lab/base"}} | changes
    )


def weights(server_round: int) -> dict[str, NDArray[Any]]:
    """The global tensors of a round."""
    return {"w": np.full((2, 3), server_round, np.float32)}


def commit(store: RunStore, server_round: int, results: list[ClientResult] | None = None) -> RoundState:
    """Commit a round with everything in it."""
    return store.commit(
        server_round,
        arrays=weights(server_round),
        strategy_tensors={"m_t/w": np.ones(3)} if server_round else {},
        strategy_scalars={"m_t": ["dict", ["w"]]} if server_round else {},
        metrics={"loss": 1.0 / (server_round + 1)},
        results=results or [],
        stats={"mean": np.zeros(2)},
    )


def fit(store: RunStore, server_round: int, client: str, state: RoundState | None) -> ClientResult:
    """A client's finished work."""
    return write_result(
        store.task("train", server_round, client, state),
        tensors=weights(server_round),
        num_examples=5,
        metrics={"loss": 0.5},
        duration_s=1.0,
        peak_rss_bytes=1,
    )
