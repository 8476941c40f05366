"""federation.strategy = "zk0_example.strategies:ServerMomentum"."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray


class ServerMomentum(FedAvg):
    """FedAvg whose server goes on in the direction that the rounds before it went: w <- w + v, v <- momentum v + d.

    Args:
        momentum: how much of v is kept; from federation.strategy_options.
        options: what zk0 gives FedAvg.
    """

    def __init__(self, momentum: float = 0.9, **options: Any) -> None:
        super().__init__(**options)
        self.momentum = momentum
        self.velocity: dict[str, NDArray[Any]] = {}
        self.lengths: list[float] = []
        self._before: dict[str, NDArray[Any]] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Keep the tensors that the round begins with."""
        self._before = {name: array.numpy() for name, array in arrays.items()}
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average, and step along the momentum."""
        mean, metrics = super().aggregate_train(server_round, replies)
        if mean is None:
            return mean, metrics
        stepped = ArrayRecord()
        for name, array in mean.items():
            before = self._before[name]
            self.velocity[name] = (
                self.momentum * self.velocity.get(name, np.zeros_like(before)) + array.numpy() - before
            )
            stepped[name] = Array(np.asarray(before + self.velocity[name]))
        self.lengths.append(float(np.sqrt(sum(np.square(v).sum() for v in self.velocity.values()))))
        return stepped, metrics

    def state_dict(self) -> dict[str, Any]:
        """What the next round's strategy must know: zk0 makes a new one for each."""
        return {"velocity": self.velocity, "lengths": self.lengths}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.velocity, self.lengths = state["velocity"], state["lengths"]
