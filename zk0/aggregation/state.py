"""What a strategy keeps between rounds, taken from it and given to a new one: tensors, and all else as JSON.

A strategy with `state_dict` and `load_state_dict` says itself what that is; of any other the attributes are taken that
Flower's own strategies keep. The inner strategy of a wrapper, such as those of differential privacy, is taken besides.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import Strategy
from flwr.serverapp.strategy.fedopt import FedOpt
from numpy.typing import NDArray

from zk0.files.tensors import DTYPES

ATTRIBUTES = ("m_t", "v_t", "momentum_vector", "current_arrays", "clipping_norm")
"""What Flower's strategies keep between rounds; `strategy` besides, the inner one of differential privacy."""
WHOLE = "state_dict"
"""Name of what a strategy's own `state_dict` gave."""
TREE = "tree"
"""Kind of a state that may be nested."""
KINDS = "numbers, text, numpy arrays, Flower's ArrayRecord, and lists and dicts of these"
Tensors = dict[str, NDArray[Any]]
Scalars = dict[str, Any]


class StateError(Exception):
    """A strategy's state has something in it that cannot be saved; says what, and where."""


def strategy_state(strategy: Strategy, prefix: str = "") -> tuple[Tensors, Scalars]:
    """What a strategy must be given back to go on bit-exactly.

    Returns:
        Tensors by `<attribute>/<name>`, and per attribute its kind and the names in order (or the float, as hex).

    Raises:
        StateError: something in it cannot be saved.
    """
    tensors: Tensors = {}
    scalars: Scalars = {}
    if (own := _own_methods(strategy)) is not None:
        scalars[prefix + WHOLE] = [TREE, _encoded(own[0](), prefix + WHOLE, "state_dict()", tensors)]
    else:
        for attribute in ATTRIBUTES:
            value = getattr(strategy, attribute, None)
            if value is None or (attribute == "current_arrays" and isinstance(strategy, FedOpt)):
                continue  # FedOpt's are set anew by its configure step
            scalars[prefix + attribute] = _attribute(value, prefix + attribute, tensors)
    if isinstance(inner := getattr(strategy, "strategy", None), Strategy):
        inner_tensors, inner_scalars = strategy_state(inner, f"{prefix}strategy.")
        tensors, scalars = tensors | inner_tensors, scalars | inner_scalars
    return tensors, scalars


def load_strategy_state(
    strategy: Strategy, tensors: Mapping[str, NDArray[Any]], scalars: Mapping[str, Any], prefix: str = ""
) -> None:
    """Give a new strategy the state that `strategy_state` took."""
    if (own := _own_methods(strategy)) is not None:
        if (whole := scalars.get(prefix + WHOLE)) is not None:
            own[1](_decoded(whole[1], tensors))
    else:
        for attribute in ATTRIBUTES:
            key = prefix + attribute
            if key in scalars:
                setattr(strategy, attribute, _restored(scalars[key], key, tensors))
    if isinstance(inner := getattr(strategy, "strategy", None), Strategy):
        load_strategy_state(inner, tensors, scalars, f"{prefix}strategy.")


def not_finite(tensors: Mapping[str, NDArray[Any]], scalars: Mapping[str, Any]) -> list[str]:
    """Names of what in a state, or among any tensors, is not finite.

    Args:
        tensors: by name.
        scalars: the other half of a state; empty for none.
    """
    odd = [name for name, value in tensors.items() if value.dtype.kind == "f" and not np.isfinite(value).all()]
    return odd + [name for name, value in scalars.items() if not _is_finite(value)]


def _is_finite(encoded: Any) -> bool:
    """Whether every float in an encoded value, or a list of such, is."""
    if not isinstance(encoded, list):
        return True
    if len(encoded) == 2 and encoded[0] == "float" and isinstance(encoded[1], str):
        return math.isfinite(float.fromhex(encoded[1]))
    return all(_is_finite(item) for item in encoded)


def _own_methods(strategy: Strategy) -> tuple[Callable[[], Any], Callable[[Any], Any]] | None:
    """A strategy's own `state_dict` and `load_state_dict`; None where it has neither."""
    save, load = (getattr(strategy, name, None) for name in (WHOLE, "load_state_dict"))
    if save is None and load is None:
        return None
    if not callable(save) or not callable(load):
        raise StateError("it has one of state_dict() and load_state_dict(state) without the other; give both")
    return save, load


def _attribute(value: Any, key: str, tensors: Tensors) -> list[Any]:
    """An attribute as Flower's strategies have them, or anything that a state may be; its tensors go to `tensors`."""
    if isinstance(value, float):
        return ["float", value.hex()]
    if not _is_flat(value):
        return [TREE, _encoded(value, key, key, tensors)]
    items = _as_dict(value)
    tensors |= {f"{key}/{name}": array for name, array in items.items()}
    return [_kind(value), list(items)]


def _is_flat(value: Any) -> bool:
    """Whether it is a record, or a dict or list of arrays; arithmetic makes numbers of arrays without axes."""
    if isinstance(value, ArrayRecord):
        return True
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [None]
    return all(isinstance(item, np.ndarray | np.generic) for item in items)


def _kind(value: Any) -> str:
    return "record" if isinstance(value, ArrayRecord) else "dict" if isinstance(value, dict) else "list"


def _as_dict(value: Any) -> Tensors:
    if isinstance(value, ArrayRecord):
        return {name: array.numpy() for name, array in value.items()}
    items = value.items() if isinstance(value, dict) else ((str(index), array) for index, array in enumerate(value))
    return {name: np.asarray(array) for name, array in items}


def _restored(scalar: list[Any], key: str, tensors: Mapping[str, NDArray[Any]]) -> Any:
    kind, names = scalar
    if kind == "float":
        return float.fromhex(names)
    if kind == TREE:
        return _decoded(names, tensors)
    arrays = {name: tensors[f"{key}/{name}"] for name in names}
    if kind == "record":
        return ArrayRecord({name: Array(array) for name, array in arrays.items()})
    return arrays if kind == "dict" else list(arrays.values())


def _encoded(value: Any, path: str, where: str, tensors: Tensors) -> list[Any]:
    """A value as [kind, what JSON can say of it]; its arrays go to `tensors`, by path.

    Args:
        value: what a state consists of.
        path: of its tensors.
        where: the same, as Python has it.
        tensors: filled.

    Raises:
        StateError: it is of a type that is not one of KINDS.
    """
    if value is None or type(value) in (bool, int, str):
        return ["value", value]
    if type(value) is float:
        return ["float", value.hex()]
    if isinstance(value, np.ndarray | np.generic) and value.dtype.name in DTYPES:
        tensors[path] = np.asarray(value)
        return ["array" if isinstance(value, np.ndarray) else "scalar", path]
    if isinstance(value, ArrayRecord):
        arrays = {name: array.numpy() for name, array in value.items()}
        return ["record", _encoded(arrays, path, where, tensors)]
    if isinstance(value, dict):
        if strange := [key for key in value if type(key) is not str]:
            raise StateError(f"{where} has the key {strange[0]!r}, which is no text")
        return ["dict", [[key, _encoded(value[key], _below(path, key), f"{where}[{key!r}]", tensors)] for key in value]]
    if isinstance(value, list | tuple):
        items = [_encoded(item, _below(path, str(n)), f"{where}[{n}]", tensors) for n, item in enumerate(value)]
        return ["list" if isinstance(value, list) else "tuple", items]
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    dtype = f" of dtype {value.dtype}" if isinstance(value, np.ndarray | np.generic) else ""
    raise StateError(f"{where} is a {kind}{dtype}; give {KINDS}")


def _below(path: str, key: str) -> str:
    """The path of an item; a key of any letters gives no other's."""
    return f"{path}/{key.replace('~', '~0').replace('/', '~1')}"


def _decoded(encoded: list[Any], tensors: Mapping[str, NDArray[Any]]) -> Any:
    """What `_encoded` was given."""
    kind, content = encoded
    if kind in ("list", "tuple"):
        items = [_decoded(item, tensors) for item in content]
        return items if kind == "list" else tuple(items)
    if kind == "dict":
        return {key: _decoded(item, tensors) for key, item in content}
    if kind == "record":
        return ArrayRecord({name: Array(array) for name, array in _decoded(content, tensors).items()})
    if kind in ("array", "scalar"):
        return tensors[content] if kind == "array" else tensors[content][()]
    return float.fromhex(content) if kind == "float" else content
