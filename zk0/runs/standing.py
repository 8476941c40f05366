"""How a run stands at one moment: the run, its clients, its environments."""

from dataclasses import dataclass, field
from typing import Literal

from zk0.metrics import scores
from zk0.metrics.attendance import Absence
from zk0.metrics.values import Json
from zk0.runs.will import Will

State = Literal["starting", "running", "interrupted", "finished"]
Phase = Literal["waiting", "preparing", "training", "trained", "evaluating", "rolling out", "done", "failed"]


@dataclass(frozen=True)
class ClientProgress:
    """One dataset's part in the round: a client's, or that of a setting that no client trains on."""

    name: str
    """The dataset's name."""
    unseen: bool
    """True for `evaluation.datasets`: evaluated, never trained on."""
    phase: Phase
    """What happens with it in the current round; `failed` is how the last committed round went for it."""
    step: int | None = None
    """Steps done of the work under way, or None."""
    steps: int | None = None
    """All steps of that work."""
    loss: float | None = None
    """Training loss now, or of the last fit."""
    action_error: float | None = None
    """Action error of the last evaluation."""
    unit: str | None = None
    """Its unit; None where that is not known."""
    action_error_interval: list[float] | None = None
    """Its 95 % interval, [low, high]."""
    evaluation: str | None = None
    """How it was evaluated: `full` or `quick`."""
    failure: str | None = None
    """Cause and message of its failure in the last committed round."""


@dataclass(frozen=True)
class EnvironmentProgress:
    """A simulated environment: what happens there in the round, and what the last rollout gave."""

    name: str
    """The environment's name."""
    phase: Phase
    """`waiting`, `rolling out`, `done` or `failed`; it waits in a round that is evaluated quickly."""
    server_round: int | None = None
    """The round of its last rollout; None before the first one."""
    success: Json = field(default_factory=dict)
    """What that gave: `successes`, `episodes`, `success_rate`, `interval_95`."""
    videos: tuple[str, ...] = ()
    """Its videos, as far as that round is kept: absolute paths."""
    failure: str | None = None
    """Cause and message of its failure in the last committed round."""


@dataclass(frozen=True)
class RunProgress:
    """A run directory at one moment."""

    name: str
    """The run's name."""
    state: State
    """`finished`: every round is committed and `final/` written; `interrupted`: not so, and nobody holds the lock."""
    server_round: int
    """The round under way, or the last one when the run is finished."""
    num_rounds: int
    """Rounds of the whole run; 0 while run.json is not there yet."""
    elapsed_s: float
    """Time worked, in seconds: committed rounds and, while running, the current one."""
    eta_s: float | None
    """Time still to go, in seconds; None while nothing is known."""
    pid: int | None
    """The process that advances the run; None when none does, or it is on another host."""
    clients: tuple[ClientProgress, ...]
    """Clients, then the unseen settings, in the config's order."""
    best: scores.Best | None
    """The best round so far."""
    rounds: tuple[Json, ...] = field(repr=False)
    """The committed rounds: the lines of metrics.jsonl, by server_round."""
    environments: tuple[EnvironmentProgress, ...] = ()
    """The simulated environments, in the config's order."""
    stopped: Will | None = None
    """What a person did who stopped the run; None where nobody did, or it goes on."""
    absent: tuple[Absence, ...] = ()
    """Clients without an update in any committed round of training."""
