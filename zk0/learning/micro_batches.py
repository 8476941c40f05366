"""One optimizer step from a batch that goes through the policy in parts: less memory, the same gradient.

The gradient of a batch's loss is the weighted sum of its parts' gradients, so it can be gathered part by part, each
part's activations being freed before the next. Where a policy takes its random draws as arguments (SmolVLA's noise and
time of flow matching) they are drawn once, for the whole batch and in the policy's own order, and then split: the
result equals the whole batch's but for the order of float sums, and the generators stand where they would have stood.
A policy that draws inside (ACT's latent and dropout, diffusion) gets other draws of the same distribution, and ACT's
KL term, a mean over frames, is weighted like its main term, by steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from lerobot.utils.constants import ACTION
from torch import nn

from zk0.learning.policy import Policy

PADDING = f"{ACTION}_is_pad"
"""Which steps of an action chunk lie past the end of the episode: shape (batch, chunk)."""
MEAN_OVER_VALID = frozenset({"smolvla", "act"})
"""Policy types whose loss is a mean over the steps that are no padding; the others' is a mean over the frames."""


class MicroBatchedPolicy(nn.Module):
    """A policy whose forward pass takes a batch in micro-batches.

    All but the last micro-batch are back-propagated inside `forward`, so that their activations are gone when it
    returns. What it returns has the value of the whole batch's loss and the gradient of the last micro-batch: one
    `backward` on it, which is what LeRobot's `update_policy` does, completes the gradient.

    Args:
        policy: the policy.
        size: frames in a micro-batch.
        accelerator: whose `backward` is used, as LeRobot does.
    """

    def __init__(self, policy: Policy, size: int, accelerator: Accelerator) -> None:
        super().__init__()
        self.policy = policy
        self.size = size
        self._accelerator = accelerator
        if callable(getattr(policy, "update", None)):
            self.update = policy.update  # LeRobot calls it after each step, where a policy has one

    def forward(self, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any] | None]:
        """Loss of the whole batch (scalar tensor), and the policy's outputs for the last micro-batch."""
        parts = divide(self.policy, batch, self.size)
        before: float = 0.0
        for index, part in enumerate(parts):
            loss, outputs = self.policy.forward(part.batch, **part.draws)
            loss = loss * part.share
            if index + 1 < len(parts):
                self._accelerator.backward(loss)
                before += loss.item()
        return loss + before, outputs


@dataclass(frozen=True)
class MicroBatch:
    """A part of a batch."""

    batch: dict[str, Any]
    """Its frames."""
    draws: dict[str, torch.Tensor]
    """Arguments of the policy's forward pass: its part of the random draws."""
    share: float
    """What its loss counts in the whole batch's."""


def divide(policy: Policy, batch: dict[str, Any], size: int) -> list[MicroBatch]:
    """Cut a batch, with its draws, into micro-batches of `size` frames."""
    draws = {f"{_DRAW}{name}": value for name, value in draw(policy, batch).items()}
    parts = list(split({**batch, **draws}, len(batch[ACTION]), size))
    own = [{name.removeprefix(_DRAW): part.pop(name) for name in draws} for part in parts]
    weights = [_weight(policy, part) for part in parts]
    return [
        MicroBatch(part, drawn, weight / sum(weights)) for part, drawn, weight in zip(parts, own, weights, strict=True)
    ]


_DRAW = "zk0_draw."
"""Prefix of the draws among the entries of a batch, while it is being split."""


def draw(policy: Policy, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Noise and time for a batch, drawn as SmolVLA's model draws them; nothing for a policy that takes none."""
    if policy.config.type != "smolvla":
        return {}
    inner = _inner(policy)
    actions = inner.prepare_action(batch)
    return {
        "noise": inner.model.sample_noise(actions.shape, actions.device),
        "time": inner.model.sample_time(actions.shape[0], actions.device),
    }


def predict(policy: Policy, observation: dict[str, Any], frames: int, size: int) -> torch.Tensor:
    """A chunk of actions for each frame, in micro-batches: what `predict_action_chunk` gives for the whole batch."""
    drawn = {}
    if policy.config.type == "smolvla":
        model = _inner(policy).model
        shape = (frames, model.config.chunk_size, model.config.max_action_dim)
        drawn = {f"{_DRAW}noise": model.sample_noise(shape, next(policy.parameters()).device)}
    chunks = []
    for part in split({**observation, **drawn}, frames, size):
        own = {name.removeprefix(_DRAW): part.pop(name) for name in drawn}
        chunks.append(policy.predict_action_chunk(part, **own))
    return torch.cat(chunks)


def _inner(policy: Policy) -> Any:
    return policy.get_base_model() if hasattr(policy, "get_base_model") else policy


def split(batch: dict[str, Any], frames: int, size: int) -> Iterator[dict[str, Any]]:
    """Cut a batch into parts of `size` frames, the last one smaller where it must be."""
    for start in range(0, frames, size):
        part = slice(start, min(start + size, frames))
        yield {key: value[part] if _is_per_frame(value, frames) else value for key, value in batch.items()}


def _is_per_frame(value: Any, frames: int) -> bool:
    if isinstance(value, torch.Tensor):
        return value.ndim > 0 and len(value) == frames
    return isinstance(value, list | tuple) and len(value) == frames


def _weight(policy: Policy, part: dict[str, Any]) -> float:
    """What a micro-batch's mean loss counts in the whole batch's: the number of terms that it is the mean of."""
    if policy.config.type in MEAN_OVER_VALID and PADDING in part:
        # LeRobot divides by one where all is padding: such a part's loss is 0 and so is its weight.
        return float((~part[PADDING]).sum().item())
    return float(len(part[ACTION]))
