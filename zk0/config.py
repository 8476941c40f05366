"""RunConfig: everything a run depends on, validated before anything starts; TOML files plus `--set key=value`."""

import difflib
import hashlib
import json
import re
import reprlib
import tomllib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from zk0.errors import ConfigError

ASSET_PREFIX = "asset:"
"""Marks a path inside the installed package, so that a frozen config does not depend on where zk0 is installed."""

NAME_PATTERN = r"^[a-z0-9][a-z0-9_.-]{0,62}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]

WITHOUT_EFFECT = ("executor", "checkpoint", "logging", "memory", "report", "outputs_dir")
"""Keys that do not change a run's result: RunConfig.digest leaves them out, and they may change under way."""

LATEST = "latest"
"""Value of continue_from: the newest run that fits."""
CONTINUE_PATTERN = r"^[a-z0-9][a-z0-9_.-]{0,62}(@\d{1,9})?$"
"""A run's name, with or without the round."""

STRATEGY_KEYS: dict[str, tuple[str, ...]] = {
    "fedavg": (),
    "fedprox": ("proximal_mu",),
    "fedavgm": ("server_learning_rate", "server_momentum"),
    "fedadam": ("eta", "beta_1", "beta_2", "tau"),
    "fedyogi": ("eta", "beta_1", "beta_2", "tau"),
}
"""federation.strategy -> the keys of [federation] that it reads besides those that all read."""

SCHEDULER_KEYS: dict[str, tuple[str, ...]] = {
    "preset": (),
    "constant": ("warmup_steps",),
    "cosine": ("warmup_steps", "decay_lr"),
    "cosine_warm_restarts": ("warmup_steps", "decay_lr", "restart_steps"),
}
"""training.scheduler -> the keys of [training] that it reads besides those that all read."""

LATER_KEYS: dict[str, dict[str, Any]] = {
    "clients": {"steps": None},
    "training": {
        "micro_batch_size": None,
        "warmup_steps": 0,
        "decay_lr": 0.0,
        "restart_steps": None,
        "amp": "no",
        "optimizer_state": "fresh",
    },
    "federation": {
        "weighting": "examples",
        **dict.fromkeys(("server_learning_rate", "server_momentum", "eta", "beta_1", "beta_2", "tau")),
    },
    "peft": {"aggregation": "average"},
    "evaluation": {"full_every": 1, "quick_stride": 4, "best_metric": "action_error", "environments": []},
    "adaptive": {
        "plateau_patience": None,
        "plateau_factor": 0.5,
        "boost_max": 1.0,
        "mu_step": None,
        "mu_patience": 5,
    },
}
"""Keys that were added after runs had been made, with the value that says what was so before: it is left out of
RunConfig.digest, so that those runs stay the same; and so is a part of which nothing is left."""

SIZE_PATTERN = r"^\d+(\.\d+)?[bkmgBKMG]?$"
"""Bytes, or with the unit k, m or g: `512m`, `10.24g`."""


class _Part(BaseModel):
    """A part of the config: immutable, no unknown keys, every field documented by the text under it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python counts true as 1; in a config it is a slip."""
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise ValueError("true and false do not fit here")
        return value


def _refuse_unread(part: _Part, choice: str, readers: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse a key that the chosen one of several ways does not read.

    Args:
        part: the part of the config.
        choice: the key that chooses.
        readers: its value -> the keys that are read then.
    """
    for key in sorted({key for keys in readers.values() for key in keys} - {*readers[getattr(part, choice)]}):
        if (value := getattr(part, key)) != (neutral := type(part).model_fields[key].default):
            users = " or ".join(repr(name) for name, keys in readers.items() if key in keys)
            remedy = "leave it out" if neutral is None else f"{key} = {neutral:g}"
            raise ValueError(f"{key} = {value} needs {choice} = {users}; set that, or {remedy}")


class FederationConfig(_Part):
    """The federated algorithm, spelled as in Flower."""

    num_rounds: int = Field(default=3, ge=1)
    """Rounds of sample -> fit -> aggregate -> evaluate -> commit; round 0 is the base policy, evaluated."""
    strategy: Literal["fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi"] = "fedavg"
    """Flower's strategy: FedAvg (arXiv:1602.05629), FedProx (arXiv:1812.06127), FedAvgM (arXiv:1909.06335), FedAdam or
    FedYogi (arXiv:2003.00295); see [aggregation.md](aggregation.md)."""
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
    fraction_train: float = Field(default=1.0, gt=0, le=1)
    """Fraction of the clients that is sampled in each round."""
    weighting: Literal["examples", "uniform"] = "examples"
    """What a client counts in the average: `examples`: the frames of its training episodes, however many steps it
    takes; `uniform`: all clients the same."""
    min_train_clients: int = Field(default=1, ge=1)
    """The quorum: with fewer updates than this a round is an error (exit code 3), never silently the old weights."""

    @model_validator(mode="after")
    def _keys_fit_the_strategy(self) -> Self:
        _refuse_unread(self, "strategy", STRATEGY_KEYS)
        if self.strategy == "fedavgm" and self.server_momentum == 0 and self.server_learning_rate in (None, 1):
            raise ValueError(
                "server_momentum = 0 with server_learning_rate = 1 is plain FedAvg; give one of them another value, or "
                "set strategy = 'fedavg'"
            )
        return self


class DatasetConfig(_Part):
    """One LeRobot dataset (v3 format), on disk or on the Hugging Face hub."""

    name: Name
    """Short name: folder in the run directory and label in tables, logs and the Prefect UI."""
    repo_id: str
    """The dataset's hub id, such as `lerobot/svla_so101_pickplace`; any `owner/name` when `root` is given."""
    root: str | None = None
    """Folder of the dataset; relative to the config file. Without it the hub's copy is fetched and cached."""
    revision: str | None = None
    """Hub revision (branch, tag or commit)."""
    rename_map: dict[str, str] = {}
    """Dataset feature -> policy feature, as in `lerobot-train`:
    {"observation.images.top" = "observation.images.camera1"}."""


class ClientConfig(DatasetConfig):
    """A client: a private dataset, and how much it trains."""

    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps of this client in each round, in place of training.steps: less for a slow machine or a small
    dataset. Its learning rate follows the schedule over num_rounds x its own steps."""


class PolicyConfig(_Part):
    """The policy that is fine-tuned: any type that LeRobot's factories make."""

    path: str | None = None
    """A LeRobot `pretrained_model` folder, a hub id, or `asset:base`; without it the policy is made from scratch."""
    revision: str | None = None
    """Hub revision of `path`."""
    type: str | None = None
    """LeRobot policy type (`act`, `smolvla`, ...) of a policy made from scratch; read from `path` otherwise."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where clients train; `auto` becomes `cuda` where a GPU is seen at the first start, and stays so for the run."""
    overrides: dict[str, Any] = {}
    """Fields of the LeRobot policy config to change, such as {num_steps = 5}; unknown fields are refused."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.path is None) == (self.type is None):
            raise ValueError("give either policy.path (fine-tune) or policy.type (from scratch), not both or neither")
        return self


class PeftConfig(_Part):
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


class TrainingConfig(_Part):
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
        _refuse_unread(self, "scheduler", SCHEDULER_KEYS)
        if self.scheduler == "cosine_warm_restarts" and self.restart_steps is None:
            raise ValueError(
                "scheduler = 'cosine_warm_restarts' needs restart_steps, the steps from a restart to the next; give it"
            )
        if self.lr is not None and self.decay_lr > self.lr:
            raise ValueError(f"decay_lr = {self.decay_lr:g} is more than lr = {self.lr:g}, its peak; lower it")
        return self


class DataConfig(_Part):
    """How datasets are read and normalised."""

    normalization: Literal["base", "federated", "own"] = "federated"
    """`base`: the statistics saved with policy.path; `federated`: clients send counts and moments of their training
    episodes, aggregated by LeRobot's `aggregate_stats` (hold-outs are never in them); `own`: each client uses those of
    its training episodes, which never leave it, and all else (evaluation.datasets, the final policy) the base's."""
    tolerance_s: float = Field(default=1e-4, gt=0)
    """Largest deviation of a time stamp from 1/fps, in seconds."""
    video_backend: Literal["pyav", "torchcodec"] = "pyav"
    """Video decoder; torchcodec needs ffmpeg's shared libraries."""


class EnvironmentConfig(_Part):
    """A simulated environment in which the policy acts: one of LeRobot's, named as for `lerobot-eval`."""

    name: Name
    """Short name: folder in the run directory and label in tables, logs and the Prefect UI."""
    type: str
    """LeRobot's environment type (`--env.type` of `lerobot-eval`), such as `zk0_so101`."""
    plugin: str | None = None
    """Python package that registers the type when it is imported (`--env.discover_packages_path`), such as `zk0.sim`;
    not needed for LeRobot's own types. Its code runs with your rights."""
    options: dict[str, Any] = {}
    """Fields of the type's config (`--env.<field>`), such as {setting = "kitchen"}; unknown fields are refused."""
    rename_map: dict[str, str] = {}
    """Environment's feature -> policy feature, as in a dataset's rename_map."""
    episodes: int = Field(default=20, ge=1)
    """Episodes in every round that is evaluated in full; their positions are the same in all of them."""
    first_seed: int = Field(default=0, ge=0)
    """Seed of the first episode in the environment; the others follow, one by one."""
    videos: int = Field(default=0, ge=0)
    """How many of the first episodes are kept as mp4, in the round's folder, and removed with it."""

    @model_validator(mode="after")
    def _videos_are_of_episodes(self) -> Self:
        if self.videos > self.episodes:
            raise ValueError(f"videos = {self.videos} is more than episodes = {self.episodes}; lower it")
        return self


class EvaluationConfig(_Part):
    """Held-out evaluation, the same frames and seeds in every round, and success in simulation."""

    holdout_episodes: int = Field(default=3, ge=1)
    """The last episodes of every client's dataset: never trained on, never in the statistics."""
    batch_size: int = Field(default=32, ge=1)
    """Frames per evaluation batch."""
    frame_stride: int = Field(default=1, ge=1)
    """Evaluate every n-th frame of the held-out episodes; 1 is all of them."""
    full_every: int = Field(default=1, ge=0)
    """Every n-th round is evaluated in full, and so are round 0 and the last one; the others are evaluated quickly, on
    fewer frames. 1: all in full; 0: none but those two. With quick rounds among them, rounds are compared on the quick
    frames alone, which the full ones have figures of, too; see [learning.md](learning.md)."""
    quick_stride: int = Field(default=4, ge=2)
    """A quick evaluation takes every n-th of the frames of a full one."""
    best_metric: Literal[
        "action_error", "gripper_error", "loss", "unseen_action_error", "unseen_loss", "success_rate"
    ] = "action_error"
    """What rounds are compared by: the best round is kept by it, and `adaptive.plateau_patience` watches it. The mean
    over the clients' hold-outs, or with `unseen_` over evaluation.datasets, lower being better; `success_rate`: success
    over the episodes of evaluation.environments, in the rounds that have it."""
    datasets: list[DatasetConfig] = []
    """Datasets of settings that no client trains on, evaluated by the server in every round."""
    environments: list[EnvironmentConfig] = []
    """Simulated environments in which the policy acts, in rounds that are evaluated in full; see
    [learning.md](learning.md)."""


class DockerConfig(_Part):
    """The containers of `executor.kind = "docker"`: see [docker.md](docker.md)."""

    image: str = Field(default="zk0:latest", min_length=1)
    """The image, built from the Dockerfile of the same zk0: other versions in it are refused."""
    gpus: list[str] | None = None
    """GPUs that may be used, by index or UUID, one container on each at a time; `[]` is none. When absent: all that
    `nvidia-smi` lists if the policy trains on `cuda`, else none."""
    shm_size: str = Field(default="10.24g", pattern=SIZE_PATTERN)
    """Size of a container's /dev/shm, through which DataLoader processes hand batches over; counts as its memory."""
    mem_limit: str | None = Field(default=None, pattern=SIZE_PATTERN)
    """Most memory of a container; what needs more is killed and counts as failed (cause `out_of_memory`). When absent:
    what is free when it starts, less a reserve of a tenth of all memory (at least 2 GiB), divided by max_parallel."""
    cpus: float | None = Field(default=None, gt=0)
    """Processor time that a container may use, in cores; all when absent."""
    mounts: list[str] = []
    """Further folders that a container may read, at the same path: such as those that links in a dataset lead to."""

    @field_validator("gpus", mode="before")
    @classmethod
    def _indices_are_names(cls, gpus: Any) -> Any:
        return [str(gpu) if type(gpu) is int else gpu for gpu in gpus] if isinstance(gpus, list) else gpus

    @field_validator("mounts")
    @classmethod
    def _absolute(cls, mounts: list[str]) -> list[str]:
        if odd := [folder for folder in mounts if not folder.startswith("/")]:
            raise ValueError(f"{odd[0]!r} is not absolute; give the folder's path from / on")
        return mounts


class ExecutorConfig(_Part):
    """Where a client's work runs, and what happens when it dies. None of it changes the result of a run."""

    kind: Literal["process", "docker"] = "process"
    """`process`: each piece of work in a process of its own; `docker`: in a container of its own."""
    max_parallel: int = Field(default=1, ge=1)
    """Clients at work at the same time."""
    timeout_s: float = Field(default=3600.0, gt=0)
    """A fit that takes longer than this is killed and counts as failed (cause `timeout`), in seconds."""
    max_retries: int = Field(default=2, ge=0)
    """Further attempts after a failure that may pass; then the client sits out the round."""
    retry_delay_s: float = Field(default=2.0, ge=0)
    """Pause before a further attempt, in seconds."""
    docker: DockerConfig = DockerConfig()
    """The containers of `executor.kind = "docker"`; see [docker.md](docker.md)."""


class CheckpointConfig(_Part):
    """What is saved while a client trains, and what is kept of old rounds."""

    every_steps: int = Field(default=50, ge=0)
    """Steps after which a fit under way saves its state: killed, it repeats at most these and ends with the same bytes.
    0 saves none."""

    keep: int = Field(default=3, ge=2)
    """Newest committed rounds kept whole; round 0 and the best round are kept besides."""


class AdaptiveConfig(_Part):
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


class ReportConfig(_Part):
    """What a run shows besides its figures; none of it changes the result of a run."""

    joint_charts: bool = False
    """Draw the joints as predicted beside those recorded, for the first held-out episode of every dataset, after each
    full evaluation. For this the joints' positions in that one episode leave the client; no images do."""


class LoggingConfig(_Part):
    """Loguru's sinks."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe level written to run.log and client.log."""
    rotation: str = "500 MB"
    """Size or age at which run.log is rotated (Loguru's spelling)."""
    retention: str = "10 days"
    """Age at which rotated logs are removed (Loguru's spelling)."""


class MemoryConfig(_Part):
    """What is watched of memory, and what happens before it runs out; while it is enough the result does not change."""

    sample_interval_s: float = Field(default=2.0, ge=0.05)
    """Time from one sample in memory.jsonl to the next, in seconds."""
    soft_limit: float | str = 0.9
    """How much of the host's memory a fit may come to use before it ends itself with a checkpoint and is done again in
    half the micro-batch: a share of what it can have (above 0, at most 1), or a size such as "6g"; 0 for no limit."""
    probe: bool = True
    """Try one small step before a new run, to estimate what a fit needs and to begin with a micro-batch that fits."""

    @field_validator("soft_limit")
    @classmethod
    def _share_or_size(cls, value: float | str) -> float | str:
        if isinstance(value, str):
            size_in_bytes(value)
        elif not 0 <= value <= 1:
            raise ValueError(f'{value} is no share from 0 to 1; write a size with its unit, such as "6g"')
        return value


class RunConfig(_Part):
    """All of a run: the run is a pure function of it."""

    seed: int = Field(default=42, ge=0)
    """Seed from which every random choice is derived with (round, client, purpose)."""
    outputs_dir: str = "outputs"
    """Folder that holds the run directories."""
    continue_from: str | None = Field(default=None, pattern=CONTINUE_PATTERN)
    """Begin from the global tensors of another run in outputs_dir, of the same policy and adapters: its name,
    `name@round`, or `latest`, the newest run of that kind that has trained (from the base where there is none). A name
    alone and `latest` are settled to `name@round` when the run is created."""
    federation: FederationConfig = FederationConfig()
    """The federated algorithm."""
    clients: list[ClientConfig] = Field(min_length=1)
    """The clients: one private dataset each."""
    policy: PolicyConfig
    """The policy that is fine-tuned."""
    peft: PeftConfig = PeftConfig()
    """What is trained and exchanged."""
    training: TrainingConfig = TrainingConfig()
    """The local steps."""
    data: DataConfig = DataConfig()
    """Reading and normalisation."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Held-out evaluation."""
    adaptive: AdaptiveConfig = AdaptiveConfig()
    """Schedules that act on the figures of the rounds before; see [learning.md](learning.md)."""
    executor: ExecutorConfig = ExecutorConfig()
    """Where clients run."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """What is saved and kept."""
    report: ReportConfig = ReportConfig()
    """What is shown."""
    logging: LoggingConfig = LoggingConfig()
    """Logs."""
    memory: MemoryConfig = MemoryConfig()
    """Memory: what is watched, and the guard."""

    @field_validator("clients")
    @classmethod
    def _unique_names(cls, clients: list[ClientConfig]) -> list[ClientConfig]:
        names = [client.name for client in clients]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"client names must differ; given more than once: {', '.join(doubled)}")
        return clients

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        names = {client.name for client in self.clients}
        if clash := sorted(names & {dataset.name for dataset in self.evaluation.datasets}):
            raise ValueError(f"evaluation.datasets: {clash[0]!r} is a client's name too; give it another name")
        if self.federation.min_train_clients > len(self.clients):
            raise ValueError(
                f"federation.min_train_clients = {self.federation.min_train_clients} is more than the "
                f"{len(self.clients)} clients; lower it or add clients"
            )
        if self.policy.path is None and self.peft.enabled:
            raise ValueError("peft.enabled needs policy.path: adapters need a trained base; set peft.enabled = false")
        if self.policy.path is None and self.data.normalization != "federated":
            raise ValueError(f"data.normalization = {self.data.normalization!r} needs policy.path; use 'federated'")
        if self.peft.aggregation == "exact" and self.training.optimizer_state == "keep":
            raise ValueError(
                "peft.aggregation = 'exact' gives A and B new axes in every round, in which kept moments mean "
                "nothing; set training.optimizer_state = 'fresh', or another peft.aggregation"
            )
        for client in self.clients:
            total = self.federation.num_rounds * self.training_of(client.name).steps
            if self.training.warmup_steps >= total:
                raise ValueError(
                    f"training.warmup_steps = {self.training.warmup_steps} is not less than the {total} steps that "
                    f"client {client.name!r} takes in the whole run; lower it, or train for longer"
                )
        if self.peft.aggregation == "exact" and self.federation.strategy not in ("fedavg", "fedprox"):
            raise ValueError(
                f"peft.aggregation = 'exact' gives A and B new axes in every round, in which the state of "
                f"federation.strategy = {self.federation.strategy!r} has no meaning; use 'fedavg' or 'fedprox', or "
                "peft.aggregation = 'ffa'"
            )
        return self

    @model_validator(mode="after")
    def _environments_have_their_own_names(self) -> Self:
        environments = [environment.name for environment in self.evaluation.environments]
        taken = [item.name for item in [*self.clients, *self.evaluation.datasets]]
        for name in environments:
            if name in taken or environments.count(name) > 1:
                whose = "a dataset's name" if name in taken else "another environment's name"
                raise ValueError(f"evaluation.environments: {name!r} is {whose} too; give it another name")
        return self

    @model_validator(mode="after")
    def _what_acts_on_figures_has_them(self) -> Self:
        if self.adaptive.mu_step is not None and self.federation.strategy != "fedprox":
            raise ValueError(
                f"adaptive.mu_step = {self.adaptive.mu_step} needs federation.strategy = 'fedprox' and it is "
                f"{self.federation.strategy!r}; set that, or leave mu_step out"
            )
        if self.evaluation.best_metric.startswith("unseen_") and not self.evaluation.datasets:
            raise ValueError(
                f"evaluation.best_metric = {self.evaluation.best_metric!r} needs evaluation.datasets, and there are "
                "none; add one, or choose 'action_error' or 'loss'"
            )
        if self.evaluation.best_metric == "success_rate" and not self.evaluation.environments:
            raise ValueError(
                "evaluation.best_metric = 'success_rate' needs evaluation.environments, and there are none; add one, "
                "or choose 'action_error' or 'loss'"
            )
        return self

    def is_full(self, server_round: int) -> bool:
        """Whether a round is evaluated in full; see evaluation.full_every."""
        every = self.evaluation.full_every
        return server_round in (0, self.federation.num_rounds) or (every > 0 and server_round % every == 0)

    def training_of(self, client: str, steps: int | None = None) -> TrainingConfig:
        """The local training of one client: [training] with what its own entry changes.

        Args:
            client: its name.
            steps: in place of both, where a round asks for other steps.
        """
        steps = steps or next(item.steps for item in self.clients if item.name == client)
        return self.training if steps is None else self.training.model_copy(update={"steps": steps})

    @property
    def digest(self) -> str:
        """SHA-256 over every key that the result depends on: all but those in WITHOUT_EFFECT."""
        relevant = self.model_dump(mode="json", exclude=set(WITHOUT_EFFECT))
        for part, keys in LATER_KEYS.items():
            for node in relevant[part] if isinstance(relevant[part], list) else [relevant[part]]:
                for key, before in keys.items():
                    if node[key] == before:
                        del node[key]
            if not relevant[part]:
                del relevant[part]
        return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()


def resolve_path(path: str) -> Path:
    """Turn a config path into a real one: `asset:x` lies in the installed package, all else is taken as it is."""
    if path.startswith(ASSET_PREFIX):
        return Path(str(files("zk0") / "assets" / path.removeprefix(ASSET_PREFIX)))
    return Path(path).expanduser()


def size_in_bytes(text: str) -> int:
    """Read a size as Docker spells it: `512m`, `6g`, `1.5G`, `1024` (bytes).

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([bkmgt]?)b?", text.strip().lower())
    if found is None or not float(found[1]):
        raise ValueError(f'{text!r} is no size; write a number with k, m or g, such as "6g"')
    return int(float(found[1]) * 1024 ** "bkmgt".index(found[2] or "b"))


def load_config(source: str | Path | None = None, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a TOML file, apply `--set` overrides and validate.

    Args:
        source: a TOML file, the name of a shipped config (`sim`, `so100`), or None for `sim`.
        overrides: `a.b=value` items; the value is read as TOML where it is TOML, else as a string.

    Raises:
        ConfigError: names every bad key, its value and what to do.
    """
    path = _config_file(source)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give a readable TOML file") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}; correct the file at that place") from error
    _resolve_relative(data, path.parent)
    for item in overrides:
        _apply_override(data, item)
    return validate_config(data)


def validate_config(data: Mapping[str, Any]) -> RunConfig:
    """Build a RunConfig; every fault is named in one ConfigError."""
    try:
        return RunConfig.model_validate(dict(data))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(item) for item in error.errors())) from error


def shipped_configs() -> dict[str, Path]:
    """Name -> file of the configs that come with zk0."""
    return {path.stem: path for path in sorted(resolve_path("asset:configs").glob("*.toml"))}


def _config_file(source: str | Path | None) -> Path:
    shipped = shipped_configs()
    if source is None:
        return shipped["sim"]
    if str(source) in shipped and not Path(source).is_file():
        return shipped[str(source)]
    if Path(source).is_file():
        return Path(source)
    raise ConfigError(
        f"config {str(source)!r}: no such file; give a TOML file or a shipped config: {', '.join(shipped)}"
    )


def _resolve_relative(data: dict[str, Any], folder: Path) -> None:
    """Make the relative `root`s and a relative `policy.path` absolute: they are meant relative to the config file."""
    evaluation = data.get("evaluation")
    groups = [data.get("clients"), evaluation.get("datasets") if isinstance(evaluation, dict) else None]
    holders = [(item, "root") for group in groups if isinstance(group, list) for item in group]
    holders.append((data.get("policy"), "path"))
    for holder, key in holders:
        if isinstance(holder, dict) and key in holder:
            holder[key] = _absolute(key, holder[key], folder)


def _absolute(key: str, value: Any, folder: Path) -> Any:
    """Turn the value of a `root` or of `policy.path` into an absolute path, if it is a relative one."""
    if not isinstance(value, str) or value.startswith((ASSET_PREFIX, "~")):
        return value
    local = (folder / value).absolute()
    return str(local) if key == "root" or local.exists() else value  # a policy path that is no folder is a hub id


def _apply_override(data: dict[str, Any], item: str) -> None:
    """Set one dotted key; list items are named by their index: `clients.0.root=...`."""
    key, separator, text = item.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {item!r}: not of the form key=value, such as --set training.steps=20")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.strip().split(".")
    if last == "root" or (parents, last) == (["policy"], "path"):
        value = _absolute(last, value, Path.cwd())  # who types it means it from where they are
    node: Any = data
    for part in parents:
        node = _child(node, part, item)
    if isinstance(node, list):
        if not last.isdigit() or int(last) >= len(node):
            raise ConfigError(f"--set {item!r}: {last!r} is not an index below {len(node)}")
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise ConfigError(f"--set {item!r}: {parents[-1]!r} is a value, not a group of keys")


def _child(node: Any, part: str, item: str) -> Any:
    if isinstance(node, dict):
        return node.setdefault(part, {})
    if isinstance(node, list) and part.isdigit() and int(part) < len(node):
        return node[int(part)]
    raise ConfigError(f"--set {item!r}: there is no group {part!r}; look at the config's spelling")


def _explain(error: Any) -> str:
    """One line for one pydantic error: the key, the value, what is wrong, what to do."""
    location = [part for part in error["loc"] if part != "str" and not str(part).startswith(("function-", "list["))]
    key = ".".join(str(part) for part in location) or "config"
    if error["type"] == "extra_forbidden":
        return f"{key} = {error['input']!r}: unknown key{_did_you_mean(location)}; remove it or correct its spelling"
    if error["type"] == "missing":
        return f"{key}: missing; {_describe(location) or 'add it'}"
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "value_error":  # our own validators name key, value and remedy themselves
        return f"{key}: {message}"
    described = _describe(location)
    return f"{key} = {reprlib.repr(error['input'])}: {message}" + (f" ({described})" if described else "")


def _model_at(location: list[Any]) -> type[BaseModel] | None:
    model: type[BaseModel] | None = RunConfig
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part) if model else None
        if field is None:
            return None
        annotation: Any = field.annotation
        inner = getattr(annotation, "__args__", (annotation,))[0]
        model = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None
    return model


def _did_you_mean(location: list[Any]) -> str:
    model = _model_at(location[:-1])
    if model is None:
        return ""
    close = difflib.get_close_matches(str(location[-1]), list(model.model_fields), n=1)
    return f" (did you mean {close[0]!r}?)" if close else f" (known here: {', '.join(model.model_fields)})"


def _describe(location: list[Any]) -> str:
    if not location:
        return ""
    model = _model_at(location[:-1])
    field = model.model_fields.get(str(location[-1])) if model else None
    return " ".join(field.description.split()) if field and field.description else ""
