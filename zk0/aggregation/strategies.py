"""Flower's strategies, made from the config, and the state that each keeps between rounds."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedProx, FedYogi, Strategy
from flwr.serverapp.strategy.fedopt import FedOpt
from numpy.typing import NDArray

from zk0.aggregation.flower import WEIGHT_KEY
from zk0.config import STRATEGY_KEYS, FederationConfig

_STATE = ("m_t", "v_t", "momentum_vector", "current_arrays", "clipping_norm")
"""What Flower's strategies keep between rounds; `strategy` besides, the inner one of differential privacy."""
_STRATEGIES: dict[str, type[FedAvg]] = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
}
"""federation.strategy -> Flower's class; its own arguments are named as the keys in STRATEGY_KEYS."""
_OWN_DEFAULTS: dict[str, dict[str, float]] = {"fedavgm": {"server_momentum": 0.9}}
"""Where Flower's own default has no effect: FedAvgM with momentum 0 is FedAvg. 0.9 is what Reddi et al.
(arXiv:2003.00295) compare with."""


def make_strategy(federation: FederationConfig, num_clients: int) -> FedAvg:
    """Make the strategy that the config names, new.

    Flower samples max(int(num_clients * fraction_train), min_train_nodes) clients; with the quorum as the minimum,
    a round never samples fewer clients than it needs.
    """
    common: dict[str, Any] = {
        "fraction_train": federation.fraction_train,
        "min_train_nodes": federation.min_train_clients,
        "min_available_nodes": num_clients,
        "weighted_by_key": WEIGHT_KEY,
    }
    name = federation.strategy
    given = {key: value for key in STRATEGY_KEYS[name] if (value := getattr(federation, key)) is not None}
    return _STRATEGIES[name](**common, **_OWN_DEFAULTS.get(name, {}) | given)


def strategy_state(strategy: Strategy, prefix: str = "") -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """What a strategy must be given back to go on bit-exactly.

    Returns:
        Tensors by `<attribute>/<name>`, and per attribute its kind and the names in order (or the float, as hex).
    """
    tensors: dict[str, NDArray[Any]] = {}
    scalars: dict[str, Any] = {}
    for attribute in _STATE:
        value = getattr(strategy, attribute, None)
        key = prefix + attribute
        if value is None or (attribute == "current_arrays" and isinstance(strategy, FedOpt)):
            continue  # FedOpt's are set anew by its configure step
        if isinstance(value, float):
            scalars[key] = ["float", value.hex()]
            continue
        items = _as_dict(value)
        scalars[key] = [_kind(value), list(items)]
        tensors |= {f"{key}/{name}": array for name, array in items.items()}
    if isinstance(inner := getattr(strategy, "strategy", None), Strategy):
        inner_tensors, inner_scalars = strategy_state(inner, f"{prefix}strategy.")
        tensors, scalars = tensors | inner_tensors, scalars | inner_scalars
    return tensors, scalars


def load_strategy_state(
    strategy: Strategy, tensors: Mapping[str, NDArray[Any]], scalars: Mapping[str, Any], prefix: str = ""
) -> None:
    """Give a new strategy the state that `strategy_state` took."""
    for attribute in _STATE:
        key = prefix + attribute
        if key not in scalars:
            continue
        kind, names = scalars[key]
        if kind == "float":
            setattr(strategy, attribute, float.fromhex(names))
            continue
        arrays = {name: tensors[f"{key}/{name}"] for name in names}
        setattr(strategy, attribute, _from_dict(kind, arrays))
    if isinstance(inner := getattr(strategy, "strategy", None), Strategy):
        load_strategy_state(inner, tensors, scalars, f"{prefix}strategy.")


def _kind(value: Any) -> str:
    return "record" if isinstance(value, ArrayRecord) else type(value).__name__


def _as_dict(value: Any) -> dict[str, NDArray[Any]]:
    if isinstance(value, ArrayRecord):
        return {name: array.numpy() for name, array in value.items()}
    items = value.items() if isinstance(value, dict) else ((str(index), array) for index, array in enumerate(value))
    return {name: np.asarray(array) for name, array in items}  # arithmetic makes numbers of arrays without axes


def _from_dict(kind: str, arrays: dict[str, NDArray[Any]]) -> Any:
    if kind == "record":
        return ArrayRecord({name: Array(array) for name, array in arrays.items()})
    return arrays if kind == "dict" else list(arrays.values())
