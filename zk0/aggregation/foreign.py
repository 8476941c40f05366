"""A strategy that is not of zk0: federation.strategy = "package.module:Class", made with federation.strategy_options.

Its code runs in the orchestrator, with the user's rights; it is imported when a run is checked or a round needs it.
"""

import copy
import importlib
import inspect
from collections.abc import Mapping
from typing import Any, NoReturn

from flwr.serverapp.strategy import Strategy

from zk0.aggregation.state import ATTRIBUTES, WHOLE
from zk0.config import FederationConfig
from zk0.errors import ConfigError, first_line

INSTALL = "install its package where zk0 is started, or put its folder on PYTHONPATH"


def make_foreign(federation: FederationConfig, given: Mapping[str, Any]) -> Strategy:
    """Make a new strategy of the class that the config names.

    Args:
        federation: names the class, and its own arguments.
        given: what zk0 gives every strategy; a class that does not take one of these goes without.

    Raises:
        ConfigError: names the key, its value and the remedy.
    """
    kind = _imported(federation.strategy)
    parameters = inspect.signature(kind).parameters.values()
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    named = [item.name for item in parameters if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)]
    if not takes_any and (unknown := sorted(federation.strategy_options.keys() - set(named))):
        own = ", ".join(name for name in named if name not in given) or "none"
        raise ConfigError(
            f"federation.strategy_options.{unknown[0]} = {federation.strategy_options[unknown[0]]!r}: "
            f"{kind.__name__} takes no such argument; it takes {own}; correct or remove it"
        )
    common = {name: value for name, value in given.items() if takes_any or name in named}
    try:
        return kind(**common, **copy.deepcopy(federation.strategy_options))
    except Exception as error:  # whatever foreign code raises
        raise ConfigError(
            f"federation.strategy_options = {federation.strategy_options!r}: {kind.__name__} cannot be made with them "
            f"({type(error).__name__}: {first_line(error)}); correct them"
        ) from error


def _imported(name: str) -> type[Strategy]:
    module_name, _, class_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # noqa: BLE001 - whatever foreign code raises where it is imported
        said = f"{type(error).__name__}: {first_line(error)}"
        refuse_strategy(name, f"{module_name} cannot be imported ({said}); {INSTALL}, or correct the name", error)
    kind = getattr(module, class_name, None)
    if kind is None:
        there = ", ".join(sorted(key for key, value in vars(module).items() if _is_strategy(value))) or "none"
        refuse_strategy(name, f"{module_name} has no {class_name!r}; strategies there: {there}; correct the name")
    if not _is_strategy(kind):
        refuse_strategy(
            name, f"{class_name} is no subclass of flwr.serverapp.strategy.Strategy; derive it, or name a class that is"
        )
    strategy: type[Strategy] = kind
    return strategy


def _is_strategy(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Strategy)


def attributes(strategy: Strategy) -> dict[str, list[Any]]:
    """Name -> an attribute and, of a dict or list, its items: what `forgotten` compares."""
    return {
        name: [value, *(value.values() if isinstance(value, dict) else value if isinstance(value, list) else [])]
        for name, value in vars(strategy).items()
    }


def forgotten(strategy: Strategy, before: Mapping[str, list[Any]]) -> list[str]:
    """Attributes that a round has changed and that are not saved: the strategy of the next round has them not.

    Args:
        strategy: after the round.
        before: its `attributes` before it.
    """
    if hasattr(strategy, WHOLE):
        return []
    now = attributes(strategy)
    return sorted(
        name
        for name, parts in now.items()
        if name not in ATTRIBUTES
        and (
            len(parts) != len(before.get(name, ())) or any(a is not b for a, b in zip(parts, before[name], strict=True))
        )
    )


def refuse_strategy(name: str, why: str, error: BaseException | None = None) -> NoReturn:
    """Refuse a strategy.

    Raises:
        ConfigError: always; names the key, its value and why.
    """
    raise ConfigError(f"federation.strategy = {name!r}: {why}") from error
