"""What `zk0 compare` found: how each way to train does on every hold-out."""

from collections.abc import Sequence
from dataclasses import dataclass

from zk0.metrics import units
from zk0.metrics.units import ACTION_ERROR
from zk0.metrics.values import Json, interval, mapping

FEDERATED = "federated"


@dataclass(frozen=True)
class ArmResult:
    """How one way to train does on every hold-out."""

    name: str
    """`base`, `<client> alone`, `mean of the clients alone`, `federated` or `pooled`."""
    figures: dict[str, Json]
    """Dataset -> what its evaluation gave, of the clients' hold-outs and the settings that no client trains on."""

    @property
    def errors(self) -> dict[str, float]:
        """Dataset -> mean action error in its unit."""
        found = {name: units.value(figures, ACTION_ERROR) for name, figures in self.figures.items()}
        return {name: error for name, error in found.items() if error is not None}

    def unit(self, datasets: Sequence[str]) -> str | None:
        """That of the errors on some of the datasets; None where they differ, or it is not known."""
        return units.shared(units.unit_of(self.figures[name], ACTION_ERROR) for name in datasets)

    def mean(self, datasets: Sequence[str]) -> float | None:
        """Mean over some of the datasets; None where they are in different units."""
        return units.mean([self.figures[name] for name in datasets], ACTION_ERROR)

    def interval(self, datasets: Sequence[str], seed: int) -> list[float] | None:
        """95 % bootstrap interval of that mean over their held-out episodes, as `intervals.mean_interval` gives it."""
        from zk0.metrics import intervals

        found = intervals.over_datasets([self.figures[name] for name in datasets], seed)
        return interval(units.get(found, ACTION_ERROR))

    def beside(self, other: "ArmResult", datasets: Sequence[str], seed: int) -> Json | None:
        """How much larger the mean is than another's, on the same episodes: `mean` and `interval_95`, in their unit.

        Paired by episode: what makes one hard for both cancels out.
        """
        from zk0.metrics import intervals

        found = units.get(intervals.changes(other.figures, self.figures, datasets, seed)["clients"], ACTION_ERROR)
        return mapping(found) or None


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
    def unit(self) -> str | None:
        """That of all errors; None where the datasets' differ, or it is not known."""
        return self.arms[0].unit([*self.clients, *self.unseen])

    @property
    def federated(self) -> ArmResult:
        """What the others are beside."""
        return next(arm for arm in self.arms if arm.name == FEDERATED)
