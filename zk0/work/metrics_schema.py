"""What a client's metrics must be before anyone reckons with them: numbers where numbers belong, of equal lengths."""

from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter, model_validator

from zk0.metrics import units
from zk0.metrics.units import ACTION_ERROR
from zk0.work.records import TaskKind

Interval = Annotated[list[float], Field(min_length=2, max_length=2)] | None
"""[low, high], or null where there are too few episodes."""

_ACTION_ERROR: Any = Field(validation_alias=AliasChoices(*units.keys_of(ACTION_ERROR)))
"""Whatever the unit that its key ends in."""


class _Metrics(BaseModel):
    """Metrics by name; those that have no field are numbers."""

    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, float]


class _Units(BaseModel):
    """Those of an evaluation's errors."""

    model_config = ConfigDict(strict=True, extra="forbid")
    action_error: str | None
    gripper_error: str | None
    joint_error: dict[str, str | None]


class _Episodes(_Metrics):
    """Figures by held-out episode."""

    steps: list[PositiveInt]
    action_error: list[float] | None = _ACTION_ERROR
    gripper_error: list[float] | None

    @model_validator(mode="after")
    def _one_for_each(self) -> Self:
        for errors in (self.action_error, self.gripper_error):
            if errors is not None and len(errors) != len(self.steps):
                raise ValueError(f"{len(errors)} errors of {len(self.steps)} episodes")
        return self


class _Evaluation(_Metrics):
    """As `zk0.learning.evaluation.evaluate` gives them."""

    action_error: float | None = _ACTION_ERROR
    gripper_error: float | None
    loss: float
    joint_error: dict[str, float]
    joints: list[str]
    units: _Units | None = None
    interval_95: dict[str, Interval | dict[str, Interval]]
    episodes: _Episodes


class _HeldOut(_Evaluation):
    """Of a round: on its own frames and, in a full one, on those of the quick rounds between."""

    evaluation: Literal["full", "quick"]  # scores.FULL and scores.QUICK
    quick: _Evaluation | None = None


class _Rollout(_Metrics):
    """As `zk0.metrics.success.Success` gives them."""

    successes: Annotated[int, Field(ge=0)]
    episodes: PositiveInt
    success_rate: float
    interval_95: dict[str, Interval]


_NUMBERS: TypeAdapter[Any] = TypeAdapter(dict[str, float], config=ConfigDict(strict=True))
_OF_KIND: dict[TaskKind, TypeAdapter[Any]] = {
    "evaluate": TypeAdapter(_HeldOut),
    "rollout": TypeAdapter(_Rollout),
}


def check(kind: TaskKind, metrics: dict[str, Any]) -> None:
    """Hold the metrics of a piece of work against what its kind has.

    Raises:
        ValueError: names the first ones that are something else.
    """
    _OF_KIND.get(kind, _NUMBERS).validate_python(metrics)
