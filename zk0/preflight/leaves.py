"""What would leave a client in a run: by name, shape and size, made as a run would make it."""

from zk0.config import RunConfig
from zk0.data.datasets import open_metadata, split_episodes
from zk0.data.statistics import flatten_stats, training_statistics
from zk0.learning.exchange import update_tensors
from zk0.preflight.checks import settle, try_policy
from zk0.preflight.records import Leaf

ALL = "all rounds"
METRICS = {
    "train": "loss, first_loss, lr, grad_norm, steps, steps_per_s, data_s, update_s, micro_batch_size; frames trained "
    "on; time, memory and process id of the worker",
    "evaluate": "action error, gripper error and error of each joint with 95 % intervals, loss; frames evaluated; "
    "time, memory and process id of the worker",
}


def leaves(config: RunConfig) -> list[Leaf]:
    """Everything that leaves the config's first client, in the order of a run.

    Args:
        config: whose first client's recordings are here.

    Raises:
        DatasetError, PolicyError, ConfigError: the first thing that would fail.
    """
    config = settle(config)
    client = config.clients[0]
    meta = open_metadata(client)
    _, held_out = split_episodes(meta.total_episodes, config.evaluation.holdout_episodes)
    policy = try_policy(config).policy
    found = [
        Leaf(when="before", what=f"names and shapes of the features, {meta.fps} frames per second, {meta.robot_type}"),
        Leaf(
            when="before",
            what="number of episodes and frames, digest of the recordings, ranges of the joints, versions",
        ),
    ]
    if config.data.normalization == "federated":
        stats = flatten_stats(training_statistics(meta, config.evaluation.holdout_episodes))
        found += [
            Leaf(when="before", what=f"statistics: {name}", shape=str(value.shape), size=value.nbytes)
            for name, value in stats.items()
        ]
    found += [
        Leaf(when=ALL, what=f"update: {name}", shape=str(value.shape), size=value.nbytes)
        for name, value in update_tensors(policy, config).items()
    ]
    if config.training.optimizer_state == "keep":
        found += [Leaf(when=ALL, what="the optimizer's state, for the next fit")]
    found += [Leaf(when=ALL, what=f"figures of a fit: {METRICS['train']}")]
    found += [Leaf(when=ALL, what=f"figures of an evaluation: {METRICS['evaluate']}")]
    found += [Leaf(when=ALL, what=f"errors by episode, of the {len(held_out)} held-out ones")]
    if config.report.joint_charts:
        frames = int(meta.episodes["length"][held_out[0]])
        joints = int(meta.features["action"]["shape"][0])
        shape = f"({frames}, {joints})"
        found += [
            Leaf(
                when="full evaluations",
                what=f"joints of one held-out episode, {kind}",
                shape=shape,
                size=frames * joints * 4,
            )
            for kind in ("recorded", "predicted")
        ]
    return found
