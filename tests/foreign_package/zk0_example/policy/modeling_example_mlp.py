"""The policy."""

from collections import deque
from typing import Any

import torch
from lerobot.policies import PreTrainedPolicy
from lerobot.utils.constants import ACTION, OBS_STATE

from zk0_example.policy.configuration_example_mlp import ExampleMlpConfig


class ExampleMlpPolicy(PreTrainedPolicy):
    """Two layers."""

    config_class = ExampleMlpConfig
    name = "example_mlp"

    def __init__(self, config: ExampleMlpConfig, **_: Any) -> None:
        super().__init__(config)
        joints, actions = config.robot_state_feature.shape[0], config.action_feature.shape[0]
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(joints, config.hidden_dim),
            torch.nn.GELU(),
            torch.nn.Linear(config.hidden_dim, config.chunk_size * actions),
        )
        self.reset()

    def get_optim_params(self) -> Any:
        """All of them."""
        return self.parameters()

    def reset(self) -> None:
        """Forget the chunk under way."""
        self._queue: deque[torch.Tensor] = deque()

    def predict_action_chunk(self, batch: dict[str, torch.Tensor], **_: Any) -> torch.Tensor:
        """Shape (batch, chunk_size, action dimension)."""
        chunk: torch.Tensor = self.layers(batch[OBS_STATE])
        return chunk.unflatten(-1, (self.config.chunk_size, -1))

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, None]:
        """Mean square error over the steps that were recorded."""
        error = (self.predict_action_chunk(batch) - batch[ACTION]).square().mean(dim=-1)
        return error[~batch[f"{ACTION}_is_pad"]].mean(), None

    def select_action(self, batch: dict[str, torch.Tensor], **_: Any) -> torch.Tensor:
        """The next action of the chunk."""
        if not self._queue:
            self._queue.extend(self.predict_action_chunk(batch)[:, : self.config.n_action_steps].transpose(0, 1))
        return self._queue.popleft()
