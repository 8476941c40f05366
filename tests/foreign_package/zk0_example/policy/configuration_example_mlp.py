"""The policy's config: LeRobot finds the policy and its processors by this module's name, and the class's."""

from dataclasses import dataclass, field

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import NormalizationMode
from lerobot.optim import AdamConfig


@PreTrainedConfig.register_subclass("example_mlp")
@dataclass
class ExampleMlpConfig(PreTrainedConfig):
    """A small network from the joints' positions to the next ones."""

    chunk_size: int = 8
    n_action_steps: int = 4
    hidden_dim: int = 16
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            "VISUAL": NormalizationMode.IDENTITY,
            "STATE": NormalizationMode.MEAN_STD,
            "ACTION": NormalizationMode.MEAN_STD,
        }
    )

    def get_optimizer_preset(self) -> AdamConfig:
        """Adam."""
        return AdamConfig(lr=1e-3)

    def get_scheduler_preset(self) -> None:
        """The learning rate stays."""
        return

    def validate_features(self) -> None:
        """The joints' positions are all that is needed."""
        if self.robot_state_feature is None:
            raise ValueError("example_mlp needs observation.state")

    @property
    def observation_delta_indices(self) -> None:
        """One frame."""
        return

    @property
    def action_delta_indices(self) -> list[int]:
        """The actions of the frames to come."""
        return list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        """None."""
        return
