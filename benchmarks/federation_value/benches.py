"""What is learned, where and from what: the two benches of the benchmark."""

from dataclasses import dataclass
from typing import Any

from zk0.sim import CLIENTS, ZONES

ADAPTED = (
    # As in the default config ...
    r"(.*\.(text_model|lm_expert)\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
    r"|.*\.(state_proj|action_in_proj|action_out_proj|action_time_mlp_in|action_time_mlp_out)"
    # ... and what sees: the base has seen one room and cubes of one colour.
    r"|.*\.vision_model\.encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])|.*\.modality_projection\.proj)"
)


@dataclass(frozen=True)
class Bench:
    """A policy, the settings that it learns and what it observes."""

    what: str
    settings: tuple[str, ...]
    """One client in each."""
    obs_type: str
    config: dict[str, Any]
    """The policy's part of the run's config."""
    environments: int
    """Stepped together, so that the policy is asked once for all of them; those with cameras need their own GL."""
    begins_trained: bool
    """Whether the first weights can do something: then the federation must also beat round 0."""
    wanted_of_pooled: float
    """Share of the pooled learner's success that the federation must reach."""
    episodes: int
    rounds: int
    steps: int
    lr: float
    seeds: int


BENCHES = {
    "zones": Bench(
        what="a small ACT from scratch, from joints and cube pose, in four parts of a bench",
        settings=tuple(ZONES),
        obs_type="environment_state_agent_pos",
        config={
            "policy": {
                "type": "act",
                "device": "cpu",
                "overrides": {
                    "chunk_size": 16,
                    "n_action_steps": 8,
                    "dim_model": 96,
                    "n_heads": 4,
                    "dim_feedforward": 256,
                    "n_encoder_layers": 2,
                    "n_decoder_layers": 1,
                    "use_vae": False,
                    "dropout": 0.0,
                    # By LeRobot's default the cube's pose is not normalised: metres, beside joints of unit variance.
                    "normalization_mapping": {"STATE": "MEAN_STD", "ENV": "MEAN_STD", "ACTION": "MEAN_STD"},
                },
            },
            "peft": {"enabled": False},
            "data": {"normalization": "federated"},
        },
        environments=10,
        begins_trained=False,
        wanted_of_pooled=0.9,
        episodes=40,
        rounds=240,
        steps=10,
        lr=1e-3,
        seeds=100,
    ),
    "rooms": Bench(
        what="the shipped tiny SmolVLA with LoRA, from pixels, in the four rooms of the default config",
        settings=CLIENTS,
        obs_type="pixels_agent_pos",
        config={
            "policy": {"path": "asset:base", "device": "cpu"},
            "peft": {"r": 16, "lora_alpha": 32, "target_modules": ADAPTED},
            "data": {"normalization": "base"},
        },
        environments=1,
        begins_trained=True,
        wanted_of_pooled=0.0,
        episodes=100,
        rounds=50,
        steps=16,
        lr=2e-3,
        seeds=50,
    ),
}
