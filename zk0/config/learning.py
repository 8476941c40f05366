"""What is learned and how: [federation], [policy], [peft], [training], [adaptive]."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from zk0.config.part import NULL, Name, Part, refuse_unread
from zk0.config.paths import FilePath
from zk0.config.trust import AdmissionConfig, PrivacyConfig, check_privacy

STRATEGY_KEYS: dict[str, tuple[str, ...]] = {
    "fedavg": (),
    "fedprox": ("proximal_mu",),
    "fedavgm": ("server_learning_rate", "server_momentum"),
    "fedadam": ("eta", "beta_1", "beta_2", "tau"),
    "fedyogi": ("eta", "beta_1", "beta_2", "tau"),
    "fedtrimmedavg": ("beta",),
    "fedmedian": (),
    "krum": ("num_malicious_nodes",),
    "multikrum": ("num_malicious_nodes", "num_nodes_to_select"),
    "bulyan": ("num_malicious_nodes",),
}
"""federation.strategy -> the keys of [federation] that it reads besides those that all read."""

STRATEGY_ARGUMENTS = {
    "fraction_train": "federation.fraction_train",
    "min_train_nodes": "federation.min_train_clients",
    "min_available_nodes": "the number of [[clients]]",
    "weighted_by_key": "federation.weighting",
}
"""Argument that zk0 itself gives to every strategy which takes it -> where its value comes from."""

MODULE_PATTERN = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"
"""An importable package or module."""

CLASS_PATTERN = MODULE_PATTERN[1:-1] + r":[A-Za-z_]\w*"
"""A class of an importable module: `package.module:Class`."""

SCHEDULER_KEYS: dict[str, tuple[str, ...]] = {
    "preset": (),
    "constant": ("warmup_steps",),
    "cosine": ("warmup_steps", "decay_lr"),
    "cosine_warm_restarts": ("warmup_steps", "decay_lr", "restart_steps"),
}
"""training.scheduler -> the keys of [training] that it reads besides those that all read."""


class FederationConfig(Part):
    """The federated algorithm, spelled as in Flower."""

    num_rounds: int = Field(default=3, ge=1)
    """Rounds of sample -> fit -> aggregate -> evaluate -> commit; round 0 is the base policy, evaluated."""
    strategy: str = "fedavg"
    """Flower's strategy: `fedavg` (arXiv:1602.05629), `fedprox` (arXiv:1812.06127), `fedavgm` (arXiv:1909.06335),
    `fedadam` or `fedyogi` (arXiv:2003.00295), or one that some clients cannot spoil: `fedtrimmedavg`, `fedmedian`
    (arXiv:1803.01498), `krum`, `multikrum` (arXiv:1703.02757) or `bulyan` (arXiv:1802.07927), see
    [aggregation.md](aggregation.md); or any subclass of Flower's `Strategy` as `package.module:Class`, see
    [extending.md](extending.md), whose code runs with your rights."""
    strategy_options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the class that `strategy` = `package.module:Class` names, besides those that zk0 gives."""
    proximal_mu: float = Field(default=0.0, ge=0)
    """Weight of FedProx's proximal term mu/2 ||w - w_t||^2, added to each client's loss; 0 with all others."""
    server_learning_rate: float | None = Field(default=None, gt=0)
    """FedAvgM: the server's step along the momentum; 1 when absent."""
    server_momentum: float | None = Field(default=None, ge=0, lt=1)
    """FedAvgM: how much of the momentum of the rounds before is kept; 0.9 when absent."""
    eta: float | None = Field(default=None, gt=0)
    """FedAdam, FedYogi: the server's learning rate, near the largest change of a parameter in one round; Flower's own
    when absent: 0.1 (FedAdam), 0.01 (FedYogi), which is much for adapters."""
    beta_1: float | None = Field(default=None, ge=0, lt=1)
    """FedAdam, FedYogi: decay of the mean of the updates; 0.9 when absent."""
    beta_2: float | None = Field(default=None, ge=0, lt=1)
    """FedAdam, FedYogi: decay of the mean of their squares; 0.99 when absent."""
    tau: float | None = Field(default=None, gt=0)
    """FedAdam, FedYogi: updates well below it are not scaled up to eta; 0.001 when absent."""
    beta: float | None = Field(default=None, gt=0, lt=0.5)
    """FedTrimmedAvg: share of the updates that is cut off at either end, of each number by itself; 0.2 when absent."""
    num_malicious_nodes: int | None = Field(default=None, ge=0)
    """Krum, MultiKrum, Bulyan: clients of a round that may send anything, or fail; 1 when absent."""
    num_nodes_to_select: int | None = Field(default=None, ge=1)
    """MultiKrum: updates that are averaged; the clients of a round less num_malicious_nodes when absent."""
    fraction_train: float = Field(default=1.0, gt=0, le=1)
    """Fraction of the clients that is sampled in each round."""
    weighting: Literal["examples", "uniform"] = "examples"
    """What a client counts in the average: `examples`: the frames of its training episodes, however many steps it
    takes; `uniform`: all clients the same."""
    min_train_clients: int = Field(default=1, ge=1)
    """The quorum: with fewer updates than this a round is an error (exit code 3), never silently the old weights."""
    may_miss: Annotated[int, Field(ge=0)] | list[Name] = 0
    """Clients that the whole run may be without: their names, or how many. A run in which another client was sampled
    and gave no update in any round ends with exit code 3, though its `final/` is written. It may be changed for a run
    that is under way, or at its end."""
    admission: AdmissionConfig = AdmissionConfig()
    """Which updates may be aggregated."""
    privacy: PrivacyConfig = PrivacyConfig()
    """Differential privacy."""

    def sampled(self, num_clients: int) -> int:
        """How many of so many clients Flower samples in a round."""
        return max(int(num_clients * self.fraction_train), self.min_train_clients)

    @field_validator("strategy")
    @classmethod
    def _known_or_a_class(cls, strategy: str) -> str:
        if strategy not in STRATEGY_KEYS and not re.fullmatch(CLASS_PATTERN, strategy):
            known = ", ".join(repr(name) for name in STRATEGY_KEYS)
            raise PydanticCustomError("strategy", f"should be {known}, or a class as 'package.module:Class'")
        return strategy

    @model_validator(mode="after")
    def _options_are_its_own(self) -> Self:
        if self.strategy_options and self.strategy in STRATEGY_KEYS:
            keys = ", ".join(STRATEGY_KEYS[self.strategy]) or "none"
            raise ValueError(
                f"strategy_options = {self.strategy_options!r} needs strategy = 'package.module:Class', and it is "
                f"{self.strategy!r}, whose own keys are: {keys}; leave strategy_options out"
            )
        for name in sorted(self.strategy_options.keys() & STRATEGY_ARGUMENTS.keys()):
            raise ValueError(
                f"strategy_options.{name} = {self.strategy_options[name]!r} is given by zk0, from "
                f"{STRATEGY_ARGUMENTS[name]}; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _keys_fit_the_strategy(self) -> Self:
        refuse_unread(self, "strategy", STRATEGY_KEYS)
        if self.strategy == "fedavgm" and self.server_momentum == 0 and self.server_learning_rate in (None, 1):
            raise ValueError(
                "server_momentum = 0 with server_learning_rate = 1 is plain FedAvg; give one of them another value, or "
                "set strategy = 'fedavg'"
            )
        check_privacy(self.privacy, self.strategy, self.weighting)
        return self


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_null(item) for item in value]
    return None if value == NULL else value


class PolicyConfig(Part):
    """The policy that is fine-tuned: any type that LeRobot's factories make."""

    path: FilePath | None = None
    """A LeRobot `pretrained_model` folder, a hub id, or `asset:base`; without it the policy is made from scratch."""
    revision: str | None = None
    """Hub revision of `path`."""
    type: str | None = None
    """LeRobot policy type (`act`, `smolvla`, ...) of a policy made from scratch; read from `path` otherwise."""
    plugin: str | None = Field(default=None, pattern=MODULE_PATTERN)
    """Python package or module that registers the policy's type with LeRobot when it is imported, see
    [extending.md](extending.md); not needed for LeRobot's own types, nor for installed packages whose name begins with
    `lerobot_policy_`. Its code runs with your rights."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where clients train; `auto` becomes `cuda` where a GPU is seen at the first start, and stays so for the run."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Fields of the LeRobot policy config to change, such as {num_steps = 5}, checked against their own types; `"null"`
    is LeRobot's null: {pretrained_backbone_weights = "null"}. Unknown fields are refused."""

    @field_validator("overrides")
    @classmethod
    def _null_is_said(cls, overrides: dict[str, Any]) -> dict[str, Any]:
        """TOML has no null; LeRobot's command line takes the word."""
        return {key: _without_null(value) for key, value in overrides.items()}

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.path is None) == (self.type is None):
            raise ValueError("give either policy.path (fine-tune) or policy.type (from scratch), not both or neither")
        return self


class PeftConfig(Part):
    """What is trained and exchanged: LoRA adapters by PEFT (arXiv:2106.09685), or all trainable parameters."""

    enabled: bool = True
    """True: train and exchange LoRA adapters; false: full fine-tuning, every trainable tensor is exchanged."""
    r: int = Field(default=16, ge=1)
    """LoRA rank."""
    lora_alpha: int = Field(default=32, ge=1)
    """LoRA scale: the adapter's output is multiplied by lora_alpha / r."""
    target_modules: str | list[str] | None = None
    """Regular expression or list of module suffixes to adapt; the policy's own default when absent."""
    full_training_modules: list[str] | None = None
    """Modules trained and exchanged in full beside the adapters (PEFT's `modules_to_save`)."""
    aggregation: Literal["average", "ffa", "exact"] = "average"
    """What becomes of the clients' adapters B A: `average`: A and B are averaged apart, which misses that of B A;
    `ffa`: A stays as it began and only B is trained, sent and averaged, which hits it (FFA-LoRA, arXiv:2403.12313);
    `exact`: the products are averaged and cut to rank r by an SVD (as in FlexLoRA, arXiv:2402.11505), with
    fedavg and fedprox only; see [aggregation.md](aggregation.md)."""

    @model_validator(mode="after")
    def _aggregation_needs_adapters(self) -> Self:
        if not self.enabled and self.aggregation != "average":
            raise ValueError(
                f"aggregation = {self.aggregation!r} is about adapters and peft.enabled is false; leave it out, or set "
                "enabled = true"
            )
        return self


class TrainingConfig(Part):
    """The local steps of one client in one round, spelled as in LeRobot."""

    steps: int = Field(default=200, ge=1)
    """Optimizer steps of each client in each round."""
    batch_size: int = Field(default=16, ge=1)
    """Frames per step."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Frames that go through the policy at once; a step's gradient is the sum over its micro-batches, so that less
    memory is needed and the learning stays the same. All of batch_size when absent."""
    lr: float | None = Field(default=None, gt=0)
    """Peak learning rate; the policy's own preset when absent."""
    scheduler: Literal["preset", "constant", "cosine", "cosine_warm_restarts"] = "preset"
    """How the learning rate goes over all num_rounds x steps, never restarted by a round. `preset`: the policy's own
    schedule; `constant`: it stays; `cosine`: LeRobot's `cosine_decay_with_warmup`, down to decay_lr at the end of the
    run; `cosine_warm_restarts`: down to decay_lr again and again (arXiv:1608.03983)."""
    warmup_steps: int = Field(default=0, ge=0)
    """`constant`, `cosine` and `cosine_warm_restarts`: first steps of the run, in which the learning rate rises."""
    decay_lr: float = Field(default=0.0, ge=0)
    """`cosine` and `cosine_warm_restarts`: the learning rate at the end of the decay."""
    restart_steps: int | None = Field(default=None, ge=1)
    """`cosine_warm_restarts`: steps from one restart to the next."""
    optimizer_state: Literal["fresh", "keep"] = "fresh"
    """What a client's optimizer knows when a fit begins: `fresh`: nothing; `keep`: what it knew after the client's last
    one (Adam's moments), which stays with the client and is never averaged. The first fit of a run is always fresh."""
    amp: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision of the policy's forward pass by accelerate, as `lerobot-train` does it: `bf16`, or `fp16` with a
    scaled loss, which needs a GPU. Weights, gradients and evaluation keep their own precision."""
    grad_clip_norm: float | None = Field(default=None, ge=0)
    """Largest gradient norm, 0 for no clipping; the policy's own preset when absent."""
    num_workers: int = Field(default=0, ge=0)
    """DataLoader processes per client; 0 decodes in the fit's own process."""
    num_threads: int = Field(default=1, ge=1)
    """torch CPU threads per client process. Part of the result's identity: float sums depend on it."""

    @model_validator(mode="after")
    def _micro_is_smaller(self) -> Self:
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise ValueError(
                f"micro_batch_size = {self.micro_batch_size} is more than batch_size = {self.batch_size}; "
                "lower it, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _keys_fit_the_scheduler(self) -> Self:
        refuse_unread(self, "scheduler", SCHEDULER_KEYS)
        if self.scheduler == "cosine_warm_restarts" and self.restart_steps is None:
            raise ValueError(
                "scheduler = 'cosine_warm_restarts' needs restart_steps, the steps from a restart to the next; give it"
            )
        if self.lr is not None and self.decay_lr > self.lr:
            raise ValueError(f"decay_lr = {self.decay_lr:g} is more than lr = {self.lr:g}, its peak; lower it")
        return self


class AdaptiveConfig(Part):
    """Schedules that act on the figures of the rounds before, each decision being logged and in the round's metrics.

    A round that is taken up again decides the same: they read nothing but the committed rounds.
    """

    plateau_patience: int | None = Field(default=None, ge=0)
    """Rounds without a better evaluation.best_metric that are borne; with one more, the learning rate of all rounds
    from there on is multiplied by plateau_factor (torch's ReduceLROnPlateau, over rounds). Never when absent."""
    plateau_factor: float = Field(default=0.5, gt=0, lt=1)
    """What the learning rate is multiplied by on a plateau, on top of its schedule."""
    boost_max: float = Field(default=1.0, ge=1)
    """A client whose held-out error is so many times the clients' mean takes as many times its usual steps, at most
    this many; 1 for no such boost. More steps also pull the average towards that client."""
    mu_step: float | None = Field(default=None, gt=0)
    """FedProx: what is added to mu in the round after the held-out loss rose, and taken away after it fell in
    mu_patience rounds running (arXiv:1812.06127, section 5.3.2 and appendix C.3.3: 0.1), beginning with
    federation.proximal_mu. When absent mu stays."""
    mu_patience: int = Field(default=5, ge=1)
    """Rounds running in which the loss must fall before mu does."""

    @model_validator(mode="after")
    def _keys_are_read(self) -> Self:
        for key, switch in (("plateau_factor", "plateau_patience"), ("mu_patience", "mu_step")):
            value, default = getattr(self, key), type(self).model_fields[key].default
            if value != default and getattr(self, switch) is None:
                raise ValueError(f"{key} = {value} needs {switch}; give that too, or leave {key} out")
        return self
