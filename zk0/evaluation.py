"""Held-out evaluation: action error in the robot's own units, and the seeded training loss."""

from typing import Any

import numpy as np
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.utils.constants import ACTION
from lerobot.utils.random_utils import seeded_context
from numpy.typing import NDArray

from zk0.config import EvaluationConfig
from zk0.micro_batches import divide, predict
from zk0.policy import Policy, Processor
from zk0.training import prepare_batch


def evaluate(
    policy: Policy,
    preprocessor: Processor,
    postprocessor: Processor,
    dataset: LeRobotDataset,
    evaluation: EvaluationConfig,
    *,
    seed: int,
    micro_batch_size: int | None = None,
) -> dict[str, Any]:
    """Compare predicted with recorded actions on held-out frames.

    For each frame the policy predicts a chunk; the first `n_action_steps` of it, which are what a robot would carry
    out, are compared with the recorded actions of the same steps, steps past the end of the episode left out. Noise
    comes from the seed, which must be the same in every round, so that rounds differ by the weights alone.

    Where memory is short, `micro_batch_size` frames go through the policy at once; the draws stay those of the batch.

    Returns:
        `action_error_deg`: mean absolute error over the arm's joints, in degrees; `gripper_error`: the same for the
        gripper, in its units of 0-100; `joint_error`: per joint by name; `loss`: the policy's own training loss;
        `num_examples`: frames evaluated.
    """
    policy.eval()
    frames = range(0, len(dataset), evaluation.frame_stride)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.Subset(dataset, list(frames)),
        batch_size=evaluation.batch_size,
        generator=torch.Generator().manual_seed(seed),
    )
    horizon = getattr(policy.config, "n_action_steps", 1)
    errors: list[NDArray[Any]] = []
    losses: list[tuple[float, int]] = []
    with torch.no_grad(), seeded_context(seed):
        for raw in loader:
            recorded, padded = raw[ACTION][:, :horizon], raw[f"{ACTION}_is_pad"][:, :horizon]
            batch = prepare_batch(raw, preprocessor, dataset)
            size = micro_batch_size or len(recorded)
            losses.append((_loss(policy, batch, size), len(recorded)))
            predicted = _predict(policy, postprocessor, batch, size)[:, :horizon]
            errors.append((predicted - recorded).abs()[~padded].numpy())
    error = np.concatenate(errors).astype(np.float64).mean(axis=0)
    count = sum(size for _, size in losses)
    return {
        **_by_joint(error, dataset),
        "loss": sum(loss * size for loss, size in losses) / count,
        "num_examples": count,
    }


def _loss(policy: Policy, batch: dict[str, Any], size: int) -> float:
    if size >= len(batch[ACTION]):
        return float(policy.forward(dict(batch))[0].item())
    parts = divide(policy, batch, size)
    return sum(float(policy.forward(part.batch, **part.draws)[0].item()) * part.share for part in parts)


def _predict(policy: Policy, postprocessor: Processor, batch: dict[str, Any], size: int) -> torch.Tensor:
    """A chunk of actions per frame in the dataset's units: shape (batch, chunk_size, action dimension)."""
    policy.reset()
    frames = len(batch[ACTION])
    observation = {key: value for key, value in batch.items() if not key.startswith(ACTION)}
    whole = size >= frames
    chunks = policy.predict_action_chunk(observation) if whole else predict(policy, observation, frames, size)
    return torch.as_tensor(postprocessor(chunks)).to("cpu", torch.float32)


def _by_joint(error: NDArray[Any], dataset: LeRobotDataset) -> dict[str, Any]:
    names = joint_names(dataset.meta.features[ACTION], len(error))
    gripper = [index for index, name in enumerate(names) if "gripper" in name.lower()]
    arm = [index for index in range(len(names)) if index not in gripper]
    return {
        "action_error_deg": float(error[arm].mean()) if arm else None,
        "gripper_error": float(error[gripper].mean()) if gripper else None,
        "joint_error": {name: float(value) for name, value in zip(names, error, strict=True)},
    }


def joint_names(feature: dict[str, Any], dimension: int) -> list[str]:
    """Names of the action's dimensions as the dataset gives them, `joint_<i>` where it gives none.

    LeRobot datasets write them as a list, or as a mapping with one list (`{"motors": [...]}`).
    """
    names = feature.get("names")
    if isinstance(names, dict):
        names = next(iter(names.values()), None)
    if not isinstance(names, list) or len(names) != dimension:
        return [f"joint_{index}" for index in range(dimension)]
    return [str(name).removesuffix(".pos") for name in names]
