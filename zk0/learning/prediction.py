"""The actions that a policy would have a robot carry out, for every frame of a batch: what evaluation compares."""

import warnings
from typing import Any

import torch
from lerobot.utils.constants import ACTION

from zk0.learning.micro_batches import predict, split
from zk0.learning.policy import Policy

REMEMBER = frozenset({"vqbet", "multi_task_dit", "tdmpc"})
"""Policy types whose `predict_action_chunk` sees only what `select_action` has shown them: they are asked as a robot
asks, by that. All others take a batch as it is."""


def horizon(policy: Policy) -> int:
    """Actions that a robot carries out before the policy looks again."""
    config = policy.config
    return int(getattr(config, "n_action_steps", None) or getattr(config, "action_chunk_size", None) or 1)


def now(policy: Policy) -> int:
    """The place, in a recorded chunk of actions, of the one that is carried out at the frame itself.

    A policy that sees the past learns that of its first frame, too (diffusion).
    """
    steps = policy.config.action_delta_indices
    return steps.index(0) if steps and 0 in steps else 0


def chunks(policy: Policy, batch: dict[str, Any], size: int) -> torch.Tensor:
    """Normalised actions from each frame on: shape (frames, steps, action dimension), `horizon` steps at least.

    Args:
        policy: the policy.
        batch: through its input pipeline.
        size: frames at once where memory is short.
    """
    policy.reset()
    frames = len(batch[ACTION])
    observation = {key: value for key, value in batch.items() if not key.startswith(ACTION)}
    if policy.config.type in REMEMBER:
        looks = [split(_seen(policy, observation, place), frames, size) for place in _past(policy)]
        return torch.cat([_carried_out(policy, list(part)) for part in zip(*looks, strict=True)])
    if _has_future(policy):
        observation = _seen(policy, observation, _past(policy)[-1])
    return policy.predict_action_chunk(observation) if size >= frames else predict(policy, observation, frames, size)


def _carried_out(policy: Policy, looks: list[dict[str, Any]]) -> torch.Tensor:
    """What the policy has a robot do that has had these looks, the oldest first.

    A policy thinks anew whenever its last chunk is used up. So the oldest look, which stands for all before it, is
    shown so often that this happens just at the newest.
    """
    policy.reset()
    steps = horizon(policy)
    waiting = [looks[0]] * (-(len(looks) - 1) % steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # VQ-BeT warns of every action while its codes are not learned
        for look in [*waiting, *looks[:-1]]:
            policy.select_action(dict(look))
        return torch.stack([policy.select_action(dict(looks[-1])) for _ in range(steps)], dim=1)


def _past(policy: Policy) -> list[int | None]:
    """The places of what a robot has seen among the observations of a frame; None where there is one alone."""
    deltas = policy.config.observation_delta_indices
    return [place for place, delta in enumerate(deltas) if delta <= 0] if deltas else [None]


def _has_future(policy: Policy) -> bool:
    """Whether a policy learns from observations after the frame, which no robot has."""
    return any(delta > 0 for delta in policy.config.observation_delta_indices or ())


def _seen(policy: Policy, observation: dict[str, Any], place: int | None) -> dict[str, Any]:
    """One look out of several, as a robot gives it: without their axis."""
    if place is None:
        return observation
    inputs = policy.config.input_features or {}
    return {key: value[:, place] if key in inputs else value for key, value in observation.items()}
