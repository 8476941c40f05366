"""Held-out evaluation: action error in the robot's own units, with intervals, and the seeded training loss."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.utils.constants import ACTION
from lerobot.utils.random_utils import seeded_context
from numpy.typing import NDArray

from zk0.config import DataConfig, EvaluationConfig
from zk0.data.names import joint_names
from zk0.learning.micro_batches import divide
from zk0.learning.policy import Policy, Processor
from zk0.learning.prediction import chunks, horizon, now
from zk0.learning.training import prepare_batch
from zk0.metrics import units
from zk0.metrics.intervals import Episodes, mean_interval
from zk0.metrics.units import ACTION_ERROR, GRIPPER_ERROR, Joints


def evaluate(
    policy: Policy,
    preprocessor: Processor,
    postprocessor: Processor,
    dataset: LeRobotDataset,
    evaluation: EvaluationConfig,
    *,
    seed: int,
    micro_batch_size: int | None = None,
    data: DataConfig | None = None,
) -> dict[str, Any]:
    """Compare predicted with recorded actions on held-out frames.

    For each frame the policy predicts a chunk; the first `n_action_steps` of it, which are what a robot would carry
    out, are compared with the recorded actions of the same steps, steps past the end of the episode left out. Noise
    comes from the seed, which must be the same in every round, so that rounds differ by the weights alone.

    Where memory is short, `micro_batch_size` frames go through the policy at once; the draws stay those of the batch.

    Args:
        policy: the policy.
        preprocessor: LeRobot's input pipeline.
        postprocessor: its output pipeline.
        dataset: the held-out episodes.
        evaluation: batch size and frames.
        seed: of all noise, and of the resampling behind the intervals.
        micro_batch_size: frames at once; the whole batch when None.
        data: says which joints are grippers, and units where joints' names do not.

    Returns:
        `action_error_deg`, or `_rad` and so on by the unit, or none: mean absolute error over the arm's joints;
        `gripper_error`: the same for the grippers; `joint_error`: per joint by name; `joints`: their names in order;
        `units`: of these three errors; `interval_95`: the three as [low, high] by
        `zk0.metrics.intervals.mean_interval`, or null; `episodes`: by held-out episode the compared `steps` and the
        first two errors; `loss`: the policy's own training loss; `num_examples`: frames evaluated. Units are the
        dataset's: nothing is converted.
    """
    frames = range(0, len(dataset), evaluation.frame_stride)
    parts: list[_Batch] = []
    policy.eval()
    with torch.no_grad(), seeded_context(seed):
        for raw in _loader(dataset, frames, evaluation.batch_size, seed):
            batch = prepare_batch(dict(raw), preprocessor, dataset)
            loss = _loss(policy, batch, micro_batch_size or len(raw[ACTION]))
            predicted = _predict(policy, postprocessor, batch, micro_batch_size or len(raw[ACTION]))
            parts.append(_compared(policy, raw, predicted, loss))
    error = np.concatenate([part.errors for part in parts]).astype(np.float64)
    data = data or DataConfig()
    names = joint_names(dataset.meta.features[ACTION], error.shape[1])
    joints = units.joints(names, dataset.meta.robot_type, data.unit, data.grippers)
    return {
        **_by_joint(error.mean(axis=0), joints),
        **_by_episode(error, np.concatenate([part.episodes for part in parts]), joints, seed),
        "joints": names,
        "units": joints.record(),
        "loss": sum(part.loss * part.frames for part in parts) / len(frames),
        "num_examples": len(frames),
    }


def try_frame(
    policy: Policy,
    preprocessor: Processor,
    postprocessor: Processor,
    dataset: LeRobotDataset,
    *,
    learns: bool,
    acts: bool,
) -> float:
    """Go once through what training, evaluation and rollouts do with a frame; whatever fails there fails here.

    Args:
        policy: the policy.
        preprocessor: LeRobot's input pipeline.
        postprocessor: its output pipeline.
        dataset: with one frame at least.
        learns: reckon the loss of a step of learning, too.
        acts: choose an action as in a rollout, too, which sees one frame at a time.

    Returns:
        The loss of evaluation on the first frame.
    """
    policy.eval()
    with torch.no_grad(), seeded_context(0):
        raw = next(iter(_loader(dataset, range(1), 1, 0)))
        batch = prepare_batch(dict(raw), preprocessor, dataset)
        loss = _loss(policy, batch, 1)
        _compared(policy, raw, _predict(policy, postprocessor, batch, 1), loss)
        if acts and policy.config.n_obs_steps == 1:
            policy.reset()
            postprocessor(policy.select_action({key: batch[key] for key in batch if not key.startswith(ACTION)}))
        if learns:
            raw = next(iter(_loader(dataset, range(min(2, len(dataset))), 2, 0)))
            policy.train()
            policy.forward(prepare_batch(dict(raw), preprocessor, dataset))
    return loss


class _Batch(NamedTuple):
    """A batch of frames, evaluated."""

    errors: NDArray[Any]
    """Absolute errors of the steps that count: shape (steps, action dimension)."""
    episodes: NDArray[Any]
    """The episode of each step: shape (steps,)."""
    loss: float
    """The policy's own, a mean over the frames."""
    frames: int
    """Their number."""


def _compared(policy: Policy, raw: dict[str, Any], predicted: torch.Tensor, loss: float) -> _Batch:
    recorded, valid = _recorded(policy, raw, horizon(policy))
    owner = raw["episode_index"].reshape(-1, 1).expand_as(valid)
    errors = (predicted[:, : valid.shape[1]] - recorded).abs()[valid]
    return _Batch(errors.numpy(), owner[valid].numpy(), loss, len(recorded))


def _recorded(policy: Policy, raw: dict[str, Any], steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The recorded actions from each frame on, shape (frames, steps, action dimension), and which of them there are."""
    chunk = slice(now(policy), now(policy) + steps)
    return raw[ACTION][:, chunk], ~raw[f"{ACTION}_is_pad"][:, chunk]


def replay(
    policy: Policy,
    preprocessor: Processor,
    postprocessor: Processor,
    dataset: LeRobotDataset,
    *,
    batch_size: int,
    seed: int,
    micro_batch_size: int | None = None,
) -> dict[str, NDArray[Any]]:
    """The first held-out episode as the policy would have gone on from what was recorded.

    At every `n_action_steps`-th frame it sees that frame, and predicts the actions up to the next one, as a robot
    would carry them out between two looks.

    Args:
        policy: the policy.
        preprocessor: LeRobot's input pipeline.
        postprocessor: its output pipeline.
        dataset: the held-out episodes.
        batch_size: frames at once.
        seed: of the noise.
        micro_batch_size: frames at once where memory is short.

    Returns:
        `predicted` and `recorded`: shape (frames of the episode, action dimension), in the dataset's units.
    """
    policy.eval()
    first = dataset.episodes[0] if dataset.episodes else 0
    frames = range(0, int(dataset.meta.episodes["length"][first]), horizon(policy))
    predicted, recorded = [], []
    with torch.no_grad(), seeded_context(seed):
        for raw in _loader(dataset, frames, batch_size, seed):
            truth, valid = _recorded(policy, raw, frames.step)
            batch = prepare_batch(dict(raw), preprocessor, dataset)
            found = _predict(policy, postprocessor, batch, micro_batch_size or len(truth))[:, : valid.shape[1]]
            predicted.append(found[valid].numpy())
            recorded.append(truth[valid].numpy())
    return {"predicted": np.concatenate(predicted), "recorded": np.concatenate(recorded)}


def _loader(dataset: LeRobotDataset, frames: range, batch_size: int, seed: int) -> Iterable[dict[str, Any]]:
    return torch.utils.data.DataLoader(
        torch.utils.data.Subset(dataset, list(frames)),
        batch_size=batch_size,
        generator=torch.Generator().manual_seed(seed),
    )


def _loss(policy: Policy, batch: dict[str, Any], size: int) -> float:
    if size >= len(batch[ACTION]):
        return float(policy.forward(dict(batch))[0].item())
    parts = divide(policy, batch, size)
    return sum(float(policy.forward(part.batch, **part.draws)[0].item()) * part.share for part in parts)


def _predict(policy: Policy, postprocessor: Processor, batch: dict[str, Any], size: int) -> torch.Tensor:
    """A chunk of actions per frame in the dataset's units: shape (batch, chunk_size, action dimension)."""
    joints = batch[ACTION].shape[-1]  # some policies that pad actions do not cut them again
    return torch.as_tensor(postprocessor(chunks(policy, batch, size))).to("cpu", torch.float32)[..., :joints]


def _by_joint(error: NDArray[Any], joints: Joints) -> dict[str, Any]:
    """Mean errors: of the arm, of the grippers, and of each joint; `error` has one per joint."""
    means = {key: float(error[group].mean()) if group else None for key, group in _groups(joints).items()}
    return {**means, "joint_error": {name: float(value) for name, value in zip(joints.names, error, strict=True)}}


def _by_episode(error: NDArray[Any], owner: NDArray[Any], joints: Joints, seed: int) -> dict[str, Any]:
    """`interval_95` and `episodes` of `evaluate`.

    Args:
        error: absolute errors, shape (compared steps, joints).
        owner: the episode of each step.
        joints: their names and groups.
        seed: of the resampling.
    """
    episodes, steps = np.unique(owner, return_counts=True)
    means = np.stack([error[owner == episode].mean(axis=0) for episode in episodes])  # (episodes, joints)
    groups = _groups(joints)
    by_group = {key: means[:, group].mean(axis=1).tolist() if group else None for key, group in groups.items()}
    weights = steps.tolist()
    by_joint = {
        name: mean_interval([Episodes(weights, means[:, i].tolist())], seed) for i, name in enumerate(joints.names)
    }
    known = {key: mean_interval([Episodes(weights, values or [])], seed) for key, values in by_group.items()}
    return {"interval_95": {**known, "joint_error": by_joint}, "episodes": {"steps": weights, **by_group}}


def _groups(joints: Joints) -> dict[str, list[int]]:
    """Key of an error -> the places of the joints that it is the mean of."""
    return {units.key_of(ACTION_ERROR, joints.arm_unit): joints.arm, GRIPPER_ERROR: joints.grippers}
