"""Several clients' recordings as one dataset, for the comparison with a federation."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from zk0.config import RunConfig
from zk0.data.datasets import build_dataset, open_metadata
from zk0.data.pooled import PooledDataset
from zk0.errors import DatasetError
from zk0.learning import training
from zk0.learning.build import build_policy
from zk0.learning.policy import base_path, load_policy_config
from zk0.learning.processors import build_processors

FRONT, OTHER = "observation.images.front", "observation.images.other"
MakeConfig = Callable[..., RunConfig]
pytestmark = pytest.mark.slow


@pytest.fixture
def config(small_config: MakeConfig) -> RunConfig:
    return small_config(training__steps=2, training__batch_size=4)


@pytest.fixture
def opened(config: RunConfig) -> list[LeRobotDataset]:
    """Some episodes of two clients' recordings, not the first ones of the second."""
    base = load_policy_config(config.policy, base_path(config.policy, Path()))
    return [
        build_dataset(client, open_metadata(client), base, config.data, episodes)
        for client, episodes in zip(config.clients[:2], ([0, 1], [3]), strict=True)
    ]


def test_frames_episodes_and_names(opened: list[LeRobotDataset]) -> None:
    pooled = PooledDataset(opened, [{FRONT: OTHER}, {FRONT: OTHER}])
    assert pooled.num_frames == len(pooled) == len(opened[0]) + len(opened[1])
    assert pooled.num_episodes == 3
    lengths = [opened[0].meta.episodes["length"][episode] for episode in (0, 1)]
    lengths.append(opened[1].meta.episodes["length"][3])
    first, last = pooled.meta.episodes["dataset_from_index"], pooled.meta.episodes["dataset_to_index"]
    assert [end - start for start, end in zip(first, last, strict=True)] == lengths
    assert first[0] == 0
    assert last[-1] == len(pooled)
    for index, own in ((0, opened[0][0]), (len(opened[0]) - 1, opened[0][len(opened[0]) - 1])):
        assert torch.equal(pooled[index]["action"], own["action"])
        assert torch.equal(pooled[index]["action_is_pad"], own["action_is_pad"])
    item, own = pooled[len(opened[0])], opened[1][0]
    assert torch.equal(item[OTHER], own[FRONT])
    assert FRONT not in item
    assert torch.equal(item["action"], own["action"])
    assert OTHER in pooled.meta.camera_keys


def test_other_features_are_refused(opened: list[LeRobotDataset]) -> None:
    with pytest.raises(DatasetError, match=r"'observation.images.front' is missing there and \(64, 64, 3\) in zk0/"):
        PooledDataset(opened, [{}, {FRONT: OTHER}])


def test_a_fit_on_it_sees_the_frames_of_all(
    config: RunConfig, opened: list[LeRobotDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_policy_config(config.policy, base_path(config.policy, Path()))
    built = build_policy(base, config.peft, opened[0].meta, {})
    preprocessor, _ = build_processors(base, None, {})
    pooled = PooledDataset(opened)
    seen: list[int] = []
    take = PooledDataset.__getitem__
    monkeypatch.setattr(PooledDataset, "__getitem__", lambda self, index: seen.append(index) or take(self, index))
    local = training.LocalRound(seed=3, first_step=0, total_steps=2)
    outcome = training.fit(built, preprocessor, pooled, config.training, local)
    assert len(outcome.losses) == 2
    assert len(set(seen)) == 8
    assert min(seen) < len(opened[0]) <= max(seen)
