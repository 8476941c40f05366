"""Several clients' recordings as one dataset: what nobody may do in reality, for the comparison with a federation."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from lerobot.datasets.lerobot_dataset import LeRobotDataset
from torch.utils.data import ConcatDataset


class PooledDataset(ConcatDataset[dict[str, Any]]):
    """Datasets behind one another, with as much of LeRobotDataset's face as `training.fit` looks at.

    Every frame's action chunk is made by its own dataset, so none reaches over the end of an episode. Nothing is copied
    or encoded anew, as `lerobot.datasets.merge_datasets` with left out episodes would do.

    Args:
        datasets: the clients' training episodes, opened by `data.build_dataset`.
        rename_maps: of each, dataset feature -> policy feature; none are renamed when left out.
    """

    episodes = None
    absolute_to_relative_idx = None

    def __init__(
        self, datasets: Sequence[LeRobotDataset], rename_maps: Sequence[Mapping[str, str]] | None = None
    ) -> None:
        super().__init__(datasets)
        self.num_frames = len(self)
        self.num_episodes = sum(dataset.num_episodes for dataset in datasets)
        self.repo_id = datasets[0].repo_id
        self._renames = list(rename_maps or [{} for _ in datasets])
        starts: list[int] = []
        ends: list[int] = []
        for dataset, before in zip(datasets, self._starts(), strict=True):
            for length in _lengths(dataset):
                starts.append(max([before, *ends[-1:]]))
                ends.append(starts[-1] + length)
        cameras = [self._renames[0].get(key, key) for key in datasets[0].meta.camera_keys]
        self.meta = SimpleNamespace(
            episodes={"dataset_from_index": starts, "dataset_to_index": ends}, camera_keys=cameras
        )

    def _starts(self) -> list[int]:
        return [0, *self.cumulative_sizes[:-1]]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One frame, its features under the policy's names."""
        which = next(i for i, end in enumerate(self.cumulative_sizes) if index < end)
        item = self.datasets[which][index - self._starts()[which]]
        return {self._renames[which].get(key, key): value for key, value in item.items()}


def _lengths(dataset: LeRobotDataset) -> list[int]:
    """Frames of each episode that is opened."""
    chosen = range(dataset.meta.total_episodes) if dataset.episodes is None else dataset.episodes
    return [int(dataset.meta.episodes["length"][episode]) for episode in chosen]
