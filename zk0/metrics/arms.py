"""What `zk0 compare` found: how each way to train does on every hold-out."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ERROR = "action_error_deg"
FEDERATED = "federated"
Json = Mapping[str, Any]


@dataclass(frozen=True)
class ArmResult:
    """How one way to train does on every hold-out."""

    name: str
    """`base`, `<client> alone`, `mean of the clients alone`, `federated` or `pooled`."""
    figures: dict[str, Json]
    """Dataset -> what its evaluation gave, of the clients' hold-outs and the settings that no client trains on."""

    @property
    def errors(self) -> dict[str, float]:
        """Dataset -> mean action error in degrees."""
        return {name: float(figures[ERROR]) for name, figures in self.figures.items()}

    def mean(self, datasets: Sequence[str]) -> float:
        """Mean over some of the datasets."""
        return statistics.fmean(self.errors[name] for name in datasets)

    def interval(self, datasets: Sequence[str], seed: int) -> list[float] | None:
        """95 % bootstrap interval of that mean over their held-out episodes, as `intervals.mean_interval` gives it."""
        from zk0.metrics import intervals

        return intervals.over_datasets([self.figures[name] for name in datasets], seed)[ERROR]

    def beside(self, other: "ArmResult", datasets: Sequence[str], seed: int) -> Json | None:
        """How much larger the mean is than another's, on the same episodes: `mean` and `interval_95`, both in degrees.

        Paired by episode: what makes one hard for both cancels out.
        """
        from zk0.metrics import intervals

        difference: Json | None = intervals.changes(other.figures, self.figures, datasets, seed)["clients"][ERROR]
        return difference


@dataclass(frozen=True)
class Comparison:
    """All arms of a run."""

    run: str
    seed: int
    """Of the resampling that gives the intervals."""
    clients: list[str]
    unseen: list[str]
    arms: list[ArmResult]
    """From the base to the pooled one."""

    @property
    def federated(self) -> ArmResult:
        """What the others are beside."""
        return next(arm for arm in self.arms if arm.name == FEDERATED)
