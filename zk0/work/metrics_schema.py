"""What a client's metrics must be before anyone reckons with them: finite, in range, of equal lengths, by name."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from zk0.metrics import units
from zk0.metrics.units import ACTION_ERROR
from zk0.work.records import TaskKind

LARGEST = 1e30
"""Of any figure: squares of it are still numbers."""
MOST_NAMES = 256
"""Joints of a robot, or figures of a piece of work."""
MOST_EPISODES = 10_000
"""Held-out episodes of one dataset."""
MOST_STEPS = 2**40
"""Of an episode: sums of so many are whole numbers still."""
LONGEST_NAME = 100
"""Letters of a name."""
PYDANTICS = ("function-", "list[", "dict[", "nullable[", "lax-or-strict", "constrained-")
"""How pydantic's own steps of a fault's place begin."""
NOT_PLAIN = frozenset('<>&|$`\\"{}')
"""Letters that mean something to Markdown, HTML or a chart."""


def _plain(name: str) -> str:
    if not name.isprintable() or not NOT_PLAIN.isdisjoint(name):
        raise ValueError("is no plain name")
    return name


Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME), AfterValidator(_plain)]
Figure = Annotated[float, Field(allow_inf_nan=False, ge=-LARGEST, le=LARGEST)]
Error = Annotated[float, Field(allow_inf_nan=False, ge=0, le=LARGEST)]
Interval = Annotated[list[Figure], Field(min_length=2, max_length=2)] | None
"""[low, high], or null where there are too few episodes."""
Unit = Literal["deg", "rad", "m", "%", "0-100"] | None
"""As in zk0.metrics.units."""
ByEpisode = Annotated[list[Error], Field(max_length=MOST_EPISODES)]

_ACTION_ERROR: Any = Field(validation_alias=AliasChoices(*units.keys_of(ACTION_ERROR)))
"""Whatever the unit that its key ends in."""


class _Metrics(BaseModel):
    """Metrics by name; those that have no field are numbers."""

    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[Name, Figure] = Field(max_length=MOST_NAMES)


class _Units(BaseModel):
    """Those of an evaluation's errors."""

    model_config = ConfigDict(strict=True, extra="forbid")
    action_error: Unit
    gripper_error: Unit
    joint_error: Annotated[dict[Name, Unit], Field(max_length=MOST_NAMES)]


class _Episodes(_Metrics):
    """Figures by held-out episode."""

    steps: Annotated[list[Annotated[PositiveInt, Field(le=MOST_STEPS)]], Field(max_length=MOST_EPISODES)]
    action_error: ByEpisode | None = _ACTION_ERROR
    gripper_error: ByEpisode | None

    @model_validator(mode="after")
    def _one_for_each(self) -> Self:
        for errors in (self.action_error, self.gripper_error):
            if errors is not None and len(errors) != len(self.steps):
                raise ValueError(f"{len(errors)} errors of {len(self.steps)} episodes")
        return self


class _Evaluation(_Metrics):
    """As `zk0.learning.evaluation.evaluate` gives them."""

    action_error: Error | None = _ACTION_ERROR
    gripper_error: Error | None
    loss: Figure
    joint_error: Annotated[dict[Name, Error], Field(max_length=MOST_NAMES)]
    joints: Annotated[list[Name], Field(max_length=MOST_NAMES)]
    units: _Units | None = None
    interval_95: Annotated[
        dict[Name, Interval | Annotated[dict[Name, Interval], Field(max_length=MOST_NAMES)]], Field(max_length=8)
    ]
    episodes: _Episodes


class _HeldOut(_Evaluation):
    """Of a round: on its own frames and, in a full one, on those of the quick rounds between."""

    evaluation: Literal["full", "quick"]  # scores.FULL and scores.QUICK
    quick: _Evaluation | None = None


class _Rollout(_Metrics):
    """As `zk0.metrics.success.Success` gives them."""

    successes: Annotated[int, Field(ge=0)]
    episodes: Annotated[PositiveInt, Field(le=MOST_EPISODES)]
    success_rate: Annotated[float, Field(ge=0, le=1)]
    interval_95: Annotated[dict[Name, Interval], Field(max_length=8)]

    @model_validator(mode="after")
    def _not_more_than_all(self) -> Self:
        if self.successes > self.episodes:
            raise ValueError(f"{self.successes} successes in {self.episodes} episodes")
        return self


_NUMBERS: TypeAdapter[Any] = TypeAdapter(
    Annotated[dict[Name, Figure], Field(max_length=MOST_NAMES)], config=ConfigDict(strict=True)
)
_OF_KIND: dict[TaskKind, TypeAdapter[Any]] = {
    "evaluate": TypeAdapter(_HeldOut),
    "rollout": TypeAdapter(_Rollout),
}


def check(kind: TaskKind, metrics: dict[str, Any]) -> None:
    """Hold the metrics of a piece of work against what its kind has.

    Raises:
        ValueError: names the first one that is something else.
    """
    try:
        _OF_KIND.get(kind, _NUMBERS).validate_python(metrics)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"] if not str(part).startswith(PYDANTICS))
        raise ValueError(f"metrics.{where}: {first['msg']}") from error
