"""What a piece of work starts from: config, tensors, policy, frames."""

from pathlib import Path
from typing import Any

from lerobot.configs.policies import PreTrainedConfig
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.envs.configs import EnvConfig
from lerobot.utils.random_utils import set_seed
from numpy.typing import NDArray

from zk0.aggregation.carried import is_state
from zk0.config import DatasetConfig, EnvironmentConfig, RunConfig, validate_config
from zk0.data.datasets import build_dataset, open_metadata, split_episodes
from zk0.data.pooled import PooledDataset
from zk0.data.statistics import training_statistics, unflatten_stats
from zk0.errors import ConfigError
from zk0.files import atomic
from zk0.layout import BASE_FOLDER, RUN_FILE
from zk0.learning.build import build_policy, missing_weights, plain_policy, with_adapters
from zk0.learning.exchange import load_exchanged_tensors
from zk0.learning.frames import decode_once
from zk0.learning.policy import (
    Policy,
    Processor,
    base_config,
    base_path,
    for_joints,
    load_policy_config,
    policy_features,
    save_pretrained,
)
from zk0.learning.processors import build_processors, saved_processors
from zk0.runs.described import placed
from zk0.runs.origin import origin_tensors
from zk0.seeding import derive_seed
from zk0.work.records import POOLED, ArtifactRef, ClientTask

Source = DatasetConfig | EnvironmentConfig
"""What the policy's inputs come from."""


def read_config(run_dir: Path) -> RunConfig:
    """The frozen config of a run, from its run.json."""
    return placed(validate_config(atomic.read_sealed(run_dir / RUN_FILE)["config"]), run_dir)


def read_tensors(run_dir: Path, ref: ArtifactRef) -> dict[str, NDArray[Any]]:
    """Read a safetensors file of the run, wherever it lies, after checking its digest.

    Raises:
        StorageError: it is not what the task names, or cannot be read.
    """
    path = run_dir / ref.path
    atomic.verify(path, ref.sha256, ref.size, follow=True)
    return atomic.read_tensors(path, follow=True)


def tensor_names(run_dir: Path, ref: ArtifactRef) -> frozenset[str]:
    """Names of the tensors of such a file."""
    with atomic.opened_tensors(run_dir / ref.path, follow=True) as file:
        return frozenset(file.entries)


def load_global(
    task: ClientTask, config: RunConfig, dataset: Source, meta: LeRobotDatasetMetadata | EnvConfig, *, own: bool = True
) -> tuple[Policy, Processor, Processor]:
    """The policy with the round's global tensors in it, and its processors.

    Args:
        task: names the tensors and, where they are federated, the statistics.
        config: the run's config.
        dataset: the client's, or what no client trains on: another one, or an environment.
        meta: of the dataset; or LeRobot's config of the environment.
        own: whether a client's own statistics may be used, where the config asks for them.
    """
    run_dir = Path(task.run_dir)
    built, base = load_policy(task, config, dataset, meta)
    if task.incoming is not None:
        load_exchanged_tensors(built, read_tensors(run_dir, task.incoming))
    stats = None  # the base's
    if task.stats is not None:
        stats = unflatten_stats(read_tensors(run_dir, task.stats))
    elif own and config.data.normalization == "own" and dataset in config.clients:
        stats = training_statistics(meta, config.evaluation.holdout_episodes)
    return built, *build_processors(base, stats, dataset.rename_map)


def load_policy(
    task: ClientTask, config: RunConfig, dataset: Source, meta: LeRobotDatasetMetadata | EnvConfig
) -> tuple[Policy, PreTrainedConfig]:
    """The base policy with the run's adapters at their first values, and LeRobot's config of it."""
    path = base_path(config.policy, Path(task.run_dir))
    base = load_policy_config(config.policy, path)
    for_joints(base, policy_features(meta, dataset.rename_map))
    # The adapters' random start must not depend on who builds them.
    set_seed(derive_seed(config.seed, 0, "", "init"))
    return build_policy(base, config.peft, meta, dataset.rename_map), base


def continued_tensors(config: RunConfig, fresh: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The tensors of the run that this one continues from, if they are the same ones by name and shape."""
    store, ref = origin_tensors(config)
    late = {name: value for name, value in fresh.items() if is_state(name)}  # an earlier zk0 left them with the base
    tensors = late | read_tensors(store.folder, ref)
    for name in sorted(fresh.keys() | tensors.keys()):
        here, there = (f"of shape {group[name].shape}" if name in group else "missing" for group in (fresh, tensors))
        if here != there:
            raise ConfigError(
                f"continue_from = {config.continue_from!r}: {name} is {there} there and {here} here; "
                "give the same policy and peft keys, or another run"
            )
    return tensors


def first_policy(task: ClientTask, config: RunConfig, meta: LeRobotDatasetMetadata) -> Policy:
    """The policy before any round. What policy.path does not hold as it is becomes the run's own base, in its folder.

    That is a policy made from scratch; an adapter, merged into the policy that it belongs to; weights of which some
    are missing, which LeRobot leaves at random.
    """
    base, rename_map = base_config(config, meta), config.clients[0].rename_map
    made = config.policy.path is None or base.use_peft
    set_seed(derive_seed(config.seed, 0, "", "base" if made else "init"))
    plain = plain_policy(base, meta, rename_map)
    if not made and not missing_weights(plain, base):
        return with_adapters(plain, config.peft)
    save_pretrained(plain, *saved_processors(base), Path(task.run_dir) / BASE_FOLDER)
    return load_policy(task, config, config.clients[0], meta)[0]


def training_frames(
    config: RunConfig, client: DatasetConfig, meta: LeRobotDatasetMetadata, built: PreTrainedConfig, steps: int
) -> Any:
    """The training episodes of a client, for so many steps in a round; a LeRobotDataset."""
    episodes, _ = split_episodes(meta.total_episodes, config.evaluation.holdout_episodes)
    frames = build_dataset(client, meta, built, config.data, episodes)
    draws = steps * config.training.batch_size
    decode_once(frames, config.data, draws, draws * config.federation.num_rounds)
    return frames


def held_out_frames(
    config: RunConfig, dataset: DatasetConfig, meta: LeRobotDatasetMetadata, built: PreTrainedConfig
) -> Any:
    """The held-out episodes of a client, or all of a setting that no client trains on; a LeRobotDataset."""
    held_out = config.evaluation.holdout_episodes if dataset in config.clients else meta.total_episodes
    _, episodes = split_episodes(meta.total_episodes, held_out)
    frames = build_dataset(dataset, meta, built, config.data, episodes)
    draws = len(frames) // config.evaluation.frame_stride
    decode_once(frames, config.data, draws, draws * (config.federation.num_rounds + 1))
    return frames


def pooled_frames(config: RunConfig, built: PreTrainedConfig) -> Any:
    """Those of all clients as one dataset."""
    steps = config.training.steps
    opened = [training_frames(config, client, open_metadata(client), built, steps) for client in config.clients]
    return PooledDataset(opened, [client.rename_map for client in config.clients])


def dataset_of(config: RunConfig, name: str) -> DatasetConfig:
    """The dataset of that name; where all are pooled the first, which stands for the policy's features."""
    if name == POOLED:
        return config.clients[0]
    return next(item for item in [*config.clients, *config.evaluation.datasets] if item.name == name)
