"""What a fit changes beside trained parameters: how it is named among the global tensors, and what becomes of it.

Such are the means and counts of batch normalisation, the codes of VQ-BeT, the slower copy that TD-MPC keeps of itself.
No gradient has made them, so a strategy's steps and momentum mean nothing for them: a variance would become negative.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zk0.aggregation import lora
from zk0.config import RunConfig

MARK = "state:"
"""Before the policy's own name of such a tensor; no name of a parameter has a colon."""
_ROBUST = frozenset({"fedtrimmedavg", "fedmedian", "krum", "multikrum", "bulyan"})


def is_state(name: str) -> bool:
    """Whether a global tensor of this name is one that no gradient made."""
    return name.startswith(MARK)


def unsent(names: Iterable[str], config: RunConfig) -> frozenset[str]:
    """Those of the global tensors that no client sends, and that stay as they are.

    FFA-LoRA's A; and with differential privacy all that no gradient made, for there is no noise that a variance or a
    counter could bear.
    """
    ffa, private = config.peft.aggregation == "ffa", config.federation.privacy.active
    return frozenset(name for name in names if (ffa and lora.is_factor_a(name)) or (private and is_state(name)))


def combined(values: Sequence[NDArray[Any]], weights: Sequence[float], strategy: str) -> NDArray[Any]:
    """One such tensor of all clients, whatever the strategy does with the parameters.

    Floats become their weighted mean, as the parameters do by FedAvg; with a robust strategy of each number the median,
    for which f of 2 f + 1 clients can lie. Integers and truth values have no mean (a code's number, whether a phase is
    over): of each the lower median is taken, which somebody has sent. What all have alike does not change by a bit.

    Args:
        values: of the clients, of one shape and dtype.
        weights: what each counts; their sum is 1.
        strategy: federation.strategy.
    """
    first = values[0]
    if all(np.array_equal(first, value) for value in values[1:]):
        return first
    if first.dtype.kind != "f":
        return np.asarray(np.sort(values, axis=0)[(len(values) - 1) // 2], first.dtype)
    wide = [value.astype(np.float64) for value in values]
    if strategy in _ROBUST:
        return np.asarray(np.median(wide, axis=0), first.dtype)
    return np.asarray(sum(weight * value for weight, value in zip(weights, wide, strict=True)), first.dtype)
