"""RunConfig: all of a run, and what its parts must have to do with one another."""

import hashlib
import json
from itertools import product
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from zk0.config.learning import AdaptiveConfig, FederationConfig, PeftConfig, PolicyConfig, TrainingConfig
from zk0.config.machine import (
    CheckpointConfig,
    ExecutorConfig,
    LoggingConfig,
    MemoryConfig,
    ReportConfig,
    TrackingConfig,
)
from zk0.config.part import Part
from zk0.config.paths import FilePath
from zk0.config.recordings import ClientConfig, DataConfig, DatasetConfig, EvaluationConfig
from zk0.config.trust import AdmissionConfig, PrivacyConfig, check_robust

CACHE = ("data.cache", "data.cache_limit")
WITHOUT_EFFECT = (
    "executor",
    "checkpoint",
    "logging",
    "memory",
    "report",
    "tracking",
    "outputs_dir",
    "federation.may_miss",
    *CACHE,
)
"""Keys that do not change a run's result: RunConfig.digest leaves them out, and they may change under way."""

SUPERLINK = "superlink"
"""Value of executor.kind: clients are at work on their owners' nodes."""
OF_THE_NODE: dict[str, tuple[str, ...]] = {
    "clients": ("root", "revision"),
    "policy": ("device",),
    "training": ("num_threads", "num_workers"),
    "data": ("video_backend",),
}
"""Keys whose values are each node's own where executor.kind is `superlink`: RunConfig.digest leaves them out then. What
its recordings are a node says by their digest: see `zk0.runs.records.digest_of`."""

LATEST = "latest"
"""Value of continue_from: the newest run that fits."""

CONTINUE_PATTERN = r"^[a-z0-9][a-z0-9_.-]{0,62}(@\d{1,9})?$"
"""A run's name, with or without the round."""

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
        "strategy_options": {},
        **dict.fromkeys(("server_learning_rate", "server_momentum", "eta", "beta_1", "beta_2", "tau")),
        **dict.fromkeys(("beta", "num_malicious_nodes", "num_nodes_to_select")),
        "admission": AdmissionConfig().model_dump(mode="json"),  # whoever met it would have ended or spoilt the run
        "privacy": PrivacyConfig().model_dump(mode="json"),
    },
    "policy": {"plugin": None},
    "data": {"unit": None, "grippers": ["*gripper*"]},
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


class RunConfig(Part):
    """All of a run: the run is a pure function of it."""

    seed: int = Field(default=42, ge=0)
    """Seed from which every random choice is derived with (round, client, purpose)."""
    outputs_dir: FilePath = "outputs"
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
    tracking: TrackingConfig = TrackingConfig()
    """Trackers that show it beside others."""
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

    @field_validator("evaluation")
    @classmethod
    def _unique_datasets(cls, evaluation: EvaluationConfig) -> EvaluationConfig:
        names = [dataset.name for dataset in evaluation.datasets]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"the names of its datasets must differ; given more than once: {', '.join(doubled)}")
        return evaluation

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
        robust = (self.federation.beta, self.federation.num_malicious_nodes, self.federation.num_nodes_to_select)
        check_robust(self.federation.strategy, self.federation.sampled(len(self.clients)), *robust)
        if self.policy.path is None and self.peft.enabled:
            raise ValueError("peft.enabled needs policy.path: adapters need a trained base; set peft.enabled = false")
        if self.policy.path is None and self.data.normalization != "federated":
            raise ValueError(f"data.normalization = {self.data.normalization!r} needs policy.path; use 'federated'")
        if self.peft.aggregation == "exact" and self.federation.privacy.active:
            raise ValueError(
                "peft.aggregation = 'exact' makes new factors of the clients' own, past the noise of "
                f"federation.privacy.kind = {self.federation.privacy.kind!r}; use 'average' or 'ffa'"
            )
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
    def _who_may_miss_is_there(self) -> Self:
        names, may_miss = [client.name for client in self.clients], self.federation.may_miss
        if isinstance(may_miss, int) and may_miss > len(names):
            raise ValueError(f"federation.may_miss = {may_miss} is more than the {len(names)} clients; lower it")
        if not isinstance(may_miss, int) and (unknown := [name for name in may_miss if name not in names]):
            raise ValueError(
                f"federation.may_miss names {unknown[0]!r}, and the clients are {', '.join(names)}; correct it"
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

    @property
    def datasets(self) -> list[DatasetConfig]:
        """Every dataset: the clients', then those that no client trains on."""
        return [*self.clients, *self.evaluation.datasets]

    @property
    def datasets_here(self) -> list[DatasetConfig]:
        """Every dataset whose recordings are on this machine, or on the hub: over a link, none of the clients'."""
        return self.evaluation.datasets if self.executor.kind == SUPERLINK else self.datasets

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
        """SHA-256 over every key that the result depends on: all but those in WITHOUT_EFFECT, and what is a node's."""
        relevant = self.model_dump(mode="json")
        for key in WITHOUT_EFFECT:
            part, _, name = key.partition(".")
            del (relevant[part] if name else relevant)[name or part]
        for part, names in OF_THE_NODE.items() if self.executor.kind == SUPERLINK else ():
            for table, name in product(_tables(relevant[part]), names):
                del table[name]
        for part, keys in LATER_KEYS.items():
            for table, (key, before) in product(_tables(relevant[part]), keys.items()):
                if table[key] == before:
                    del table[key]
            if not relevant[part]:
                del relevant[part]
        return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()


def _tables(part: Any) -> list[dict[str, Any]]:
    """A part of a dumped config as the tables that it has: one, or one for each of a list."""
    return part if isinstance(part, list) else [part]
