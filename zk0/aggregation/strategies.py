"""Flower's strategies, made from the config."""

from typing import Any

from flwr.serverapp.strategy import (
    Bulyan,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    Strategy,
)
from loguru import logger

from zk0.aggregation.flower import WEIGHT_KEY, ensure_task_identity
from zk0.aggregation.foreign import make_foreign, refuse_strategy
from zk0.aggregation.privacy import check_privacy_budget, with_privacy
from zk0.aggregation.state import StateError, load_strategy_state, strategy_state
from zk0.config import STRATEGY_KEYS, FederationConfig, RunConfig
from zk0.errors import first_line

_STRATEGIES: dict[str, type[FedAvg]] = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fedtrimmedavg": FedTrimmedAvg,
    "fedmedian": FedMedian,
    "krum": Krum,
    "multikrum": MultiKrum,
    "bulyan": Bulyan,
}
"""federation.strategy -> Flower's class; its own arguments are named as the keys in STRATEGY_KEYS."""
_OWN_DEFAULTS: dict[str, dict[str, float]] = {
    "fedavgm": {"server_momentum": 0.9},
    **{name: {"num_malicious_nodes": 1} for name in ("krum", "multikrum", "bulyan")},
}
"""Where Flower's own default has no effect: FedAvgM with momentum 0 is FedAvg, and Krum with 0 malicious trusts all.
0.9 is what Reddi et al. (arXiv:2003.00295) compare with."""
BY_DISTANCE = ("krum", "multikrum", "bulyan")
"""Strategies that compare the clients' updates as points, by ||x||^2 + ||y||^2 - 2 x y."""


def make_strategy(federation: FederationConfig, num_clients: int) -> Strategy:
    """Make the strategy that the config names, new.

    Flower samples max(int(num_clients * fraction_train), min_train_nodes) clients; with the quorum as the minimum,
    a round never samples fewer clients than it needs.

    Raises:
        ConfigError: it is a foreign one that cannot be made.
    """
    common: dict[str, Any] = {
        "fraction_train": federation.fraction_train,
        "min_train_nodes": federation.min_train_clients,
        "min_available_nodes": num_clients,
        "weighted_by_key": WEIGHT_KEY,
    }
    name = federation.strategy
    if name not in STRATEGY_KEYS:
        return make_foreign(federation, common)
    given = {key: value for key in STRATEGY_KEYS[name] if (value := getattr(federation, key)) is not None}
    keys: dict[str, Any] = _OWN_DEFAULTS.get(name, {}) | given
    if name == "multikrum":
        keys.setdefault("num_nodes_to_select", federation.sampled(num_clients) - int(keys["num_malicious_nodes"]))
    return with_privacy(_STRATEGIES[name](**common, **keys), federation, num_clients)


def malicious_left(strategy: Strategy, failed: int) -> int:
    """How many of those who are there may be malicious: each that failed or was refused is one of those reckoned with.

    The strategy is told so.

    Args:
        strategy: of any kind.
        failed: clients of the round that gave no update, or none that could be used.
    """
    if not isinstance(strategy, MultiKrum | Bulyan):  # Krum is a MultiKrum
        return 0
    strategy.num_malicious_nodes = max(0, strategy.num_malicious_nodes - failed)
    return int(strategy.num_malicious_nodes)


def check_strategy(config: RunConfig) -> None:
    """Try a strategy before a run: it can be made, and what a foreign one keeps can be saved and given back.

    Raises:
        ConfigError: names the key, its value and the remedy.
    """
    ensure_task_identity()
    if config.federation.strategy in STRATEGY_KEYS:
        make_strategy(config.federation, len(config.clients))
        if (epsilon := check_privacy_budget(config)) is not None:
            logger.info(
                "federation.privacy: {} rounds spend epsilon = {:.4g} at delta = {:g}",
                *(config.federation.num_rounds, epsilon, config.federation.privacy.delta),
            )
        return
    first, second = (make_strategy(config.federation, len(config.clients)) for _ in range(2))
    state = saved_state(first, config.federation)
    try:
        load_strategy_state(second, *state)
    except Exception as error:  # noqa: BLE001 - whatever foreign code raises
        said = f"{type(error).__name__}: {first_line(error)}"
        refuse_strategy(
            config.federation.strategy,
            f"a new one does not take the state of a new one back ({said}); correct its load_state_dict",
            error,
        )


def saved_state(strategy: Strategy, federation: FederationConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """A strategy's state, see `strategy_state`.

    Raises:
        ConfigError: it has something in it that cannot be saved.
    """
    try:
        return strategy_state(strategy)
    except StateError as error:
        refuse_strategy(federation.strategy, f"its state cannot be saved: {error}", error)
