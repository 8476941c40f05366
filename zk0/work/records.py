"""What passes between rooms: small, frozen records. Tensors are named by path and SHA-256, never carried."""

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from zk0.errors import FailureCause
from zk0.layout import client_folder

TaskKind = Literal["init", "statistics", "train", "evaluate", "rollout"]
"""init: make the round-0 tensors; statistics: counts and moments of the training episodes; train: a fit; evaluate:
errors on held-out episodes; rollout: success in a simulated environment."""
CLIPPED = "clipped"
"""Metric of a fit whose client clips: 1.0 where its change was larger than the bound, else 0.0."""
POOLED = "_pooled"
"""The client that has every client's recordings, of `zk0 compare` alone; no config can name one so."""


class Record(BaseModel):
    """Base of the records: immutable and without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class ArtifactRef(Record):
    """A file of a run: where it lies and what it must contain."""

    path: str
    """Relative to the run directory, with forward slashes."""
    sha256: str
    """Digest of the file's bytes."""
    size: int
    """Bytes."""


class ClientTask(Record):
    """One piece of work that can die: what an executor gets, in a process, a container or on a remote node."""

    run_dir: str
    """Absolute path of the run directory as the worker sees it."""
    run_id: str
    """Identity of the run."""
    config_digest: str
    """RunConfig.digest."""
    kind: TaskKind
    """What is to be done."""
    server_round: int
    """The round it belongs to."""
    client: str
    """Name of the dataset, a client's or one of evaluation.datasets, or of the environment; or POOLED."""
    incoming: ArtifactRef | None = None
    """The global tensors that the work starts from; None for init and statistics."""
    stats: ArtifactRef | None = None
    """Federated normalisation statistics; None where the base's own are used, and for statistics."""
    optimizer: ArtifactRef | None = None
    """The optimizer's state after the client's last fit, with training.optimizer_state = "keep"; else None."""
    proximal_mu: float = 0.0
    """FedProx's mu, as the strategy's configure step sent it."""
    lr_scale: float = 1.0
    """What the learning rate is multiplied by, as the adaptive schedules decided."""
    steps: int | None = None
    """Local steps, where they decided on others than the config says."""
    clipping_norm: float | None = None
    """Largest norm of the change that the client may send, where it clips for differential privacy; else None."""
    micro_batch_size: int | None = None
    """Frames at once, where memory allows no more; None for what the config says. Not part of `key`: the work is the
    same, and a checkpoint or a result of another micro-batch serves."""

    @property
    def key(self) -> str:
        """Identity of the work: (run, client, round, kind, incoming tensors, statistics, config, mu); SHA-256 in hex.

        A kept optimizer, what the adaptive schedules decided and a bound to clip to are part of it where there is one.
        """
        digests = [ref.sha256 if ref else "-" for ref in (self.incoming, self.stats)]
        parts = [self.run_id, self.config_digest, self.kind, str(self.server_round), self.client, *digests]
        parts += [repr(self.proximal_mu), *([self.optimizer.sha256] if self.optimizer else [])]
        if (self.lr_scale, self.steps) != (1.0, None):
            parts += [repr(self.lr_scale), str(self.steps)]
        if self.clipping_norm is not None:
            parts += ["clipping", self.clipping_norm.hex()]
        return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()

    @property
    def folder(self) -> Path:
        """Where the work's files go: `rounds/<round>/clients/<client>/`, the only folder that the worker writes."""
        return client_folder(Path(self.run_dir), self.server_round, self.client)


class ClientResult(Record):
    """What a finished ClientTask left behind; written last, so that its presence means that the rest is there."""

    key: str
    """ClientTask.key of the work that this is the result of."""
    kind: TaskKind
    """What was done."""
    server_round: int
    """The round."""
    client: str
    """The dataset's or environment's name."""
    tensors: ArtifactRef | None = None
    """The update (train), the first global tensors (init) or the statistics (statistics)."""
    optimizer: ArtifactRef | None = None
    """The optimizer's state after a fit, with training.optimizer_state = "keep": the client's own, never aggregated."""
    num_examples: int
    """The weight: frames trained on (train), in the training episodes (statistics) or evaluated (evaluate); episodes
    (rollout)."""
    metrics: dict[str, Any]
    """Plain numbers and short lists, by name."""
    duration_s: float
    """Wall time, in seconds."""
    peak_rss_bytes: int
    """Largest resident memory of the worker process, in bytes."""
    pid: int
    """The worker's process id."""


class ClientFailure(Record):
    """Why a client gave no result in a round."""

    client: str
    """The dataset's name."""
    server_round: int
    """The round."""
    kind: TaskKind
    """What failed."""
    cause: FailureCause
    """What kind of death it was."""
    message: str
    """One line for the user."""
