"""Normalisation: whose frames the statistics are of, held against plain numpy and LeRobot's own aggregation."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot.datasets.compute_stats import aggregate_stats
from numpy.typing import NDArray
from safetensors.numpy import save_file

from zk0.client.export import save_policy
from zk0.client.inputs import load_global
from zk0.client.run import run_task
from zk0.config import DatasetConfig, RunConfig, resolve_path
from zk0.data.datasets import open_metadata
from zk0.data.statistics import (
    Stats,
    aggregate,
    aggregate_clients,
    flatten_stats,
    recorded_statistics,
    training_statistics,
    unflatten_stats,
)
from zk0.errors import ConfigError, DatasetError
from zk0.executors import calls
from zk0.preflight import checks
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore

pytestmark = pytest.mark.slow
MakeConfig = Callable[..., RunConfig]
STATE, ACTION = "observation.state", "action"
HOLDOUT = 3
SAME: Any = {"rtol": 1e-5, "atol": 1e-4}
"""LeRobot's running sums against numpy's, in degrees; what is wrong is off by far more, as the tests show."""
NAMES = ("mean", "std", "min", "max")


def shipped(name: str, root: Path | None = None) -> DatasetConfig:
    return DatasetConfig(name=name, repo_id=f"zk0/{name}", root=str(root or f"asset:datasets/{name}"))


def training_rows(dataset: DatasetConfig, feature: str, holdout: int = HOLDOUT) -> NDArray[np.float64]:
    """All recorded frames of the training episodes, shape (frames, joints)."""
    table = pq.read_table(next((resolve_path(str(dataset.root)) / "data").rglob("*.parquet")))
    episode = table["episode_index"].to_numpy()
    return np.array(table[feature].to_pylist(), dtype=np.float64)[episode < episode.max() + 1 - holdout]


def plain(rows: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The formulas, by hand: population standard deviation, as LeRobot's."""
    mean = rows.sum(axis=0) / len(rows)
    return {"mean": mean, "std": np.sqrt(((rows - mean) ** 2).mean(0)), "min": rows.min(0), "max": rows.max(0)}


def statistics(dataset: DatasetConfig) -> Stats:
    return training_statistics(open_metadata(dataset), HOLDOUT)


@pytest.fixture
def private(tmp_path: Path) -> DatasetConfig:
    """A copy whose recorded statistics may be changed."""
    shutil.copytree(resolve_path("asset:datasets/unseen"), tmp_path / "copy")
    return shipped("unseen", tmp_path / "copy")


def edit_episodes(dataset: DatasetConfig, column: str, change: Callable[[int, Any], Any]) -> None:
    """Change a column of meta/episodes, given the episode and the old value."""
    path = next((Path(str(dataset.root)) / "meta" / "episodes").rglob("*.parquet"))
    table = pq.read_table(path)
    values = [change(*pair) for pair in zip(table["episode_index"].to_pylist(), table[column].to_pylist(), strict=True)]
    field = table.schema.field(column)
    pq.write_table(table.set_column(table.column_names.index(column), field, pa.array(values, type=field.type)), path)


@pytest.mark.parametrize("feature", [STATE, ACTION])
@pytest.mark.parametrize("name", ["kitchen", "unseen"])
def test_a_clients_statistics_are_those_of_its_training_frames(name: str, feature: str) -> None:
    dataset = shipped(name)
    rows = training_rows(dataset, feature)
    found, wanted = statistics(dataset)[feature], plain(rows)
    assert found["count"].tolist() == [len(rows)]
    for statistic in NAMES:
        np.testing.assert_allclose(found[statistic], wanted[statistic], **SAME)
    leaking = plain(training_rows(dataset, feature, holdout=0))
    assert not np.allclose(found["mean"], leaking["mean"], **SAME)
    np.testing.assert_allclose(open_metadata(dataset).stats[feature]["mean"], leaking["mean"], **SAME)


def test_held_out_episodes_never_enter(private: DatasetConfig) -> None:
    before = statistics(private)
    total = open_metadata(private).total_episodes
    for feature in (STATE, ACTION, "observation.images.front"):
        for name in NAMES:
            column = f"stats/{feature}/{name}"
            edit_episodes(
                private, column, lambda i, old: (np.asarray(old) + 1e9).tolist() if i >= total - HOLDOUT else old
            )
    after = statistics(private)
    assert all(np.array_equal(after[key][name], before[key][name]) for key in before for name in before[key])
    column = f"stats/{ACTION}/mean"
    edit_episodes(private, column, lambda i, old: [value + 1.0 for value in old] if i == total - HOLDOUT - 1 else old)
    assert not np.allclose(statistics(private)[ACTION]["mean"], before[ACTION]["mean"], **SAME)


def test_the_federated_statistics_are_those_of_all_training_frames(tmp_path: Path) -> None:
    """Two clients of unlike size: their aggregate is that of the frames of both, weighted by count."""
    datasets = [shipped("kitchen"), shipped("unseen")]
    files = []
    for dataset in datasets:
        save_file(flatten_stats(statistics(dataset)), files_path := tmp_path / f"{dataset.name}.safetensors")
        files.append(str(files_path))
    merged = unflatten_stats(calls.aggregate_statistics(files))
    for feature in (STATE, ACTION):
        parts = [training_rows(dataset, feature) for dataset in datasets]
        wanted = plain(np.concatenate(parts))
        assert merged[feature]["count"].tolist() == [sum(map(len, parts))]
        for name in NAMES:
            np.testing.assert_allclose(merged[feature][name], wanted[name], **SAME)
        unweighted = np.mean([plain(part)["mean"] for part in parts], axis=0)
        within = np.sqrt(np.average([plain(part)["std"] ** 2 for part in parts], axis=0, weights=[*map(len, parts)]))
        assert not np.allclose(merged[feature]["mean"], unweighted, **SAME)
        assert not np.allclose(merged[feature]["std"], within, **SAME)


def test_a_quantile_that_one_client_lacks_is_not_lost_to_the_others() -> None:
    """LeRobot gives nobody a quantile that one of several has not."""
    three = [statistics(shipped(name)) for name in ("kitchen", "workshop", "unseen")]
    without = [three[0], three[1], {key: {**values} for key, values in three[2].items()}]
    del without[2][ACTION]["q01"]
    assert "q01" not in aggregate(without)[ACTION]
    np.testing.assert_allclose(aggregate_clients(without)[ACTION]["q01"], aggregate(three[:2])[ACTION]["q01"])
    for key, values in aggregate_clients(three).items():
        assert all(np.array_equal(value, aggregate(three)[key][name]) for name, value in values.items())
    three[2][ACTION]["q33"] = three[2][ACTION]["q01"]
    assert "q33" not in aggregate_clients(three)[ACTION], "one client's alone"


def test_they_are_what_lerobot_aggregates_of_the_same_episodes() -> None:
    datasets = [shipped("kitchen"), shipped("unseen")]
    episodes = []
    for dataset in datasets:
        meta = open_metadata(dataset)
        recorded = recorded_statistics(meta)
        episodes += [recorded[episode] for episode in range(meta.total_episodes - HOLDOUT)]
    wanted = aggregate_stats(episodes)
    merged = aggregate([statistics(dataset) for dataset in datasets])
    for feature in (STATE, ACTION):
        for name, value in wanted[feature].items():
            np.testing.assert_allclose(merged[feature][name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("column", [f"stats/{ACTION}/mean", f"stats/{STATE}/count"])
def test_a_missing_statistic_is_named(private: DatasetConfig, column: str) -> None:
    edit_episodes(private, column, lambda i, old: None if i == 4 else old)
    with pytest.raises(
        DatasetError, match=rf"lacks the statistics of {column[6:]} of episode 4 .*check-data .*--fix-to"
    ):
        statistics(private)


def test_a_camera_without_statistics_takes_imagenets(private: DatasetConfig) -> None:
    """As in recordings that LeRobot's converter made; its count stays that of frames, for the aggregate."""
    whole = statistics(private)
    edit_episodes(private, "stats/observation.images.wrist/std", lambda i, old: None if i == 4 else old)
    lacking = statistics(private)
    for name in ("mean", "std"):
        np.testing.assert_array_equal(
            lacking["observation.images.wrist"][name], whole["observation.images.wrist"][name]
        )
    assert lacking["observation.images.wrist"]["count"].tolist() == whole[ACTION]["count"].tolist()
    assert aggregate([lacking, whole]).keys() == whole.keys()


def test_own_statistics_stay_with_their_client(small_config: MakeConfig, tmp_path: Path) -> None:
    unseen = [{"name": "unseen", "repo_id": "zk0/unseen", "root": "asset:datasets/unseen"}]
    config = checks.preflight(
        small_config(data__normalization="own", evaluation__datasets=unseen, evaluation__holdout_episodes=HOLDOUT)
    ).config
    store = RunStore.create_or_open(config, "own")
    initial = run_task(store.task("init", 0, "server"))
    assert initial.tensors is not None
    state = RoundState(server_round=0, arrays=initial.tensors)
    task = store.task("train", 1, "kitchen", state)
    assert task.stats is None
    for dataset in config.clients:
        np.testing.assert_allclose(
            means_of(store, state, dataset), plain(training_rows(dataset, ACTION))["mean"], rtol=1e-4
        )
    base = means_of(store, state, config.evaluation.datasets[0])
    run_task(task)
    run_task(store.task("evaluate", 1, "workshop", state))
    named = [path.name for path in store.folder.rglob("*") if "stat" in path.name]
    assert named == []
    work = store.task("evaluate", 1, "workshop", state)
    for own, wanted in ((False, base), (True, means_of(store, state, config.clients[1]))):
        folder = tmp_path / f"own-{own}"
        save_policy(work, config, folder, merge=False, own=own)
        saved = load_means(folder)
        np.testing.assert_allclose(saved, wanted, rtol=1e-5)
    assert not np.allclose(base, means_of(store, state, config.clients[1]), rtol=1e-2)


def means_of(store: RunStore, state: RoundState, dataset: DatasetConfig) -> NDArray[np.float64]:
    """The action means by which a dataset's work is normalised."""
    task = store.task("evaluate", 1, dataset.name, state)
    loaded = load_global(task, store.config, dataset, open_metadata(dataset))
    return next(
        step.state_dict()[f"{ACTION}.mean"].numpy() for step in loaded[2].steps if f"{ACTION}.mean" in step.state_dict()
    )


def load_means(folder: Path) -> NDArray[np.float64]:
    from safetensors.numpy import load_file

    return load_file(next(folder.glob("policy_postprocessor*unnormalizer*.safetensors")))[f"{ACTION}.mean"]


def test_own_and_base_need_a_base(small_config: MakeConfig) -> None:
    changes: dict[str, object] = {"policy": {"type": "act", "device": "cpu"}, "peft__enabled": False}
    for value in ("own", "base"):
        with pytest.raises(ConfigError, match=f"data.normalization = '{value}' needs policy.path; use 'federated'"):
            small_config(**changes, data__normalization=value)
