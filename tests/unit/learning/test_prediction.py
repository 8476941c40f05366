"""What a policy is asked for in evaluation: the actions of the frame itself, from what a robot has seen by then."""

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.tdmpc.configuration_tdmpc import TDMPCConfig
from lerobot.policies.utils import populate_queues
from lerobot.policies.vqbet.configuration_vqbet import VQBeTConfig

from zk0.learning.prediction import chunks, horizon, now

STATE, ACTION = "observation.state", "action"


class Remembers:
    """Acts as LeRobot's policies with queues do: a chunk says what was in its memory, and then counts its steps."""

    def __init__(self, looks: int, steps: int) -> None:
        deltas = list(range(1 - looks, 1))
        self.config = SimpleNamespace(
            type="vqbet",
            n_action_steps=steps,
            n_obs_steps=looks,
            observation_delta_indices=[*deltas, 1],  # one of them lies ahead, which no robot sees
            action_delta_indices=list(range(1 - looks, steps)),
            input_features={STATE: None},
        )
        self.reset()

    def reset(self) -> None:
        self._queues: dict[str, deque[torch.Tensor]] = {
            STATE: deque(maxlen=self.config.n_obs_steps),
            ACTION: deque(maxlen=self.config.n_action_steps),
        }

    def select_action(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        self._queues = populate_queues(self._queues, batch)
        if not self._queues[ACTION]:
            seen = torch.stack(list(self._queues[STATE]), dim=1)
            weights = 10.0 ** torch.arange(seen.shape[1])
            found = (seen[..., 0] * weights).sum(dim=1, keepdim=True)
            self._queues[ACTION].extend(found + step / 10 for step in range(self.config.n_action_steps))
        return self._queues[ACTION].popleft()


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize(("looks", "steps"), [(1, 1), (1, 4), (2, 3), (5, 5), (5, 3), (3, 1), (2, 2), (4, 8)])
def test_a_policy_with_a_memory_is_asked_when_it_has_just_seen_the_frame(looks: int, steps: int, size: int) -> None:
    frames = 5
    seen = torch.arange(frames * (looks + 1)).reshape(frames, looks + 1, 1) % 10
    batch = {STATE: seen.float(), ACTION: torch.zeros(frames, steps, 1)}
    found = chunks(Remembers(looks, steps), batch, size)
    assert found.shape == (frames, steps, 1)
    wanted = (seen[:, :looks, 0] * 10.0 ** torch.arange(looks)).sum(dim=1)
    expected = wanted[:, None] + torch.arange(steps) / 10
    torch.testing.assert_close(found[..., 0], expected)


@pytest.mark.parametrize(
    ("config", "steps", "place"),
    [
        (ACTConfig(device="cpu", chunk_size=8, n_action_steps=4), 4, 0),
        (DiffusionConfig(device="cpu", n_obs_steps=3, horizon=16, n_action_steps=8), 8, 2),
        (VQBeTConfig(device="cpu"), 5, 4),
        (TDMPCConfig(device="cpu"), 1, 0),
    ],
    ids=lambda item: getattr(item, "type", ""),
)
def test_what_is_compared_begins_at_the_frame_itself(config: Any, steps: int, place: int) -> None:
    policy: Any = SimpleNamespace(config=config)
    assert (horizon(policy), now(policy)) == (steps, place)
    assert config.action_delta_indices[place] == 0
