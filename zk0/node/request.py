"""What a link asks of a node, told from the run's config and the task themselves: what the owner's rules judge."""

from collections.abc import Iterator
from typing import Literal

from zk0.config import RunConfig
from zk0.work.records import Record

WorkKind = Literal["describe", "init", "statistics", "train", "evaluate"]
"""`describe`: say what there is (features, counts, the recordings' digest, versions, what the rules refuse); the others
as `zk0.work.records.TaskKind`. Rollouts are the coordinator's."""


class WorkRequest(Record):
    """One piece of work that is asked for, or a kind of work that a run would ask for."""

    link: str
    """Where it comes from: `link.address` of node.toml."""
    run: str
    """The run's name."""
    config_digest: str
    """RunConfig.digest."""
    version: str
    """The coordinator's version of zk0."""
    kind: WorkKind
    """What is asked."""
    server_round: int = 0
    """The round it belongs to; 0 before the first."""
    policy_type: str = ""
    """LeRobot's type of the policy, such as `smolvla`; empty where no policy is touched."""
    base: str = ""
    """`policy.path`; empty where no policy is touched, or it is made from scratch."""
    plugins: tuple[str, ...] = ()
    """Packages of others whose code the work would import here."""
    trainable: Literal["adapters", "full"] = "adapters"
    """What is trained and leaves: LoRA adapters, or every trainable tensor of the policy."""
    full_modules: tuple[str, ...] = ()
    """Modules that are trained and leave in full beside the adapters."""
    optimizer_state: bool = False
    """Whether the optimizer's state after the fit leaves, to come back for the next one."""
    num_rounds: int = 0
    """Rounds of the run."""
    steps: int = 0
    """Optimizer steps; 0 where nothing is trained."""
    batch_size: int = 0
    """Frames at once; 0 where no policy is touched."""
    statistics: bool = False
    """Whether counts and moments of the training episodes leave."""
    joint_charts: bool = False
    """Whether the joints' positions in one held-out episode leave."""
    episode_metrics: bool = False
    """Whether errors by held-out episode leave."""
    gpu: bool = False
    """Whether a GPU is asked for."""
    memory_bytes: int | None = None
    """Host memory that the work is thought to need; None where nobody knows."""


class Asker(Record):
    """Who asks, and for which part of a run; everything of it is known to the node itself or came with the run."""

    link: str
    """The link's address as the owner wrote it."""
    run: str
    """The run's name."""
    client: str
    """The client's name in the run's config."""
    version: str
    """The coordinator's version of zk0."""
    policy_type: str
    """Of the base as it lies here; `policy.type` where the policy is made from scratch."""


def request_of(
    config: RunConfig,
    kind: WorkKind,
    asker: Asker,
    *,
    server_round: int = 0,
    steps: int | None = None,
    memory_bytes: int | None = None,
) -> WorkRequest:
    """What a piece of work would do and let out, by the config that it came with: never by what a link says of it.

    Args:
        config: as it came, of the digest that the task names.
        kind: what is asked.
        asker: who asks.
        server_round: the round.
        steps: of this fit, where the round asks for others than the config.
        memory_bytes: what the work is thought to need.
    """
    plan, full = config.training_of(asker.client, steps), config.is_full(server_round)
    touched = kind != "statistics"  # to describe is to try the policy, too
    return WorkRequest(
        link=asker.link,
        run=asker.run,
        config_digest=config.digest,
        version=asker.version,
        kind=kind,
        server_round=server_round,
        policy_type=asker.policy_type if touched else "",
        base=(config.policy.path or "") if touched else "",
        plugins=(config.policy.plugin,) if touched and config.policy.plugin is not None else (),
        trainable="adapters" if config.peft.enabled else "full",
        full_modules=tuple(config.peft.full_training_modules or ()) if kind == "train" and config.peft.enabled else (),
        optimizer_state=kind == "train" and config.training.optimizer_state == "keep",
        num_rounds=config.federation.num_rounds,
        steps=plan.steps if kind == "train" else 0,
        batch_size={"train": plan.batch_size, "evaluate": config.evaluation.batch_size}.get(kind, 0),
        statistics=kind == "statistics",
        joint_charts=kind == "evaluate" and full and config.report.joint_charts,
        episode_metrics=kind == "evaluate",
        gpu=touched and config.policy.device == "cuda",
        memory_bytes=memory_bytes,
    )


def requests_of(config: RunConfig, asker: Asker) -> Iterator[WorkRequest]:
    """Every kind of work that a run would ask of a client: what is reviewed before the run starts."""
    yield request_of(config, "describe", asker)
    if config.data.normalization == "federated":
        yield request_of(config, "statistics", asker)
    yield request_of(config, "train", asker, server_round=1)
    yield request_of(config, "evaluate", asker)
