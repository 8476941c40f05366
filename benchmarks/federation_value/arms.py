"""How an arm is trained, by zk0's own fit and aggregation, and what it does in closed loop."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lerobot.utils.random_utils import set_seed

from benchmarks.federation_value.benches import BENCHES, Bench
from benchmarks.federation_value.plan import POOLED, Arm, Options
from zk0.aggregation.server_round import ServerRound
from zk0.client.run import run_task
from zk0.config import DatasetConfig, RunConfig
from zk0.data.datasets import build_dataset, open_metadata, split_episodes
from zk0.data.pooled import PooledDataset
from zk0.data.statistics import Stats, aggregate, training_statistics
from zk0.files import atomic
from zk0.learning import training
from zk0.learning.build import build_policy
from zk0.learning.closed_loop import Plan, roll_out
from zk0.learning.exchange import load_exchanged_tensors, update_tensors
from zk0.learning.policy import base_config, base_path, load_policy_config
from zk0.learning.processors import build_processors
from zk0.memory.usage import peak_rss_bytes
from zk0.metrics.success import Success
from zk0.runs.records import RoundState
from zk0.runs.store import RunStore
from zk0.seeding import derive_seed
from zk0.sim.env import SO101PickEnvConfig
from zk0.sim.record import record
from zk0.work.records import ClientResult
from zk0.work.results import write_result

HELD_OUT = 1
"""Episodes of each setting that zk0 keeps for the held-out evaluation, which this benchmark does without."""
FIRST_DEMONSTRATION_SEED, FIRST_TEST_SEED, SEED_STEP = 300_000, 400_000, 10_000
"""A setting's seeds follow those of the one before it after SEED_STEP."""


def record_setting(setting: str, options: Options) -> Path:
    """A setting's demonstrations, recorded unless they are there."""
    bench, root = BENCHES[options.bench], recordings(setting, options)
    if not root.exists():
        first = FIRST_DEMONSTRATION_SEED + bench.settings.index(setting) * SEED_STEP
        record(setting, options.episodes + HELD_OUT, root, first, bench.obs_type)
    return root


def recordings(setting: str, options: Options) -> Path:
    """Their folder."""
    return options.work / "recordings" / f"{options.bench}-{options.episodes}" / setting


def configuration(arm: Arm, options: Options) -> RunConfig:
    """The config of an arm's federation; a client with several settings is called `pooled`."""
    bench = BENCHES[options.bench]
    clients = arm.clients or ((bench.settings[0],),)  # for round 0 one lends the features
    named = {(POOLED if len(settings) > 1 else settings[0]): settings[0] for settings in clients}
    return RunConfig.model_validate(
        {
            **bench.config,
            "seed": options.seed,
            "outputs_dir": str(options.work / "runs"),
            "clients": [_client(name, recordings(own, options)).model_dump() for name, own in named.items()],
            "federation": {"num_rounds": options.rounds, "min_train_clients": len(named)},
            "training": {
                "steps": options.steps * arm.steps_factor,
                "batch_size": options.batch_size,
                "lr": options.lr,
                "scheduler": "cosine",
                "optimizer_state": "keep",
            },
            "evaluation": {"holdout_episodes": HELD_OUT},
        }
    )


class Federation:
    """zk0's rounds in one process and without Prefect: fit every client, aggregate, and again."""

    def __init__(self, arm: Arm, options: Options) -> None:
        self.bench: Bench = BENCHES[options.bench]
        self.config = configuration(arm, options)
        self.store = RunStore.create_or_open(self.config, arm.name)
        first = run_task(self.store.task("init", 0, "server"))
        assert first.tensors is not None
        self.state = RoundState(server_round=0, arrays=first.tensors)
        clients = [[_client(own, recordings(own, options)) for own in settings] for settings in arm.clients]
        metas = [open_metadata(dataset) for dataset in self.config.clients]
        base = load_policy_config(self.config.policy, base_path(self.config.policy, self.store.folder))
        self.preprocessor, self.postprocessor = build_processors(base, self._statistics(clients), {})
        self.policy = build_policy(base, self.config.peft, metas[0], {})
        self.frames = [_frames(options, datasets) for datasets in clients]
        self._optimizers: dict[str, Any] = {}  # each client's own, which is never averaged
        self._load_global()

    def train(self) -> None:
        """All rounds; the policy then holds the tensors of the last one."""
        for server_round in range(1, self.config.federation.num_rounds + 1):
            self.round(server_round)
        self._load_global()

    def round(self, server_round: int) -> list[ClientResult]:
        """Fit every client and aggregate; gives the clients' results."""
        results = [self._fit(server_round, index) for index in range(len(self.config.clients))]
        before = self.store.path(self.state.arrays)
        tensors = ServerRound(self.config, server_round, before).aggregate(results, self.store.folder).tensors
        arrays = self.store.place(server_round, "global", tensors)
        self.state = RoundState(server_round=server_round, arrays=arrays)
        return results

    def success(self, setting: str, seeds: int) -> Success:
        """Of the policy as it is, in a setting, from positions that nobody trained on."""
        first = FIRST_TEST_SEED + self.bench.settings.index(setting) * SEED_STEP
        env = SO101PickEnvConfig(setting=setting, obs_type=self.bench.obs_type)
        plan = Plan(seeds, first, num_envs=self.bench.environments)
        return roll_out(self.policy, self.preprocessor, self.postprocessor, env, plan)

    def _statistics(self, clients: Sequence[Sequence[DatasetConfig]]) -> Stats | None:
        """What LeRobot's aggregate_stats makes of the recordings' own, hold-outs left out; None: the base's."""
        if self.config.data.normalization == "base":
            return None
        metas = [open_metadata(dataset) for datasets in clients for dataset in datasets]
        return aggregate([training_statistics(meta, HELD_OUT) for meta in metas])

    def _fit(self, server_round: int, index: int) -> ClientResult:
        client, steps = self.config.clients[index].name, self.config.training.steps
        seed = derive_seed(self.config.seed, server_round, client, "train")
        self._load_global()
        set_seed(seed)
        local = training.LocalRound(
            seed,
            first_step=(server_round - 1) * steps,
            total_steps=self.config.federation.num_rounds * steps,
            optimizer_state=self._optimizers.get(client),
        )
        outcome = training.fit(self.policy, self.preprocessor, self.frames[index], self.config.training, local)
        if outcome.optimizer_state is not None:
            self._optimizers[client] = outcome.optimizer_state
        return write_result(
            self.store.task("train", server_round, client, self.state),
            tensors=update_tensors(self.policy, self.config),
            num_examples=len(self.frames[index]),
            metrics={"loss": sum(outcome.losses) / len(outcome.losses)},
            duration_s=outcome.data_s + outcome.update_s,
            peak_rss_bytes=peak_rss_bytes(),
        )

    def _load_global(self) -> None:
        load_exchanged_tensors(self.policy, atomic.read_tensors(self.store.path(self.state.arrays)))


class InMemory:
    """A LeRobotDataset whose frames are read once: reading one takes as long as training on it, or longer."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._items = [dataset[index] for index in range(len(dataset))]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self._items[index])


def _client(name: str, root: Path) -> DatasetConfig:
    return DatasetConfig(name=name, repo_id=f"zk0/{root.name}", root=str(root))


def _frames(options: Options, datasets: Sequence[DatasetConfig]) -> Any:
    """The training episodes of a client that has these recordings."""
    own = [_setting_frames(options, str(dataset.root)) for dataset in datasets]
    return own[0] if len(own) == 1 else PooledDataset(own)


@functools.cache
def _setting_frames(options: Options, root: str) -> InMemory:
    dataset = _client("recordings", Path(root))
    meta = open_metadata(dataset)
    episodes, _ = split_episodes(meta.total_episodes, HELD_OUT)
    config = RunConfig.model_validate({**BENCHES[options.bench].config, "clients": [dataset.model_dump()]})
    return InMemory(build_dataset(dataset, meta, base_config(config, meta), config.data, episodes))
