"""Several clients' recordings as one dataset: what nobody may do in reality, for the comparison with a federation."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from types import SimpleNamespace
from typing import Any

from lerobot.datasets.lerobot_dataset import LeRobotDataset
from torch.utils.data import ConcatDataset

from zk0.config import RunConfig, TrainingConfig
from zk0.errors import DatasetError


def pooled_training(config: RunConfig) -> TrainingConfig:
    """The local steps of a learner that has everybody's recordings: as many as the clients of a round take together.

    So it sees as many frames as they do, and its rounds and its schedule are as many and as long as theirs.
    """
    names = [client.name for client in config.clients]
    sampled = max(int(len(names) * config.federation.fraction_train), config.federation.min_train_clients)
    steps = round(sum(config.training_of(name).steps for name in names) * sampled / len(names))
    return config.training.model_copy(update={"steps": steps})


class PooledDataset(ConcatDataset[dict[str, Any]]):
    """Datasets behind one another, with as much of LeRobotDataset's face as `training.fit` looks at.

    Every frame's action chunk is made by its own dataset, so none reaches over the end of an episode. Nothing is copied
    or encoded anew, as `lerobot.datasets.merge_datasets` with left out episodes would do.

    Args:
        datasets: the clients' training episodes, opened by `data.build_dataset`.
        rename_maps: of each, dataset feature -> policy feature; none are renamed when left out.

    Raises:
        DatasetError: features differ, so that frames of several clients make no batch.
    """

    episodes = None
    absolute_to_relative_idx = None

    def __init__(
        self, datasets: Sequence[LeRobotDataset], rename_maps: Sequence[Mapping[str, str]] | None = None
    ) -> None:
        super().__init__(datasets)
        self.num_frames = len(self)
        self.num_episodes = sum(dataset.num_episodes for dataset in datasets)
        self.repo_id: str = datasets[0].repo_id
        self._renames = list(rename_maps or [{} for _ in datasets])
        lengths = [length for dataset in datasets for length in _lengths(dataset)]
        ends = list(accumulate(lengths))
        self._check_features(datasets)
        cameras = [self._renames[0].get(key, key) for key in datasets[0].meta.camera_keys]
        episodes = {"dataset_from_index": [0, *ends[:-1]], "dataset_to_index": ends}
        self.meta = SimpleNamespace(episodes=episodes, camera_keys=cameras)

    def _check_features(self, datasets: Sequence[LeRobotDataset]) -> None:
        shapes = [
            {renames.get(key, key): tuple(feature["shape"]) for key, feature in dataset.meta.features.items()}
            for dataset, renames in zip(datasets, self._renames, strict=True)
        ]
        for dataset, found in zip(datasets, shapes, strict=True):
            if odd := sorted(key for key, _ in found.items() ^ shapes[0].items()):
                raise DatasetError(
                    f"{dataset.repo_id}: {odd[0]!r} is {found.get(odd[0], 'missing')} there and "
                    f"{shapes[0].get(odd[0], 'missing')} in {self.repo_id}: their frames make no batch together"
                )

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One frame, its features under the policy's names."""
        owner = bisect_right(self.cumulative_sizes, index)
        item: dict[str, Any] = super().__getitem__(index)  # type: ignore[no-untyped-call]
        return {self._renames[owner].get(key, key): value for key, value in item.items()}


def _lengths(dataset: LeRobotDataset) -> list[int]:
    """Frames of each episode that is opened."""
    chosen = range(dataset.meta.total_episodes) if dataset.episodes is None else dataset.episodes
    return [int(dataset.meta.episodes["length"][episode]) for episode in chosen]
