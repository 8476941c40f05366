"""What the asset scripts share: decoded frames in memory, loading the base policy, action error, digests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies import make_policy, make_pre_post_processors
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from torch import Tensor

ASSETS = Path(__file__).resolve().parents[1] / "zk0" / "assets"
VLM = "vlm"  # the base's config.json and tokenizer step name this folder of the base relatively
IMAGE_KEYS = ("observation.images.front", "observation.images.wrist")
STATE_KEY, ACTION_KEY = "observation.state", "action"

Batch = dict[str, Any]


class FrameCache:
    """All frames of some datasets, decoded once: at 64x64 an episode takes 1 MB."""

    def __init__(self, roots: Sequence[Path], chunk_size: int) -> None:
        frames = []
        self.tasks: list[str] = []
        episodes: list[int] = []
        for root in roots:
            dataset = LeRobotDataset(root.name, root=root, video_backend="pyav", return_uint8=True)
            first_episode = episodes[-1] + 1 if episodes else 0
            for item in (dataset[i] for i in range(len(dataset))):
                frames.append({key: item[key] for key in (STATE_KEY, ACTION_KEY, *IMAGE_KEYS)})
                self.tasks.append(item["task"])
                episodes.append(first_episode + int(item["episode_index"]))
        self.frames: dict[str, Tensor] = {key: torch.stack([f[key] for f in frames]) for key in frames[0]}
        self.episode = torch.tensor(episodes)
        rows = torch.arange(len(frames))
        last = torch.tensor([int(rows[self.episode == e][-1]) for e in range(int(self.episode.max()) + 1)])
        ahead = rows[:, None] + torch.arange(chunk_size)[None]
        end = last[self.episode][:, None]
        self.action_is_pad = ahead > end  # (frames, chunk)
        self._action_rows = torch.minimum(ahead, end)

    def __len__(self) -> int:
        return len(self.tasks)

    def rows(self, episodes: Sequence[int]) -> Tensor:
        """Indices of the frames of these episodes."""
        return torch.isin(self.episode, torch.tensor(list(episodes))).nonzero()[:, 0]

    def batch(self, rows: Tensor) -> Batch:
        """A batch as LeRobot's data loader makes it: action (batch, chunk, 6), images (batch, 3, 64, 64) in 0-1."""
        batch: Batch = {
            ACTION_KEY: self.frames[ACTION_KEY][self._action_rows[rows]],
            "action_is_pad": self.action_is_pad[rows],
            STATE_KEY: self.frames[STATE_KEY][rows],
            "task": [self.tasks[int(row)] for row in rows],
        }
        for key in IMAGE_KEYS:
            batch[key] = self.frames[key][rows].float() / 255
        return batch


def load_base(base: Path, env_cfg: Any = None, ds_meta: Any = None) -> tuple[SmolVLAPolicy, Any, Any]:
    """Loads the base with its relative folder names resolved; returns policy, preprocessor, postprocessor."""
    config = PreTrainedConfig.from_pretrained(base)
    config.pretrained_path = base
    config.device = "cpu"
    config.vlm_model_name = str(base / VLM)
    policy = make_policy(config, env_cfg=env_cfg, ds_meta=ds_meta)
    overrides = {"tokenizer_processor": {"tokenizer_name": str(base / VLM)}, "device_processor": {"device": "cpu"}}
    preprocessor, postprocessor = make_pre_post_processors(
        config, pretrained_path=str(base), preprocessor_overrides=overrides
    )
    return policy.eval(), preprocessor, postprocessor


@torch.no_grad()
def action_error(
    policy: Any, preprocessor: Any, postprocessor: Any, cache: FrameCache, rows: Tensor, seed: int = 0
) -> Tensor:
    """Mean absolute error per joint (6,), degrees and gripper percent, of the actions executed before re-planning."""
    steps = policy.config.n_action_steps
    policy.eval()
    total, count = torch.zeros(6), 0
    generator = torch.Generator().manual_seed(seed)
    for part in rows.split(64):
        batch = cache.batch(part)
        noise = torch.randn(len(part), policy.config.chunk_size, policy.config.max_action_dim, generator=generator)
        inputs = preprocessor({key: value for key, value in batch.items() if key != ACTION_KEY})
        predicted = postprocessor(policy.predict_action_chunk(inputs, noise=noise))[:, :steps]
        valid = ~batch["action_is_pad"][:, :steps]
        total += (predicted - batch[ACTION_KEY][:, :steps]).abs()[valid].sum(dim=0)
        count += int(valid.sum())
    return total / count


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def folder_digest(root: Path) -> str:
    """sha256 over the lines "<sha256 of file>  <path in folder>" of a folder's files, sorted by path."""
    lines = [
        f"{file_digest(path)}  {path.relative_to(root).as_posix()}\n"
        for path in sorted(root.rglob("*"), key=lambda p: p.relative_to(root).as_posix())
        if path.is_file()
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def folder_size(root: Path) -> int:
    """Bytes of a folder's files."""
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
