"""How an arm is trained, by zk0's own fit and aggregation, and what it does in closed loop."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lerobot.policies.factory import make_policy_config
from lerobot.utils.random_utils import set_seed

from benchmarks.federation_value.plan import Arm, Options
from zk0 import atomic, client_app, data, policy, training
from zk0.aggregation import ServerRound
from zk0.closed_loop import Success, closed_loop_success
from zk0.config import DataConfig, DatasetConfig, RunConfig
from zk0.memory import peak_rss_bytes
from zk0.pooled import PooledDataset
from zk0.records import ClientResult, RoundState
from zk0.results import write_result
from zk0.run_store import RunStore
from zk0.seeding import derive_seed
from zk0.sim import ZONES
from zk0.sim.env import SO101PickEnvConfig
from zk0.sim.record import record

OBS_TYPE = "environment_state_agent_pos"
HELD_OUT = 1
"""Episodes of each zone that zk0 keeps for the held-out evaluation, which this benchmark does without."""
FIRST_DEMONSTRATION_SEED, FIRST_TEST_SEED, SEED_STEP = 300_000, 400_000, 10_000
"""A zone's seeds follow those of the zone before it after SEED_STEP."""
ENVIRONMENTS = 10
"""Stepped together, so that the policy is asked once for all of them."""
ACT: dict[str, Any] = {
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
}


def record_zone(zone: str, options: Options) -> Path:
    """A zone's demonstrations, recorded unless they are there."""
    root = options.work / "recordings" / zone
    if not root.exists():
        first = FIRST_DEMONSTRATION_SEED + list(ZONES).index(zone) * SEED_STEP
        record(zone, options.episodes + HELD_OUT, root, first, OBS_TYPE)
    return root


def configuration(arm: Arm, options: Options) -> RunConfig:
    """The config of an arm's federation; a client with several zones is called `pooled`."""
    named = {("pooled" if len(zones) > 1 else zones[0]): zones[0] for zones in arm.clients}
    return RunConfig.model_validate(
        {
            "seed": options.seed,
            "outputs_dir": str(options.work / "runs"),
            "clients": [_client(name, options.work / "recordings" / zone).model_dump() for name, zone in named.items()],
            "policy": {"type": "act", "device": "cpu", "overrides": ACT},
            "peft": {"enabled": False},
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
        self.config = configuration(arm, options)
        self.store = RunStore.create_or_open(self.config, arm.name)
        first = client_app.run_task(self.store.task("init", 0, "server"))
        assert first.tensors is not None
        self.state = RoundState(server_round=0, arrays=first.tensors)
        clients = [[_client(zone, options.work / "recordings" / zone) for zone in zones] for zones in arm.clients]
        metas = [data.open_metadata(zone) for zones in clients for zone in zones]
        # Federated normalisation: what LeRobot's aggregate_stats makes of the zones' own, hold-outs left out.
        stats = data.aggregate([data.training_statistics(meta, HELD_OUT) for meta in metas])
        base = policy.load_policy_config(self.config.policy, policy.base_path(self.config.policy, self.store.folder))
        self.policy = policy.build_policy(base, self.config.peft, metas[0], {})
        self.preprocessor, self.postprocessor = policy.build_processors(base, stats, {})
        self.frames = [_frames(zones) for zones in clients]
        self._optimizers: dict[str, Any] = {}  # each client's own, which is never averaged

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

    def success(self, zone: str, seeds: int) -> Success:
        """Of the policy as it is, in a zone, from positions that nobody trained on."""
        first = FIRST_TEST_SEED + list(ZONES).index(zone) * SEED_STEP
        env = SO101PickEnvConfig(setting=zone, obs_type=OBS_TYPE)
        return closed_loop_success(
            self.policy, self.preprocessor, self.postprocessor, env,
            episodes=seeds, first_seed=first, num_envs=ENVIRONMENTS,
        )  # fmt: skip

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
            tensors=policy.update_tensors(self.policy, self.config.peft),
            num_examples=len(self.frames[index]),
            metrics={"loss": sum(outcome.losses) / len(outcome.losses)},
            duration_s=outcome.data_s + outcome.update_s,
            peak_rss_bytes=peak_rss_bytes(),
        )

    def _load_global(self) -> None:
        policy.load_exchanged_tensors(self.policy, atomic.read_tensors(self.store.path(self.state.arrays)))


class InMemory:
    """A LeRobotDataset whose frames are read once: a frame of it takes 2 ms, as long as training on it."""

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


def _frames(zones: Sequence[DatasetConfig]) -> Any:
    """The training episodes of a client that has these zones' recordings."""
    own = [_zone_frames(str(zone.root)) for zone in zones]
    return own[0] if len(own) == 1 else PooledDataset(own)


@functools.cache
def _zone_frames(root: str) -> InMemory:
    dataset = _client("zone", Path(root))
    meta = data.open_metadata(dataset)
    episodes, _ = data.split_episodes(meta.total_episodes, HELD_OUT)
    chunks = make_policy_config("act", device="cpu", push_to_hub=False, **ACT)
    return InMemory(data.build_dataset(dataset, meta, chunks, DataConfig(), episodes))
